import ast
import doctest
import hashlib
import inspect
import os
import textwrap

import pytest

from veritune.config import CodeSection, DataSection
from veritune.data.sources import read_rows
from veritune.errors import DataError

MODULE = '''\
"""A module."""
import functools

LIMIT = 3


@functools.lru_cache(maxsize=None)
def double(number: int,
           times: int = 1) -> int:
    """Double a number.

    >>> double(2)
    4

    Several times, if asked to:

    >>> for times in (1, 2):
    ...     print(double(1, times))
    2
    4

    """

    # Kept: a comment.
    for _ in range(times):
        number *= 2  # doubled
    return number


async def later(value):
    'Wait for a value.'
    await value
    limit = LIMIT
    return limit


class Stack:
    """A stack."""

    def push(self, item):
        """Put an item on top.

        >>> Stack().push(1)
        1
        """
        text = """
  unindented
        indented
"""
        self.items = [text, item]
        return item

    def _hidden(self):
        """Private."""
        a = 1
        return a

    def __len__(self):
        """Private too."""
        a = 1
        return a

    def undocumented(self):
        a = 1
        return a


class _Private:
    def method(self):
        """In a private class."""
        a = 1
        return a


def passes():
    """Pass."""
    pass


def refuses():
    """Refuse."""
    raise NotImplementedError("no")


def delegates(value):
    """Delegate."""
    return double(value, times=2)


def computes(value):
    """Compute."""
    return [item * 2 for item in value]


def by_example(value):
    """
    >>> by_example(1)
    2
    """
    value = value + 1
    return value


if __name__ == "__main__":
    print(double(2))
'''


def line_of(start):
    return next(n for n, line in enumerate(MODULE.split("\n"), 1) if line.startswith(start))


def place_of(row):
    """Provenance without the hash."""
    return row.source.partition("@")[0]


def mine(source, **settings):
    return read_rows(DataSection(source=f"code:{source}", **settings))


@pytest.fixture
def mined(tmp_path, sandbox):  # without one no test is verified, and none is kept
    (tmp_path / "module.py").write_text(MODULE, encoding="utf-8")
    return mine(tmp_path / "module.py")


@pytest.fixture
def by_name(mined):
    return {row.entry_point: row for row in mined.rows}


def run_doctests(row):
    """Run a row's tests as a scorer would: answer, setup, tests.  (failed, tried)"""
    names = {"__name__": "mined", **vars(__import__("builtins"))}
    exec("import functools\n" + row.output + "\n" + row.test_setup, names)
    test = doctest.DocTestParser().get_doctest("\n".join(row.tests), names, "row", None, 0)
    return doctest.DocTestRunner(verbose=False).run(test, out=lambda _: None)


def test_public_documented_functions_with_a_body_are_mined(mined):
    assert [(row.entry_point, place_of(row)) for row in mined.rows] == [
        ("double", f"module.py:{line_of('def double')}"),
        ("later", f"module.py:{line_of('async def later')}"),
        ("Stack.push", f"module.py:{line_of('    def push')}"),
    ]
    assert mined.origin["left_out"] == {
        "functions described by examples alone": 1,
        "functions without a docstring": 1,
        "private functions": 3,
        "trivial functions": 4,
    }


def test_the_question_shows_signature_and_docstring_without_examples(by_name):
    assert by_name["double"].instruction == (
        "Complete this Python function.\n"
        "\n"
        "@functools.lru_cache(maxsize=None)\n"
        "def double(number: int,\n"
        "           times: int = 1) -> int:\n"
        '    """Double a number.\n'
        "\n"
        "    Several times, if asked to:\n"
        '    """'
    )
    assert by_name["Stack.push"].instruction == (
        "Complete this method of the Python class Stack.\n"
        "\n"
        "def push(self, item):\n"
        '    """Put an item on top."""'
    )


def test_the_answer_is_the_exact_text_without_the_docstring(by_name):
    assert by_name["double"].output == (
        "@functools.lru_cache(maxsize=None)\n"
        "def double(number: int,\n"
        "           times: int = 1) -> int:\n"
        "    # Kept: a comment.\n"
        "    for _ in range(times):\n"
        "        number *= 2  # doubled\n"
        "    return number"
    )
    assert by_name["Stack.push"].output == (
        "def push(self, item):\n"
        '    text = """\n'
        "  unindented\n"
        "        indented\n"
        '"""\n'
        "    self.items = [text, item]\n"
        "    return item"
    )


def test_doctests_become_tests_that_pass_with_the_answer_and_fail_with_a_stub(by_name):
    double = by_name["double"]
    assert double.tests == (
        ">>> double(2)\n4",
        ">>> for times in (1, 2):\n...     print(double(1, times))\n...\n2\n4",
    )
    for row in (double, by_name["Stack.push"]):
        assert run_doctests(row) == (0, len(row.tests))
        name = row.entry_point.rpartition(".")[2]
        stub = type(row)(
            **{
                **{field: getattr(row, field) for field in row.__slots__},
                "output": f"def {name}(*_):\n    raise RuntimeError",
            }
        )
        assert run_doctests(stub).failed == len(row.tests)


def test_the_setup_has_no_main_part_and_no_second_definition(by_name):
    setup = by_name["double"].test_setup
    assert "LIMIT = 3" in setup and "class Stack" in setup
    assert "__main__" not in setup and "def double" not in setup
    ast.parse(setup)
    assert by_name["later"].test_setup == ""


@pytest.mark.parametrize(
    "rebinding",
    [
        "try:\n    from _fast import *\nexcept ImportError:\n    pass\n",
        "from fast import double\n",
        "import fast as double\n",
        "if True:\n    double = int\n",
        "def double(number):\n    return number\n",
    ],
)
def test_no_tests_where_the_module_would_put_its_own_function_in_place(tmp_path, rebinding):
    (tmp_path / "module.py").write_text(MODULE + rebinding, encoding="utf-8")
    rows = {place_of(row): row for row in mine(tmp_path / "module.py").rows}
    assert rows["module.py:8"].tests == ()
    assert rows["module.py:8"].test_setup == ""


def test_tests_generated_hidden_and_foreign_code_is_left_out(tmp_path):
    for name in (
        "package/b.py",
        "package/a.py",
        "test_x.py",
        "x_test.py",
        "conftest.py",
        "tests/x.py",
        "__pycache__/x.py",
        ".hidden/x.py",
        "env/x.py",
        "lib/site-packages/x.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MODULE, encoding="utf-8")
    (tmp_path / "env" / "pyvenv.cfg").write_text("", encoding="utf-8")
    (tmp_path / "made.py").write_text("# Generated by a tool.\n" + MODULE, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "nul.py").write_bytes(b"x = 1\0")
    (tmp_path / "odd.py").write_bytes(b"# coding: no-such-coding\n")
    latin = '# coding: latin-1\ndef f(x):\n    "Größe."\n    x += 1\n    x += 1\n    return "é"\n'
    (tmp_path / "latin.py").write_bytes(latin.encode("latin-1"))
    (tmp_path / "link.py").symlink_to(tmp_path / "package" / "a.py")
    result = mine(tmp_path)
    assert list(dict.fromkeys(row.source.partition(":")[0] for row in result.rows)) == [
        "latin.py",
        "package/a.py",
        "package/b.py",
    ]
    assert 'return "é"' in result.rows[0].output
    left_out = result.origin["left_out"]
    assert left_out["files that do not parse"] == 2
    assert left_out["generated files"] == left_out["files of unknown encoding"] == 1
    assert left_out["test files"] == 4
    assert left_out["vendored files"] == left_out["virtual environments"] == 1
    assert mine(tmp_path) == result
    assert [row.source for row in mine(tmp_path, max_rows=2).rows] == [
        row.source for row in result.rows[:2]
    ]


def test_a_file_name_that_is_no_utf8_still_gives_a_provenance(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.py")).write_text(MODULE, encoding="utf-8")
    assert mine(tmp_path).rows[0].source.startswith("caf\ufffd.py:")


def test_layouts_that_cannot_be_taken_apart_are_left_out(tmp_path):
    (tmp_path / "module.py").write_text(
        'def one(x): "Doc."; x = x + 1; x += 1; return x\n'
        'def two(x):\n    "Doc."; x = x + 1\n    x += 1\n    return x\n'
        'def three(x):\n    ("Doc "\n     "more.")\n    x += 1\n    x += 1\n    return x\n'
        "def four(x):\n\t'Doc.'\n\tx += 1\n\tx += 1\n\treturn x\n",
        encoding="utf-8",
    )
    result = mine(tmp_path)
    for row in result.rows:
        ast.parse(row.output)
        assert "Doc" not in row.output and "x += 1" in row.output
    assert result.rows[-1].entry_point == "four"
    assert result.origin["left_out"]["functions of unusual layout"] >= 2


def test_provenance_names_the_files_own_hash(mined, tmp_path):
    content = (tmp_path / "module.py").read_bytes()
    hashes = {row.source.partition("@")[2] for row in mined.rows}
    assert hashes == {hashlib.sha256(content).hexdigest()[:12]}


@pytest.mark.parametrize(
    ("setting", "reason", "names"),
    [
        ("include_private", "private functions", {"Stack._hidden", "Stack.__len__"}),
        ("include_trivial", "trivial functions", {"refuses", "delegates", "computes", "passes"}),
    ],
)
def test_each_kind_of_function_comes_in_by_its_switch(tmp_path, setting, reason, names):
    (tmp_path / "module.py").write_text(
        MODULE.replace("        a = 1\n", "        a = 1\n        b = 2\n"), encoding="utf-8"
    )
    without = mine(tmp_path)
    found = mine(tmp_path, code=CodeSection(**{setting: True}))
    added = {row.entry_point for row in found.rows} - {row.entry_point for row in without.rows}
    assert names <= added
    assert without.origin["left_out"][reason] >= len(names)
    assert reason not in found.origin["left_out"]


@pytest.mark.parametrize(
    ("setting", "reason", "file"),
    [
        ("include_tests", "test files", "tests/test_a.py"),
        ("include_vendored", "vendored files", "package/_vendor/a.py"),
        ("include_generated", "generated files", "package/a_pb2.py"),
        ("include_generated", "generated files", "build/lib/a.py"),
    ],
)
def test_each_kind_of_file_comes_in_by_its_switch(tmp_path, setting, reason, file):
    (tmp_path / "module.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(MODULE, encoding="utf-8")
    without = mine(tmp_path)
    assert without.origin["left_out"][reason] == 1
    assert {place_of(row).partition(":")[0] for row in without.rows} == {"module.py"}
    found = mine(tmp_path, code=CodeSection(**{setting: True}))
    assert {place_of(row).partition(":")[0] for row in found.rows} == {"module.py", file}
    assert reason not in found.origin["left_out"]


@pytest.mark.parametrize("target", ["", "no/such/folder", "data.txt"])
def test_a_path_that_is_no_code_is_refused(tmp_path, target, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        mine(target)
    assert "code:stdlib" in caught.value.accepted


def test_code_without_documented_functions_is_refused_with_the_counts(tmp_path):
    (tmp_path / "module.py").write_text("def f():\n    a = 1\n    return a\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        mine(tmp_path)
    assert "1 functions without a docstring" in caught.value.received


@pytest.mark.slow
def test_the_standard_library_gives_pairs_that_say_what_its_functions_say():
    result = mine("stdlib")
    assert len(result.rows) > 1000
    assert result.origin["licence"] == "PSF-2.0"
    assert not [row for row in result.rows if row.source.startswith(("test/", "idlelib/"))]
    row = next(r for r in result.rows if r.entry_point == "dedent" and "textwrap" in r.source)
    tree = ast.parse(inspect.getsource(textwrap.dedent))
    del tree.body[0].body[0]
    assert ast.dump(ast.parse(row.output)) == ast.dump(tree)
    for row in result.rows[::7]:
        assert len(ast.parse(row.output).body) == 1
