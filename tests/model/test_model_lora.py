"""The LoRA invariants, against PEFT and the base model itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from veritune.config import LoraSection, ModelSection
from veritune.errors import ModelReferenceError, RecipeError
from veritune.model.adapter import load_adapter, save_adapter
from veritune.model.hardware import Placement
from veritune.model.load import empty_model, load_model
from veritune.model.lora import attach_lora, coverage

CPU = Placement(torch.device("cpu"), torch.float32)
FOLDERS = ["tiny_llama_folder", "tiny_qwen2_folder", "tiny_t5_folder"]


def _logits(model: torch.nn.Module, seq2seq: bool) -> torch.Tensor:
    ids = torch.arange(5, 25).reshape(2, 10)
    extra = {"decoder_input_ids": ids[:, :6]} if seq2seq else {}
    with torch.no_grad():
        return model(input_ids=ids, **extra).logits


def _shake(model: torch.nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.mark.parametrize("fixture", FOLDERS)
def test_a_fresh_adapter_changes_nothing_and_a_disabled_one_restores_the_base(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    loaded = load_model(ModelSection(name_or_path=str(folder)), CPU)
    seq2seq = loaded.kind == "seq2seq"
    before = _logits(loaded.model, seq2seq)
    model = attach_lora(loaded.model, LoraSection(r=4, dropout=0.0), seed=0).eval()
    assert torch.equal(_logits(model, seq2seq), before)
    _shake(model)
    assert not torch.allclose(_logits(model, seq2seq), before, atol=1e-4)
    with model.disable_adapter():
        assert torch.equal(_logits(model, seq2seq), before)


@pytest.mark.parametrize("init", ["default", "pissa"])
@pytest.mark.parametrize("fixture", FOLDERS)
def test_plain_peft_loads_a_saved_adapter_with_the_same_logits(
    fixture: str, init: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from peft import PeftModel

    folder: Path = request.getfixturevalue(fixture)
    section = ModelSection(name_or_path=str(folder))
    model = attach_lora(
        load_model(section, CPU).model,
        LoraSection(r=4, dropout=0.0, init=init),
        seed=0,
    ).eval()
    initial = None
    if init == "pissa":
        initial = tmp_path / "initial"
        save_adapter(model, initial, base_name=str(folder))
    _shake(model)
    save_adapter(model, tmp_path / "adapter", base_name=str(folder), initial=initial)
    fresh = load_model(section, CPU)
    seq2seq = fresh.kind == "seq2seq"
    expected = _logits(model, seq2seq)
    plain = PeftModel.from_pretrained(fresh.model, tmp_path / "adapter").eval()
    assert torch.allclose(_logits(plain, seq2seq), expected, atol=1e-5)
    ours = load_adapter(load_model(section, CPU).model, tmp_path / "adapter")
    assert torch.allclose(_logits(ours, seq2seq), expected, atol=1e-5)
    # Merged equals base + scaled BA.
    assert torch.allclose(_logits(plain.merge_and_unload(), seq2seq), expected, atol=1e-4)


def test_the_coverage_table_adds_up_to_what_peft_counts(tiny_llama_folder: Path) -> None:
    skeleton, _ = empty_model(ModelSection(name_or_path=str(tiny_llama_folder)))
    model = attach_lora(skeleton, LoraSection(r=4, target_modules="attention"), seed=0)
    table = coverage(model)
    trainable, total = model.get_nb_trainable_parameters()
    assert (table.trainable_parameters, table.total_parameters) == (trainable, total)
    assert sum(row.parameters for row in table.rows) == trainable
    covered = {row.module.rpartition(".")[2] for row in table.rows if row.adapted}
    assert covered == {"q_proj", "k_proj", "v_proj", "o_proj"}
    bare = {row.module.rpartition(".")[2] for row in table.rows if not row.adapted}
    assert {"gate_proj", "lm_head"} <= bare


def test_all_linear_leaves_the_head_alone(tiny_qwen2_folder: Path) -> None:
    skeleton, _ = empty_model(ModelSection(name_or_path=str(tiny_qwen2_folder)))
    model = attach_lora(skeleton, LoraSection(r=2, target_modules="all-linear"), seed=0)
    rows = {row.module.rpartition(".")[2]: row.adapted for row in coverage(model).rows}
    assert rows["down_proj"] and not rows["lm_head"]


@pytest.mark.parametrize("targets", [["q_prj"], ["q_proj", "nothing"], "nonsense", ["ln"]])
def test_a_target_that_matches_nothing_is_refused_with_the_real_names(
    targets: str | list[str], tiny_llama_folder: Path
) -> None:
    skeleton, _ = empty_model(ModelSection(name_or_path=str(tiny_llama_folder)))
    with pytest.raises(RecipeError, match="matches no linear module") as caught:
        attach_lora(skeleton, LoraSection(target_modules=targets), seed=0)
    assert "q_proj" in str(caught.value)


def test_dora_and_rslora_and_bias_train_something(tiny_llama_folder: Path) -> None:
    section = ModelSection(name_or_path=str(tiny_llama_folder))
    for lora in (
        LoraSection(r=2, use_dora=True),
        LoraSection(r=2, use_rslora=True),
        LoraSection(r=2, init="gaussian"),
        LoraSection(r=2, init="olora"),
    ):
        model = attach_lora(load_model(section, CPU).model, lora, seed=0)
        assert coverage(model).trainable_parameters > 0


def test_a_damaged_or_missing_adapter_is_explained(tiny_llama_folder: Path, tmp_path: Path) -> None:
    base = load_model(ModelSection(name_or_path=str(tiny_llama_folder)), CPU)
    with pytest.raises(ModelReferenceError, match=r"no adapter_config\.json"):
        load_adapter(base.model, tmp_path)
    model = attach_lora(base.model, LoraSection(r=2), seed=0)
    save_adapter(model, tmp_path / "adapter", base_name="x")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    fresh = load_model(ModelSection(name_or_path=str(tiny_llama_folder)), CPU)
    with pytest.raises(ModelReferenceError, match="cannot be loaded"):
        load_adapter(fresh.model, tmp_path / "adapter")


def test_an_adapter_of_another_base_is_refused(
    tiny_llama_folder: Path, tiny_t5_folder: Path, tmp_path: Path
) -> None:
    llama = load_model(ModelSection(name_or_path=str(tiny_llama_folder)), CPU)
    save_adapter(
        attach_lora(llama.model, LoraSection(r=2), seed=0), tmp_path / "adapter", base_name="x"
    )
    t5 = load_model(ModelSection(name_or_path=str(tiny_t5_folder)), CPU)
    with pytest.raises(ModelReferenceError, match="cannot be loaded"):
        load_adapter(t5.model, tmp_path / "adapter")
