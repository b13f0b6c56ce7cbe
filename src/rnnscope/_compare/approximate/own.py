"""What a candidate's own parameters show: the reference's, rounded in a known way or nearly."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnscope._compare.approximate.approximation import (
    MATRICES,
    Approximation,
    Names,
    of_parameters,
    of_weights,
)
from rnnscope._compare.approximate.rounding import FIXED, SCALED, Quantiser
from rnnscope._compare.model.model import Model

__all__ = ["own_parameters"]

NEAR = 0.25
"""Parameters are nearly the reference's where they differ by so much of their size."""

EQUAL = 1e-6
"""Rounded ones are equal to so much of the largest: they are computed in float32."""


def own_parameters(model: Model, candidate: Model | None) -> Approximation | None:
    """The candidate's own parameters as an approximation of the reference's; None where there are
    none, or where they are others."""
    if candidate is None or any(
        _apart(first, second) > NEAR * float(first.norm())
        for first, second in _pairs(model, candidate)
    ):
        return None
    for names in MATRICES:
        for quantiser in (*FIXED, *SCALED):
            if _gives(quantiser, names, model, candidate):
                return of_parameters(candidate, quantiser, names)
    return of_parameters(candidate, None, next(iter(MATRICES)))


def _gives(quantiser: Quantiser, names: Names, model: Model, candidate: Model) -> bool:
    """Whether this rounding of the reference's parameters gives the candidate's."""
    lowest, close = (whole.parts[0][0].weights for whole in (model, candidate))
    first = quantiser(getattr(lowest, names[0]), lowest.hidden_size)
    if not _equal(first, getattr(close, names[0])):
        return False  # as of most: no more need be computed
    rounded = of_weights(quantiser, names).change(model)
    return rounded is not None and all(_equal(*pair) for pair in _pairs(rounded, candidate))


def _equal(value: Tensor, close: Tensor) -> bool:
    return bool(((value - close).abs() <= EQUAL * close.abs().max()).all())


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
