"""The records that cross stage borders, and the files they live in.

``Example`` and ``Score`` are kept as Parquet (columns = fields), ``Prediction`` as JSON
lines, ``Comparison`` inside ``comparison.json``.  Every file is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from veritune.atomic import atomic_write, write_text
from veritune.errors import RunDirectoryError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Verdict = Literal["better", "worse", "no difference detected", "not measured"]
Requirement = Literal["better", "not-worse"]
"""A gate that a script may ask for."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question/answer pair.

    Attributes:
        example_id: stable within the data set.
        cluster_id: group of near-duplicates; the unit of splitting and of statistics.
        split: ``train``, ``validation`` or ``test``.
        instruction: the question.
        input: additional context of the question, possibly empty.
        reference: the answer to learn, Python source.
        tests: Python statements (``assert f(1) == 2``), doctest lines, or one ``def check``.
        test_setup: statements run before the tests.
        entry_point: name of the function under test, if the tests need one.
        source: provenance, such as ``file.py:12`` or ``row 17``.
    """

    example_id: str
    cluster_id: str
    split: Split
    instruction: str
    input: str
    reference: str
    tests: tuple[str, ...] = ()
    test_setup: str = ""
    entry_point: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of one system to one example.

    Attributes:
        system: ``baseline``, ``few_shot``, ``retrieval``, ``adapted``, …
        raw: the text exactly as generated, without special tokens.
        code: the program extracted from ``raw``; never repaired.
        n_new_tokens: tokens generated (0 where no model was used).
        finish_reason: ``stop`` (end-of-turn token), ``length`` (limit reached),
            ``retrieved`` (no model).
    """

    example_id: str
    system: str
    seed: int
    sample_index: int
    prompt: str
    prompt_sha256: str
    raw: str
    code: str
    n_new_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one answer.

    Attributes:
        value: the metric for this example alone (rates 0/1, chrf and bleu 0–100, rouge 0–1).
        outcome: a word where the value alone does not say what happened, else empty.
        stats: sufficient statistics; their sum over examples gives the corpus metric.
    """

    example_id: str
    system: str
    metric: str
    value: float
    outcome: str = ""
    stats: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Loss:
    """How surprised a model is by one example's reference.

    Attributes:
        loss: mean cross-entropy a completion token, in nats.
        n_tokens: completion tokens, the end token included.
    """

    example_id: str
    system: str
    loss: float
    n_tokens: int


@dataclass(frozen=True, slots=True)
class AwayLoss:
    """One chunk of text away from the training data, under base and adapted model.

    Attributes:
        kind: ``prose``, ``code`` or ``text`` (the user's own files).
        baseline, adapted: cross-entropy summed over the chunk's tokens, in nats.
        n_bytes: of the chunk's UTF-8 text.
    """

    kind: str
    document: str
    baseline: float
    adapted: float
    n_tokens: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of two systems on the same examples.

    Attributes:
        n_examples: paired examples.
        n_clusters: clusters they fall into (the resampling unit).
        value, against_value: corpus metric of ``system`` and of ``against``.
        delta: ``value - against_value``.
        ci_low, ci_high: 95 % interval of ``delta``; None where not measured.
        p_value: two-sided, from cluster sign-flips; None where not measured.
        mde: minimum detectable effect at 80 % power, in the metric's unit; None likewise.
        signature: library, version and settings of the metric and of the statistics.
        n_seeds: trainings that ``value`` is the mean of, and whose spread the interval counts.
    """

    metric: str
    system: str
    against: str
    n_examples: int
    n_clusters: int
    value: float
    against_value: float
    delta: float
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    mde: float | None
    signature: str
    verdict: Verdict
    n_seeds: int = 1


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What ``comparison.json`` holds.

    Attributes:
        sentence: the verdict on ``primary_metric`` as one English sentence with its numbers.
        comparisons: ``adapted`` against every other system, every metric, on test.
        details: further tables for the report (see docs/reference).
    """

    primary_metric: str
    best_baseline: str
    verdict: Verdict
    sentence: str
    comparisons: tuple[Comparison, ...]
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of ``comparison.json``; ``details`` become top-level keys."""
        return {
            "primary_metric": self.primary_metric,
            "best_baseline": self.best_baseline,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "comparisons": [asdict(row) for row in self.comparisons],
            **self.details,
        }


_EXAMPLE_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("cluster_id", pa.string()),
        ("split", pa.string()),
        ("instruction", pa.large_string()),
        ("input", pa.large_string()),
        ("reference", pa.large_string()),
        ("tests", pa.list_(pa.large_string())),
        ("test_setup", pa.large_string()),
        ("entry_point", pa.string()),
        ("source", pa.string()),
    ]
)
_ROWS_PER_GROUP = 16_384
_SCORE_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("system", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("outcome", pa.string()),
        ("stats", pa.list_(pa.float64())),
    ]
)


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as Parquet, whole or not at all; a row group at a time is in memory."""
    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(temporary, _EXAMPLE_SCHEMA) as writer,
    ):
        waiting = iter(examples)
        while rows := list(itertools.islice(waiting, _ROWS_PER_GROUP)):
            columns = [
                pa.array([getattr(row, field.name) for row in rows], type=field.type)
                for field in _EXAMPLE_SCHEMA
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=_EXAMPLE_SCHEMA))


def read_examples(path: Path) -> list[Example]:
    """Read what ``write_examples`` wrote.

    Raises:
        RunDirectoryError: the file is damaged; so for every reader here.
    """
    with _readable(path):
        rows = pq.read_table(path, schema=_EXAMPLE_SCHEMA).to_pylist()
        return [Example(**{**row, "tests": tuple(row["tests"] or ())}) for row in rows]


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write scores as Parquet, whole or not at all."""
    _write_parquet(path, [asdict(row) for row in scores], _SCORE_SCHEMA)


def read_scores(path: Path) -> list[Score]:
    """Read what ``write_scores`` wrote."""
    with _readable(path):
        rows = pq.read_table(path, schema=_SCORE_SCHEMA).to_pylist()
        return [Score(**{**row, "stats": tuple(row["stats"] or ())}) for row in rows]


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions as JSON lines, whole or not at all."""
    lines = [json.dumps(asdict(row), ensure_ascii=True) for row in predictions]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_predictions(path: Path) -> list[Prediction]:
    """Read what ``write_predictions`` wrote."""
    names = {item.name for item in fields(Prediction)}
    with _readable(path), path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
        return [Prediction(**{key: row[key] for key in names}) for row in rows]


def read_comparisons(path: Path) -> Conclusion:
    """Read ``comparison.json``."""
    content = read_conclusion(path)
    with _readable(path):
        return Conclusion(
            primary_metric=content.pop("primary_metric"),
            best_baseline=content.pop("best_baseline"),
            verdict=content.pop("verdict"),
            sentence=content.pop("sentence"),
            comparisons=tuple(Comparison(**row) for row in content.pop("comparisons")),
            details=content,
        )


def read_conclusion(path: Path) -> dict[str, Any]:
    """``comparison.json`` as verbs print it."""
    with _readable(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes a reader raise, in words."""
    try:
        yield
    except (pa.ArrowException, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RunDirectoryError(
            "a file of the run cannot be read",
            received=f"{path.name}: {reason[0]}",
            accepted="the file as Veritune wrote it",
            next_step=f"delete {path} and run the same command again; its stage is then done again",
        ) from error


def _write_parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist(rows, schema=schema)
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary)
