"""What the data did not reach, and data that can tell nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.simulate import Simulator

__all__ = ["all_equal", "largest_state", "not_reached"]

FAR = 3.0
"""The magnitude from which on tanh(c) is nearly flat: what is cut off there shows nowhere else."""


def not_reached(model: Model, shown: Sequence[Observation]) -> tuple[str, ...]:
    """What the caller's own data leave open: large cell states, sequences of unequal length."""
    words = [
        f"what happens where |{state}| exceeds {largest:.3g}"
        for state in model.structure.cell.states
        if state != "h" and (largest := largest_state(model, shown, state)) < FAR
    ]
    if all(observation.inputs.lengths is None for observation in shown):
        words.append("sequences of unequal length")
    return tuple(words)


def largest_state(model: Model, shown: Sequence[Observation], state: str) -> float:
    """The largest magnitude that a state has in the reference."""
    largest = 0.0
    for observation in shown:
        [outcome] = Simulator(observation.inputs, (state,)).run([model])
        values = None if outcome is None else outcome.steps.get(state)
        if values is not None and values.numel():
            largest = max(largest, float(values.nan_to_num(0.0).abs().max()))
    return largest


def all_equal(model: Model, shown: Sequence[Observation], given: bool) -> list[str]:
    """Notes where every number of the weights, or of the caller's x, is the same: then no order of
    anything shows."""
    notes = []
    matrices = [m for row in model.parts for p in row for m in (p.stored.ih, p.stored.hh)]
    if all(map(_constant, matrices)) and any(m.numel() > 1 for m in matrices):
        values = sorted({float(m.flatten()[0]) for m in matrices})
        notes.append(
            f"these data can tell nothing: all weights of the reference are equal "
            f"({', '.join(f'{v:.3g}' for v in values)})"
        )
    if given and all(
        observation.inputs.x.numel() > 1 and _constant(observation.inputs.x)
        for observation in shown
    ):
        notes.append(
            f"these data can tell nothing of order: all values of x are equal "
            f"({float(shown[0].inputs.x.flatten()[0]):.3g})"
        )
    return notes


def _constant(value: Tensor) -> bool:
    return value.numel() > 0 and bool(torch.all(value == value.flatten()[0]))
