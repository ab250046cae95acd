import csv
import gzip
import hashlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veritune.config import ColumnsSection, DataSection
from veritune.data.sources import read_rows
from veritune.errors import DataError

ROWS = [
    {"instruction": "Add two", "input": "", "output": "a + b"},
    {"instruction": "Naïve — “quoted”,\nsecond line", "input": "1, 2", "output": "x = 'é'\n"},
    {"instruction": "三", "input": 'say "hi"', "output": "print(1)"},
]


def section(path, **settings_of_data):
    return DataSection(source=str(path), **settings_of_data)


def as_csv(rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def encoded(rows, suffix):
    """The rows as bytes of a format, written by its own library."""
    if suffix == ".parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    text = {
        ".json": lambda: json.dumps(rows, indent=1),
        ".jsonl": lambda: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        ".csv": lambda: as_csv(rows),
    }[suffix.removesuffix(".gz")]()
    content = text.encode("utf-8")
    return gzip.compress(content) if suffix.endswith(".gz") else content


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def fault_of(path, **settings_of_data):
    with pytest.raises(DataError) as caught:
        read_rows(section(path, **settings_of_data))
    error = caught.value
    assert error.received and error.accepted and error.next_step
    return error


SUFFIXES = [".json", ".json.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    content = encoded(ROWS, suffix)
    result = read_rows(section(write(tmp_path, f"rows{suffix}", content)))
    assert [
        {"instruction": row.instruction, "input": row.input, "output": row.output}
        for row in result.rows
    ] == ROWS
    assert [row.source for row in result.rows] == ["row 1", "row 2", "row 3"]
    assert result.origin["kind"] == "file"
    assert result.origin["sha256"] == hashlib.sha256(content).hexdigest()
    assert result.origin["columns"] == ["instruction", "input", "output"]
    assert result.origin["rows_read"] == 3


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                name: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))
                for name in ("instruction", "input", "output")
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_survives_reading(tmp_path_factory, suffix, rows):
    path = write(tmp_path_factory.mktemp("rows"), f"rows{suffix}", encoded(rows, suffix))
    result = read_rows(section(path)).rows
    assert [
        {"instruction": row.instruction, "input": row.input, "output": row.output} for row in result
    ] == rows


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_max_rows_reads_only_the_first(tmp_path, suffix):
    path = write(tmp_path, f"rows{suffix}", encoded(ROWS, suffix))
    result = read_rows(section(path, max_rows=2))
    assert [row.instruction for row in result.rows] == [row["instruction"] for row in ROWS[:2]]


def test_json_may_be_an_object_with_one_list_or_lines_in_disguise(tmp_path):
    wrapped = write(tmp_path, "a.json", json.dumps({"version": 1, "data": ROWS}))
    lines = write(tmp_path, "b.json", encoded(ROWS, ".jsonl"))
    assert len(read_rows(section(wrapped)).rows) == len(read_rows(section(lines)).rows) == 3
    two = write(tmp_path, "c.json", json.dumps({"train": ROWS, "test": ROWS}))
    assert "'train', 'test'" in fault_of(two).received


def test_byte_order_mark_and_blank_lines_are_no_fault(tmp_path):
    for suffix in (".json", ".jsonl", ".csv"):
        content = b"\xef\xbb\xbf" + encoded(ROWS, suffix) + b"\n\n"
        assert len(read_rows(section(write(tmp_path, f"rows{suffix}", content))).rows) == 3


def test_a_pinned_revision_is_ignored_with_a_notice(tmp_path):
    path = write(tmp_path, "rows.jsonl", encoded(ROWS, ".jsonl"))
    assert "v1" in read_rows(section(path, revision="v1")).origin["notices"][0]
    assert read_rows(section(path)).origin["notices"] == []


def test_missing_file_names_similar_ones(tmp_path):
    write(tmp_path, "rows.jsonl", "{}")
    error = fault_of(tmp_path / "row.jsonl")
    assert "no such file" in error.fault
    assert "rows.jsonl" in error.next_step
    assert "folder" in fault_of(tmp_path / "no" / "rows.jsonl").fault


def test_folder_and_unknown_endings_are_refused(tmp_path):
    write(tmp_path, "rows.jsonl", "{}")
    error = fault_of(tmp_path)
    assert "folder" in error.fault and "rows.jsonl" in error.next_step
    assert ".parquet" in fault_of(write(tmp_path, "rows.txt", "x")).accepted


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".parquet"])
def test_empty_files_are_refused(tmp_path, suffix):
    error = fault_of(write(tmp_path, f"rows{suffix}", b""))
    assert "empty" in error.fault or "no rows" in error.fault or "damaged" in error.fault


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[]"),
        ("a.json", " \n"),
        ("a.jsonl", "\n\n"),
        ("a.csv", "instruction,output\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_files_without_rows_are_refused(tmp_path, name, content):
    assert fault_of(write(tmp_path, name, content)).fault


def test_parquet_without_rows_is_refused(tmp_path):
    schema = pa.schema([("instruction", pa.string()), ("output", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    assert "no rows" in fault_of(tmp_path / "a.parquet").fault


def test_invalid_json_is_named_by_line_and_column(tmp_path):
    lines = '{"instruction": "a", "output": "b"}\n\n{"instruction": "a", output: "b"}\n'
    assert "line 3, column 22" in fault_of(write(tmp_path, "a.jsonl", lines)).fault
    assert "line 3, column 22" in fault_of(write(tmp_path, "a.json", lines)).fault
    array = '[\n {"instruction": "a",\n  "output": }\n]'
    assert "line 3, column 13" in fault_of(write(tmp_path, "b.json", array)).fault
    assert "line 1" in fault_of(write(tmp_path, "c.jsonl", '{"instruction": "a"')).fault


def test_hostile_json_is_refused_without_a_traceback(tmp_path):
    assert "deep" in fault_of(write(tmp_path, "a.json", "[" * 100_000)).fault
    assert "line 1" in fault_of(write(tmp_path, "b.jsonl", '{"output": ' + "9" * 5000 + "}")).fault


def test_text_that_is_not_utf8_is_named_by_offset(tmp_path):
    good = '{"instruction": "é", "output": "x"}\n'.encode()
    bad = '{"instruction": "é", "output": "x"}\n'.encode("latin-1")
    error = fault_of(write(tmp_path, "a.jsonl", good + bad))
    offset = len(good) + bad.index(b"\xe9")
    assert "UTF-8" in error.fault and f"0xe9 at offset {offset}" in error.received
    assert "UTF-16" in fault_of(write(tmp_path, "b.jsonl", "{}".encode("utf-16"))).fault
    packed = write(tmp_path, "c.jsonl.gz", gzip.compress(good + bad))
    assert f"offset {offset}" in fault_of(packed).received


@pytest.mark.parametrize("suffix", [".json.gz", ".jsonl.gz", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    content = encoded(ROWS * 50, suffix)
    error = fault_of(write(tmp_path, f"rows{suffix}", content[: int(len(content) * kept)]))
    assert "cut off" in error.fault


def test_a_damaged_parquet_body_is_refused(tmp_path):
    content = bytearray(encoded(ROWS * 500, ".parquet"))
    content[8:200] = b"\xff" * 192
    assert "damaged" in fault_of(write(tmp_path, "a.parquet", bytes(content))).fault


def test_plain_text_under_a_gz_name_is_refused(tmp_path):
    assert "gzip" in fault_of(write(tmp_path, "a.jsonl.gz", "{}")).fault


def test_a_wrong_column_names_those_found_and_the_nearest(tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps({"instructions": "a", "output": "b"}))
    error = fault_of(path)
    assert "'instructions', 'output'" in error.received
    assert "data.columns.instruction=instructions" in error.next_step
    error = fault_of(
        write(tmp_path, "b.parquet", encoded(ROWS, ".parquet")),
        columns=ColumnsSection(output="Output"),
    )
    assert "data.columns.output=output" in error.next_step


def test_a_renamed_optional_column_must_exist_a_default_one_need_not(tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps({"instruction": "a", "output": "b"}))
    assert read_rows(section(path)).rows[0].input == ""
    error = fault_of(path, columns=ColumnsSection(input="context"))
    assert "'context'" in error.fault and "data.columns.input" in error.next_step
    ignoring = ColumnsSection(input=None, tests=None, test_setup=None, entry_point=None)
    assert read_rows(section(path, columns=ignoring)).rows[0].output == "b"


@pytest.mark.parametrize("record", ['["a", "b"]', '"text"', "17", "null"])
def test_a_row_that_is_no_object_is_named(tmp_path, record):
    content = '{"instruction": "a", "output": "b"}\n' + record
    assert "row 2" in fault_of(write(tmp_path, "a.jsonl", content)).fault


@pytest.mark.parametrize("value", [3, 2.5, True, ["x"], {"a": 1}])
def test_a_value_that_is_no_text_is_named_by_row_and_column(tmp_path, value):
    rows = [ROWS[0], {**ROWS[0], "output": value}]
    path = write(tmp_path, "a.json", json.dumps(rows))
    assert "row 2, column 'output'" in fault_of(path).fault


def test_null_reads_as_empty_text(tmp_path):
    rows = [{"instruction": "a", "input": None, "output": None, "tests": None}]
    row = read_rows(section(write(tmp_path, "a.json", json.dumps(rows)))).rows[0]
    assert (row.input, row.output, row.tests) == ("", "", ())


@pytest.mark.parametrize(
    ("value", "tests"),
    [
        (["assert f(1)", "assert f(2)"], ("assert f(1)", "assert f(2)")),
        ('["assert f(1)"]', ("assert f(1)",)),
        ("['assert f(1)', 'assert f(2)']", ("assert f(1)", "assert f(2)")),
        ("def check(candidate):\n    assert candidate(1)", None),
        ([], ()),
        ("", ()),
    ],
)
def test_tests_are_a_list_or_text_of_one(tmp_path, value, tests):
    path = write(tmp_path, "a.json", json.dumps([{**ROWS[0], "tests": value}]))
    assert read_rows(section(path)).rows[0].tests == ((value,) if tests is None else tests)


@pytest.mark.parametrize("value", [[1], 5, "[not a list", {"a": "b"}, ["a", None]])
def test_other_tests_are_refused(tmp_path, value):
    path = write(tmp_path, "a.json", json.dumps([{**ROWS[0], "tests": value}]))
    assert "row 1, column 'tests'" in fault_of(path).fault


MBPP_TASK = {
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n    return a + b",
    "task_id": 511,
    "test_setup_code": "import math",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    "challenge_test_list": [],
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl.gz", ".parquet"])
def test_mbpp_is_recognised_where_the_usual_columns_are_absent(tmp_path, suffix):
    found = read_rows(section(write(tmp_path, f"mbpp{suffix}", encoded([MBPP_TASK], suffix))))
    (row,) = found.rows
    assert row.instruction == (
        "Write a function to add.\nYour code should pass these tests:\n"
        "assert add(1, 2) == 3\nassert add(0, 0) == 0"
    )
    assert row.output == MBPP_TASK["code"]
    assert row.tests == tuple(MBPP_TASK["test_list"]) and row.test_setup == "import math"
    assert "MBPP" in found.origin["notices"][0] and "text, code" in found.origin["notices"][0]


def test_the_sanitized_edition_of_mbpp_brings_its_imports(tmp_path):
    task = {"prompt": "Pi.", "code": "x", "test_imports": ["import math"], "test_list": ["assert"]}
    for suffix in (".jsonl", ".parquet"):
        path = write(tmp_path, f"mbpp{suffix}", encoded([task], suffix))
        (row,) = read_rows(section(path)).rows
        assert row.instruction.startswith("Pi.\n") and row.test_setup.startswith("import math")


def test_mbpp_is_not_guessed_where_the_usual_columns_are_there(tmp_path):
    row = {**MBPP_TASK, "instruction": "a", "output": "b"}
    found = read_rows(section(write(tmp_path, "a.jsonl", json.dumps(row))))
    assert found.rows[0].output == "b" and found.origin["notices"] == []
    half = {**MBPP_TASK, "instruction": "a"}
    assert "'output'" in fault_of(write(tmp_path, "b.jsonl", json.dumps(half))).fault


def test_mbpp_is_read_through_column_names(tmp_path):
    task = MBPP_TASK
    columns = ColumnsSection(
        instruction="text",
        input=None,
        output="code",
        tests="test_list",
        test_setup="test_setup_code",
    )
    for suffix in (".jsonl", ".parquet"):
        path = write(tmp_path, f"mbpp{suffix}", encoded([task], suffix))
        row = read_rows(section(path, columns=columns)).rows[0]
        assert row.instruction == task["text"] and row.output == task["code"]
        assert row.tests == tuple(task["test_list"]) and row.test_setup == "import math"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("instruction,output\na,b\nc\n", "line 3 has 1 cells"),
        ("instruction,output\na,b,c\n", "line 2 has 3 cells"),
        ('instruction,output\na,"b\nc\n', "not valid CSV"),
        ("output,instruction,output\na,b,c\n", "twice"),
    ],
)
def test_malformed_csv_is_named_by_line(tmp_path, content, said):
    assert said in fault_of(write(tmp_path, "a.csv", content)).fault


def test_csv_cells_may_be_larger_than_the_readers_usual_limit(tmp_path):
    big = "x" * 190_000
    limit = csv.field_size_limit()
    path = write(tmp_path, "a.csv", as_csv([{"instruction": "a", "output": big}]))
    assert read_rows(section(path)).rows[0].output == big
    assert csv.field_size_limit() == limit
