"""Forms of questions and answers in which copies with small changes are equal or close."""

from __future__ import annotations

import ast
import functools
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
_SCOPES = frozenset({ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef})
_BINDING_FIELD: dict[type[ast.AST], str] = {
    ast.Name: "id",
    ast.arg: "arg",
    **dict.fromkeys(
        (
            *(ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef),
            *(ast.ExceptHandler, ast.MatchAs, ast.MatchStar),
        ),
        "name",
    ),
}
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
    its names, and is compared word by word; so is text that is nothing but comments.

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
    names, docstrings = _looked_through(tree)
    names = names if rename else {}
    starts = _offsets(code, docstrings)
    digest = hashlib.blake2b("\x1f".join(_flat(tree, names)).encode("utf-8", "surrogatepass"))
    words = list(_words(code, names, starts))
    if not words:  # all of it is comments and docstrings, which then are what it says
        words = _WORD.findall(code.casefold())
        return Canonical(" ".join(words) if words else code.strip(), words), words
    named = list(_words(code, {}, starts)) if with_named and names else words
    return Canonical(digest.hexdigest(), words), named


def _looked_through(tree: ast.Module) -> tuple[dict[str, str], list[tuple[int, int]]]:
    """(names that the code itself binds, numbered; where docstrings were) of one walk.

    Imported names are left out.  Numbers go by the order of structure, breadth first.
    Docstrings are taken out of the tree; each is given as (line from 1, column).
    """
    names: dict[str, str] = {}
    docstrings: list[tuple[int, int]] = []
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # which grows
        kind = type(node)
        field = _BINDING_FIELD.get(kind)
        if field is not None and (kind is not ast.Name or type(node.ctx) is not ast.Load):  # type: ignore[attr-defined]
            bound = getattr(node, field)
            if bound is not None and bound not in names:
                names[bound] = f"name{len(names)}"
        if kind in _SCOPES and _has_docstring(node.body):  # type: ignore[attr-defined]
            first = node.body.pop(0)  # type: ignore[attr-defined]
            docstrings.append((first.lineno, first.col_offset))
        for name in node._fields:
            value = getattr(node, name, None)
            if type(value) is list:
                nodes += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and value._fields:  # contexts and operators have none
                nodes.append(value)
    return names, docstrings


def _has_docstring(body: list[ast.stmt]) -> bool:
    return bool(
        body
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )


def _offsets(code: str, positions: list[tuple[int, int]]) -> set[int]:
    if not positions:
        return set()
    starts = [0]
    for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", code):
        starts.append(starts[-1] + len(line))
    return {starts[line - 1] + column for line, column in positions}


def _flat(tree: ast.AST, names: dict[str, str]) -> list[str]:
    """A tree as words, without recursion: node types, values, and where lists end."""
    words = []
    stack: list[object] = [tree]
    while stack:
        item = stack.pop()
        if type(item) is str:
            words.append(item)
        elif type(item) is list:
            words.append("[")
            stack.append("]")
            stack.extend(reversed(item))
        elif isinstance(item, ast.AST):
            words.append(type(item).__name__)
            for field in _compared_fields(type(item)):  # type: ignore[arg-type]
                value = getattr(item, field, None)
                stack.append(
                    value if isinstance(value, ast.AST) else _comparable(value, field, names)
                )
    return words


@functools.cache
def _compared_fields(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields that count, the last first."""
    return tuple(field for field in reversed(kind._fields) if field not in _IGNORED_FIELDS)


def _comparable(value: object, field: str, names: dict[str, str]) -> object:
    if field in _NAME_FIELDS:
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, list):
            return [names.get(item, item) if isinstance(item, str) else item for item in value]
    if isinstance(value, list):
        return [item if isinstance(item, ast.AST) else repr(item) for item in value]
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
