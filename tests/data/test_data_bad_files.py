"""Files nobody meant to give: a clear fault or a counted drop, in bounded time and memory."""

import csv
import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from veritune.config import CleanSection, DataSection
from veritune.data import text_lines, unpacked
from veritune.data.canonical import canonical_answer
from veritune.data.clean import clean
from veritune.data.findings import find_all
from veritune.data.prepare import prepare, write_prepared
from veritune.data.raw_rows import RawRow
from veritune.data.sources import read_rows
from veritune.errors import DataError
from veritune.rows import Example

SUFFIXES = [".json", ".json.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"]
ROWS = [
    {"instruction": f"Print the number {n * n} in words", "output": f"print({n})"}
    for n in range(30)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b"instruction,output\n" + b"".join(
    f"{row['instruction']},{row['output']}\n".encode() for row in ROWS
)
MEMORY_BYTES = 1_500_000_000


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fault_of(path, **settings_of_data):
    with pytest.raises(DataError) as caught:
        read_rows(DataSection(source=str(path), **settings_of_data))
    error = caught.value
    assert error.received and error.accepted and len(str(error)) < 2000
    return error


def rows_or_fault(path):
    """Rows of text, or a fault with a next step; anything else is a failure."""
    try:
        rows = read_rows(DataSection(source=str(path))).rows
    except DataError as error:
        assert error.fault and error.accepted
        return []
    assert all(isinstance(row.instruction, str) and isinstance(row.output, str) for row in rows)
    return rows


def in_bounded_memory(path, seconds=180):
    """Prepare a file in a process of its own, which gets 1.5 GB of addresses beyond its start."""
    program = (
        "import resource, sys\n"
        "from veritune.config import DataSection\n"
        "from veritune.data.prepare import prepare\n"
        "from veritune.errors import DataError\n"
        "import pyarrow.parquet\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"limit = now + {MEMORY_BYTES}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n"
        "    done = prepare(DataSection(source=sys.argv[1]), 0)\n"
        "    print(len(done.examples), done.card['origin']['left_out'])\n"
        "except DataError as error:\n"
        "    print(error.fault)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.strip()


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_rows_or_a_fault(tmp_path, suffix, content):
    rows_or_fault(write(tmp_path, f"random{suffix}", content))


def encoded(suffix):
    if suffix == ".parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(ROWS), buffer)
        return buffer.getvalue()
    content = {".json": json.dumps(ROWS).encode(), ".jsonl": LINES, ".csv": CSV}[
        suffix.removesuffix(".gz")
    ]
    return gzip.compress(content) if suffix.endswith(".gz") else content


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_anywhere_is_rows_or_a_fault(tmp_path, suffix):
    content = encoded(suffix)
    chance = random.Random(suffix)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.3:
            damaged = damaged[: chance.randrange(len(damaged))]
        rows_or_fault(write(tmp_path, f"damaged{suffix}", bytes(damaged)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_half_a_file_is_a_fault_that_says_so(tmp_path, suffix):
    whole = encoded(suffix)
    error = fault_of(write(tmp_path, f"half{suffix}", whole[: len(whole) // 2]))
    said = {".json": "invalid JSON", ".jsonl": "invalid JSON", ".csv": "cells"}
    assert said.get(suffix, "cut off") in error.fault


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=400), suffix=st.sampled_from([".json", ".jsonl", ".csv"]))
def test_garbage_in_a_sound_gzip_is_rows_or_a_fault(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"garbage{suffix}.gz"
    path.write_bytes(gzip.compress(content))
    rows_or_fault(path)


@pytest.mark.parametrize("name", ["rows.zip", "rows.jsonl.zip", "rows.tar.gz", "rows.jsonl.xz"])
def test_other_archives_are_refused_unopened(tmp_path, name):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", "\n" * 5_000_000)
    assert "not a data file" in fault_of(path).fault


@settings(max_examples=60, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside),
        max_leaves=8,
    ),
    field=st.sampled_from(["instruction", "input", "output", "tests", "test_setup", "extra"]),
)
def test_a_column_of_mixed_types_is_rows_or_a_named_row(tmp_path_factory, value, field):
    path = tmp_path_factory.getbasetemp() / "mixed.jsonl"
    path.write_bytes(LINES + json.dumps({**ROWS[0], field: value}).encode())
    try:
        assert len(read_rows(DataSection(source=str(path))).rows) == len(ROWS) + 1
    except DataError as error:
        assert f"row {len(ROWS) + 1}, column '{field}'" in error.fault
        assert not isinstance(value, str) or field == "tests"


@pytest.mark.parametrize("depth", [100, 500, 900])
def test_deep_values_are_named_by_row(tmp_path, depth):
    deep = b"[" * depth + b"]" * depth
    path = write(tmp_path, "a.jsonl", LINES + b'{"instruction": "q", "output": ' + deep + b"}")
    error = fault_of(path)
    assert "row 31, column 'output' holds a list with lists" in error.fault
    objects = b'{"a": ' * depth + b"1" + b"}" * depth
    path = write(tmp_path, "b.jsonl", b'{"instruction": "q", "output": ' + objects + b"}")
    assert "an object" in fault_of(path).fault


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"instruction": "q", "output": "x", "output": "y"}', "twice in the object on line 31"),
        (b'{"instruction": "q", "output": ' + b"9" * 5000 + b"}", "too many digits"),
        (b"\0\0\0", "line 31, column 1"),
    ],
)
def test_faults_of_a_line_are_named_by_it(tmp_path, content, said):
    assert said in fault_of(write(tmp_path, "a.jsonl", LINES + content)).fault


def test_a_repeated_name_matters_in_rows_only(tmp_path):
    inner = b'{"instruction": "q", "output": "x", "about": {"a": 1, "a": 2}}'
    assert len(read_rows(DataSection(source=str(write(tmp_path, "a.jsonl", inner)))).rows) == 1
    rows = b'[{"instruction": "q", "output": "x", "output": "y"}]'
    assert "row 1" in fault_of(write(tmp_path, "a.json", rows)).fault


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path):
    columns = [pa.array(["a"]), pa.array(["q"]), pa.array(["b"])]
    table = pa.Table.from_arrays(columns, names=["output", "instruction", "output"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "twice" in fault_of(tmp_path / "a.parquet").fault
    others = pa.Table.from_arrays(
        [*columns, pa.array(["z"])], names=["instruction", "output", "x", "x"]
    )
    pq.write_table(others, tmp_path / "b.parquet")
    assert len(read_rows(DataSection(source=str(tmp_path / "b.parquet"))).rows) == 1


def test_binary_columns_of_parquet_are_refused(tmp_path):
    pq.write_table(pa.table({"instruction": [b"\xff"], "output": [b"a"]}), tmp_path / "a.parquet")
    assert "binary data" in fault_of(tmp_path / "a.parquet").fault
    not_utf8 = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"instruction": not_utf8, "output": ["a"]}), tmp_path / "b.parquet")
    assert "utf-8" in fault_of(tmp_path / "b.parquet").received


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_ten_thousand_columns_are_no_fault(tmp_path, suffix):
    names = [f"c{number}" for number in range(10_000)]
    rows = [{**dict.fromkeys(names, "1"), **row} for row in ROWS]
    path = tmp_path / f"wide{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert len(read_rows(DataSection(source=str(path))).rows) == len(ROWS)


def test_a_file_of_columns_alone_is_refused_briefly(tmp_path):
    header = ",".join(f"c{number}" for number in range(50_000))
    error = fault_of(write(tmp_path, "a.csv", f"{header}\n"))
    assert "no column 'instruction'" in error.fault and len(str(error)) < 2000
    many = ",".join(f"c{number}" for number in range(100_001))
    assert "100,000 columns" in fault_of(write(tmp_path, "b.csv", f"{many}\n")).fault


def test_nul_and_surrogates_are_dropped_and_counted(tmp_path):
    bad = (
        b'{"instruction": "q\\u0000", "output": "x"}\n'
        b'{"instruction": "q", "output": "\\ud800", "\\udfff": "a"}\n'
    )
    prepared = prepare(DataSection(source=str(write(tmp_path, "a.jsonl", LINES + bad))), 0)
    assert len(prepared.examples) == len(ROWS)
    assert prepared.card["steps"][0]["dropped"] == 2
    write_prepared(prepared, tmp_path / "data")
    assert (
        "\udfff" in json.loads((tmp_path / "data" / "card.json").read_text())["origin"]["columns"]
    )


def test_line_ends_and_byte_order_marks(tmp_path):
    for name, content in (("a.jsonl", LINES), ("a.csv", CSV)):
        windows = b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
        rows = read_rows(DataSection(source=str(write(tmp_path, name, windows)))).rows
        assert [row.output for row in rows] == [row["output"] for row in ROWS]
        old = write(tmp_path, f"old-{name}", content.replace(b"\n", b"\r"))
        assert "LF" in fault_of(old).next_step


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    said = {
        "pipe": "not a data file",
        "link": "a link that leads nowhere",
        "loop": "a link that leads nowhere",
        "zero": "not a data file",
        "folder": "a folder",
    }
    for name, words in said.items():
        assert words in fault_of(tmp_path / f"{name}.jsonl").fault
    for name in ("x" * 5000, "a\0b"):
        assert fault_of(tmp_path / f"{name}.jsonl").fault


def test_long_rows_are_left_out_and_counted(tmp_path):
    long = json.dumps({"instruction": "q", "output": "x" * 999, "tests": ["y" * 2]})
    path = write(tmp_path, "a.jsonl", LINES + long.encode())
    found = read_rows(DataSection(source=str(path), max_row_characters=1001))
    assert found.origin["left_out"] == {"longer than 1,001 characters": 1}
    assert len(found.rows) == len(ROWS)
    assert len(read_rows(DataSection(source=str(path), max_row_characters=1002)).rows) == 31
    assert len(read_rows(DataSection(source=str(path), max_row_characters=None)).rows) == 31
    error = fault_of(path, max_row_characters=5)
    assert "data.max_row_characters" in error.next_step


def test_limits_of_lines_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "MAX_LINE_BYTES", 200)
    monkeypatch.setattr(text_lines, "_MAX_JSON_BYTES", 5000)
    monkeypatch.setattr(text_lines, "_MAX_BLANK_LINES", 10)
    assert len(read_rows(DataSection(source=str(write(tmp_path, "a.jsonl", LINES)))).rows) == 30
    assert "line 31 has more" in fault_of(write(tmp_path, "b.jsonl", LINES + b" " * 201)).fault
    assert len(read_rows(DataSection(source=str(write(tmp_path, "a.json", LINES)))).rows) == 30
    assert "as a whole" in fault_of(write(tmp_path, "b.json", LINES + b" " * 5000)).fault
    assert "blank" in fault_of(write(tmp_path, "c.jsonl", LINES + b"\n" * 11)).fault


def test_repeated_rows_may_pack_well_but_not_beyond_the_limit(tmp_path, monkeypatch):
    packed = gzip.compress(LINES * 500)
    path = write(tmp_path, "a.jsonl.gz", packed)
    assert len(read_rows(DataSection(source=str(path))).rows) == 500 * len(ROWS)
    monkeypatch.setattr(unpacked, "_ALWAYS_ALLOWED_BYTES", 1000)
    assert "100 times its size" in fault_of(path).fault
    assert len(read_rows(DataSection(source=str(path), max_rows=30)).rows) == 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zeros", "blank lines", "one cell"])
def test_a_gzip_bomb_ends_in_bounded_memory(tmp_path, kind):
    repeated = {
        "zeros": b"\0" * 1_000_000,
        "blank lines": b"\n" * 1_000_000,
        "one cell": b"x" * 1_000_000,
    }[kind]
    path = tmp_path / ("bomb.csv.gz" if kind == "one cell" else "bomb.jsonl.gz")
    with gzip.open(path, "wb", compresslevel=1) as file:
        if kind == "one cell":
            file.write(b'instruction,output\n"')
        for _ in range(1000):
            file.write(repeated)
    said = in_bounded_memory(path, seconds=120)
    assert "times its size" in said or "MiB" in said or "blank" in said


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json", ".parquet"])
def test_a_cell_of_a_hundred_megabytes_is_left_out(tmp_path, suffix):
    path = tmp_path / f"big{suffix}"
    big = "x = 1\\n" * 14_000_000
    if suffix == ".jsonl":
        path.write_text(f'{LINES.decode()}{{"instruction": "q", "output": "{big}"}}\n')
    elif suffix == ".csv":
        path.write_text(f'{CSV.decode()}q,"{big}"\n')
    elif suffix == ".json":
        path.write_text(json.dumps([*ROWS, {"instruction": "q", "output": big}]))
    else:
        pq.write_table(pa.Table.from_pylist([*ROWS, {"instruction": "q", "output": big}]), path)
    assert in_bounded_memory(path) == f"{len(ROWS)} {{'longer than 200,000 characters': 1}}"


@pytest.mark.slow
def test_parquet_bombs_end_in_bounded_memory(tmp_path):
    """A kilobyte that would read as terabytes: one cell in all rows, and pages of zeros."""
    cell = "x = 1\n" * 2_500_000
    outputs = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), [cell])
    questions = [f"question {n}" for n in range(20_000)]
    for name, output in (("a", outputs), ("b", pa.chunked_array([["x" * 3_000_000] * 300]))):
        path = tmp_path / f"{name}.parquet"
        table = pa.table({"instruction": questions[: len(output)], "output": output})
        pq.write_table(table, path, compression="zstd", use_dictionary=name == "a")
        assert path.stat().st_size < 2e6
        said = in_bounded_memory(path)
        assert "no row has at most" in said or "times its size" in said


@pytest.mark.parametrize(
    "part",
    ["\\'", '\\"', "`", "``` ", "~", " ", "\t", "\n", " \n", "'", '"""', "(", "-", "a;", "a<",
     "if x:\n", "python ", "'\\\n", "f'{", "漢", "x = 1   \n", "\\\n"],
)  # fmt: skip
def test_no_cell_makes_cleaning_or_comparing_slow(part):
    """Quadratic regular expressions once took minutes on cells of 100,000 characters."""
    for text in (part * (100_000 // len(part)), f"python{part * (100_000 // len(part))}x"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        rows, _ = clean([RawRow(text, "", text)], CleanSection(remove_comments=True))
        for row in rows:
            canonical_answer(row.output)
        find_all([Example("e", "c", "train", text, "", text)])
        assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5
