"""Cross-entropy summed over supervised tokens; the caller divides by their number.

Dividing once by the tokens of the whole optimizer step, not by batch, gives every token
the same weight whatever the batch it fell into.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from veritune.model.cpu_layers import LinearCrossEntropy
from veritune.model.fuse import hidden_states
from veritune.train.batches import IGNORED, Batch

_CHUNK = 256
"""Rows of logits at a time where the loss makes them itself."""


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Σ cross-entropy over the batch's supervised tokens, in nats, fp32, shape ``[]``."""
    return token_losses(model, batch).sum()


def token_losses(model: Any, batch: Batch, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy of every supervised token in row-major order, in nats, fp32 or wider.

    Args:
        importance: factor of each of them, ``[n]``, or None.
    """
    labels = batch.labels
    arguments: dict[str, Any] = {"use_cache": False}
    if labels.shape[0] == 1 and "position_ids" in batch.inputs:
        # One packed row: the vocabulary is only computed where something is supervised.
        positions = (labels[0] != IGNORED).nonzero(as_tuple=True)[0]
        arguments["logits_to_keep"] = positions
        labels = labels[:, positions]
    logits = model(**batch.inputs, **arguments).logits
    supervised = labels != IGNORED
    head = _get_head(model)
    rows, wanted = logits[supervised], labels[supervised]
    if getattr(head, "forward", None) is hidden_states:
        losses: torch.Tensor = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows, head.weight, wanted, _CHUNK, importance
        )
        return losses
    wide = torch.promote_types(rows.dtype, torch.float32)
    each = F.cross_entropy(rows.to(wide), wanted, reduction="none")
    return each if importance is None else each * importance


def _get_head(model: Any) -> Any:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_output_embeddings()


@torch.no_grad()
def mean_loss(model: Any, batches: list[Batch], device: torch.device) -> float:
    """Mean cross-entropy per supervised token over some batches; dropout off."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        total += float(loss_sum(model, batch.to(device)))
        count += batch.n_supervised
    model.train(was_training)
    return total / count


@torch.no_grad()
def example_losses(model: Any, batch: Batch) -> list[tuple[float, int]]:
    """(Σ cross-entropy in nats, supervised tokens) of every row of a padded batch."""
    logits = model(**batch.inputs, use_cache=False).logits
    supervised = batch.labels != IGNORED
    each = F.cross_entropy(
        logits[supervised].float(), batch.labels[supervised], reduction="none"
    ).double()
    rows = supervised.nonzero(as_tuple=True)[0]
    sums = torch.zeros(batch.labels.shape[0], dtype=torch.float64, device=each.device)
    sums.index_add_(0, rows, each)
    return list(zip(sums.tolist(), supervised.sum(dim=1).tolist(), strict=True))
