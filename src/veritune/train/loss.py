"""Cross-entropy summed over supervised tokens; the caller divides by their number.

Dividing once by the tokens of the whole optimizer step, not by batch, gives every token
the same weight whatever the batch it fell into.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from veritune.train.batches import IGNORED, Batch


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Σ cross-entropy over the batch's supervised tokens, in nats, fp32, shape ``[]``."""
    labels = batch.labels
    arguments: dict[str, Any] = {"use_cache": False}
    if labels.shape[0] == 1 and "position_ids" in batch.inputs:
        # One packed row: the vocabulary is only computed where something is supervised.
        positions = (labels[0] != IGNORED).nonzero(as_tuple=True)[0]
        arguments["logits_to_keep"] = positions
        labels = labels[:, positions]
    logits = model(**batch.inputs, **arguments).logits
    supervised = labels != IGNORED
    return F.cross_entropy(logits[supervised].float(), labels[supervised], reduction="sum")


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
