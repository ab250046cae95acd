"""What is supervised, and that padding and packing change no loss and no gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from veritune.config import LoraSection, ModelSection
from veritune.errors import DataError, EnvironmentFault
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import Placement
from veritune.model.load import load_model
from veritune.model.lora import attach_lora
from veritune.train.batches import (
    IGNORED,
    EncodedPair,
    Layout,
    audit_supervision,
    epoch_batches,
    make_layout,
)
from veritune.train.loss import loss_sum, mean_loss

CPU = Placement(torch.device("cpu"), torch.float32)
END = 3
PAIRS = [
    EncodedPair("a", (5, 6, 7), (8, 9, END)),
    EncodedPair("b", (5,), (10, 11, 12, 13, END)),
    EncodedPair("c", (6, 7, 8, 9, 10, 11), (14, END)),
]
ids = st.lists(st.integers(4, 50), min_size=1, max_size=9)
some_pairs = st.lists(
    st.tuples(ids, ids).map(lambda p: EncodedPair(str(p), tuple(p[0]), (*p[1], END))),
    min_size=1,
    max_size=5,
)


def _layout(kind: str, padding: str, pairs: list[EncodedPair], pad_id: int = 0) -> Layout:
    return make_layout(kind, padding, pairs, pad_id=pad_id, decoder_start_id=0)  # type: ignore[arg-type]


@given(some_pairs, st.sampled_from(["longest_in_batch", "longest_in_data", "packed"]))
def test_exactly_the_answers_are_supervised_in_decoder_rows(
    pairs: list[EncodedPair], padding: str
) -> None:
    # pad id = end id: the trap that masking by id falls into.
    batch = _layout("causal", padding, pairs, pad_id=END).batch(pairs)
    supervised = batch.labels[batch.labels != IGNORED].tolist()
    assert supervised == [token for pair in pairs for token in pair.target_ids]
    assert batch.n_supervised == len(supervised)
    assert batch.n_real_tokens == sum(pair.n_tokens for pair in pairs)
    row, positions = (batch.labels != IGNORED).nonzero(as_tuple=True)
    followers = batch.inputs["input_ids"][row, positions + 1]
    assert followers.tolist() == supervised


@given(some_pairs)
def test_exactly_the_targets_are_supervised_in_encoder_decoder_rows(
    pairs: list[EncodedPair],
) -> None:
    batch = _layout("seq2seq", "longest_in_batch", pairs, pad_id=END).batch(pairs)
    supervised = batch.labels[batch.labels != IGNORED].tolist()
    assert supervised == [token for pair in pairs for token in pair.target_ids]
    for row, pair in enumerate(pairs):
        n = len(pair.target_ids)
        assert batch.inputs["decoder_input_ids"][row, :n].tolist() == [0, *pair.target_ids[:-1]]
        assert int(batch.inputs["attention_mask"][row].sum()) == len(pair.source_ids)


@given(some_pairs, st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_is_a_permutation_fixed_by_seed_and_epoch(
    pairs: list[EncodedPair], batch_size: int, epoch: int
) -> None:
    batches = epoch_batches(pairs, batch_size, seed=0, epoch=epoch)
    flat = [pair for batch in batches for pair in batch]
    assert sorted(p.example_id for p in flat) == sorted(p.example_id for p in pairs)
    assert batches == epoch_batches(pairs, batch_size, seed=0, epoch=epoch)


def test_seed_zero_is_a_seed() -> None:
    many = [EncodedPair(str(i), (5,), (6, END)) for i in range(50)]
    assert epoch_batches(many, 8, seed=0, epoch=0) != epoch_batches(many, 8, seed=1, epoch=0)
    assert epoch_batches(many, 8, seed=0, epoch=0) != epoch_batches(many, 8, seed=0, epoch=1)


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_qwen2_folder"])
def test_packing_and_padding_give_the_same_loss_and_gradients(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model = _adapted(request.getfixturevalue(fixture))
    results = []
    for padding in ("longest_in_batch", "longest_in_data", "packed"):
        batch = _layout("causal", padding, PAIRS).batch(PAIRS)
        results.append(_loss_and_gradients(model, batch))
    singles = [_layout("causal", "packed", [p]).batch([p]) for p in PAIRS]
    alone = [_loss_and_gradients(model, batch) for batch in singles]
    expected = sum(loss for loss, _ in alone), sum(gradient for _, gradient in alone)
    assert use_packed_attention(model, 9)
    packed = _layout("causal", "packed", PAIRS).batch(PAIRS)
    results.append(_loss_and_gradients(model, packed))
    for loss, gradient in results:
        assert loss == pytest.approx(expected[0], rel=1e-5)
        assert torch.allclose(gradient, expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fixture", ["tiny_llama_folder", "tiny_qwen2_folder", "tiny_t5_folder"])
def test_the_loss_is_the_one_transformers_computes(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    model = _adapted(folder)
    kind = "seq2seq" if "t5" in fixture else "causal"
    batch = _layout(kind, "longest_in_batch", PAIRS).batch(PAIRS)
    if kind == "seq2seq":
        inputs = {k: v for k, v in batch.inputs.items() if k != "decoder_input_ids"}
        theirs = model(**inputs, labels=batch.labels).loss
    else:
        # Transformers shifts labels itself.
        labels = torch.full_like(batch.labels, IGNORED)
        labels[:, 1:] = batch.labels[:, :-1]
        theirs = model(**batch.inputs, labels=labels).loss
    ours = loss_sum(model, batch) / batch.n_supervised
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_mean_loss_weights_tokens_not_batches(tiny_llama_folder: Path) -> None:
    model = _adapted(tiny_llama_folder)
    together = [_layout("causal", "packed", PAIRS).batch(PAIRS)]
    apart = [_layout("causal", "packed", [p]).batch([p]) for p in PAIRS]
    whole = mean_loss(model, together, CPU.device)
    assert mean_loss(model, apart, CPU.device) == pytest.approx(whole, rel=1e-5)
    batch_means = [mean_loss(model, [batch], CPU.device) for batch in apart]
    assert sum(batch_means) / len(batch_means) != pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (EncodedPair("x", (5, 6), (END,)), "no supervised answer"),
        (EncodedPair("x", (5, 6), ()), "no supervised answer"),
        (EncodedPair("x", (5, 6), (7, 8)), "no supervised answer"),
        (EncodedPair("x", (), (7, END)), "empty prompt"),
    ],
)
def test_training_refuses_an_example_that_teaches_nothing(pair: EncodedPair, message: str) -> None:
    with pytest.raises(DataError, match=message):
        audit_supervision([*PAIRS, pair], END)
    with pytest.raises(DataError, match="nothing to train"):
        audit_supervision([], END)


def _adapted(folder: Path) -> torch.nn.Module:
    model = load_model(ModelSection(name_or_path=str(folder)), CPU).model
    model = attach_lora(model, LoraSection(r=4, dropout=0.0), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def _loss_and_gradients(model: torch.nn.Module, batch) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = loss_sum(model, batch)
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return float(loss.detach()), torch.cat(gradients)


def test_packed_attention_refuses_rows_that_are_not_packed(tiny_llama_folder: Path) -> None:
    model = _adapted(tiny_llama_folder)
    assert use_packed_attention(model, 9)
    padded = _layout("causal", "longest_in_batch", PAIRS).batch(PAIRS)
    with pytest.raises(EnvironmentFault, match="not packed"):
        loss_sum(model, padded)
