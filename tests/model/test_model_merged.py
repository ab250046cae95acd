"""The merged model: what PEFT merges, without touching the weights it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from veritune.config import LoraSection, ModelSection
from veritune.model.adapter import load_adapter, save_adapter
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.model.merged import merged_model, own_memory, share_weights

CPU = Placement(torch.device("cpu"), torch.float32)


def _base(folder: Path, placement: Placement = CPU) -> Any:
    return load_model(ModelSection(name_or_path=str(folder)), placement).model


def _adapter(folder: Path, target: Path, **settings: Any) -> Path:
    model = attach_lora(_base(folder), LoraSection(r=4, dropout=0.0, **settings), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    save_adapter(model, target, base_name=str(folder))
    return target


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_t5_folder"])
@pytest.mark.parametrize("settings", [{}, {"use_dora": True, "use_rslora": True}])
def test_it_is_what_peft_merges_and_changes_nothing_else(
    fixture: str, settings: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(fixture)
    adapter = _adapter(folder, tmp_path / "adapter", target_modules="all-linear", **settings)
    oracle = load_adapter(_base(folder), adapter).merge_and_unload()

    base = _base(folder)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    plain = share_weights(base)
    merged = merged_model(plain, load_adapter(base, adapter))
    expected = oracle.state_dict()
    found = merged.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-6), name
    assert any(not torch.equal(found[name], before[name]) for name in before)
    # The plain copy still is the base, tensor by tensor and to the bit.
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_bf16_weights_are_folded_in_fp32_and_unadapted_ones_are_shared(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    adapter = _adapter(tiny_llama_folder, tmp_path / "adapter")
    exact = load_adapter(_base(tiny_llama_folder), adapter)
    base = _base(tiny_llama_folder, Placement(torch.device("cpu"), torch.bfloat16))
    plain = share_weights(base)
    merged = merged_model(plain, load_adapter(base, adapter))
    name = "model.layers.0.self_attn.q_proj"
    layer = exact.get_base_model().get_submodule(name)
    rounded = layer.base_layer.weight.bfloat16().float()
    expected = (rounded + layer.get_delta_weight("default")).bfloat16()
    assert torch.equal(merged.get_submodule(name).weight, expected)
    mlp = "model.layers.0.mlp.up_proj.weight"
    assert merged.get_parameter(mlp).data_ptr() == plain.get_parameter(mlp).data_ptr()


def test_weights_leave_the_mapped_file_for_all_who_share_them(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    base = _base(tiny_llama_folder)
    plain = share_weights(base)
    adapted = load_adapter(base, _adapter(tiny_llama_folder, tmp_path / "adapter"))
    before = {
        name: (tensor.clone(), tensor.data_ptr()) for name, tensor in plain.named_parameters()
    }
    own_memory(plain)
    inside = dict(adapted.get_base_model().named_parameters())
    for name, tensor in plain.named_parameters():
        values, place = before[name]
        assert torch.equal(tensor, values)
        assert tensor.data_ptr() != place and tensor.data_ptr() % 64 == 0
        wrapped = name.replace("_proj.", "_proj.base_layer.")
        assert inside.get(name, inside.get(wrapped)).data_ptr() == tensor.data_ptr()
