"""``veritune export``: what other programs load answers as the run's adapter does."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from test_main_job import invoke
from tiny_models import build_model
from veritune.export import export_run as exporting
from veritune.export import writers


def export(run: Path, target: Path, to: str, *more: object) -> Any:
    """Run the verb; its result as JSON."""
    outcome = invoke("export", run, "--to", to, "--output", target, "--json", *more)
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads(outcome.stdout)


def _oracle(run: Path) -> Any:
    """The merged model as PEFT makes it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(run.parent / "model")
    return PeftModel.from_pretrained(base, run / "adapter").merge_and_unload()


def _logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([[5, 9, 30, 7, 100, 42]])).logits
    return found


def test_a_merged_folder_is_what_peft_merges_and_says_how_it_was_judged(
    llama_run: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = tmp_path / "merged"
    result = export(llama_run, target, "merged")
    model = AutoModelForCausalLM.from_pretrained(target)
    assert torch.allclose(_logits(model), _logits(_oracle(llama_run)), atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.chat_template and model.generation_config.eos_token_id == 3
    assert model.generation_config.do_sample is False

    record = json.loads((target / "export.json").read_text())
    assert {"output": str(target), **record} == result
    (gate,) = record["gates"]
    assert gate["passed"] and gate["n_prompts"] == 32 and gate["by"] == "transformers"
    assert gate["export"]["same_answers"] == 32 > gate["base"]["same_answers"]
    assert gate["export"]["logprob"] < 1e-4 < gate["base"]["logprob"]
    assert gate["chrf"]["n_clusters"] >= 30 and gate["chrf"]["ci_low"] is not None
    assert set(record["files"]) == {f.name for f in target.iterdir()} - {"export.json"}
    assert [item.name for item in tmp_path.iterdir()] == ["merged"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_it_is_merged_in_fp32_and_cast_once(
    llama_run: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    export(llama_run, tmp_path / "merged", "merged", "--quantization", precision)
    found = load_file(tmp_path / "merged/model.safetensors")
    for name, tensor in _oracle(llama_run).state_dict().items():
        if name in found:
            assert torch.allclose(found[name].float(), tensor.to(dtype).float(), rtol=2**-7)
            assert found[name].dtype == dtype
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == precision


@pytest.mark.slow
def test_a_peft_folder_loads_in_plain_peft(llama_run: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    export(llama_run, tmp_path / "peft", "peft")
    base = AutoModelForCausalLM.from_pretrained(llama_run.parent / "model")
    adapted = PeftModel.from_pretrained(base, tmp_path / "peft")
    assert torch.allclose(_logits(adapted), _logits(_oracle(llama_run)), atol=1e-5)


def test_merging_twice_and_another_base_are_refused(llama_run: Path, tmp_path: Path) -> None:
    merged, other = tmp_path / "merged", tmp_path / "other"
    export(llama_run, merged, "merged")
    build_model("llama", other, seed=1)

    def on(base: Path) -> Any:
        base_is = f"model.name_or_path={base}"
        return invoke(
            "export", llama_run, "--to", "merged", "--set", base_is, "--output", tmp_path / "x"
        )

    twice, foreign = on(merged), on(other)
    assert twice.exit_code == 2 and "folded into this model already" in twice.stderr
    assert foreign.exit_code == 2 and "trained on another base model" in foreign.stderr
    # The same weights elsewhere are the same base.
    shutil.copytree(llama_run.parent / "model", tmp_path / "moved")
    moved = on(tmp_path / "moved")
    assert moved.exit_code == 0, moved.stderr


def _writes_the_base(job: Any, folder: Path) -> Any:
    writers.write_merged(
        job.trained.plain,
        job.trained,
        folder,
        dtype=torch.float32,
        adapter_sha256=job.adapter_sha256,
    )
    return writers.Written({"transformers": lambda: writers._folder_reader(job, folder)})


def test_an_export_that_is_not_the_adapter_leaves_nothing(
    llama_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "merged"
    export(llama_run, target, "merged")
    before = {path: path.read_bytes() for path in target.iterdir()}
    monkeypatch.setitem(writers._WRITERS, "merged", _writes_the_base)
    outcome = invoke("export", llama_run, "--to", "merged", "--output", target, "--json")
    assert outcome.exit_code == 1
    fault = json.loads(outcome.stdout)
    assert fault["error"] == "GateFailed" and "wanted at most 0.001" in fault["received"]
    assert {path: path.read_bytes() for path in target.iterdir()} == before
    assert [item.name for item in tmp_path.iterdir()] == ["merged"]


def test_an_adapter_that_changes_nothing_is_not_exported(llama_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(llama_run, run)
    weights = run / "adapter/adapter_model.safetensors"
    save_file({name: 0 * tensor for name, tensor in load_file(weights).items()}, weights)
    outcome = invoke("export", run, "--to", "peft")
    assert outcome.exit_code == 1
    assert "greedy answers in which base and adapter differ 0, wanted above 0" in outcome.stderr
    assert ("train longer" in outcome.stderr and not (run / "export").exists()) or not any(
        (run / "export").iterdir()
    )


def test_a_run_with_few_questions_says_so_and_an_earlier_export_is_replaced(
    llama_run: Path, tmp_path: Path
) -> None:
    from veritune.rows import read_examples, write_examples

    run = tmp_path / "run"
    shutil.copytree(llama_run, run)
    test = run / "data/test.parquet"
    write_examples(test, read_examples(test)[:3])
    first = invoke("export", run, "--to", "peft")
    assert first.exit_code == 0, first.stderr
    assert "the gate has 9 questions, not 32" in first.stderr
    assert "9 held-out questions" in first.stdout
    assert (run / "export/peft/export.json").is_file()
    assert invoke("export", run, "--to", "peft").exit_code == 0
    # The export does not make the run a stranger's folder.
    assert invoke("report", run).exit_code == 0


def test_what_cannot_be_exported_is_refused_in_words(llama_run: Path, tmp_path: Path) -> None:
    def refused(*arguments: object, run: Path = llama_run) -> str:
        outcome = invoke("export", run, "--output", tmp_path / "x", *arguments)
        assert outcome.exit_code == 2, outcome.stderr
        assert not (tmp_path / "x").exists()
        return str(outcome.stderr)

    assert "merged, peft, gguf" in refused("--to", "onnx")
    assert "f16, q8_0, f32" in refused("--to", "gguf", "--quantization", "int8")
    assert "run directory" in refused("--to", "merged", run=tmp_path / "nowhere")
    run = tmp_path / "run"
    shutil.copytree(llama_run, run)
    weights = run / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    assert "cannot be loaded" in refused("--to", "merged", run=run)
    shutil.rmtree(run / "adapter")
    assert "veritune train" in refused("--to", "merged", run=run)

    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    occupied = invoke("export", llama_run, "--to", "peft", "--output", tmp_path / "full")
    assert occupied.exit_code == 2 and "not an export" in occupied.stderr


@pytest.mark.parametrize("to", ["merged", "gguf", "ct2"])
def test_a_disk_that_fills_up_leaves_nothing_half(llama_run: Path, tmp_path: Path, to: str) -> None:
    if to == "ct2":
        pytest.importorskip("ctranslate2")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        outcome = invoke("export", llama_run, "--to", to, "--output", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.exit_code == 3, outcome.stderr
    assert "disk is full" in outcome.stderr and "nothing was lost" in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_an_export_that_cannot_fit_is_not_begun(
    llama_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda _: nothing)
    outcome = invoke("export", llama_run, "--to", "merged", "--output", tmp_path / "out")
    assert outcome.exit_code == 3 and "was not begun" in outcome.stderr


def _ct2(run: Path) -> Callable[[str], dict[str, Any]]:
    pytest.importorskip("ctranslate2")
    return lambda precision: export(
        run, run.parent / f"ct2-{precision}", "ct2", "--quantization", precision
    )


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["llama_run", "qwen2_run", "t5_run"])
def test_ctranslate2_in_fp32_is_the_adapter_and_int8_says_what_it_lost(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(fixture)
    convert = _ct2(run)
    exact, rounded = convert("float32"), convert("int8")
    (gate,) = exact["gates"]
    assert gate["by"] == "CTranslate2" and gate["export"]["logprob"] < 1e-3
    assert gate["export"]["same_answers"] >= 31
    assert rounded["gates"][0]["export"]["logprob"] > gate["export"]["logprob"]
    sizes = [row["files"]["model.bin"]["bytes"] for row in (exact, rounded)]
    assert sizes[1] < 0.6 * sizes[0]
    words = invoke(
        "export", run, "--to", "ct2", "--quantization", "int8", "--output", run.parent / "again"
    )
    assert "quantised, by CTranslate2: chrF" in words.stdout
    assert "95 % interval [" in words.stdout


@pytest.mark.slow
def test_an_encoder_decoder_merges_and_has_no_gguf(t5_run: Path, tmp_path: Path) -> None:
    result = export(t5_run, tmp_path / "merged", "merged")
    assert result["gates"][0]["passed"]
    outcome = invoke("export", t5_run, "--to", "gguf", "--output", tmp_path / "gguf")
    assert outcome.exit_code == 2 and "does not know this architecture" in outcome.stderr


@pytest.mark.slow
def test_the_launch_files_say_what_the_adapter_was_trained_on(
    llama_run: Path, tmp_path: Path
) -> None:
    export(llama_run, tmp_path / "vllm", "vllm")
    script = tmp_path / "vllm/serve.sh"
    assert script.stat().st_mode & 0o111
    assert "vllm serve" in script.read_text() and "--max-model-len 1024" in script.read_text()

    result = export(llama_run, tmp_path / "ollama", "ollama", "--quantization", "q8_0")
    assert "run by Ollama: not tried on this machine" in result["notes"]
    lines = (tmp_path / "ollama/Modelfile").read_text()
    assert "FROM ./model-q8_0.gguf" in lines and 'PARAMETER stop """<|im_end|>"""' in lines
    asked = "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}"
    assert f'TEMPLATE """{asked}"""' in lines
