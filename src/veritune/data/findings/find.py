"""All findings about a list of rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from veritune.data.findings.broken import kind_of_fault, line_of_fault
from veritune.data.findings.finding import Finding, make_finding
from veritune.data.findings.needs import imported_modules, outside_needs, state_of_module
from veritune.data.syntax import parse
from veritune.rows import Example

_MANY_QUESTIONS = 3


def find_all(examples: Sequence[Example], *, inputs_left_out: bool = False) -> list[dict[str, Any]]:
    """The findings that hold for at least one row, as the card keeps them.

    Args:
        inputs_left_out: the source has inputs, and the recipe leaves them out of the questions.
    """
    trees = [parse(example.reference, with_line=True) for example in examples]
    modules = [[] if isinstance(tree, str) else imported_modules(tree) for tree in trees]
    findings = [
        make_finding(
            "does_not_parse",
            "answers are not valid Python",
            "A model trained on them learns to write code that cannot run.",
            [
                (row, [kind_of_fault(row.reference, tree)], line_of_fault(row.reference, tree))
                for row, tree in zip(examples, trees, strict=True)
                if isinstance(tree, str)
            ],
            "data.clean.drop_unparseable=true",
        ),
        _several_answers(examples, inputs_left_out),
        _many_questions(examples),
        _missing_modules(examples, modules),
        make_finding(
            "needs_the_outside",
            "answers need a keyboard, the network or files",
            "They cannot be judged by running them alone: runs_clean counts them apart.",
            [
                (row, needs, row.reference)
                for row, tree, names in zip(examples, trees, modules, strict=True)
                if not isinstance(tree, str) and (needs := outside_needs(tree, names))
            ],
        ),
    ]
    return [finding.to_json() for finding in findings if finding.n_rows]


def modules_of(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Every imported module with its number of rows and where it comes from."""
    counts: Counter[str] = Counter()
    for example in examples:
        tree = parse(example.reference)
        counts.update([] if isinstance(tree, str) else imported_modules(tree))
    return [
        {"module": name, "n_rows": count, "state": state_of_module(name)}
        for name, count in counts.most_common()
    ]


def _several_answers(examples: Sequence[Example], inputs_left_out: bool) -> Finding:
    answers: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        answers[_question(example)].add(example.reference)
    return make_finding(
        "several_answers",
        "rows share their question with rows that answer it differently",
        "At most one of the answers can be given; the others raise the loss for good."
        + (" The inputs that might tell them apart are left out." if inputs_left_out else ""),
        [
            (example, [f"{n} answers to one question"], f"{_shown(example)}\n{example.reference}")
            for example in examples
            if (n := len(answers[_question(example)])) > 1
        ],
        "data.input=join" if inputs_left_out else "",
    )


def _many_questions(examples: Sequence[Example]) -> Finding:
    questions: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        questions[example.reference].add(_question(example))
    return make_finding(
        "many_questions",
        f"rows share their answer with {_MANY_QUESTIONS} or more questions",
        "They weigh as often as they occur, and count as one cluster in every split.",
        [
            (example, [f"{n} questions with one answer"], f"{_shown(example)}\n{example.reference}")
            for example in examples
            if (n := len(questions[example.reference])) >= _MANY_QUESTIONS
        ],
    )


def _missing_modules(examples: Sequence[Example], modules: Sequence[list[str]]) -> Finding:
    return make_finding(
        "missing_modules",
        "answers import modules that are not installed here",
        "Their tests cannot pass here; runs_clean counts them apart, as missing_module.",
        [
            (example, missing, example.reference)
            for example, names in zip(examples, modules, strict=True)
            if (missing := [name for name in names if state_of_module(name) == "not installed"])
        ],
    )


def _question(example: Example) -> str:
    return " ".join(f"{example.instruction} {example.input}".casefold().split())


def _shown(example: Example) -> str:
    return f"{example.instruction} {example.input}".strip()
