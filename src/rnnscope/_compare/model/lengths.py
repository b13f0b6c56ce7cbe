"""Rows of unequal length in a padded array, (time, batch, ...)."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnscope._layers.sequences import at_steps, last_steps

__all__ = ["ends", "flipped", "moved", "turned"]


def turned(value: Tensor, lengths: Tensor | None) -> Tensor:
    """Every row reversed within its length; padding stays where it is."""
    if lengths is None:
        return value.flip(0)
    steps = torch.arange(value.shape[0], device="cpu")[:, None]
    order = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return value[order, torch.arange(value.shape[1], device="cpu")]


def flipped(value: Tensor, axis: str, lengths: Tensor | None) -> Tensor:
    """Reversed along "time" (within each row's length), "batch" or "feature"; along "" as it is."""
    match axis:
        case "time":
            return turned(value, lengths)
        case "batch":
            return value.flip(1)
        case "feature":
            return value.flip(-1)
    return value


def moved(value: Tensor, lengths: Tensor, to_end: bool) -> Tensor:
    """Every row moved to the end of the padded time, or from there back to its start."""
    by = value.shape[0] - lengths
    steps = torch.arange(value.shape[0], device="cpu")[:, None] + (-by if to_end else by)
    return value[steps % value.shape[0], torch.arange(value.shape[1], device="cpu")]


def ends(value: Tensor, lengths: Tensor | None) -> Tensor:
    """Every row at its last step, (batch, ...)."""
    return value[-1] if lengths is None else value[at_steps(last_steps(lengths, False))]
