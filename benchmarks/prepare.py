"""The whole preparation of large data sets: rows a second, memory, growth, and what it finds.

Makes data sets shaped like the mission's (the same rows given twice, the same share of
near-copies at every size; ``made_rows``) from ``--data FILE`` or, without one, from the running
Python's standard library, and prepares each in a process of its own: clean, count tokens,
near-duplicates, split, leak audit, card, files.  Then compares the clusters of 5,000 rows with
Jaccard similarities of all pairs.

    python benchmarks/prepare.py                            # 10,000 and 49,626 rows
    python benchmarks/prepare.py --rows 10000 100000 1000000 --data rows.jsonl

``ours`` is rows a second; the ``peer`` is what any preparation has to do on the same cores: read
each row, count its tokens and parse each different answer once, so ``floor_fraction`` equals
``ratio``.  ``growth`` is the exponent of the seconds from the size before.  Peak memory is that
of the process and its workers together, files mapped into memory included.  Prints one JSON
line per size and a table, and leaves no file behind.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from made_rows import made_rows, write_made_rows
from veritune.config import DataSection, DuplicatesSection, Recipe
from veritune.data.compared import LONG_SIZE, LONG_WORDS, SHORT_SIZE, Compared
from veritune.data.dedupe import clusters_of
from veritune.data.prepare import prepare, write_prepared
from veritune.data.raw_rows import RawRow
from veritune.data.sources import read_rows
from veritune.pipeline.encode import make_encoder
from veritune.progress import Silent
from veritune.rows import SPLITS

DEVICE = f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
SIMILAR, APART = 0.8, 0.5
SAMPLED_PAIRS = 20_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, nargs="+", default=[10_000, 49_626])
    arguments.add_argument("--data", type=Path, help="JSONL with instruction, input and output")
    arguments.add_argument("--model", help="whose tokenizer counts; the bundled one by default")
    arguments.add_argument("--quality-rows", type=int, default=5000, help="0 leaves it out")
    arguments.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    if chosen.one:
        print(json.dumps(prepared_once(chosen.one, chosen.model)))
        return
    sources = source_rows(chosen.data)
    lines = [*measured(chosen, sources)]
    show(lines)
    if chosen.quality_rows:
        print(json.dumps(quality(sources, chosen.quality_rows)))


def measured(chosen: argparse.Namespace, sources: Sequence[dict[str, str]]) -> Iterator[Any]:
    before: dict[str, Any] | None = None
    for n_rows in chosen.rows:
        with tempfile.TemporaryDirectory(prefix="veritune-benchmark-") as folder:
            path = Path(folder) / "rows.jsonl"
            write_made_rows(path, sources, n_rows)
            floor_seconds = floor(path, chosen.model)
            command = [sys.executable, __file__, "--one", str(path)]
            command += ["--model", chosen.model] if chosen.model else []
            done, peak_bytes = watched(command)
        line = {
            "work": f"prepare/{n_rows}",
            "ours": round(n_rows / done["seconds"], 1),
            "peer": round(n_rows / floor_seconds, 1),
            "peer_name": "read, count tokens and parse, nothing else",
            "unit": "rows/s",
            "ratio": round(floor_seconds / done["seconds"], 3),
            "floor_fraction": round(floor_seconds / done["seconds"], 3),
            "device": DEVICE,
            "n_rows": n_rows,
            "peak_bytes": peak_bytes,
            "growth": before
            and round(
                math.log(done["seconds"] / before["seconds"]) / math.log(n_rows / before["n_rows"]),
                3,
            ),
            **done,
        }
        before = line
        print(json.dumps(line), flush=True)
        yield line


def watched(command: list[str]) -> tuple[dict[str, Any], int]:
    """What a command prints as JSON, and the most memory that it and its children held."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.1):
            peak = max(peak, held(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        output, _ = process.communicate()
    finally:
        ended.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"the preparation ended with exit code {process.returncode}")
    return json.loads(output.splitlines()[-1]), peak


def held(pid: int) -> int:
    """Resident bytes of a process and all its descendants."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total


class Phases(Silent):
    """Notes how long each task took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def task(self, name: str, total: float | None) -> Any:
        """Time a ``with`` block."""
        inner = super().task(name, total)
        seconds = self.seconds

        class _Timed:
            def __enter__(self) -> Any:
                self.started = time.perf_counter()
                return inner.__enter__()

            def __exit__(self, *fault: object) -> None:
                inner.__exit__(*fault)  # type: ignore[arg-type]
                spent = time.perf_counter() - self.started
                seconds[name] = round(seconds.get(name, 0) + spent, 2)

        return _Timed()


def prepared_once(path: Path, model: str | None) -> dict[str, Any]:
    """Prepare a file, and say how long it took."""
    count_tokens = counter(model)
    phases = Phases()
    with tempfile.TemporaryDirectory(prefix="veritune-benchmark-") as folder:
        started = time.perf_counter()
        result = prepare(DataSection(source=str(path)), 0, count_tokens, phases)
        write_started = time.perf_counter()
        write_prepared(result, Path(folder))
        ended = time.perf_counter()
        held_together = within_clusters(Path(folder))
    card = result.card
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": round(ended - started, 2),
        "cpu_seconds": round(sum(use.ru_utime + use.ru_stime for use in usage), 2),
        "phases": {**phases.seconds, "write": round(ended - write_started, 2)},
        "rows_out": card["rows_out"],
        "n_exact_duplicates": card["n_exact_duplicates"],
        "n_near_duplicate_clusters": card["n_near_duplicate_clusters"],
        "largest_cluster": card["largest_cluster"],
        **held_together,
        "leaks": [
            card["leak_audit"][split][side]["n_ge_0.7"]
            for split in ("validation", "test")
            for side in ("question", "answer")
        ],
    }


def within_clusters(folder: Path) -> dict[str, Any]:
    """How alike the rows of one cluster are, from a sample of all pairs of such rows."""
    names = ("cluster_id", "instruction", "input", "reference")
    table = pa.concat_tables(
        pq.read_table(folder / f"{split}.parquet", columns=[*names]) for split in SPLITS
    )
    number = np.unique(table["cluster_id"].to_numpy(), return_inverse=True)[1]
    sizes = np.bincount(number)
    starts, order = np.cumsum(sizes) - sizes, np.argsort(number, kind="stable")
    n_pairs = sizes * (sizes - 1) // 2
    if not n_pairs.sum():
        return {"n_pairs_within": 0, "share_within_below_0.5": None}
    draw = np.random.default_rng(0)
    chosen = draw.choice(len(sizes), SAMPLED_PAIRS, p=n_pairs / n_pairs.sum())
    first = draw.integers(0, sizes[chosen])
    second = (first + 1 + draw.integers(0, sizes[chosen] - 1)) % sizes[chosen]
    pairs = np.stack([order[starts[chosen] + first], order[starts[chosen] + second]])
    rows, (ones, twos) = np.unique(pairs, return_inverse=True)
    found = table.take(rows).to_pylist()
    texts = Compared.of([RawRow(*(row[name] for name in names[1:])) for row in found])
    ones, twos = ones.ravel(), twos.ravel()
    best = np.zeros(len(ones))
    for shingles, keys in (
        (texts.question_shingles, texts.question_keys),
        (texts.answer_shingles, texts.answer_keys),
    ):
        is_long = np.minimum(shingles.lengths[ones], shingles.lengths[twos]) >= LONG_WORDS
        long, short = (shingles.jaccards(ones, twos, size) for size in (LONG_SIZE, SHORT_SIZE))
        best = np.maximum(best, np.where(is_long, long, short))
        best[keys[ones] == keys[twos]] = 1
    return {
        "n_pairs_within": int(n_pairs.sum()),
        "share_within_below_0.5": round(float((best < APART).mean()), 4),
    }


def counter(model: str | None) -> Any:
    recipe = Recipe()
    if model:
        recipe = Recipe.model_validate({"model": {"name_or_path": model, "init": "random"}})
    return make_encoder(recipe).counter(Silent())


def floor(path: Path, model: str | None) -> float:
    """Seconds of what cannot be left out, on all cores."""
    count_tokens = counter(model)
    started = time.perf_counter()
    rows: dict[tuple[str, ...], RawRow] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            row = RawRow(row["instruction"], row["input"], row["output"])
            rows[(row.instruction, row.input, row.output)] = row
    distinct = [*rows.values()]
    count_tokens(distinct)
    n_workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(n_workers) as pool:
        list(pool.map(parsed, [distinct[place::n_workers] for place in range(n_workers)]))
    return time.perf_counter() - started


def parsed(rows: Sequence[RawRow]) -> int:
    n_valid = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in rows:
            try:
                ast.parse(row.output.removeprefix("```python\n").removesuffix("```"))
                n_valid += 1
            except (SyntaxError, ValueError):
                continue
    return n_valid


def source_rows(path: Path | None) -> list[dict[str, str]]:
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    rows = read_rows(DataSection(max_rows=400), Silent()).rows
    return [
        {"instruction": row.instruction.split("\n")[0], "input": "", "output": row.output}
        for row in rows
    ]


def quality(sources: Sequence[dict[str, str]], n_rows: int) -> dict[str, Any]:
    """How many of all similar pairs the clusters hold, and how well clusters hold together."""
    rows = [
        RawRow(row["instruction"], row["input"], row["output"].strip("`").removeprefix("python\n"))
        for row in made_rows(sources, n_rows, seed=1)
    ]
    texts = Compared.of(rows)
    ids = clusters_of(texts, DuplicatesSection()).ids
    number = np.unique(ids, return_inverse=True)[1]
    same = number[:, None] == number[None, :]
    below = np.tri(n_rows, k=-1, dtype=bool)
    best = np.zeros((n_rows, n_rows), dtype=np.float32)
    found = {}
    for side, shingles, keys in (
        ("question", texts.question_shingles, texts.question_keys),
        ("answer", texts.answer_shingles, texts.answer_keys),
    ):
        jaccard = all_jaccards(shingles)
        jaccard[keys[:, None] == keys[None, :]] = 1
        similar = (jaccard >= SIMILAR) & below
        found[f"n_{side}_pairs"] = int(similar.sum())
        found[f"{side}_recall"] = round(float((similar & same).sum() / max(1, similar.sum())), 5)
        np.maximum(best, jaccard, out=best)
    within = same & below
    return {
        "work": f"clusters/{n_rows}",
        "similar_from": SIMILAR,
        **found,
        "n_clusters": int(number.max()) + 1,
        "largest_cluster": int(np.bincount(number).max()),
        "n_pairs_within": int(within.sum()),
        "share_within_below_0.5": round(float((best[within] < APART).mean()), 4),
        "device": DEVICE,
    }


def all_jaccards(shingles: Any) -> Any:
    """(rows, rows) similarities by the rule for short and long texts, from sparse products."""
    is_long = shingles.lengths >= LONG_WORDS
    tables = [jaccard_table(shingles.sets(size)) for size in (2, 5)]
    return np.where(is_long[:, None] & is_long[None, :], tables[1], tables[0])


def jaccard_table(sets: Any) -> Any:
    from scipy.sparse import csr_array

    members = np.unique(np.asarray(sets.hashes), return_inverse=True)[1]
    table = csr_array((np.ones(len(members), dtype=np.float32), members, sets.starts))
    shared = (table @ table.T).toarray()
    union = sets.sizes[:, None] + sets.sizes[None, :] - shared
    return (shared / np.maximum(1, union)).astype(np.float32)


def show(lines: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"the whole preparation, {DEVICE}")
    for column in ("rows", "seconds", "rows/s", "of the floor", "peak MiB", "growth"):
        table.add_column(column, justify="right")
    for line in lines:
        table.add_row(
            f"{line['n_rows']:,}",
            f"{line['seconds']:.1f}",
            f"{line['ours']:,.0f}",
            f"{100 * line['floor_fraction']:.0f} %",
            f"{line['peak_bytes'] / 2**20:,.0f}",
            "" if line["growth"] is None else f"{line['growth']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
