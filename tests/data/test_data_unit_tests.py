"""Unit tests of a code base as tests of its functions."""

import ast

import pytest

from veritune.config import CodeSection, DataSection
from veritune.data.sources import read_rows
from veritune.data.unit_test_forms import unit_tests
from veritune.sandbox.canaries import sandbox_here
from veritune.sandbox.judge import execute
from veritune.sandbox.outcome import Job
from veritune.sandbox.policy import Policy

MODULE = '''\
"""Words."""
import re

WORD = re.compile(r"[a-z]+")


class Bag:
    """Words with counts."""

    def __init__(self):
        self.counts = {}

    def add(self, word):
        """Count one word more."""
        found = self.counts.get(word, 0) + 1
        self.counts[word] = found
        return found


def count(text, least=1):
    """Count the words of a text."""
    found = {}
    for word in WORD.findall(text.lower()):
        found[word] = found.get(word, 0) + 1
    return {word: n for word, n in found.items() if n >= least}


def longest(text):
    """The longest word; ValueError where there is none."""
    words = WORD.findall(text)
    if not words:
        raise ValueError("no word")
    return max(words, key=len)
'''
PYTEST = '''\
import pytest
from package import words as w
from package.words import count as number_of, longest

TEXT = "a b a"


def same(one, two):
    return sorted(one) == sorted(two)


def test_counts():
    """Said in words."""
    found = number_of(TEXT)
    assert found == {"a": 2, "b": 1}
    assert w.count("") == {}


@pytest.mark.parametrize(("text", "expected"), [("a bb", "bb"), ("ccc d", "ccc")])
def test_longest(text, expected):
    assert longest(text) == expected


def test_no_word():
    with pytest.raises(ValueError):
        longest("")


def test_wrong():
    assert number_of("a") == {"a": 2}


def test_fixture(tmp_path):
    assert number_of(str(tmp_path)) == {}


def test_nothing_of_it():
    assert len(TEXT) == 5


def test_tells_nothing():
    try:
        number_of("a")
    except NotImplementedError:
        pass
    assert TEXT == "a b a"
'''
UNITTEST = """\
import unittest
from package.words import Bag, count


class CountTest(unittest.TestCase):
    def test_equal(self):
        self.assertEqual(count("x y x", least=2), {"x": 2})
        self.assertNotIn("y", count("x y x", 2))

    def test_bag(self):
        bag = Bag()
        self.assertEqual(bag.add("a"), 1)
        self.assertEqual(bag.add("a"), 2)
        self.assertEqual(bag.counts, {"a": 2})


class SetUpTest(unittest.TestCase):
    def setUp(self):
        self.text = "a"

    def test_text(self):
        self.assertEqual(count(self.text), {"a": 1})
"""
needs_sandbox = pytest.mark.skipif(not sandbox_here().available, reason="no sandbox here")


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    (tmp_path / "tests").mkdir()
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "words.py").write_text(MODULE)
    (tmp_path / "tests" / "test_words.py").write_text(PYTEST)
    (tmp_path / "tests" / "test_more.py").write_text(UNITTEST)
    return tmp_path


def mine(source, **settings):
    return read_rows(DataSection(source=f"code:{source}", code=CodeSection(**settings)))


def outcome(row, code):
    return execute(Job(code, row.tests, row.test_setup, row.entry_point), Policy()).outcome


@needs_sandbox
def test_unit_tests_that_call_a_function_become_its_tests(package):
    found = mine(package)
    rows = {row.entry_point: row for row in found.rows}
    assert set(rows) == {"Bag.add", "count", "longest"}
    assert all(row.tests and row.test_setup for row in rows.values())
    joined = "\n".join(rows["count"].tests)
    ast.parse(joined)
    assert "found == {'a': 2, 'b': 1}" in joined and "count('') == {}" in joined
    for stranger in ("number_of", "w.", "import", "same", "tmp_path", "{'a': 2}", "Said in"):
        assert stranger not in joined
    counts = found.origin["unit_tests"]
    assert counts["functions"] == 3
    assert counts["reference_fails"] == 1 and counts["stub_passes"] == 1


@needs_sandbox
def test_they_tell_right_from_wrong(package):
    rows = {row.entry_point: row for row in mine(package).rows}
    for row in rows.values():
        assert outcome(row, row.output) == "pass"
    count, longest, add = rows["count"], rows["longest"], rows["Bag.add"]
    assert outcome(count, count.output.replace("+ 1", "+ 2")) == "fail"
    assert outcome(longest, longest.output.replace("max(", "min(")) == "fail"
    assert outcome(add, add.output.replace("+ 1", "+ 2")) == "fail"


@needs_sandbox
def test_an_answer_that_lies_about_equality_does_not_pass(package):
    row = next(row for row in mine(package).rows if row.entry_point == "count")
    lie = (
        "class Yes:\n"
        "    def __eq__(self, other): return True\n"
        "    def __contains__(self, other): return False\n"
        "def count(*a, **k): return Yes()\n"
    )
    assert outcome(row, lie) == "fail"


@needs_sandbox
def test_expected_errors_and_loops_become_one_check(package):
    (package / "tests" / "test_errors.py").write_text(
        "import pytest\nfrom package.words import longest\n\n\n"
        "def test_it():\n    with pytest.raises(ValueError):\n        longest('1')\n"
        "    for text in ('a', 'b'):\n        assert longest(text) == text\n"
    )
    (package / "tests" / "test_words.py").unlink()
    row = next(row for row in mine(package).rows if row.entry_point == "longest")
    assert row.tests[0].startswith("def check(candidate):")
    assert outcome(row, row.output) == "pass"
    assert outcome(row, "def longest(text):\n    return text") == "fail"


def test_they_are_left_alone_by_the_switch(package):
    found = mine(package, unit_tests=False)
    assert not any(row.tests for row in found.rows)
    assert found.origin["unit_tests"] == {}


@needs_sandbox
def test_tests_inside_the_package_and_relative_imports_are_understood(tmp_path):
    folder = tmp_path / "package"
    (folder / "tests").mkdir(parents=True)
    (folder / "words.py").write_text(MODULE)
    (folder / "tests" / "test_words.py").write_text(
        "from ..words import count\n\n\ndef test_it():\n    assert count('a') == {'a': 1}\n"
    )
    for source in (tmp_path, folder):
        row = next(row for row in mine(source).rows if row.entry_point == "count")
        assert row.tests == ("assert count('a') == {'a': 1}",)


@needs_sandbox
def test_tests_of_another_modules_namesake_are_not_taken(tmp_path):
    for name in ("words", "numbers"):
        (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "test_words.py").write_text(
        "import words\n\n\ndef test_it():\n    assert words.count('a') == {'a': 1}\n"
    )
    rows = {row.source.partition(".py")[0]: row for row in mine(tmp_path).rows
            if row.entry_point == "count"}  # fmt: skip
    assert rows["words"].tests and not rows["numbers"].tests


@needs_sandbox
def test_tests_that_spoil_each_other_do_not_stay_together(tmp_path):
    (tmp_path / "words.py").write_text(MODULE)
    (tmp_path / "test_words.py").write_text(
        "from words import count\nimport re\n\n\n"
        "def test_one():\n    WORD = re.compile('z')\n    assert count('a') == {}\n\n\n"
        "def test_two():\n    assert count('b') == {'b': 1}\n"
    )
    rows = mine(tmp_path).rows
    for row in rows:
        if row.tests:
            assert outcome(row, row.output) == "pass"


@needs_sandbox
def test_a_small_function_is_kept_for_its_verified_tests_or_by_the_setting(tmp_path):
    (tmp_path / "module.py").write_text(
        'def twice(x):\n    """Double.\n\n    >>> twice(2)\n    4\n    """\n    return 2 * x\n\n\n'
        'def thrice(x):\n    """Triple.\n\n    >>> thrice(2)\n    7\n    """\n    return 3 * x\n\n'
        'def half(x):\n    """Halve."""\n    return x / 2\n\n\n'
        'def itself(x):\n    """Nothing."""\n    return x\n',
        encoding="utf-8",
    )
    kept = mine(tmp_path)
    assert [row.entry_point for row in kept.rows] == ["twice"]
    assert kept.rows[0].tests == (">>> twice(2)\n4",)
    assert kept.origin["left_out"] == {"trivial functions": 3}
    small = mine(tmp_path, min_statements=1)
    names = [row.output.partition("(")[0] for row in small.rows]
    assert names == ["def twice", "def thrice", "def half"]
    assert [bool(row.tests) for row in small.rows] == [True, False, False]
    assert small.origin["left_out"] == {"trivial functions": 1}


def statements(text):
    return [
        "\n".join(ast.unparse(item) for item in body) for _, body in unit_tests(ast.parse(text))
    ]


@pytest.mark.parametrize(
    ("call", "plain"),
    [
        ("self.assertEqual(f(1), 2, 'words')", "assert f(1) == 2"),
        ("self.assertNotEqual(f(1), 2)", "assert f(1) != 2"),
        ("self.assertIsNone(f(1))", "assert f(1) is None"),
        ("self.assertFalse(f(1), msg='x')", "assert not f(1)"),
        ("self.assertIn(1, f(1))", "assert 1 in f(1)"),
        ("self.assertIsInstance(f(1), int)", "assert isinstance(f(1), int)"),
        ("self.assertAlmostEqual(f(1), 0.3)", "assert round(f(1) - 0.3, 7) == 0"),
        ("self.assertAlmostEqual(f(1), 0.3, places=2)", "assert round(f(1) - 0.3, 2) == 0"),
        (
            "self.assertRaises(ValueError, f, 1)",
            "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError()",
        ),
        (
            "with self.subTest(1):\n            self.assertEqual(f(1), 2)",
            "assert f(1) == 2",
        ),
    ],
)
def test_methods_of_a_test_case_become_plain_asserts(call, plain):
    text = f"class T(unittest.TestCase):\n    def test_it(self):\n        {call}\n"
    assert statements(text) == [plain]


@pytest.mark.parametrize(
    "body",
    [
        "self.assertRegex(f(1), 'a')",
        "self.assertEqual(self.f(1), 2)",
        "self.assertEqual(*f(1))",
        "self.skipTest('no')",
        "f(1)",
        "with self.assertRaises(ValueError) as caught:\n            f(1)",
    ],
)
def test_what_needs_a_test_case_is_no_test_for_an_answer(body):
    text = f"class T(unittest.TestCase):\n    def test_it(self):\n        {body}\n"
    assert statements(text) == []


@pytest.mark.parametrize(
    "head",
    [
        "def test_it(fixture):",
        "@mock.patch('x')\ndef test_it():",
        "@pytest.mark.skip\ndef test_it():",
        "@pytest.mark.parametrize('x', values())\ndef test_it(x):",
        "@pytest.mark.parametrize('x', [pytest.param(1)])\ndef test_it(x):",
        "async def test_it():",
        "def helper():",
    ],
)
def test_pytest_forms_that_need_more_than_asserts_are_passed_over(head):
    assert statements(f"{head}\n    assert f(1) == 2\n") == []
