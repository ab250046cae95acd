"""Which language an answer that is not Python seems to be written in.

A guess by marks that hardly occur elsewhere: a language scores one for each of its marks that
is found, and the highest score wins.  Pygments' ``guess_lexer`` takes half of the answers that
are Python with a fault for Carbon, Transact-SQL or scdoc, and plain prose for Objective-C.
"""

from __future__ import annotations

import re

UNKNOWN = "unknown"
_LOOKED_AT_CHARACTERS = 8000


def _marks(*patterns: str, ignore_case: bool = False) -> tuple[re.Pattern[str], ...]:
    flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
    return tuple(re.compile(pattern, flags) for pattern in patterns)


_MARKS = {
    "JavaScript": _marks(
        r"^[ \t]*(?:const|let|var) \w+ ?=",
        r"\bfunction ?\w* ?\(",
        r"\bconsole\.log\(",
        r"=> ?[{(]",
        r"===|!==",
        r"\brequire\(['\"]",
        r"\bdocument\.\w",
    ),
    "TypeScript": _marks(
        r"^[ \t]*(?:export )?(?:interface|enum) \w+ ?\{",
        r"^[ \t]*(?:const|let|var) \w+: ",
        r"\): (?:string|number|boolean|void|any|Promise<)",
    ),
    "Java": _marks(
        r"^[ \t]*public (?:static |final |abstract )*(?:class|void|int|String)\b",
        r"\bSystem\.out\.print",
        r"^import java[x.]",
        r"\bString\[\] \w",
        r"\bnew [A-Z]\w*(?:<\w*>)?\(",
    ),
    "C or C++": _marks(
        r"^[ \t]*#include ?[<\"]",
        r"\bint main\(",
        r"\bstd::",
        r"^using namespace ",
        r"\bprintf\(\"",
        r"\bcout ?<<",
    ),
    "C#": _marks(
        r"^using System[.;]", r"\bConsole\.Write", r"^namespace [\w.]+", r"\bstring\[\] args"
    ),
    "Go": _marks(r"^package \w+$", r"^func (?:\(|\w+\()", r"\bfmt\.\w+\(", r" := "),
    "Rust": _marks(r"\bfn \w+\(", r"\blet mut \w", r"\bprintln!\(", r"^use \w+::"),
    "PHP": _marks(r"<\?php", r"^[ \t]*\$\w+ = ", r"\becho \$", r"\$\w+->"),
    "Ruby": _marks(r"^[ \t]*puts ", r"^end$", r"\.each do \|", r"^require ['\"]"),
    "R": _marks(r"\w <- ", r"^library\(\w+\)", r"%>%", r"\bdata\.frame\("),
    "SQL": _marks(
        r"^[ \t]*SELECT\b",
        r"^[ \t]*(?:INSERT INTO|CREATE TABLE|UPDATE \w+ SET|DELETE FROM|ALTER TABLE)\b",
        r"^[ \t]*(?:FROM|WHERE|GROUP BY|ORDER BY) \w",
        ignore_case=True,
    ),
    "HTML": _marks(
        r"<!DOCTYPE html",
        r"</(?:html|body|div|p|a|span|head|table|ul|li|h\d)>",
        r"<(?:html|body|div|head|table|meta|script)\b",
        ignore_case=True,
    ),
    "CSS": _marks(r"^[ \t]*[.#]?[\w-]+ ?\{$", r"^[ \t]+[a-z-]+: [^;{}\n]+;$", r"^@media "),
    "shell": _marks(
        r"^#!/(?:usr/)?bin/(?:env )?(?:ba|z)?sh",
        r"^[ \t]*(?:\$ )?(?:sudo|apt|apt-get|pip3?|conda|npm|git|docker|curl|wget|mkdir|chmod|cd|"
        r"echo|export|python3?) [\w./~\"'$-]",
        r"^[ \t]*(?:fi|done|esac)$",
        r"^[ \t]*(?:if|while) \[\[? ",
        r" \| (?:grep|awk|sed|sort|xargs|head|tail|wc)\b",
        r"^[ \t]*[a-z][\w-]* +-{1,2}\w",
    ),
    "PowerShell": _marks(r"\b(?:Get|Set|New|Remove|Invoke|Write|Start)-[A-Z]\w+", r"\$_\."),
    "YAML": _marks(r"^---$", r"^[A-Za-z][\w-]*:$", r"^[ \t]*- \w+: \S"),
    "JSON": _marks(r"^[ \t]*\{$", r'^[ \t]*"[\w-]+": ', r"\b(?:true|false|null)\b,?$"),
    "LaTeX": _marks(r"\\(?:begin|end)\{\w+\}", r"\\(?:documentclass|frac|section)\b"),
}


def guess_language(code: str) -> str:
    """The language with most marks, the first named of equal ones; ``unknown`` without any."""
    head = code[:_LOOKED_AT_CHARACTERS]
    scores = {
        name: sum(mark.search(head) is not None for mark in marks) for name, marks in _MARKS.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] else UNKNOWN
