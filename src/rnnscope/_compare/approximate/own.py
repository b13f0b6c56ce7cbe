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


def own_parameters(model: Model, candidate: Model | None) -> Approximation | None:
    """The candidate's own parameters as an approximation of the reference's; None where there are
    none, or where they are others."""
    if candidate is None or not all(
        _apart(a, b) <= NEAR * float(a.norm()) for a, b in _pairs(model, candidate)
    ):
        return None
    for names in MATRICES:
        for rounding in (*FIXED, *SCALED):
            rounded = of_weights(rounding, names).change(model)
            if rounded is not None and all(
                bool(((a - b).abs() <= EQUAL * b.abs().max()).all())
                for a, b in _pairs(rounded, candidate)
            ):
                return of_parameters(candidate, rounding, names)
    return of_parameters(candidate, None, next(iter(MATRICES)))


def _apart(value: Tensor, close: Tensor) -> float:
    return float((value - close).norm()) if bool(torch.isfinite(close).all()) else float("inf")


def _pairs(model: Model, candidate: Model) -> list[tuple[Tensor, Tensor]]:
    """Every parameter of the two."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for row, close_row in zip(model.parts, candidate.parts, strict=True):
        for part, close in zip(row, close_row, strict=True):
            first, second = part.weights.named(), close.weights.named()
            pairs += [(first[name], second[name]) for name in first]
    return pairs
