"""What an answer needs from outside: modules, a user at the keyboard, the network, files."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import sys
from collections.abc import Set

KEYBOARD = "reads what a user types"
NETWORK = "uses the network"
FILES = "reads or writes files"

_NETWORK_MODULES = frozenset(
    {
        "aiohttp",
        "bs4",
        "ftplib",
        "http",
        "httpx",
        "imaplib",
        "paramiko",
        "poplib",
        "pytube",
        "requests",
        "scrapy",
        "selenium",
        "smtplib",
        "socket",
        "speedtest",
        "telnetlib",
        "tweepy",
        "urllib",
        "urllib2",
        "urllib3",
        "webbrowser",
        "websocket",
        "websockets",
        "wikipedia",
        "yfinance",
        "youtube_dl",
        "yt_dlp",
    }
)
_FILE_MODULES = frozenset(["glob", "shutil", "tempfile", "zipfile", "tarfile", "sqlite3"])
_FILE_CALLS = frozenset(
    {
        "imread",
        "imwrite",
        "imsave",
        "listdir",
        "makedirs",
        "mkdir",
        "read_bytes",
        "read_csv",
        "read_excel",
        "read_json",
        "read_parquet",
        "read_text",
        "remove",
        "rmtree",
        "savefig",
        "scandir",
        "to_csv",
        "to_excel",
        "unlink",
        "walk",
        "write_bytes",
        "write_text",
    }
)
_ALSO_OF_LISTS = frozenset({"remove", "walk"})
_OF_OS = frozenset({"listdir", "makedirs", "mkdir", "remove", "scandir", "walk", "unlink"})


def needs_of_modules(modules: Set[str]) -> set[str]:
    """What the imported modules are for."""
    needs = set()
    if not _NETWORK_MODULES.isdisjoint(modules):
        needs.add(NETWORK)
    if not _FILE_MODULES.isdisjoint(modules):
        needs.add(FILES)
    return needs


def needs_of_call(call: ast.Call) -> tuple[str, ...]:
    """What a call asks for."""
    called = call.func
    if isinstance(called, ast.Name):
        if called.id in ("input", "raw_input"):
            return (KEYBOARD,)
        return (FILES,) if called.id == "open" else ()
    if (
        isinstance(called, ast.Attribute)
        and called.attr in _FILE_CALLS
        and (called.attr not in _OF_OS or not _is_local(called.value, called.attr))
    ):
        return (FILES,)
    return ()


def reads_stdin(node: ast.Attribute) -> tuple[str, ...]:
    """``sys.stdin`` is the keyboard."""
    is_stdin = node.attr == "stdin" and isinstance(node.value, ast.Name) and node.value.id == "sys"
    return (KEYBOARD,) if is_stdin else ()


def state_of_module(name: str) -> str:
    """Whether a module comes with Python, is installed here, or is missing; nothing is imported."""
    if name in sys.stdlib_module_names or name == "__main__":
        return "standard library"
    return "installed" if name in _installed() else "not installed"


@functools.cache
def _installed() -> frozenset[str]:
    return frozenset(importlib.metadata.packages_distributions())


def _is_local(node: ast.AST, method: str) -> bool:
    """``items.remove(x)`` is a list's method; ``os.remove(x)`` and ``Path(x).unlink()`` are not."""
    if isinstance(node, ast.Name):
        return node.id not in {"os", "path", "Path"}
    return isinstance(node, ast.Attribute) and method in _ALSO_OF_LISTS
