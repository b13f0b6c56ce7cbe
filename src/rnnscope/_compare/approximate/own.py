"""What a candidate's own parameters show: the reference's, rounded in a known way or nearly."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnscope._compare.approximate.approximation import (
    MATRICES,
    Approximation,
    of_parameters,
    of_weights,
)
from rnnscope._compare.approximate.rounding import FIXED, SCALED
from rnnscope._compare.model.model import Model

__all__ = ["own_parameters"]

NEAR = 0.25
"""Parameters are nearly the reference's where they differ by so much of their size."""

EQUAL = 1e-6
"""Rounded ones are equal to so much of the largest: they are computed in float32."""


def own_parameters(model: Model, own: Model | None) -> Approximation | None:
    """The candidate's own parameters as an approximation of the reference's; None where there are
    none, or where they are others."""
    if own is None or not all(
        _apart(a, b) <= NEAR * float(a.norm()) for a, b in _pairs(model, own)
    ):
        return None
    for names in MATRICES:
        for rounding in (*FIXED, *SCALED):
            rounded = of_weights(rounding, names).change(model)
            if rounded is not None and all(
                bool(((a - b).abs() <= EQUAL * b.abs().max()).all())
                for a, b in _pairs(rounded, own)
            ):
                return of_parameters(own, rounding, names)
    return of_parameters(own, None, next(iter(MATRICES)))


def _apart(value: Tensor, other: Tensor) -> float:
    return float((value - other).norm()) if bool(torch.isfinite(other).all()) else float("inf")


def _pairs(model: Model, own: Model) -> list[tuple[Tensor, Tensor]]:
    """Every parameter of the two."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for row, other_row in zip(model.parts, own.parts, strict=True):
        for part, other in zip(row, other_row, strict=True):
            mine, theirs = part.weights.named(), other.weights.named()
            pairs += [(mine[name], theirs[name]) for name in mine]
    return pairs
