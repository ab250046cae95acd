import ast
import inspect
import json
import random
import textwrap
import warnings
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from veritune.config import CleanSection
from veritune.data.clean import clean
from veritune.data.dedupe import find_clusters
from veritune.data.fences import drop_language_line, unfence
from veritune.data.raw_rows import RawRow
from veritune.data.source_text import normalise_code, normalise_prose, remove_comments

ROW = RawRow("Question", "", "x = 1")
SNIPPETS = [
    "x = 1  # one\n",
    "# only a comment \n",
    "def f(a):  \n    # inside\n    return a # end\n",
    's = """a # no comment  \n  \t\n b"""  # yes\n',
    "t = '# no' + \"#\" \n",
    "f'{1:#x} # {2}'\n",
    "r'''\\'''\n",
    "y = (1,  \n     # two\n     2)\n",
    "z = 1 + \\\n    2\n",
    "if x:\n\tpass\n\n\n",
    "b'''\n  # bytes  \n'''\n",
    "\f\nclass A:\n    '''doc  \n    # doc\n    '''\n",
    "'a \\\n b  '\n",
    "x = f'''{\n1}  # text\n'''\n",
]
code_like = st.one_of(
    st.lists(st.sampled_from(SNIPPETS), max_size=5).map("".join),
    st.lists(
        st.sampled_from([*SNIPPETS, "\n", "  \n", "\r\n", "\\\n", "\t", "'", '"""']), max_size=5
    ).map("".join),
    st.text(alphabet="ab1=# '\"\\\n\r\t\f()[]:,", max_size=40),
)


def tree_of(code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.dump(ast.parse(code))
        except (SyntaxError, ValueError):
            return None


@given(code_like)
@example("x = 1\\\n\n")
@example("\\\n\t")
@example("\n\\\n\n")
@example("x = '''\r\n  '''  \r\n")
def test_whitespace_is_normalised_without_changing_the_program(code):
    before = tree_of(code)
    result = normalise_code(code)
    assert "\r" not in result
    assert normalise_code(result) == result
    assume(before is not None)
    assert tree_of(result) == before


@given(code_like)
def test_comments_go_without_changing_the_program(code):
    before = tree_of(code)
    result = remove_comments(code)
    if before is None:
        assert result == code
    else:
        assert tree_of(result) == before


def test_real_code_keeps_its_program_and_loses_its_comments():
    for module in (textwrap, json.decoder, random, inspect):
        source = inspect.getsource(module)
        assert tree_of(normalise_code(source)) == tree_of(source)
        bare = remove_comments(source)
        assert tree_of(bare) == tree_of(source)
        assert len(bare) < len(source)


def test_comments_are_removed_and_strings_with_hashes_stay():
    assert remove_comments("# top\nx = '#'  # why\nif x:\n    # in\n    pass\n") == (
        "x = '#'\nif x:\n    pass\n"
    )
    assert remove_comments("print 'old'  # python 2") == "print 'old'  # python 2"


def test_whitespace_in_strings_stays_and_elsewhere_goes():
    code = '\n\n  \nx = """a  \r\n\t\r\nb"""  \r\ny = 2\t\r\n\r\n'
    assert normalise_code(code) == 'x = """a  \n\t\nb"""\ny = 2'
    assert normalise_code("it's  \r\n\r\n") == "it's"
    assert (
        normalise_code("\n    indented = 1  \n    more = 2\n") == "    indented = 1\n    more = 2"
    )
    assert normalise_prose(" \r\n a  \r b\n\n") == " a\n b"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("Sure:\n```py\nx = 1\n```\nDone.", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("~~~~python\ny = '''\n~~~\n'''\n~~~~", "y = '''\n~~~\n'''"),
        ("```python\nx = 1", "x = 1"),
        ("```bash\npip install y\n```\n```python\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n```\nthen\n```python\ny = 2\n```", "x = 1\n\ny = 2"),
        ("  ```python\n  if x:\n      y\n  ```", "if x:\n    y"),
        ("```python\r\nx = 1\r\n```", "x = 1"),
        ("```print(1)```", "print(1)"),
        ("```python print(1)```", "print(1)"),
        ("x = 1", "x = 1"),
        ('s = """\n```python\nno\n```\n"""', 's = """\n```python\nno\n```\n"""'),
        ("x = (1\n```", "x = (1\n```"),
        ("```python\n```", "```python\n```"),
    ],
)
def test_code_is_taken_out_of_fences(answer, code):
    assert unfence(answer) == code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("python\nx = 1", "x = 1"),
        ("\n Python3: \r\nx = 1", "x = 1"),
        ("python", "python"),
        ("python\n\n", "python\n\n"),
        ("python = 3\n", "python = 3\n"),
        ("import python\n", "import python\n"),
    ],
)
def test_a_leading_language_line_goes(answer, code):
    assert drop_language_line(answer) == code


def test_every_step_is_listed_and_counted():
    rows = [
        replace(ROW, output="```python\npython\nx = 1  \n```"),
        replace(ROW, output="x = 1"),
        replace(ROW, instruction=" ", output="y = 1"),
        replace(ROW, output="\n"),
        replace(ROW, output="x = ("),
        replace(ROW, output="x = '\ud800'"),
        replace(ROW, output="x = '\0'"),
        replace(ROW, input="more", output="x = 1"),
        replace(ROW, tests=("assert '\udfff'",), output="z = 1"),
    ]
    kept, counts = clean(rows, CleanSection(remove_comments=True, drop_unparseable=True))
    assert [row.output for row in kept] == ["x = 1", "x = 1"]
    assert [(c.name, c.changed, c.dropped, c.rows_after) for c in counts] == [
        ("drop_unstorable", 0, 3, 6),
        ("unfence", 1, 0, 6),
        ("drop_language_line", 1, 0, 6),
        ("remove_comments", 0, 0, 6),
        ("normalise_whitespace", 3, 0, 6),
        ("drop_empty", 0, 2, 4),
        ("drop_exact_duplicates", 0, 1, 3),
        ("drop_unparseable", 0, 1, 2),
    ]
    assert all(count.enabled and count.description for count in counts)


def test_steps_turned_off_do_nothing_and_say_so():
    names = list(CleanSection.model_fields)
    rows = [replace(ROW, output="```python\n \n"), ROW, ROW]
    kept, counts = clean(rows, CleanSection(**dict.fromkeys(names, False)))
    assert kept == rows
    assert [count.name for count in counts if not count.enabled] == names


texts = st.one_of(st.text(max_size=30), code_like)


@given(
    st.lists(st.builds(RawRow, instruction=texts, input=texts, output=texts), max_size=8),
    st.builds(CleanSection),
)
def test_counts_add_up_and_cleaning_again_changes_nothing_more(rows, section):
    kept, counts = clean(rows, section)
    left = len(rows)
    for count in counts:
        assert count.rows_after == left - count.dropped
        left = count.rows_after
    assert left == len(kept)
    for row in kept:
        row.output.encode("utf-8")
        assert row.output.strip()


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "-" * 100_000 + "1", "x" * 10**6, "\\" * 99, "\ufeffx", "x = 0x" + "f" * 9999],
)
def test_hostile_answers_pass_through(text):
    kept, _ = clean([replace(ROW, output=text)], CleanSection(remove_comments=True))
    assert [row.output for row in kept] == [text]
    assert find_clusters(kept).ids == ["c000000"]
