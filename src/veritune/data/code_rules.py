"""What of a code base is left out, and the reason that the data card counts.

Each reason has a switch in ``data.code``.
"""

from __future__ import annotations

import ast
import re

from veritune.config import CodeSection
from veritune.data.doctests import without_doctests

Function = ast.FunctionDef | ast.AsyncFunctionDef

TRIVIAL = "trivial functions"
_TEST_FOLDERS = frozenset({"test", "tests"})
_TEST_FILE = re.compile(r"test|tests|conftest|test_.*|.*_tests?", re.IGNORECASE)
_VENDORED = frozenset(
    {"_vendor", "_vendored", "vendor", "vendored", "third_party", "thirdparty", "3rdparty"}
    | {"node_modules", "site-packages", "dist-packages"}
)
_VENDORED_FILE = re.compile(r"versioneer|ez_setup|get-pip", re.IGNORECASE)
_GENERATED_FOLDERS = frozenset({"generated", "_generated", "__generated__"})
_GENERATED_FILE = re.compile(r".*_pb2(_grpc)?|.*_generated|parsetab|lextab")
_GENERATED_HEAD = re.compile(
    r"^(?:#|'{3}|\"{3}).*(?:generated (?:by|from|file)|do not edit|@generated)",
    re.IGNORECASE | re.MULTILINE,
)
_HEAD_CHARACTERS = 600
_COMPUTES = (
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.DictComp,
    ast.GeneratorExp,
    ast.IfExp,
    ast.JoinedStr,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.Subscript,
)


def is_test_file(name: str) -> bool:
    """Whether a file's path says that it holds tests."""
    *folders, last = name.split("/")
    is_one = _TEST_FILE.fullmatch(last.removesuffix(".py"))
    return bool(is_one) or not _TEST_FOLDERS.isdisjoint(folders)


def file_left_out(name: str, settings: CodeSection, *, is_walked: bool) -> str | None:
    """Why a file is left out for its path, or None.

    Args:
        is_walked: it was found on disk, where ``build`` holds copies.
    """
    *folders, last = name.split("/")
    stem = last.removesuffix(".py")
    if not settings.include_vendored and (
        not _VENDORED.isdisjoint(folders) or _VENDORED_FILE.fullmatch(stem)
    ):
        return "vendored files"
    if not settings.include_generated:
        folders_of_tools = _GENERATED_FOLDERS | ({"build"} if is_walked else set())
        if not folders_of_tools.isdisjoint(folders) or _GENERATED_FILE.fullmatch(stem):
            return "generated files"
    if not settings.include_tests and is_test_file(name):
        return "test files"
    return None


def text_left_out(text: str, settings: CodeSection) -> str | None:
    """Why a file is left out for what its first lines say, or None."""
    if not settings.include_generated and _GENERATED_HEAD.search(text[:_HEAD_CHARACTERS]):
        return "generated files"
    return None


def function_left_out(
    function: Function, owner: ast.ClassDef | None, settings: CodeSection
) -> str | None:
    """Why a function is left out, or None.  ``TRIVIAL`` is the last reason looked for."""
    names = [function.name, *([owner.name] if owner else [])]
    if not settings.include_private and any(name.startswith("_") for name in names):
        return "private functions"
    if not settings.include_tests and _is_test(function, owner):
        return "test functions"
    docstring = ast.get_docstring(function) or ""
    if not docstring.strip():
        return "functions without a docstring"
    if not without_doctests(docstring):
        return "functions described by examples alone"
    body = function.body[1:]
    if not body:
        return TRIVIAL
    is_small = n_statements(body) < settings.min_statements or _is_plain(body)
    return TRIVIAL if is_small and not settings.include_trivial else None


def n_statements(body: list[ast.stmt]) -> int:
    """Statements of a body, nested ones counted too."""
    return sum(isinstance(node, ast.stmt) for item in body for node in ast.walk(item))


def _is_test(function: Function, owner: ast.ClassDef | None) -> bool:
    if owner is None:
        return function.name.startswith("test_")
    return any("TestCase" in ast.unparse(base) for base in owner.bases)


def _is_plain(body: list[ast.stmt]) -> bool:
    """Whether a body is one statement that computes nothing.

    Passing a call on, raising or returning a name is plain; compound statements, comprehensions
    and operators are not.
    """
    if len(body) != 1:
        return False
    statement = body[0]
    if isinstance(statement, ast.Raise) or _has_body(statement):
        return isinstance(statement, ast.Raise)
    return not any(isinstance(node, _COMPUTES) for node in ast.walk(statement))


def _has_body(statement: ast.stmt) -> bool:
    inner: list[ast.stmt] = getattr(statement, "body", [])
    return len(inner) > 1 or any(not isinstance(item, ast.Pass) for item in inner)
