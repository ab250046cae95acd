"""All findings that rows give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from veritune.data.findings.facts import RowFacts, facts_of
from veritune.data.findings.finding import Finding
from veritune.data.findings.secret_rows import SecretRows, sampled_places
from veritune.data.findings.shared_texts import SharedTexts
from veritune.data.findings.single_rows import SingleRows
from veritune.rows import Example


def find_all(
    examples: Sequence[Example],
    facts: Iterable[RowFacts] | None = None,
    *,
    source_has_inputs: bool = False,
    unfenced: bool = True,
    also: Callable[[Example], None] | None = None,
) -> tuple[list[Finding], SingleRows, set[tuple[str, str]]]:
    """The findings that hold for at least one row, the rows' numbers, and the secrets found.

    The rows are read once, from the first to the last: each costs its making.

    Args:
        facts: of each row in order, where other processes look at the rows.
        source_has_inputs: where no example has one, the recipe leaves them out of the questions.
        unfenced: code was taken out of Markdown fences.
        also: called with every row.
    """
    rows, shared, secrets = SingleRows(unfenced=unfenced), SharedTexts(), SecretRows()
    has_inputs = False
    for example, found in zip(examples, facts or _facts(examples), strict=True):
        rows.add(example, found)
        shared.add(example)
        if found.secrets is not None:
            secrets.add(example, found.secrets)
        has_inputs = has_inputs or bool(example.input)
        if also is not None:
            also(example)
    collectors = [
        *rows.collectors.values(),
        *shared.collectors(examples, inputs_left_out=source_has_inputs and not has_inputs),
    ]
    findings = [collector.finding(len(examples)) for collector in collectors]
    findings.append(secrets.finding(len(examples)))
    return [item for item in findings if item.n_rows], rows, secrets.values


def _facts(examples: Sequence[Example]) -> Iterator[RowFacts]:
    sampled = set(sampled_places(len(examples)))
    for place, example in enumerate(examples):
        yield facts_of(example, with_secrets=place in sampled)
