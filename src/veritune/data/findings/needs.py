"""What an answer needs from outside: modules, a user at the keyboard, the network, files."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import sys

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
_OF_OS = frozenset({"listdir", "makedirs", "mkdir", "remove", "scandir", "walk", "unlink"})


def imported_modules(tree: ast.AST) -> list[str]:
    """Top-level names of all modules a program imports, each once, sorted."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return sorted(found)


def outside_needs(tree: ast.AST, modules: list[str]) -> list[str]:
    """Which of the keyboard, the network and files a program asks for, by its calls and imports."""
    needs = set()
    if _NETWORK_MODULES.intersection(modules):
        needs.add(NETWORK)
    if _FILE_MODULES.intersection(modules):
        needs.add(FILES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is(node.value, "sys") and node.attr == "stdin":
            needs.add(KEYBOARD)
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if _is(called, "input") or _is(called, "raw_input"):
            needs.add(KEYBOARD)
        if _is(called, "open") or (
            isinstance(called, ast.Attribute)
            and called.attr in _FILE_CALLS
            and (called.attr not in _OF_OS or not _is_local(called.value))
        ):
            needs.add(FILES)
    return sorted(needs)


def state_of_module(name: str) -> str:
    """Whether a module comes with Python, is installed here, or is missing; nothing is imported."""
    if name in sys.stdlib_module_names or name == "__main__":
        return "standard library"
    return "installed" if name in _installed() else "not installed"


@functools.cache
def _installed() -> frozenset[str]:
    return frozenset(importlib.metadata.packages_distributions())


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_local(node: ast.AST) -> bool:
    """``items.remove(x)`` is a list's method; ``os.remove(x)`` and ``Path(x).unlink()`` are not."""
    return isinstance(node, ast.Name) and node.id not in {"os", "path", "Path"}
