"""What one row tells by itself: a pure function of the row, fit for a worker process."""

from __future__ import annotations

from dataclasses import dataclass

from veritune.data.findings.broken import (
    CUT_OFF,
    OTHER,
    OTHER_LANGUAGE,
    PROSE,
    PYTHON_2,
    SHELL,
    kind_of_fault,
    line_of_fault,
)
from veritune.data.findings.compiles import compile_fault
from veritune.data.findings.languages import UNKNOWN, guess_language
from veritune.data.findings.personal import personal_spans
from veritune.data.findings.program import Program, look_into
from veritune.data.findings.secret_rows import Secret, secrets_of
from veritune.data.findings.tasks import action_of, subject_of
from veritune.data.syntax import parse
from veritune.rows import Example

BROKEN_PYTHON = "Python with a fault"
_OF_KIND = {PYTHON_2: PYTHON_2, SHELL: "shell", PROSE: "prose"}
_MAYBE_OTHER_LANGUAGE = frozenset({OTHER_LANGUAGE, OTHER, CUT_OFF})


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What is found in one row.

    Attributes:
        reason: why the answer does not parse, in words that can be counted; None if it does.
        fault: (kind, the line at fault) of an answer that does not parse.
        refused: (kind, what the compiler says) of one that parses and does not compile.
        program: of an answer that parses.
        language: what an answer that does not parse seems to be written in.
        n_lines: of the answer, blank ones left out.
        action, subject: what the question asks for.
        personal: kinds of personal data in the row, each once.
        secrets: where passwords, keys and tokens are; None where it was not looked.
    """

    reason: str | None
    fault: tuple[str, str] | None
    refused: tuple[str, str] | None
    program: Program | None
    language: str | None
    n_lines: int
    action: str
    subject: str
    personal: tuple[str, ...]
    secrets: tuple[Secret, ...] | None = None


def facts_of(example: Example, *, with_secrets: bool = True) -> RowFacts:
    """Look at one row.  Its answer is parsed and compiled, never run; the time is linear."""
    code = example.reference
    tree = parse(code)
    reason = fault = refused = program = language = None
    if isinstance(tree, str):
        reason, with_line = tree, str(parse(code, with_line=True))
        fault = kind_of_fault(code, with_line), line_of_fault(code, with_line)
        language = _language(code, fault[0])
    else:
        program = look_into(tree)
        refused = compile_fault(code, program.n_finally)
    question = f"{example.instruction}\n{example.input}" if example.input else example.instruction
    spans = [
        span
        for text in (example.instruction, example.input, code)
        if text
        for span in personal_spans(text)
    ]
    return RowFacts(
        reason=reason,
        fault=fault,
        refused=refused,
        program=program,
        language=language,
        n_lines=sum(not line.isspace() for line in code.split("\n") if line),
        action=action_of(question),
        subject=subject_of(question),
        personal=tuple(dict.fromkeys(span.kind for span in spans)),
        secrets=secrets_of(example) if with_secrets else None,
    )


def _language(code: str, kind: str) -> str:
    if kind in _OF_KIND:
        return _OF_KIND[kind]
    if kind in _MAYBE_OTHER_LANGUAGE:
        guessed = guess_language(code)
        return BROKEN_PYTHON if guessed == UNKNOWN and kind != OTHER_LANGUAGE else guessed
    return BROKEN_PYTHON
