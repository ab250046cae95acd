"""Anyone's predictions, scored: equal to the libraries, nothing taken for granted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from test_main_job import invoke
from veritune.rows import read_scores

ROWS = [
    {
        "example_id": "good",
        "prompt": "Add one.",
        "reference": "def f(x):\n    return x + 1\n",
        "answer": "Here it is:\n```python\ndef f(x):\n    return 1 + x\n```\n",
        "tests": ["assert f(1) == 2", "assert f(-1) == 0"],
    },
    {
        "example_id": "wrong",
        "reference": "def f(x):\n    return x + 1\n",
        "answer": "def f(x):\n    return x\n",
        "tests": ["assert f(1) == 2"],
    },
    {"answer": "import os, sys\nprint(input())\n"},
    {"answer": "print('done')"},
    {"answer": ""},
    {"answer": "print('unclosed"},
    {
        "example_id": "check",
        "answer": "def g(s):\n    return s[::-1]",
        "tests": ["def check(candidate):\n    assert candidate('ab') == 'ba'\n"],
        "entry_point": "g",
    },
]


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.usefixtures("sandbox")
def test_outcomes_metrics_and_files(tmp_path: Path) -> None:
    source = write(tmp_path / "predictions.jsonl", ROWS)
    outcome = invoke("score", str(source), "--json", "--output", str(tmp_path / "out"))
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    found = {row["example_id"]: row for row in result["examples"]}
    assert {name: row["outcome"] for name, row in found.items()} == {
        "good": "pass",
        "wrong": "fail",
        "line 3": "needs_input",
        "line 4": "pass",
        "line 5": "fail",
        "line 6": "fail",
        "check": "pass",
    }
    metrics = result["metrics"]
    assert metrics["pass_at_1"]["value"] == pytest.approx(200 / 3)
    assert metrics["pass_at_1"]["n_examples"] == 3
    assert metrics["runs_clean"]["value"] == pytest.approx(400 / 7)
    assert metrics["parse_rate"]["value"] == pytest.approx(500 / 7)
    assert all(row["signature"] for row in metrics.values())
    answers = ["def f(x):\n    return 1 + x", "def f(x):\n    return x\n"]
    references = [row["reference"] for row in ROWS[:2]]
    chrf = sacrebleu.CHRF(whitespace=True).corpus_score(answers, [references]).score
    assert metrics["chrf"]["value"] == pytest.approx(chrf, abs=1e-9)
    assert metrics["chrf"]["n_examples"] == 2
    rouge = [
        RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
        for reference, answer in zip(references, answers, strict=True)
    ]
    assert metrics["rougeL"]["value"] == pytest.approx(50 * sum(rouge), abs=1e-9)
    written = read_scores(tmp_path / "out" / "scores.parquet")
    assert {row.metric for row in written} == set(metrics)
    assert (tmp_path / "out" / "scores.json").is_file()
    unrun = invoke("score", str(source), "--no-run").stdout
    assert "pass_at_1 (switched off by --no-run)" in unrun
    again = invoke("score", str(source), "--no-run", "--output", str(tmp_path / "out"))
    assert again.exit_code == 0, "earlier scores are replaced"


def test_without_a_sandbox_nothing_is_run_and_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veritune.sandbox import canaries, interpreter

    monkeypatch.setattr(interpreter.shutil, "which", lambda name: None)
    canaries.sandbox_here.cache_clear()
    try:
        marker = tmp_path / "marker"
        rows = [{"answer": f"open({str(marker)!r}, 'w')", "tests": ["assert True"]}]
        outcome = invoke("score", str(write(tmp_path / "p.jsonl", rows)), "--json")
        assert outcome.exit_code == 0, outcome.stderr
        result = json.loads(outcome.stdout)
        assert result["examples"][0]["outcome"] == "not measured"
        assert "pass_at_1" not in result["metrics"] and "runs_clean" not in result["metrics"]
        reasons = {row["what"]: row["why"] for row in result["not_measured"]}
        assert "apt-get install bubblewrap" in reasons["pass_at_1"]
        assert not marker.exists()
        checked = invoke("sandbox-check", "--json")
        assert checked.exit_code == 3
        found = json.loads(checked.stdout)
        assert found["available"] is False and "bubblewrap" in found["missing"]
    finally:
        canaries.sandbox_here.cache_clear()


@pytest.mark.usefixtures("sandbox")
def test_a_reference_that_fails_its_tests_stops_the_scoring(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "tests": ["assert f(1) == 3"]}, ROWS[1]]
    source = write(tmp_path / "p.jsonl", rows)
    outcome = invoke("score", str(source), "--json")
    assert outcome.exit_code == 2
    assert "1 references do not pass" in outcome.stderr and "p.jsonl:1" in outcome.stderr
    allowed = invoke("score", str(source), "--json", "--allow-broken-references")
    result = json.loads(allowed.stdout)
    assert result["metrics"]["pass_at_1"]["n_examples"] == 1
    assert [row["example_id"] for row in result["broken_references"]] == ["good"]
    in_words = invoke("score", str(source), "--allow-broken-references").stdout
    assert "tests left out: p.jsonl:1, whose reference does not pass them: fail" in in_words

    alone = write(tmp_path / "alone.jsonl", rows[:1])
    without = json.loads(invoke("score", alone, "--json", "--allow-broken-references").stdout)
    reasons = {row["what"]: row["why"] for row in without["not_measured"]}
    assert reasons["pass_at_1"] == "no row has tests that its own reference passes"


@pytest.mark.parametrize("place", ["a run", "a file", "no place"])
def test_where_scores_cannot_go_is_said_before_any_work(tmp_path: Path, place: str) -> None:
    source = write(tmp_path / "p.jsonl", ROWS[3:4])
    run = tmp_path / "run"
    run.mkdir()
    for name in ("recipe.yaml", "manifest.json", "scores.parquet"):
        (run / name).write_text("{}")
    where = {"a run": run, "a file": source, "no place": Path("/proc/nothing/here")}[place]
    outcome = invoke("score", source, "--json", "--output", where)
    assert outcome.exit_code == (2 if place == "a run" else 3), outcome.stderr
    fault = json.loads(outcome.stdout)
    assert fault["received"] == str(where)
    assert "sandbox" not in outcome.stderr, "nothing was run"
    assert sorted(path.name for path in run.iterdir()) == [
        "manifest.json", "recipe.yaml", "scores.parquet"
    ]  # fmt: skip
    assert (run / "scores.parquet").read_text() == "{}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"not json\n", "line 1: not JSON"),
        (b"[1]\n", "not an object"),
        (b'{"answer": 3}\n', "no text in the field answer"),
        (b'{"answer": "x", "tests": [1]}\n', "tests is not a list"),
        (
            b'{"answer": "x", "example_id": "a"}\n{"answer": "y", "example_id": "a"}\n',
            "came before",
        ),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"answer": ' + b"[" * 100_000 + b"\n", "line 1"),
    ],
)
def test_a_faulty_file_is_named_with_its_line(tmp_path: Path, content: bytes, words: str) -> None:
    source = tmp_path / "p.jsonl"
    source.write_bytes(content)
    outcome = invoke("score", str(source))
    assert outcome.exit_code == 2, outcome.exception
    assert words in outcome.stderr
