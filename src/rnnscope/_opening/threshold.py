"""From which size on an error shows. Computed when it is asked for: it costs more than opening a
small call, and no verdict depends on it. What it needs is copied when the call is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rnnscope._layers.call import Call
from rnnscope._layers.structure import Weights
from rnnscope._opening.modes import undisturbed
from rnnscope._opening.per_unit import Independent, LayerRun
from rnnscope._opening.worst_case import WorstCase

__all__ = ["Sample", "Threshold"]

STEPS = 32
ROWS = 64
"""Steps, and rows of each matrix, by which the two bounds on products are held against each other.
"""


class Sample:
    """Some steps of a layer in one direction, and some rows of its matrices: copies, of a few
    hundred kilobytes in a large layer."""

    def __init__(self, run: LayerRun) -> None:
        weights, before = run.weights, run.before.flatten(0, 1)
        steps = _spread(STEPS, len(before), before.device)
        rows = _spread(ROWS, len(weights.ih), before.device)
        b_ih, b_hh = (None if bias is None else bias[rows] for bias in (weights.b_ih, weights.b_hh))
        fewer = Weights(weights.cell, weights.ih[rows], weights.hh[rows], b_ih, b_hh, None, "")
        x = run.inputs(0, run.call.steps).flatten(0, 1)[steps].unsqueeze(0)
        h = before[steps].unsqueeze(0)
        call = Call(x, {}, False, True, None, None)
        self.run = LayerRun(fewer, run.rounding, call, run.reverse, _whole(x), h, h)

    @cached_property
    def ratio(self) -> float:
        """How many times its bound a number lies off before ``WorstCase`` calls it wrong: twice
        what the products of some steps show, as a function is steeper where an error is larger."""
        return undisturbed(self._ratio)

    def _ratio(self) -> float:
        run, dtype = self.run, self.run.weights.ih.dtype
        factors = torch.cat([run.call.x[0].to(dtype), run.before[0].to(dtype)], 1)
        rows = torch.arange(len(run.weights.ih), device=factors.device)
        with torch.autocast(factors.device.type, enabled=False):
            pairs = zip(
                WorstCase(run).product_errors(factors, rows),
                Independent(run).product_errors(factors, rows),
                strict=True,
            )
            ratios = [float((worst / usual.to(worst)).nan_to_num().max()) for worst, usual in pairs]
        return 2 * max(1.0, *ratios)


def _spread(most: int, length: int, device: torch.device) -> Tensor:
    """At most so many places, spread evenly over a length."""
    count = min(most, length)
    return torch.arange(count, device=device) * length // count


def _whole(x: Tensor) -> Callable[[int, int], Tensor]:
    return lambda start, stop: x[start:stop]


class Threshold:
    """The size from which on an error at any place would be noticed: the largest of some
    directions, each a sample and its widest bound. Copies and pickles hold the size alone."""

    def __init__(self, *parts: tuple[Sample, float]) -> None:
        self.parts = parts

    @classmethod
    def of_size(cls, size: float) -> Threshold:
        """One whose size is known."""
        threshold = cls()
        threshold.size = size
        return threshold

    @cached_property
    def size(self) -> float:
        """As a deviation of the state."""
        return max(sample.ratio * widest for sample, widest in self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Threshold) and self.size == other.size

    def __hash__(self) -> int:
        return hash(self.size)

    def __repr__(self) -> str:
        return f"Threshold({self.size})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Threshold.of_size, (self.size,)
