"""The interactive examples of a docstring: taken out of the text, kept as tests."""

from __future__ import annotations

import doctest
import re

_PARSER = doctest.DocTestParser()
_BLANK_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")


def examples_in(docstring: str) -> tuple[str, ...]:
    """Each example as ``>>> source`` with its expected lines, in order; they share their names.

    Empty where no example expects anything, so that nothing would be tested, or where the
    examples are malformed.
    """
    examples = [item for item in _pieces(docstring) if isinstance(item, doctest.Example)]
    wanted = [item for item in examples if not item.options.get(doctest.SKIP)]
    if not any(item.want for item in wanted):
        return ()
    return tuple(_as_lines(item) for item in wanted)


def without_doctests(docstring: str) -> str:
    """The text without its examples; as it is where they are malformed."""
    text = "".join(item for item in _pieces(docstring) if isinstance(item, str))
    return _BLANK_LINES.sub("\n\n", text).strip()


def _pieces(docstring: str) -> list[str | doctest.Example]:
    try:
        return _PARSER.parse(docstring)
    except ValueError:
        return [docstring]


def _as_lines(example: doctest.Example) -> str:
    first, *others = example.source.rstrip("\n").split("\n")
    prompted = [f">>> {first}", *(f"... {line}".rstrip() for line in others)]
    if others and others[-1].startswith((" ", "\t")):
        prompted.append("...")
    want = example.want.rstrip("\n")
    return "\n".join([*prompted, *([want] if want else [])])
