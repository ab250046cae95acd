"""GGUF files: read back by two independent readers, and refused where they would be guessed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_export import _oracle, export

from test_main_job import invoke
from tiny_models import build_tokenizer
from veritune.errors import ModelReferenceError
from veritune.export import llama_cpp, writers
from veritune.export.gguf_file import _interleaved, refuse_unknown, write_gguf
from veritune.export.gguf_rotation import divisors, stretch_as_stored
from veritune.export.gguf_tokenizer import pre_tokenizer_name
from veritune.model.prompt import PromptFormat


def _definition(pre_tokenizer: Any, **changes: Any) -> dict[str, Any]:
    tokenizer = build_tokenizer(chat=True).backend_tokenizer
    tokenizer.pre_tokenizer = pre_tokenizer
    return {**json.loads(tokenizer.to_str()), **changes}


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["llama_run", "qwen2_run"])
def test_a_file_holds_shape_tokenizer_and_weights(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import gguf
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    run = request.getfixturevalue(fixture)
    result = export(run, tmp_path / "f16", "gguf")
    (path,) = (tmp_path / "f16").glob("*.gguf")
    by = [gate["by"] for gate in result["gates"]]
    if llama_cpp.has_llama_cpp():
        assert by == ["transformers", "llama.cpp"] and not result["notes"]
    else:
        assert by == ["transformers"] and "unverified by llama.cpp" in result["notes"][0]

    # Read by transformers, every weight is where it was.
    read_back = AutoModelForCausalLM.from_pretrained(
        tmp_path / "f16", gguf_file=path.name, quantization_config=GgufConfig(dequantize=True)
    ).state_dict()
    for name, tensor in _oracle(run).state_dict().items():
        if "inv_freq" not in name:
            assert torch.allclose(read_back[name].float(), tensor, atol=1e-3), name

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = AutoConfig.from_pretrained(run.parent / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.parent / "model")
    name = config.model_type
    assert fields["general.architecture"] == name
    assert fields[f"{name}.block_count"] == 2 and fields[f"{name}.attention.head_count_kv"] == 2
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    # transformers cuts text for every Qwen2 as Qwen2 itself does, whatever the folder says.
    assert fields["tokenizer.ggml.pre"] == {"llama": "gpt-2", "qwen2": "qwen2"}[name]
    assert fields["tokenizer.ggml.eos_token_id"] == 3
    tokens = fields["tokenizer.ggml.tokens"]
    assert [tokens[index] for index in (0, 3, 50)] == tokenizer.convert_ids_to_tokens([0, 3, 50])
    assert len(tokens) == config.vocab_size
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16" and kinds["blk.0.attn_norm.weight"] == "F32"
    assert ("blk.0.attn_q.bias" in kinds) == (name == "qwen2")


@pytest.mark.slow
def test_q8_0_is_half_of_f16_and_prints_its_loss(llama_run: Path, tmp_path: Path) -> None:
    sizes = [
        sum(
            row["bytes"]
            for name, row in export(llama_run, tmp_path / kind, "gguf", "--quantization", kind)[
                "files"
            ].items()
            if name.endswith(".gguf")
        )
        for kind in ("f32", "q8_0")
    ]
    assert sizes[1] < 0.5 * sizes[0]
    again = ("--quantization", "q8_0", "--output", tmp_path / "q8_0")
    words = invoke("export", llama_run, "--to", "gguf", *again).stdout
    assert "quantised, by transformers: chrF" in words and "95 % interval [" in words


def test_queries_and_keys_are_turned_as_llama_cpp_wants_them() -> None:
    n_heads, half = 3, 4
    rows = torch.arange(n_heads * 2 * half, dtype=torch.float32)[:, None].repeat(1, 5)
    found = _interleaved(rows, n_heads)[:, 0].reshape(n_heads, 2 * half).numpy()
    for head in range(n_heads):
        first = head * 2 * half + np.arange(half)
        # Pairs (i, i + half) become neighbours (2 i, 2 i + 1).
        assert (found[head, 0::2] == first).all() and (found[head, 1::2] == first + half).all()


def _stretched(architecture: str, **rope: Any) -> Any:
    import transformers

    settings: dict[str, Any] = {
        "vocab_size": 420, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": 3, "pad_token_id": 0,
        "bos_token_id": None, "max_position_embeddings": 512,
        "rope_parameters": {"rope_theta": 1e4, **rope},
    }  # fmt: skip
    torch.manual_seed(0)
    kind: Any = getattr(transformers, f"{architecture}ForCausalLM")
    return kind(getattr(transformers, f"{architecture}Config")(**settings)).eval()


def test_a_rotation_stretched_as_llama_3_has_it_is_kept(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    rope = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    model = _stretched("Llama", **rope)
    refuse_unknown(model.config)
    wording = PromptFormat(
        build_tokenizer(chat=True), "causal", chat=True, template="{question}", system=None,
        join_input=True, end_id=3,
    )  # fmt: skip
    path = tmp_path / "model.gguf"
    write_gguf(model, wording, path, precision="f32", name="stretched")
    read_back: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True)
    ).eval()
    ids = torch.randint(4, 400, (1, 200))
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits
        # Read without the divisors, it is another model.
        assert not torch.allclose(read_back(input_ids=ids).logits, wanted, atol=1e-3)
        stretch_as_stored(read_back, path)
        assert torch.allclose(read_back(input_ids=ids).logits, wanted, atol=1e-5)

    # The formula of Llama 3, for each wave length: long ones divided by 8, short ones kept.
    for place, found in enumerate(divisors(model)):
        wave = 2 * math.pi * 1e4 ** (place / 16)
        share = min(1.0, max(0.0, (64 / wave - 1) / (4 - 1)))
        assert found == pytest.approx(1 / ((1 - share) / 8 + share), rel=1e-5)


def test_a_rotation_stretched_otherwise_is_refused() -> None:
    for architecture, rope in (
        ("Llama", {"rope_type": "linear", "factor": 2.0}),
        ("Qwen2", {"rope_type": "yarn", "factor": 2.0}),
    ):
        with pytest.raises(ModelReferenceError, match="rotary scaling"):
            refuse_unknown(_stretched(architecture, **rope).config)


def test_every_known_way_of_cutting_text_has_its_name_and_no_other() -> None:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence, Split

    plain = ByteLevel(add_prefix_space=False)
    assert pre_tokenizer_name(_definition(plain)) == "gpt-2"
    digits = Sequence([Digits(individual_digits=True), plain])
    assert pre_tokenizer_name(_definition(digits)) == "smollm"
    # As published with Qwen2 and Llama 3.
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bare = ByteLevel(add_prefix_space=False, use_regex=False)

    def split(text: str) -> Any:
        return Sequence([Split(Regex(text), "isolated"), bare])

    assert pre_tokenizer_name(_definition(split(pattern))) == "llama-bpe"
    qwen = _definition(split(pattern.replace("{1,3}", "")), normalizer={"type": "NFC"})
    assert pre_tokenizer_name(qwen) == "qwen2"

    for unknown in (
        _definition(split(pattern.replace("{1,3}", "{1,2}"))),
        _definition(bare),
        _definition(Digits(individual_digits=True)),
        _definition(Metaspace()),
        _definition(plain, normalizer={"type": "Lowercase"}),
        _definition(ByteLevel(add_prefix_space=True)),
    ):
        with pytest.raises(ModelReferenceError, match="does not know this tokenizer"):
            pre_tokenizer_name(unknown)


@pytest.mark.slow
def test_a_file_with_another_tokenizer_or_template_does_not_pass(
    llama_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = writers.write_gguf

    def with_template(merged: Any, wording: Any, path: Path, **more: Any) -> None:
        kept = wording.tokenizer.chat_template
        wording.tokenizer.chat_template = "{{ messages }}"
        try:
            original(merged, wording, path, **more)
        finally:
            wording.tokenizer.chat_template = kept

    monkeypatch.setattr(writers, "write_gguf", with_template)
    outcome = invoke("export", llama_run, "--to", "gguf", "--output", tmp_path / "x")
    assert outcome.exit_code == 1 and "chat template" in outcome.stderr
    assert not list(tmp_path.iterdir())
