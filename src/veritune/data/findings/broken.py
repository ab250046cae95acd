"""Why an answer does not parse, in words that say what happened to it."""

from __future__ import annotations

import re

SHELL = "shell commands"
NOTEBOOK = "notebook commands"
SESSION = "an interpreter session"
PYTHON_2 = "Python 2"
OTHER_LANGUAGE = "another language"
FENCE = "a Markdown fence left in it"
QUOTES = "quotes inside quotes of the same kind"
LINE_END = "a line end inside a string"
INDENTATION = "indentation missing or uneven"
CUT_OFF = "cut off before its end"
PROSE = "prose instead of code"
OTHER = "other faults"

_SHELL = re.compile(
    r"^[ \t]*(?:\$ |sudo |apt(?:-get)? |pip3? install|conda |npm |git \w|cd \S+$|docker |curl |"
    r"wget |mkdir |echo |export \w+=|python3? \S+\.py|#!/(?:usr/)?bin/(?:env )?(?:ba)?sh)",
    re.MULTILINE,
)
_NOTEBOOK = re.compile(r"^[ \t]*(?:![\w./]|%%?[a-z])", re.MULTILINE)
_SESSION = re.compile(r"^[ \t]*>>> ", re.MULTILINE)
_OTHER_LANGUAGE = re.compile(
    r"^[ \t]*(?:#include\b|using namespace |public (?:static|class) |package \w+;?$|"
    r"function \w+\s*\(|(?:const|let|var) \w+\s*=|fn \w+\(|<!DOCTYPE|</?[a-zA-Z][\w-]*[ >]|"
    r"SELECT\b.*\bFROM\b|CREATE TABLE\b)|console\.log\(|System\.out\.print",
    re.MULTILINE | re.IGNORECASE,
)
_PYTHON_2_REASON = re.compile(
    r"Missing parentheses in call to|multiple exception types must be parenthesized|"
    r"leading zeros in decimal integer"
)
_PYTHON_2 = re.compile(
    r"^[ \t]*(?:print (?:[\"'\w].*|>>)|except [\w.]+, \w+:|raise \w+, |exec \")|(?<!<)<>(?!>)",
    re.MULTILINE,
)
# A closing quote never meets a letter in Python, but for a few keywords.
_CLOSED_BEFORE_WORD = re.compile(
    r"""(?<![\w\\'"])(?:[rbfuRBFU]{1,2})?(['"])(?:\\.|(?!\1)[^\\\n])*+\1(?!(?:if|else|for|in|and|or|is|not|as)\b)[A-Za-z_]"""
)
_CUT_OFF_REASON = re.compile(r"was never closed|unexpected EOF|unterminated triple-quoted|'\{' was")
_LINE_OF_REASON = re.compile(r"line (\d+)\)$")
_COMMAND = re.compile(r"^[ \t]*[a-z][\w-]* +(?:-{1,2}\w|[\w.@:-]*/\S|[\w-]+\.\w+$)")
_PROSE = re.compile(
    r"^[ \t]*(?:[-*•] [A-Z0-9]|\*\*\w|[A-Z][\w'’-]*(?:,? [\w'’\"-]+){3,}+[^=(){}\[\]]*$)"
)


def kind_of_fault(code: str, reason: str) -> str:
    """The kind of fault of a program that does not parse.

    Args:
        reason: what ``veritune.data.syntax.parse`` says with the line of the fault.
    """
    found = _LINE_OF_REASON.search(reason)
    lines = code.splitlines()
    number = int(found[1]) if found else 1
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    kinds = (
        (FENCE, "```" in code),
        (SESSION, bool(_SESSION.search(code))),
        (NOTEBOOK, bool(_NOTEBOOK.match(line))),
        (QUOTES, bool(_CLOSED_BEFORE_WORD.search(line))),
        (PYTHON_2, bool(_PYTHON_2_REASON.search(reason) or _PYTHON_2.search(line))),
        (OTHER_LANGUAGE, bool(_OTHER_LANGUAGE.search(code))),
        (SHELL, bool(_SHELL.match(line) or _COMMAND.match(line))),
        (PROSE, bool(_PROSE.match(line))),
        (INDENTATION, reason.startswith(("IndentationError", "TabError"))),
        (LINE_END, "unterminated" in reason and "triple" not in reason),
        (CUT_OFF, bool(_CUT_OFF_REASON.search(reason))),
    )
    return next((kind for kind, holds in kinds if holds), OTHER)


def line_of_fault(code: str, reason: str) -> str:
    """The line that the parser stopped at; the whole text where it names none."""
    found = _LINE_OF_REASON.search(reason)
    lines = code.splitlines()
    if found and 0 < int(found[1]) <= len(lines):
        return f"line {found[1]}: {lines[int(found[1]) - 1]}"
    return code
