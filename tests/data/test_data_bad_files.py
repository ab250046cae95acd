"""Files that are broken or hostile: a clear fault or a counted drop, never a crash or a hang."""

import gzip
import json
import os
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from veritune.config import DataSection
from veritune.data import records
from veritune.data.prepare import prepare
from veritune.data.sources import read_rows
from veritune.errors import DataError

ROWS = [
    {"instruction": f"Do {n} with {name}", "input": "", "output": f"import {name}\n{name}.go({n})"}
    for n, name in enumerate(f"{a}{b}" for a in "abcd" for b in ("tree", "file", "word", "list"))
]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS)


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def fault_of(path):
    with pytest.raises(DataError) as caught:
        read_rows(DataSection(source=str(path)))
    error = caught.value
    assert error.received and error.accepted and error.next_step
    return error.fault


def dropped(path):
    card = prepare(DataSection(source=str(path)), seed=0).card
    assert card["rows_out"] == len(ROWS)
    return {step["name"]: step["dropped"] for step in card["steps"] if step["dropped"]}


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(tmp_path, suffix, seed):
    content = random.Random(seed).randbytes(3000)
    assert fault_of(put(tmp_path, f"a.{suffix}", content))
    if suffix != "parquet":
        assert "gzip" in fault_of(put(tmp_path, f"a.{suffix}.gz", content))
        assert "UTF-8" in fault_of(put(tmp_path, f"b.{suffix}.gz", gzip.compress(content)))


@pytest.mark.parametrize(
    ("row", "step"),
    [
        ({"instruction": "a\0b", "output": "x"}, "drop_unstorable"),
        ({"instruction": "\ud800", "output": "x"}, "drop_unstorable"),
        ({"instruction": "a", "output": "x = 1\n" * 4_000_000}, "drop_oversized"),
    ],
)
def test_rows_that_nothing_can_hold_are_dropped_and_counted(tmp_path, row, step):
    assert dropped(put(tmp_path, "a.jsonl", LINES + json.dumps(row) + "\n")) == {step: 1}


@pytest.mark.slow
def test_a_cell_of_100_mb_is_dropped_and_counted(tmp_path):
    row = json.dumps({"instruction": "big", "output": "y" * 100_000_000})
    assert dropped(put(tmp_path, "a.jsonl", f"{LINES}{row}\n")) == {"drop_oversized": 1}


@pytest.mark.parametrize("line", ["[" * 200_000, '{"a":' * 200_000 + "1" + "}" * 200_000])
def test_deep_nesting_is_refused(tmp_path, line):
    assert "nested too deeply" in fault_of(put(tmp_path, "a.jsonl", f"{LINES}{line}\n"))


def test_deep_tests_are_refused(tmp_path):
    row = {"instruction": "a", "output": "b", "tests": "[" * 100_000}
    assert "no list" in fault_of(put(tmp_path, "a.jsonl", json.dumps(row)))


def test_mixed_types_in_a_column_are_named(tmp_path):
    path = put(tmp_path, "a.json", json.dumps([*ROWS, {"instruction": 5, "output": "x"}]))
    assert fault_of(path) == f"row {len(ROWS) + 1}, column 'instruction' holds a number"


def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    plain = read_rows(DataSection(source=str(put(tmp_path, "a.jsonl", LINES)))).rows
    windows = b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode()
    assert read_rows(DataSection(source=str(put(tmp_path, "b.jsonl", windows)))).rows == plain


def test_ten_thousand_columns_are_read(tmp_path):
    names = ["instruction", "output", *(f"c{n}" for n in range(10_000))]
    cells = ["a", "b", *("x" for _ in range(10_000))]
    path = put(tmp_path, "a.csv", f"{','.join(names)}\n{','.join(cells)}\n")
    assert len(read_rows(DataSection(source=str(path))).rows) == 1


def test_columns_of_one_name_are_refused_in_every_format(tmp_path):
    assert "twice" in fault_of(put(tmp_path, "a.csv", "output,instruction,output\na,b,c\n"))
    twice = '{"instruction": "a", "output": "b", "instruction": "c"}\n'
    assert "'instruction' is given twice" in fault_of(put(tmp_path, "a.jsonl", LINES + twice))
    assert "twice" in fault_of(put(tmp_path, "a.json", f"[{twice}]"))
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    table = pa.Table.from_arrays(columns, names=["output", "instruction", "output"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "twice" in fault_of(tmp_path / "a.parquet")


def test_half_a_parquet_file_and_a_corrupt_one_are_refused(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS * 500), tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    assert "cut off" in fault_of(put(tmp_path, "half.parquet", content[: len(content) // 2]))
    noise = random.Random(0).randbytes(350)
    damaged = content[:50] + noise + content[400:]
    assert "damaged" in fault_of(put(tmp_path, "bad.parquet", damaged))


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "not a data file" in fault_of(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "folder" in fault_of(tmp_path / "folder.jsonl")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nothing")
    assert "link leads to no file" in fault_of(tmp_path / "link.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    assert "link leads to no file" in fault_of(tmp_path / "loop.jsonl")


@pytest.mark.parametrize(
    ("suffix", "piece", "fault"),
    [
        ("jsonl.gz", b"x" * 2**20, "longer than 128 MiB"),
        ("json.gz", b" " * 2**20, "longer than 128 MiB"),
        ("csv.gz", b"\n" * 2**20, "empty lines in a row"),
    ],
)
def test_a_bomb_is_refused_in_bounded_memory(tmp_path, suffix, piece, fault):
    path = tmp_path / f"bomb.{suffix}"
    with gzip.open(path, "wb") as file:
        for _ in range(256):
            file.write(piece)
    program = (
        "import sys, resource\n"
        "from veritune.config import DataSection\n"
        "from veritune.data.sources import read_rows\n"
        "from veritune.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "try:\n    read_rows(DataSection(source=sys.argv[1]))\n"
        "except DataError as error:\n    print(error.fault)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert fault in done.stdout, done.stderr[-500:]


def test_rows_that_expand_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_EXPANSION_COUNTS_FROM_BYTES", 2**18)
    content = gzip.compress(b'{"instruction": "a", "output": "b"}\n' * 2**18)
    assert "200 times its size" in fault_of(put(tmp_path, "a.jsonl.gz", content))
    ordinary = gzip.compress(LINES.encode() * 2**9)
    assert read_rows(DataSection(source=str(put(tmp_path, "b.jsonl.gz", ordinary)))).rows
