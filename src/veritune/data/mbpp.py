"""Rows in the format of MBPP (Austin et al. 2021): text, code and a list of asserts.

The function's name stands in the asserts alone, so a question without them cannot be answered;
they are part of the instruction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

# The sanitized edition calls the question ``prompt`` and the imports ``test_imports``.
QUESTIONS = ("text", "prompt")
_REQUIRED = ("code", "test_list")


def is_mbpp(columns: Collection[str]) -> bool:
    """Whether a file with these columns is in the format of MBPP."""
    return all(name in columns for name in _REQUIRED) and any(name in columns for name in QUESTIONS)


def with_asserts(question: str, tests: Sequence[str]) -> str:
    """The question, and the asserts that its answer must pass."""
    if not tests:
        return question
    shown = "\n".join(test.strip() for test in tests)
    return f"{question.rstrip()}\nYour code should pass these tests:\n{shown}"
