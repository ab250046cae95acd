import doctest
import inspect
import textwrap

from veritune.data.doctests import examples_in, without_doctests


def test_taken_out_doctests_are_those_that_doctest_finds():
    parser = doctest.DocTestParser()
    for function in (doctest.DocTestParser, doctest.script_from_examples, textwrap.indent):
        documentation = inspect.getdoc(function) or ""
        expected = parser.get_examples(documentation)
        again = parser.get_examples("\n".join(examples_in(documentation)))
        assert [(e.source.rstrip(), e.want) for e in again] == [
            (e.source.rstrip(), e.want) for e in expected
        ] or not any(e.want for e in expected)
        assert ">>>" not in without_doctests(documentation)


def test_odd_doctests_do_no_harm():
    malformed = "Add.\n\n>>>f(1)\n2\n"
    assert examples_in(malformed) == ()
    assert without_doctests(malformed) == malformed.strip()
    assert examples_in(">>> f(1)  # doctest: +SKIP\n2\n") == ()
    assert examples_in(">>> f(1)\n") == ()
    assert examples_in(">>> print('  a')\n  a\n") == (">>> print('  a')\n  a",)
