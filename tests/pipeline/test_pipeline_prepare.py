import json
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from tiny_models import build_model
from veritune.cli import app
from veritune.config import CleanSection, ColumnsSection, Recipe
from veritune.pipeline.prepare import (
    _as_first_declared,
    _inputs_of_trained,
    _without_benchmarks,
    prepare_inputs,
)
from veritune.recipe_file import load_recipe, recipe_from

NAMES = [f"{a}{b}" for a in "abcde" for b in ("tree", "file", "word", "list", "date", "line")]


@pytest.fixture
def recipe_path(tmp_path):
    rows = [
        {"instruction": f"Do {n} with {name}", "output": f"import {name}\n{name}.go({n})"}
        for n, name in enumerate(NAMES)
    ]
    task = {
        "task_id": 7,
        "text": "Tell whether a word reads the same from both of its ends, ignoring spaces",
        "code": "def same(word):\n    return word == word[::-1]\n",
        "test_list": ["assert same('aba')"],
    }
    leaking = {"instruction": task["text"], "output": "def mine(w):\n    return w == w[::-1]"}
    for name, content in (
        ("rows.jsonl", [*rows, leaking]),
        ("test.jsonl", [rows[0]]),
        ("tasks.jsonl", [task]),
    ):
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in content))
    model = build_model("llama", tmp_path / "model")
    path = tmp_path / "recipe.yaml"
    content = {
        "output_dir": str(tmp_path / "run"),
        "model": {"name_or_path": str(model), "dtype": "float32"},
        "data": {"source": "rows.jsonl", "test_source": "test.jsonl"},
        "evaluate": {"benchmarks": ["tasks.jsonl"]},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_prepare_prints_what_the_data_can_be_trusted_for(recipe_path):
    done = CliRunner().invoke(app, ["prepare", str(recipe_path), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed.keys() >= {
        *("n_rows", "n_exact_duplicates", "n_near_duplicate_clusters", "n_contaminated"),
        *("n_train", "n_validation", "n_test", "leak_audit", "parse_rate"),
    }
    assert {tuple(sides) for sides in printed["leak_audit"].values()} == {("question", "answer")}
    assert printed["n_rows"] == 32
    assert printed["n_exact_duplicates"] == 1
    assert printed["n_contaminated"] == 1
    assert printed["n_train"] + printed["n_validation"] == 30
    assert printed["n_test"] == 1
    assert printed["n_near_duplicate_clusters"] >= 1
    assert printed["parse_rate"] == 100.0
    assert set(printed["leak_audit"]["test"]["answer"]) == {"ge_0.7", "ge_0.9", "exact"}
    again = CliRunner().invoke(app, ["prepare", str(recipe_path), "--json"])
    assert json.loads(again.stdout) == printed


def test_paths_of_given_splits_and_benchmarks_start_at_the_recipe(recipe_path):
    recipe = load_recipe(recipe_path, [f"data.contamination.against=[humaneval, {recipe_path}]"])
    folder = recipe_path.parent
    assert recipe.data.test_source == str(folder / "test.jsonl")
    assert recipe.evaluate.benchmarks == [str(folder / "tasks.jsonl")]
    assert recipe.data.contamination.against == ["humaneval", str(recipe_path)]


def test_what_decides_the_splits_decides_the_inputs(recipe_path):
    def inputs(*overrides):
        return prepare_inputs(load_recipe(recipe_path, overrides))

    first = inputs()
    assert inputs("evaluate.resamples=300") == first
    for change in (
        "data.duplicates.answer_jaccard=0.8",
        "data.contamination.ngram=12",
        "data.split.on_leak=drop",
        "data.test_source=null",
        "evaluate.benchmarks=[]",
    ):
        assert inputs(change) != first
    (recipe_path.parent / "test.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    assert inputs() != first


def test_settings_at_their_defaults_do_not_change_a_runs_identity():
    # The data settings of the first version, as JSON with sorted keys.
    first = {
        "source": "code:stdlib",
        "revision": None,
        "hub_split": "train",
        "columns": ColumnsSection().model_dump(),
        "input": "join",
        "max_rows": None,
        "max_source_tokens": None,
        "max_target_tokens": None,
        "max_pair_tokens": None,
        "clean": CleanSection().model_dump(),
        "split": {"method": "clusters", "train": None, "validation": 0.1, "test": 0.1},
    }
    assert _as_first_declared(Recipe().data) == first


def trained_on(recipe, monkeypatch):
    record = {
        "inputs_sha256": prepare_inputs(recipe),
        "without_benchmarks_sha256": _without_benchmarks(recipe),
        "against": list(recipe.evaluate.benchmarks),
    }
    notices = []
    monkeypatch.setattr("veritune.pipeline.prepare.add_notices", lambda _, new: notices.extend(new))
    run = SimpleNamespace(stage_record=lambda _: record, is_trained=lambda: True)
    return run, record, notices


def test_a_benchmark_named_after_training_keeps_the_data_and_is_noted(monkeypatch):
    run, record, notices = trained_on(Recipe(), monkeypatch)
    later = recipe_from({"evaluate": {"benchmarks": ["humaneval"]}})
    found = _inputs_of_trained(run, later)
    assert found == record["inputs_sha256"]
    assert "humaneval" in notices[0] and "not taken out" in notices[0]
    other = recipe_from({"data": {"max_rows": 5}, "evaluate": {"benchmarks": ["humaneval"]}})
    assert _inputs_of_trained(run, other) is None
