"""What rounding does at worst, where the usual bound of ``bounds`` is exceeded.

That bound takes roundings as independent. Where all terms of a sum have one sign, or all weights
are equal, they are not: each rounds in the same direction. So before anything is raised, the
equations are evaluated once more in float64, from the layer's own numbers, and beside each number
goes the largest error that the layer may have made until there.

A sum of n terms is off by at most u times the sum of the magnitudes of its n partial sums (Higham,
"Accuracy and Stability of Numerical Algorithms", 2002, section 4.2). A kernel adds terms in their
order, in stretches of any length, so a partial sum is one of consecutive terms; or in lanes side by
side, each of which sums n / lanes terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from rnnscope._opening.bounds import CASTS
from rnnscope._opening.per_unit import Ball, LayerRun, PerUnit
from rnnscope.cells.algebra import Expr, Project

__all__ = ["WorstCase"]

STRETCHES = 32
"""Into how many stretches a sum is cut to find its largest partial sum."""
LANES = 8
"""Partial sums that a kernel keeps at least where it sums in lanes: an AVX register."""
JOINING = 4
"""Roundings of a term when lanes are joined."""
SECOND_ORDER = 1.01
"""Products of roundings."""
JUDGE = 2.0**-53
"""The unit roundoff of the evaluation here."""


class WorstCase(PerUnit):
    """Evaluated in float64, with every partial sum of a product at its worst."""

    def __init__(self, run: LayerRun) -> None:
        super().__init__(run)
        weights, rounding = run.weights, run.rounding
        self.product = SECOND_ORDER * (rounding.product + JUDGE)
        self.operation = SECOND_ORDER * (rounding.operation + JUDGE)
        self.cast = SECOND_ORDER * rounding.cast
        # of the sum of W_ih x, W_hh h and two biases: kernels add one to the other
        self.terms = weights.ih.shape[1] + weights.hh.shape[1] + 2

    def _place(self, hidden: Tensor) -> tuple[torch.device, torch.dtype]:
        return torch.device("cpu"), torch.float64

    def _affine(self, leaf: Expr, weight: Tensor, bias: Tensor | None, of: Ball) -> Ball:
        """W v + b, its products summed in any order that a kernel takes."""
        value, error = of
        units, length = weight.shape
        if leaf not in self.matrices:
            self.matrices[leaf] = _Matrix.of(weight)
        matrix = self.matrices[leaf]
        flat = value.reshape(-1, length)
        stretches = _stretches(flat)
        width = stretches.shape[2]
        spread = error.reshape(-1, length) @ matrix.absolute.T
        total, run = _consecutive(
            torch.bmm(stretches, matrix.stretches), torch.bmm(stretches.abs(), matrix.sizes)
        )
        size = flat.abs() @ matrix.absolute.T + spread
        chain = torch.maximum(run * width, flat.abs() @ matrix.lanes.T) + length * spread
        if not isinstance(leaf, Project):
            # W_ih x, W_hh h and two biases are added to each other, before or after they are summed
            chain = chain + (self.terms - length) * (total.abs() + spread)
        if bias is not None:
            chain, size = chain + self.terms * bias.abs(), size + bias.abs()
            total = total + bias
        rounded = self.product * (chain + 2 * size) + CASTS * self.cast * size
        # a factor too small for its type may be lost, and a product as well
        lost = flat.abs().sum(1, keepdim=True) + matrix.absolute.sum(1) + self.terms
        bound = spread + rounded + self.rounding.least * lost
        # a sum may overflow, and a factor in the type to which it is cast
        largest = torch.maximum(flat.abs().amax(1, keepdim=True), matrix.absolute.amax(1))
        fits = torch.maximum(size + bound, largest) < self.rounding.limit
        bound = torch.where(fits, bound, torch.inf)
        shape = (*value.shape[:-1], units)
        return total.view(shape), bound.view(shape)


@dataclass(frozen=True)
class _Matrix:
    """A weight (unit, term): its magnitudes, those times the roundings that meet a term where a
    kernel sums in lanes, and (stretch, term, unit) as it is and in magnitudes."""

    absolute: Tensor
    lanes: Tensor
    stretches: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> _Matrix:
        absolute = weight.abs()
        after = torch.arange(weight.shape[1] - 1, -1, -1, device="cpu") // LANES
        stretches = _stretches(weight).transpose(1, 2).contiguous()
        return cls(absolute, absolute * (after + 1 + JOINING), stretches, stretches.abs())


def _consecutive(parts: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The sum, and the sum of the magnitudes of all partial sums where terms are added in their
    order, from any term on; of each stretch one.

    ``parts`` (stretch, row, unit) are the sums of stretches of terms, ``sizes`` those of their
    magnitudes. Within a stretch the sum of all terms until there lies between low and high.
    """
    after = parts.cumsum(0)
    middle = after - parts / 2
    low, high = middle - sizes / 2, middle + sizes / 2
    longest = torch.maximum(
        high - low.cummin(0).values.clamp(max=0), high.cummax(0).values.clamp(min=0) - low
    )
    return after[-1], longest.sum(0)


def _stretches(rows: Tensor) -> Tensor:
    """(rows, terms) cut into (stretches, rows, terms of a stretch), with zeros at the end."""
    count, length = rows.shape
    stretches = min(STRETCHES, length)
    width = -(-length // stretches)
    return pad(rows, (0, stretches * width - length)).view(count, stretches, width).transpose(0, 1)
