"""From one module's source: a question and its answer for each documented function.

The question shows the signature and the docstring; the answer is the function's own source
text without its docstring.  Doctest examples leave the question; they and the unit tests that
call the function may become its tests.
"""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from veritune.config import CodeSection
from veritune.data.candidates import Candidate, Trial
from veritune.data.code_rules import TRIVIAL, function_left_out
from veritune.data.doctests import examples_in, without_doctests
from veritune.data.raw_rows import RawRow
from veritune.data.setup_source import setup_of
from veritune.data.syntax import dump, lines_ending_in_string, parse, tokens

Function = ast.FunctionDef | ast.AsyncFunctionDef
TestsOf = Callable[[str, str], tuple[Trial, ...]]
_HASH_DIGITS = 12


def pairs_of(
    text: str,
    name: str,
    settings: CodeSection,
    left_out: Counter[str],
    *,
    tests_of: TestsOf | None = None,
    sha256: str = "",
) -> list[Candidate]:
    """The pairs of a module, in order of line.

    Args:
        text: the module's source, line ends ``\\n``.
        name: the module's path, for provenance.
        left_out: counts of what is left out and why; added to.
        tests_of: gives the unit tests of a function, by its name and its class's.
        sha256: of the file, for provenance.
    """
    tree = parse(text)
    if isinstance(tree, str):
        left_out["files that do not parse"] += 1
        return []
    lines = text.split("\n")
    found = []
    for function, owner in _functions(tree):
        reason = function_left_out(function, owner, settings)
        candidate = None
        if reason in (None, TRIVIAL) and function.body[1:]:
            candidate = _pair(function, owner, lines, f"{name}:{function.lineno}")
        if candidate is None:
            left_out[reason or "functions of unusual layout"] += 1
            continue
        candidate = _with_tests(candidate, function, owner, tree, lines, tests_of=tests_of)
        if reason and not candidate.trials:
            left_out[reason] += 1
            continue
        group = name if settings.keep_files_together else ""
        source = candidate.row.source + (f"@{sha256[:_HASH_DIGITS]}" if sha256 else "")
        row = replace(candidate.row, source=source, group=group)
        found.append(replace(candidate, row=row, is_trivial=reason is not None))
    return found


def _functions(tree: ast.Module) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    for node in tree.body:
        if isinstance(node, Function):
            yield node, None
        elif isinstance(node, ast.ClassDef):
            yield from ((item, node) for item in node.body if isinstance(item, Function))


def _with_tests(
    candidate: Candidate,
    function: Function,
    owner: ast.ClassDef | None,
    tree: ast.Module,
    lines: list[str],
    *,
    tests_of: TestsOf | None,
) -> Candidate:
    """The candidate with all that may become its tests, and the rest of its module."""
    examples = examples_in(ast.get_docstring(function) or "")
    sets = [Trial("examples", examples)] if examples else []
    if tests_of is not None:
        sets += tests_of(function.name, owner.name if owner else "")
    setup = setup_of(tree, lines, function, owner) if sets else None
    if setup is None:
        return candidate
    return replace(candidate, test_setup=setup, trials=tuple(sets))


def _pair(
    function: Function,
    owner: ast.ClassDef | None,
    lines: list[str],
    source: str,
) -> Candidate | None:
    """The pair of one function; None where its text cannot be taken apart exactly."""
    documented = function.body[0]
    assert isinstance(documented, ast.Expr) and documented.end_lineno and function.end_lineno
    docstring = ast.get_docstring(function) or ""
    start = min([function.lineno, *(item.lineno for item in function.decorator_list)])
    signature = lines[start - 1 : documented.lineno - 1]
    body = lines[documented.end_lineno : function.end_lineno]
    while body and not body[0].strip():
        body = body[1:]
    indent = lines[start - 1][: len(lines[start - 1]) - len(lines[start - 1].lstrip())]
    output = _dedented([*signature, *body], indent)
    if output is None or not _says_the_same(output, function):
        return None
    row = RawRow(
        instruction=_question(_dedented(signature, indent) or "", docstring, owner),
        input="",
        output=output,
        entry_point=f"{owner.name}.{function.name}" if owner else function.name,
        source=source,
    )
    return Candidate(row)


def _question(signature: str, docstring: str, owner: ast.ClassDef | None) -> str:
    what = f"this method of the Python class {owner.name}" if owner else "this Python function"
    text = without_doctests(docstring)
    quotes = "'''" if '"""' in text or text.endswith('"') else '"""'
    if "\\" in text:
        quotes = f"r{quotes}"
    close = quotes.removeprefix("r")
    quoted = f"{quotes}{text}\n{close}" if "\n" in text else f"{quotes}{text}{close}"
    return f"Complete {what}.\n\n{signature}\n{textwrap.indent(quoted, '    ')}"


def _dedented(lines: list[str], indent: str) -> str | None:
    """Lines without the indentation of their definition; never inside strings."""
    if not indent:
        return "\n".join(lines).rstrip()
    inside: set[int] = set()
    text = "\n".join(lines)
    if "'''" in text or '"""' in text or "\\\n" in text:
        found = tokens("if 1:\n" + text + "\n")
        if found is None:
            return None
        inside = lines_ending_in_string(found)
    return "\n".join(
        line if number in inside else line.removeprefix(indent)
        for number, line in enumerate(lines, start=1)
    ).rstrip()


def _says_the_same(output: str, function: Function) -> bool:
    """Whether the answer parses to the function without its docstring."""
    answer = parse(output)
    if isinstance(answer, str) or len(answer.body) != 1:
        return False
    documented = function.body.pop(0)
    try:
        wanted = dump(function)
        return wanted is not None and dump(answer.body[0]) == wanted
    finally:
        function.body.insert(0, documented)
