"""Prompts of several slots as the rows of one pass, one prompt after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from veritune.generate.row_products import Who, owner_of


@dataclass(frozen=True)
class PromptRows:
    """Tokens to read.

    Attributes:
        slots, lengths: of the prompts.
        ids, places, systems, of_slots: ``[Σ lengths]``, of each token: what it is, its place in
            its prompt from 0, its adapter's number or 0, its slot.
        who: the same systems, for products.
    """

    slots: list[int]
    lengths: list[int]
    ids: torch.Tensor
    places: torch.Tensor
    systems: torch.Tensor
    of_slots: torch.Tensor
    who: Who


def prompt_rows(
    asked: Sequence[tuple[int, Sequence[int], int]], device: torch.device
) -> PromptRows:
    """Lay prompts out.

    Args:
        asked: of each prompt, at least one: slot, tokens, number of its adapter or 0.
    """
    lengths = [len(prompt) for _, prompt, _ in asked]
    counts = torch.tensor(lengths)
    of_slots, systems = (
        torch.tensor([row[field] for row in asked]).repeat_interleave(counts).to(device)
        for field in (0, 2)
    )
    return PromptRows(
        slots=[slot for slot, _, _ in asked],
        lengths=lengths,
        ids=torch.tensor([token for _, prompt, _ in asked for token in prompt], device=device),
        places=torch.cat([torch.arange(n) for n in lengths]).to(device),
        systems=systems,
        of_slots=of_slots,
        who=Who(owner_of([system for _, _, system in asked]), systems),
    )
