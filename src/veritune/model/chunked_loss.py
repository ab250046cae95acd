"""Cross-entropy of ``hidden Wᵀ`` in a fixed number of large chunks, for an accelerator.

As ``cpu_layers.LinearCrossEntropy`` (Liger's idea; Hsu et al., 2024): the gradient of the
hidden states is made on the way forward, so no more than one chunk of logits ever exists.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

_CHUNK_VALUES = 2**27
"""Logits at a time: half a GiB in fp32."""


def chunk_rows(vocabulary: int) -> int:
    """Rows of a chunk: a power of two."""
    return 1 << max(6, (_CHUNK_VALUES // vocabulary).bit_length() - 1)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropies where W is frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        importance: torch.Tensor,
    ) -> torch.Tensor:
        """Take the losses.

        Args:
            ctx: autograd's.
            hidden: ``[n, d]``; weight: ``[V, d]``; labels: ``[n]``.
            importance: ``[n]``, factor of each loss and of its gradient; 0 for padding.

        Returns:
            ``[n]`` cross-entropies in nats times their importance, fp32 or wider.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses, gradients = [], []
        for part, wanted, factor in zip(
            *(torch.split(t, chunk_rows(weight.shape[0])) for t in (hidden, labels, importance)),
            strict=True,
        ):
            logits = F.linear(part, weight).to(wide)
            truth = wanted.unsqueeze(1)
            total = torch.logsumexp(logits, -1)
            losses.append((total - logits.gather(1, truth).squeeze(1)) * factor)
            if ctx.needs_input_grad[0]:
                p = torch.exp(logits - total.unsqueeze(1))
                p = p.scatter_add(1, truth, torch.full_like(truth, -1, dtype=wide))
                gradients.append((p * factor.unsqueeze(1)).to(hidden.dtype) @ weight)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[Any, ...]:
        """Gradient of the hidden states."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].unsqueeze(1).to(gradient.dtype), None, None, None
