"""From one module's source: a question and its answer for each documented function.

The question shows the signature and the docstring; the answer is the function's own source
text without its docstring.  Doctest examples leave the question and become the tests.
"""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from collections.abc import Iterator

from veritune.data.doctests import examples_in, without_doctests
from veritune.data.raw_rows import RawRow
from veritune.data.setup_source import setup_of
from veritune.data.syntax import dump, lines_ending_in_string, parse, tokens

Function = ast.FunctionDef | ast.AsyncFunctionDef

_COMPUTES = (
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.DictComp,
    ast.GeneratorExp,
    ast.IfExp,
    ast.JoinedStr,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.Subscript,
)


def pairs_of(text: str, name: str, left_out: Counter[str]) -> list[RawRow]:
    """The pairs of a module, in order of line.

    Args:
        text: the module's source, line ends ``\\n``.
        name: the module's path, for provenance.
        left_out: counts of what is left out and why; added to.
    """
    tree = parse(text)
    if isinstance(tree, str):
        left_out["files that do not parse"] += 1
        return []
    lines = text.split("\n")
    rows = []
    for function, owner in _functions(tree):
        reason = _why_left_out(function)
        row = None if reason else _pair(function, owner, tree, lines, name)
        if row is None:
            left_out[reason or "functions of unusual layout"] += 1
        else:
            rows.append(row)
    return rows


def _functions(tree: ast.Module) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    for node in tree.body:
        if isinstance(node, Function):
            yield node, None
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((item, node) for item in node.body if isinstance(item, Function))


def _why_left_out(function: Function) -> str | None:
    if function.name.startswith("_"):
        return "private functions"
    docstring = ast.get_docstring(function) or ""
    if not docstring.strip():
        return "functions without a docstring"
    if not without_doctests(docstring):
        return "functions described by examples alone"
    return "trivial functions" if _is_trivial(function.body[1:]) else None


def _is_trivial(body: list[ast.stmt]) -> bool:
    """Whether a body (without docstring) is one plain statement, or nothing at all.

    One statement counts as a body of its own only where it computes: compound statements,
    comprehensions, operators.  Passing a call on, raising or returning a name is trivial.
    """
    if len(body) != 1:
        return not body
    statement = body[0]
    if isinstance(statement, ast.Raise) or _has_body(statement):
        return isinstance(statement, ast.Raise)
    return not any(isinstance(node, _COMPUTES) for node in ast.walk(statement))


def _has_body(statement: ast.stmt) -> bool:
    inner: list[ast.stmt] = getattr(statement, "body", [])
    return len(inner) > 1 or any(not isinstance(item, ast.Pass) for item in inner)


def _pair(
    function: Function,
    owner: ast.ClassDef | None,
    tree: ast.Module,
    lines: list[str],
    name: str,
) -> RawRow | None:
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
    tests = examples_in(docstring)
    setup = setup_of(tree, lines, function, owner) if tests else None
    return RawRow(
        instruction=_question(_dedented(signature, indent) or "", docstring, owner),
        input="",
        output=output,
        tests=tests if setup is not None else (),
        test_setup=setup or "",
        entry_point=f"{owner.name}.{function.name}" if owner else function.name,
        source=f"{name}:{function.lineno}",
    )


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
