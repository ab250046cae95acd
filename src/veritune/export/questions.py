"""The held-out questions of the gate."""

from __future__ import annotations

from collections.abc import Sequence

from veritune.errors import RunDirectoryError
from veritune.pipeline.encode import Encoder
from veritune.rows import Example, read_examples
from veritune.run_dir import RunDirectory

N_QUESTIONS = 32


def gate_questions(run: RunDirectory, encoder: Encoder, max_new_tokens: int) -> list[Example]:
    """Up to 32 questions that were not trained on: validation first, then test.

    One of each cluster comes before a second of any, so that an interval has as many clusters
    as there can be.  Questions that leave no room for an answer are left out.

    Raises:
        RunDirectoryError: the run has none.
    """
    rows: list[Example] = []
    for split in ("validation", "test"):
        file = run.split_file(split)
        rows += read_examples(file) if file.is_file() else []
    room = encoder.context_tokens
    if room is not None:
        prompts = encoder.format.encode_prompts([encoder.format.prompt(row) for row in rows])
        pairs = zip(rows, prompts, strict=True)
        rows = [row for row, ids in pairs if len(ids) + max_new_tokens <= room]
    chosen = _clusters_first(rows)[:N_QUESTIONS]
    if not chosen:
        raise RunDirectoryError(
            "the run has no held-out question to check an export with",
            received=run.path,
            accepted="a run with validation or test rows that fit the model's context",
            next_step="prepare the run with a validation split, or lower evaluate.max_new_tokens",
        )
    return chosen


def _clusters_first(rows: Sequence[Example]) -> list[Example]:
    seen: set[str] = set()
    first: list[Example] = []
    rest: list[Example] = []
    for row in rows:
        (rest if row.cluster_id in seen else first).append(row)
        seen.add(row.cluster_id)
    return first + rest
