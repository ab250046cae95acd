"""Forms of questions and answers in which copies with small changes are equal or close."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from veritune.data.mbpp import without_asserts
from veritune.data.syntax import parse

# Scripts written without spaces: every character is a word.
_UNSPACED = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
# A string that its line does not close ends with the line: else each quote would be tried anew.
_LEXEME = re.compile(
    r"(?P<string>(?i:[rbuft]{0,2})(?:'''.*?'''|\"\"\".*?\"\"\""
    r"|'(?:\\.|[^'\\\n])*+(?:'|(?=\n)|\Z)|\"(?:\\.|[^\"\\\n])*+(?:\"|(?=\n)|\Z)))"
    r"|(?P<comment>\#[^\n]*)"
    rf"|(?P<word>[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+)"
    r"|(?P<mark>[^\w\s])",
    re.DOTALL,
)
_SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_IGNORED_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_NAME_FIELDS = frozenset({"id", "arg", "attr", "name", "names", "rest"})


class Canonical(NamedTuple):
    """A text as it is compared.

    Attributes:
        key: equal for texts that count as the same.
        words: what near-duplicates share, in order.
    """

    key: str
    words: list[str]


def canonical_question(instruction: str, given: str) -> Canonical:
    """A question in lower case, without punctuation, layout and the asserts MBPP's show."""
    text = f"{without_asserts(instruction)}\n{given}"
    words = _WORD.findall(text.casefold())
    return Canonical(" ".join(words) if words else text, words)


def canonical_answer(code: str, *, rename: bool = True) -> Canonical:
    """An answer without comments, docstrings and layout, its own names numbered.

    Two programs that differ in these only have equal keys.  Code that does not parse keeps
    its names, and is compared word by word.

    Args:
        rename: number the names that the code binds itself; else names count as they are.
    """
    return answer_forms(code, rename=rename, with_named=False)[0]


def answer_forms(
    code: str, *, rename: bool = True, with_named: bool = True
) -> tuple[Canonical, list[str]]:
    """``canonical_answer``, and the words of the same with names as they are."""
    tree = parse(code)
    if isinstance(tree, str):
        words = list(_words(code, {}, set()))
        return Canonical(" ".join(words) if words else code.strip(), words), words
    names = _own_names(tree) if rename else {}
    starts = _offsets(code, _take_docstrings(tree))
    digest = hashlib.blake2b("\x1f".join(_flat(tree, names)).encode("utf-8", "surrogatepass"))
    words = list(_words(code, names, starts))
    named = list(_words(code, {}, starts)) if with_named and names else words
    return Canonical(digest.hexdigest(), words), named


def _own_names(tree: ast.Module) -> dict[str, str]:
    """The names that the code itself binds (imports aside), numbered in order of structure."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        bound: str | None = None
        if isinstance(node, ast.Name):
            bound = None if isinstance(node.ctx, ast.Load) else node.id
        elif isinstance(node, ast.arg):
            bound = node.arg
        elif isinstance(node, (*_DEFINITIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            bound = node.name
        if bound is not None and bound not in names:
            names[bound] = f"name{len(names)}"
    return names


def _take_docstrings(tree: ast.Module) -> list[tuple[int, int]]:
    """Remove docstrings from the tree; (line from 1, column) where each starts."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, _SCOPES) or not node.body:
            continue
        first = node.body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            found.append((first.lineno, first.col_offset))
            del node.body[0]
    return found


def _offsets(code: str, positions: list[tuple[int, int]]) -> set[int]:
    if not positions:
        return set()
    starts = [0]
    for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", code):
        starts.append(starts[-1] + len(line))
    return {starts[line - 1] + column for line, column in positions}


def _flat(tree: ast.AST, names: dict[str, str]) -> Iterator[str]:
    """A tree as words, without recursion: node types, values, and where lists end."""
    stack: list[object] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            yield "["
            stack.append("]")
            stack.extend(reversed(item))
        elif isinstance(item, ast.AST):
            yield type(item).__name__
            stack.extend(
                _comparable(getattr(item, field, None), field, names)
                for field in reversed(item._fields)
                if field not in _IGNORED_FIELDS
            )


def _comparable(value: object, field: str, names: dict[str, str]) -> object:
    if isinstance(value, ast.AST):
        return value
    if field in _NAME_FIELDS:
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, list):
            return [names.get(item, item) if isinstance(item, str) else item for item in value]
    if isinstance(value, list):
        return [repr(item) if not isinstance(item, ast.AST) else item for item in value]
    # The decimal form of a huge integer is refused by Python, the hexadecimal one is not.
    return hex(value) if type(value) is int else repr(value)


def _words(code: str, names: dict[str, str], left_out: set[int]) -> Iterator[str]:
    """Words and marks; strings give their words, own names are numbered outside of them."""
    for match in _LEXEME.finditer(code):
        kind, text = match.lastgroup, match.group()
        if kind == "comment" or match.start() in left_out:
            continue
        if kind != "string":
            yield names.get(text, text)
            continue
        has_fields = text[: min(text.find("'") % len(text), text.find('"') % len(text))]
        inner = names if "f" in has_fields.lower() else {}
        yield from (inner.get(word, word) for word in ["'", *_WORD.findall(text), "'"])
