"""Escaping, highlighting, axes and wording, on any input."""

from __future__ import annotations

import html
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from veritune.report.axes import axis_over, difference_axis
from veritune.report.headline import BUNDLED_DESCRIPTION
from veritune.report.highlight import LONGEST_SHOWN, Highlighter, highlight
from veritune.report.markdown import escape, table
from veritune.report.wording import (
    duration,
    fixed,
    one_line,
    p_value,
    percent,
    signed,
    significant,
    visible,
)

ANYTHING = st.one_of(st.text(), st.text(alphabet=string.printable + "</script>\u202e\x00\ud800"))


@given(ANYTHING)
def test_highlighting_loses_nothing_and_lets_nothing_through(code: str) -> None:
    shown = visible(code)
    marked = str(highlight(shown))
    assert re.sub(r"</?span[^>]*>", "", marked).count("<") == 0
    text = html.unescape(re.sub(r"</?span[^>]*>", "", marked))
    assert text == re.sub(r"\r\n?", "\n", shown)
    assert set(re.findall(r"<[^>]*>", marked)) <= {
        "</span>",
        *(f'<span class="h{kind}">' for kind in "kbfdncsi"),
    }


def test_python_is_coloured_by_kind() -> None:
    marked = highlight("def f(x):  # why\n    return 'a' + str(1)\n")
    for part in (
        '<span class="hk">def',
        '<span class="hf">f',
        '<span class="hc"># why',
        "&#39;a&#39;",
    ):
        assert part in marked
    assert '<span class="hn">1</span>' in marked


def test_long_code_says_how_much_is_missing() -> None:
    assert Highlighter()("x" * (LONGEST_SHOWN + 1234)).endswith("\n… 1,234 more characters")


def test_past_its_budget_code_is_still_escaped() -> None:
    plain = Highlighter(budget=3)
    assert plain("a < b") == Markup("a &lt; b")
    assert plain.is_used_up


@given(st.lists(st.lists(ANYTHING, min_size=2, max_size=2), min_size=1, max_size=4))
def test_markdown_tables_keep_their_shape(rows: list[list[str]]) -> None:
    lines = table(("one", "two"), rows).split("\n")
    assert len(lines) == len(rows) + 2
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("[click](http://x)", r"[click\](http://x)"),
        ("<img src=x>", r"\<img src=x>"),
        ("a|b `c` *d*", r"a\|b \`c\` \*d\*"),
        ("train_loss _it_ [+1.0, +2.0]", r"train_loss \_it\_ [+1.0, +2.0]"),
        ("red \x1b[31m", r"red [U+001B\][31m"),
    ],
)
def test_markdown_means_nothing_in_data(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@given(st.lists(st.floats(-1e6, 1e6), max_size=8))
def test_axes_hold_their_values(values: list[float]) -> None:
    for axis in (axis_over(values), difference_axis(values)):
        assert list(axis.ticks) == sorted(set(axis.ticks))
        assert 2 <= len(axis.ticks) <= 14
        slack = 1e-8 * (axis.high - axis.low)
        assert all(axis.low - slack <= value <= axis.high + slack for value in values)
        assert all(0 <= axis.at(value) <= 100 for value in (*values, axis.low, axis.high))
        assert len({axis.label(tick) for tick in axis.ticks}) == len(axis.ticks)
    assert difference_axis(values).low <= 0 <= difference_axis(values).high


@given(st.one_of(st.none(), st.text(), st.floats(), st.booleans(), st.lists(st.none())))
def test_wording_takes_whatever_a_file_holds(value: object) -> None:
    for show in (fixed, signed, percent, p_value, significant, duration, one_line):
        assert isinstance(show(value), str)


def test_the_bundled_model_is_described_as_where_it_is_made() -> None:
    from veritune.model.bundled import DESCRIPTION

    assert BUNDLED_DESCRIPTION == DESCRIPTION


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (signed(-2.24), "−2.2"),
        (signed(15.3), "+15.3"),
        (percent(100.0), "100 %"),
        (percent(74.63), "74.6 %"),
        (p_value(0.0001), "< 0.001"),
        (significant(90_795_626_496_000), "9.08 × 10¹³"),
        (significant(2310.4), "2,310.4"),
        (duration(262.1), "4 min 22 s"),
        (duration(59.97), "60.0 s"),
        (duration(7384), "2 h 03 min"),
        (fixed(None), "–"),
    ],
)
def test_numbers_read_as_people_write_them(shown: str, expected: str) -> None:
    assert shown == expected
