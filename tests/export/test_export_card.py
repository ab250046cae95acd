"""The model card: what the hub reads, and nothing that data could make it say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from test_export import export

from test_main_job import invoke

pytestmark = pytest.mark.slow


def test_a_hub_folder_tells_what_the_report_tells(evaluated_run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoModelForCausalLM

    export(evaluated_run, tmp_path / "hub", "hub-folder", "--license", "mit")
    names = {item.name for item in (tmp_path / "hub").iterdir()}
    assert {"README.md", "adapter", "model.safetensors", "report.html", "export.json"} <= names
    AutoModelForCausalLM.from_pretrained(tmp_path / "hub")

    card = ModelCard.load(tmp_path / "hub/README.md")
    front = card.data.to_dict()
    assert front["license"] == "mit" and front["pipeline_tag"] == "text-generation"
    assert front["library_name"] == "transformers"
    values = {row.metric_type: row.metric_value for row in card.data.eval_results or []}
    comparisons = json.loads((evaluated_run / "comparison.json").read_text())["comparisons"]
    assert values["chrf"] == pytest.approx(
        next(row["value"] for row in comparisons if row["metric"] == "chrf"), abs=0.01
    )
    for heading in ("Use", "Data", "Training", "Evaluation", "Limits", "Licence"):
        assert f"\n## {heading}\n" in card.text
    assert "95 % interval" in card.text and "These files against the adapter" in card.text
    sentence = (evaluated_run / "report.md").read_text().split("\n")[2]
    assert sentence in card.text
    # Where things lie on this machine is not published.
    config = json.loads((tmp_path / "hub/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "model"
    assert str(evaluated_run.parent) not in (tmp_path / "hub/README.md").read_text()
    assert "rows.jsonl" in card.text


def test_names_cannot_break_out_of_the_card(evaluated_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "a: b\n---\n<script>alert(1)</script> [x](y)"
    shutil.copytree(evaluated_run, run)
    (evaluated_run.parent / "model/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    outcome = invoke("export", run, "--to", "hub-folder", "--output", tmp_path / "hub")
    assert outcome.exit_code == 0, outcome.stderr
    text = (tmp_path / "hub/README.md").read_text()
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    content = yaml.safe_load(front)
    assert content["license"] == "apache-2.0"
    assert content["model-index"][0]["name"] == run.name
    assert "<script>" not in body and "[x](y)" not in body


def test_an_unknown_licence_is_called_unknown(evaluated_run: Path, tmp_path: Path) -> None:
    (evaluated_run.parent / "model/README.md").unlink(missing_ok=True)
    export(evaluated_run, tmp_path / "hub", "hub-folder")
    front = yaml.safe_load((tmp_path / "hub/README.md").read_text().split("---\n")[1])
    assert front["license"] == "other" and front["license_name"] == "not-stated"
