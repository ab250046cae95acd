"""Shares of answers: those that parse, and those that equal the reference."""

from __future__ import annotations

import ast
import platform
import re

from veritune.score.code import is_empty, parse, same_tree
from veritune.score.metric import Measured, Metric, mean_percent

_OUTER_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


def _share(hit: bool, outcome: str) -> Measured:
    return Measured(float(hit), outcome, (float(hit), 1.0))


def measure_parse_rate(_reference: str, code: str) -> Measured:
    """Whether an answer is valid Python."""
    if is_empty(code):
        return _share(False, "empty")
    result = parse(code)
    return _share(False, result) if isinstance(result, str) else _share(True, "parses")


def _exact(reference: str, code: str) -> Measured:
    if is_empty(code):
        return _share(False, "empty")
    equal = _without_blank_ends(reference) == _without_blank_ends(code)
    return _share(equal, "equal" if equal else "differs")


def _same_tree(reference: str, code: str) -> Measured:
    if is_empty(code):
        return _share(False, "empty")
    answer = parse(code)
    if isinstance(answer, str):
        return _share(False, answer)
    wanted: ast.Module | str = parse(reference)
    if isinstance(wanted, str):
        return _share(False, "reference does not parse")
    equal = same_tree(answer, wanted)
    return _share(equal, "equal" if equal else "differs")


def _without_blank_ends(text: str) -> str:
    return _OUTER_BLANK_LINES.sub("", text.replace("\r\n", "\n")).rstrip()


def _signature(how: str) -> str:
    return f"{how}|empty:0|python:{platform.python_version()}"


PARSE_RATE = Metric(
    name="parse_rate",
    label="parse rate",
    unit="%",
    scale=100.0,
    binary=True,
    signature=lambda: _signature("ast.parse"),
    score=measure_parse_rate,
    corpus=mean_percent,
)
EXACT_MATCH = Metric(
    name="exact_match",
    label="exact match",
    unit="%",
    scale=100.0,
    binary=True,
    signature=lambda: "text equality|blank ends:ignored|empty:0",
    score=_exact,
    corpus=mean_percent,
)
AST_MATCH = Metric(
    name="ast_match",
    label="AST match",
    unit="%",
    scale=100.0,
    binary=True,
    signature=lambda: _signature("ast.dump equality"),
    score=_same_tree,
    corpus=mean_percent,
)
