"""What single rows tell, found by several processes where there are many rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from veritune.data.findings.facts import RowFacts, facts_of
from veritune.data.findings.program import Program
from veritune.data.findings.secret_rows import Secret, sampled_places
from veritune.data.row_store import SCHEMA, RowStore, rows_of
from veritune.data.workers import Workers
from veritune.progress import Task
from veritune.rows import Example

_FACTS = tuple(field.name for field in fields(RowFacts))
_PROGRAM = tuple(field.name for field in fields(Program))


def facts_in_batches(
    rows: RowStore, task: Task, workers: Workers | None = None
) -> Iterator[RowFacts]:
    """The facts of each row, in order; secrets are looked for in the rows of a sample.

    Args:
        workers: share the work.
    """
    workers = workers or Workers(1)
    for batch in workers.map(f"{__name__}:looker", {}, _with_sample(rows), len(rows)):
        for text in batch.column("facts").to_pylist():
            yield _facts(json.loads(text))
        task.advance(batch.num_rows)


def _with_sample(rows: RowStore) -> Iterator[pa.RecordBatch]:
    is_sampled = np.zeros(len(rows), dtype=bool)
    is_sampled[np.asarray(sampled_places(len(rows)), dtype=np.int64)] = True
    start = 0
    for batch in rows.batches():
        own = is_sampled[start : start + batch.num_rows]
        yield batch.append_column("is_sampled", pa.array(own))
        start += batch.num_rows


def looker() -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    """The work on one batch."""

    def work(batch: pa.RecordBatch) -> pa.RecordBatch:
        found = [
            _text(
                facts_of(
                    Example("", "", "train", row.instruction, row.input, row.output),
                    with_secrets=is_sampled,
                )
            )
            for row, is_sampled in zip(
                rows_of(batch.select(SCHEMA.names)),
                batch.column("is_sampled").to_pylist(),
                strict=True,
            )
        ]
        return pa.RecordBatch.from_pydict({"facts": pa.array(found, type=pa.large_string())})

    return work


def _text(facts: RowFacts) -> str:
    values = {name: getattr(facts, name) for name in _FACTS}
    if facts.program is not None:
        values["program"] = [getattr(facts.program, name) for name in _PROGRAM]
    return json.dumps([*values.values()])


def _facts(values: list[Any]) -> RowFacts:
    content = dict(zip(_FACTS, values, strict=True))
    for name in ("fault", "refused"):
        content[name] = None if content[name] is None else tuple(content[name])
    content["personal"] = tuple(content["personal"])
    if content["secrets"] is not None:
        content["secrets"] = tuple(Secret(*secret) for secret in content["secrets"])
    if content["program"] is not None:
        modules, needs, *others = content["program"]
        content["program"] = Program(tuple(modules), tuple(needs), *others)
    return RowFacts(**content)
