"""How far two arrays lie apart, where NaN and infinities are data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["absolute_difference", "same"]


def same(a: Tensor, b: Tensor) -> Tensor:
    """Where two numbers are equal; NaN equals NaN, and an infinity itself."""
    return (a == b) | (a.isnan() & b.isnan())


def absolute_difference(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|: 0 where both are NaN or the same infinity, inf where one alone is NaN or infinite.

    >>> nan, inf = torch.nan, torch.inf
    >>> absolute_difference(torch.tensor([1.5, nan, inf, nan]), torch.tensor([1.0, nan, inf, 2.0]))
    tensor([0.5000, 0.0000, 0.0000,    inf])
    """
    apart = (a - b).abs()
    if apart.device.type == "cpu" and apart.numel() and float(apart.max()) < math.inf:
        return apart  # so all are numbers
    apart = torch.where(same(a, b), 0.0, apart)
    return apart.nan_to_num(nan=torch.inf, posinf=torch.inf)
