"""The short way gives the answers of the long way, and knows what it does not know."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trained_run import make_trained_run
from veritune.ask.asker import Asker, Manner
from veritune.ask.conversation import ADAPTED
from veritune.ask.open_run import full_asker, open_asker
from veritune.ask.quick_start import quick_asker
from veritune.cli.shared import recipe_of
from veritune.generate.engine import BASE
from veritune.model.quick_llama import LlamaShape, QuickLlama
from veritune.model.quick_tokenizer import QuickTokenizer
from veritune.run_dir import RunDirectory

QUESTIONS = ["Write a function that adds.", "Sort 1234 numbers\n\nplease… 🦜 <|im_end|>", "x"]


def _texts(asker: Asker, manner: Manner) -> list[str]:
    return [
        "".join(asker.ask(question, system, manner))
        for question in QUESTIONS
        for system in (BASE, ADAPTED)
    ]


def _quick(run: Path) -> Asker | None:
    return quick_asker(RunDirectory(run), recipe_of(run, None), ADAPTED)


def test_answers_are_those_of_transformers_and_peft(llama_run: Path) -> None:
    quick = _quick(llama_run)
    assert quick is not None
    full = full_asker(RunDirectory(llama_run), recipe_of(llama_run, None))
    for system in (BASE, ADAPTED):
        ids = torch.tensor([[5, 9, 30, 7, 100, 42]])
        sides = [asker._engine._models[system] for asker in (quick, full)]  # type: ignore[attr-defined]
        with torch.inference_mode():
            found, expected = (model(input_ids=ids, use_cache=True).logits for model in sides)
        assert torch.allclose(found, expected, atol=1e-5)
    for question in QUESTIONS:
        wordings = [asker._format for asker in (quick, full)]
        example = type("Q", (), {"instruction": question, "input": ""})()
        prompts = [wording.prompt(example) for wording in wordings]
        assert prompts[0] == prompts[1]
        ids = [wording.encode_prompt(prompts[0]) for wording in wordings]
        assert ids[0] == ids[1] and wordings[0].end_id == wordings[1].end_id
    for manner in (Manner(24), Manner(24, temperature=0.7, top_p=0.9, seed=1)):
        assert _texts(quick, manner) == _texts(full, manner)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_transformers(tmp_path: Path, tied: bool) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=16, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 5e4}, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    shape = LlamaShape.read(json.loads((tmp_path / "config.json").read_text()))
    assert shape is not None
    quick = QuickLlama(shape, load_file(tmp_path / "model.safetensors"))
    ids = torch.randint(0, 300, (1, 40))
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        whole = quick(input_ids=ids).logits
        first = quick(input_ids=ids[:, :30], logits_to_keep=1)
        cache, rows = first.past_key_values, [first.logits]
        for place in range(30, 40):
            step = quick(input_ids=ids[:, place : place + 1], past_key_values=cache)
            cache, rows = step.past_key_values, [*rows, step.logits]
    assert torch.allclose(whole, expected, atol=1e-5)
    assert torch.allclose(torch.cat(rows, 1), expected[:, 29:], atol=1e-5)


def _changed(run: Path, target: Path, **entries: Any) -> Path:
    shutil.copytree(run, target)
    path = target / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return target


def test_what_it_does_not_know_is_left_to_the_long_way(llama_run: Path, tmp_path: Path) -> None:
    assert _quick(_changed(llama_run, tmp_path / "a", bias="all")) is None
    assert _quick(_changed(llama_run, tmp_path / "b", use_dora=True)) is None
    assert _quick(_changed(llama_run, tmp_path / "c", rank_pattern={"q_proj": 2})) is None
    weights = _changed(llama_run, tmp_path / "d") / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert _quick(tmp_path / "d") is None
    shape = {"model_type": "llama", "hidden_act": "silu", "rope_theta": 1e4}
    for change in (
        {"model_type": "qwen2"},
        {"attention_bias": True},
        {"rope_scaling": {"rope_type": "llama3", "rope_theta": 1e4}},
    ):
        assert LlamaShape.read({**shape, **change}) is None
    folder = tmp_path / "model"
    shutil.copytree(llama_run.parent / "model", folder)
    assert QuickTokenizer.read(folder) is not None
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "Qwen2Tokenizer"})
    )
    assert QuickTokenizer.read(folder) is None


@pytest.mark.slow
def test_a_model_of_another_architecture_is_asked_the_long_way(tmp_path: Path) -> None:
    run = make_trained_run("qwen2", tmp_path)
    assert _quick(run) is None
    asker = open_asker(RunDirectory(run), recipe_of(run, None))
    assert "".join(asker.ask("Add.", ADAPTED, Manner(5)))


@pytest.mark.slow
def test_the_short_way_imports_neither_transformers_nor_peft(llama_run: Path) -> None:
    program = (
        "import sys\n"
        "from veritune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'transformers', 'peft', 'datasets', 'scipy', 'pandas', 'sacrebleu'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "ask", str(llama_run), "Add.", "--max-new-tokens", "4"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), "HOME": str(llama_run)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("[]"), done.stderr
