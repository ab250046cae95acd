"""What single rows have: counted and gathered in one pass, nothing kept but a few examples."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

from veritune.data.findings.facts import RowFacts
from veritune.data.findings.finding import Collector
from veritune.data.findings.masked import cut
from veritune.data.findings.needs import state_of_module
from veritune.data.findings.personal import personal_spans
from veritune.data.findings.program import VALUES
from veritune.data.findings.shared_texts import question_and_answer
from veritune.rows import Example

_N_QUESTIONS = 3
_QUESTION_CHARACTERS = 160
_N_MOST_COMPLEX = 3
_ANSWER_CHARACTERS = 2000


class Counts:
    """How many rows have each of several labels, with a few questions of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._questions: dict[str, list[str]] = {}

    def add(self, label: str, example: Example) -> None:
        """Count a row."""
        self._counts[label] += 1
        if self._counts[label] <= _N_QUESTIONS:
            text = cut(example.instruction, _QUESTION_CHARACTERS)
            self._questions.setdefault(label, []).append(text)

    def to_json(self) -> list[dict[str, Any]]:
        """The most frequent first."""
        return [
            {"kind": label, "n_rows": count, "questions": self._questions[label]}
            for label, count in self._counts.most_common()
        ]


class SingleRows:
    """The numbers and findings of rows by themselves.

    Attributes:
        reasons: why answers do not parse.
        parsed, refused: (split) → answers that parse, and of these those that do not compile.
        n_lines, complexity: of each answer, the latter of those that parse.
    """

    def __init__(self, *, unfenced: bool = True) -> None:
        """``unfenced``: code was taken out of Markdown fences."""
        self.n_rows: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.parsed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.modules: Counter[str] = Counter()
        self.shapes: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.actions, self.subjects = Counts(), Counts()
        self.n_lines, self.complexity = array("q"), array("q")
        self._most_complex: list[tuple[int, int, Example]] = []
        self.collectors = _collectors(unfenced)

    def add(self, example: Example, facts: RowFacts) -> None:
        """Take in one row."""
        self.n_rows[example.split] += 1
        self.n_lines.append(facts.n_lines)
        self.actions.add(facts.action, example)
        self.subjects.add(facts.subject, example)
        if facts.personal:
            self.collectors["personal_data"].add(example, facts.personal, _from_personal(example))
        if facts.reason is not None:
            self.reasons[facts.reason] += 1
        if facts.language is not None:
            self.languages[facts.language] += 1
        if facts.fault is not None:
            self.collectors["does_not_parse"].add(example, [facts.fault[0]], facts.fault[1])
        if facts.program is not None:
            self._add_program(example, facts)

    def _add_program(self, example: Example, facts: RowFacts) -> None:
        program = facts.program
        assert program is not None
        self.parsed[example.split] += 1
        self.modules.update(program.modules)
        self.shapes[program.shape] += 1
        self.complexity.append(program.complexity)
        self._keep_if_complex(example, program.complexity)
        if facts.refused is not None:
            kind, said = facts.refused
            self.refused[example.split] += 1
            text = f"{said}\n\n{example.reference}"
            self.collectors["does_not_compile"].add(example, [kind], text)
        if program.shape == VALUES:
            self.collectors["no_code"].add(example, [VALUES], question_and_answer(example))
        if program.needs:
            self.collectors["needs_the_outside"].add(example, program.needs, example.reference)
        absent = [name for name in program.modules if state_of_module(name) == "not installed"]
        if absent:
            self.collectors["missing_modules"].add(example, absent, example.reference)

    def _keep_if_complex(self, example: Example, complexity: int) -> None:
        kept = self._most_complex
        if len(kept) == _N_MOST_COMPLEX and complexity <= kept[-1][0]:
            return
        kept.append((complexity, len(self.n_lines), example))
        kept.sort(key=lambda item: (-item[0], item[1]))
        del kept[_N_MOST_COMPLEX:]

    def most_complex(self) -> list[dict[str, Any]]:
        """The answers with most branches."""
        return [
            {
                "example_id": example.example_id,
                "complexity": complexity,
                "reference": cut(example.reference, _ANSWER_CHARACTERS),
            }
            for complexity, _, example in self._most_complex
        ]

    def modules_found(self) -> list[dict[str, Any]]:
        """Every imported module with its number of rows and where it comes from."""
        return [
            {"module": name, "n_rows": count, "state": state_of_module(name)}
            for name, count in self.modules.most_common()
        ]


def _from_personal(example: Example) -> str:
    """The row's text from the line on that holds the first personal data."""
    text = "\n".join(
        part for part in (example.instruction, example.input, example.reference) if part
    )
    spans = personal_spans(text)
    return text[text.rfind("\n", 0, spans[0].start) + 1 :] if spans else text


def _collectors(unfenced: bool) -> dict[str, Collector]:
    """By name, the gravest first."""
    collectors = (
        Collector(
            "personal_data",
            "rows hold personal data",
            "A model repeats what it has learnt. If it is anybody's, take it out of the source.",
            level="act",
        ),
        Collector(
            "does_not_parse",
            "answers are not valid Python",
            "A model trained on them learns to write code that cannot run.",
            "data.clean.drop_unparseable=true" if unfenced else "data.clean.unfence=true",
            act_from_percent=5,
        ),
        Collector(
            "does_not_compile",
            "answers parse, but Python refuses to compile them",
            "They cannot run either, and data.clean.drop_unparseable does not drop them: mend"
            " them in the source.",
        ),
        Collector(
            "no_code",
            "answers are only names and values",
            "They parse, since a single word is a valid program, but they do nothing.",
        ),
        Collector(
            "missing_modules",
            "answers import modules that are not installed here",
            "Their tests cannot pass here; runs_clean counts them apart, as missing_module.",
            level="know",
        ),
        Collector(
            "needs_the_outside",
            "answers need a keyboard, the network or files",
            "They cannot be judged by running them alone: runs_clean counts them apart.",
            level="know",
        ),
    )
    return {collector.name: collector for collector in collectors}
