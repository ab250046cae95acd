"""Rows in the format of MBPP (Austin et al. 2021): text, code and a list of asserts.

The function's name stands in the asserts alone, so a question without them cannot be answered;
they are part of the instruction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from veritune.config import ColumnsSection

# The sanitized edition calls the question ``prompt`` and adds ``test_imports``.
QUESTIONS = ("text", "prompt")
IMPORTS = "test_imports"
_REQUIRED = ("code", "test_list")
_SETUP = "test_setup_code"
_MARK = "\nYour code should pass these tests:\n"


def is_mbpp(columns: Collection[str]) -> bool:
    """Whether a file with these columns is in the format of MBPP."""
    return all(name in columns for name in _REQUIRED) and any(name in columns for name in QUESTIONS)


def mbpp_columns(configured: ColumnsSection, found: Collection[str]) -> ColumnsSection | None:
    """MBPP's columns, if the source has them and lacks those that the recipe did not rename."""
    usual = ColumnsSection()
    required = (configured.instruction, configured.output)
    if required != (usual.instruction, usual.output) or not is_mbpp(found):
        return None
    if any(name in found for name in required):
        return None
    return ColumnsSection(
        instruction=next(name for name in QUESTIONS if name in found),
        input=None,
        output="code",
        tests="test_list",
        test_setup=_SETUP if _SETUP in found else None,
        entry_point=None,
    )


def with_asserts(question: str, tests: Sequence[str]) -> str:
    """The question, and the asserts that its answer must pass."""
    if not tests:
        return question
    shown = "\n".join(test.strip() for test in tests)
    return f"{question.rstrip()}{_MARK}{shown}"


def without_asserts(instruction: str) -> str:
    """The question as it was before ``with_asserts``; other instructions are left as they are."""
    question, mark, shown = instruction.rpartition(_MARK)
    return question if mark and shown.startswith("assert") else instruction
