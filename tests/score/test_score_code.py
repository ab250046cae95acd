from __future__ import annotations

import ast
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veritune.score.code import is_empty, parse, parse_failure, same_tree

HOSTILE = {
    "nul": "a\x00b",
    "surrogate": "'\ud800'",
    "parentheses": "(" * 100_000,
    "minus": "-" * 100_000 + "1",
    "attributes": "a" + ".a" * 100_000,
    "digits": "9" * 100_000,
    "indents": "".join(f"{' ' * i}if 1:\n" for i in range(200)),
    "line end in the message": "'\u2028",
}


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_gets_a_reason_of_one_line(code: str) -> None:
    reason = parse_failure(code)
    assert reason
    assert len(reason.splitlines()) == 1
    assert len(reason) < 220


def test_programs_that_parse_have_no_failure_and_warn_nobody() -> None:
    assert parse_failure("print('\\d')\nassert (1, 'always')\n1 is 1\n") is None
    assert parse_failure("return") is None


def test_the_reason_names_the_error_and_the_line() -> None:
    reason = parse_failure("x = 1\ny = (\n")
    assert reason is not None
    assert reason.startswith("SyntaxError: ")
    assert reason.endswith("(line 2)")
    assert str(parse_failure("def f():\nx")).startswith("IndentationError: ")


@given(st.text())
def test_any_text_is_looked_at_without_an_exception(text: str) -> None:
    assert isinstance(parse(text), ast.Module | str)


def test_white_space_is_no_answer() -> None:
    assert is_empty("")
    assert is_empty(" \n\t")
    assert not is_empty("# nothing")


PIECES = ["a", "1", "1.0", "True", "0.0", "-0.0", "'a'", "b'a'", "[a, 1]", "[a]", "f(a)", "f(a=1)"]


@given(st.sampled_from(PIECES), st.sampled_from(PIECES), st.sampled_from(["+", "<", " is "]))
def test_same_tree_is_equality_of_dumps(one: str, two: str, operator: str) -> None:
    first, second = (
        ast.parse(f"x = {one} {operator} {one}\n"),
        ast.parse(f"x={one}{operator}({two})"),
    )
    assert same_tree(first, second) == (ast.dump(first) == ast.dump(second))
    assert same_tree(first, copy.deepcopy(first))


def test_same_tree_at_depths_where_dump_gives_up() -> None:
    deep, other = (parse("-" * 2_000 + end) for end in "12")
    assert isinstance(deep, ast.Module)
    assert isinstance(other, ast.Module)
    with pytest.raises(RecursionError):
        ast.dump(deep)
    assert same_tree(deep, deep)
    assert not same_tree(deep, other)
