"""What rounding allows a run, measured on runs that differ by rounding alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.model.model import Inputs, Model, Part, Token
from rnnscope._compare.model.observed import UNIT, predicted
from rnnscope._compare.model.simulate import Simulator

__all__ = ["LEAST", "allowed", "beyond_type", "most_allowed"]


GROWN = 5e3
"""Roundings that have grown so many times grow by chance: in a chaotic layer by more or by less."""


FREE = 16
"""How many times the deviation of runs that differ by rounding alone is allowed."""


LEAST = 16
"""Roundings that are always allowed: as many as a single step may be off by."""


RUNS, MORE_RUNS = 2, 6
"""Runs that differ by rounding alone; and where roundings grow, of which two may by chance cancel
in both at a step where they do not in somebody's own run."""


GROWING = 16
"""A deviation of so many roundings has grown."""


def allowed(
    model: Model,
    inputs: Inputs,
    unit: float,
    simulator: Simulator | None = None,
    keep: bool = False,
) -> dict[str, Tensor]:
    """What rounding to ``unit`` allows: ``FREE`` times how far runs move whose weights, inputs
    and states, at every step, are changed by a rounding's size, at each time and row the largest
    over units; and never less than a few roundings of the numbers themselves. Inf from where it
    is of no use.

    (time, batch, 1) for the output, (layer, direction, batch, 1) for states, (layer, direction,
    batch, time, 1) for the quantities that ``simulator`` records. With ``keep`` weights that were
    changed are kept, for other inputs.
    """
    kept = model.shaken if keep else {}
    generator = torch.Generator("cpu").manual_seed(0)

    def shaken(value: Tensor) -> Tensor:
        return _shaken(value, unit, generator)

    def rounded(state: Tensor) -> Tensor:
        # terms of size 1, as 1 - z, may cancel in it
        return state + _noise(state, unit / 4, generator) * state.abs().clamp_min(1)

    simulator = simulator or Simulator(inputs)
    [exact] = simulator.run([model])
    if exact is None:
        return {}
    floor = predicted(exact)
    tolerances = {name: LEAST * unit * _size(value) for name, value in floor.items()}
    for run in range(RUNS + MORE_RUNS):
        if run == RUNS and not _growing(tolerances, floor, unit):
            break
        moved = replace(
            inputs,
            x=shaken(inputs.x),
            initial={name: shaken(value) for name, value in inputs.initial.items()},
        )
        near = model.with_parts(_shaken_parts(model, unit, run, kept))
        [outcome] = Simulator(moved, simulator.names, rounded).run([near])
        if outcome is None:
            continue
        for name, value in predicted(outcome).items():
            away = FREE * (value - floor[name]).abs().amax(-1, keepdim=True)
            tolerances[name] = torch.maximum(tolerances[name], away.nan_to_num(torch.inf))
    return _beyond_use(tolerances, floor, unit, model)


def _growing(tolerances: dict[str, Tensor], floor: dict[str, Tensor], unit: float) -> bool:
    """Whether roundings grow on their way through the run."""
    return any(
        bool((tolerances[name] > FREE * GROWING * unit * _size(value)).any())
        for name, value in floor.items()
    )


def _size(value: Tensor) -> Tensor:
    """The largest unit of each row, at least 1: what roundings are relative to."""
    return value.abs().amax(-1, keepdim=True).clamp_min(1)


def _noise(value: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    return 2 * unit * torch.randn(value.shape, generator=generator, dtype=value.dtype, device="cpu")


def _shaken(value: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    return value * (1 + _noise(value, unit, generator))


def _shaken_parts(
    model: Model, unit: float, run: int, kept: dict[Token, Any]
) -> dict[tuple[int, int], Part]:
    """The parts with weights moved by a rounding's size, for one of the runs; those of the first
    runs are kept."""
    if (unit, run) in kept:
        return dict(kept[unit, run])
    generator = torch.Generator("cpu").manual_seed(run)
    parts = {
        (layer, d): part.with_weights(
            part.weights.map(lambda value: _shaken(value, unit, generator)),
            token=("shaken", layer, d),
        )
        for layer, row in enumerate(model.parts)
        for d, part in enumerate(row)
    }
    if run < RUNS:
        kept[unit, run] = parts
    return parts


def _beyond_use(
    tolerances: dict[str, Tensor], floor: dict[str, Tensor], unit: float, model: Model
) -> dict[str, Tensor]:
    """Inf where the tolerance is more than a hundredth of the numbers' spread, or roundings have
    grown so much that chance decides how far; and from there on, in the order of computing."""
    limits = {name: _limit(value, unit) for name, value in floor.items()}
    directions = {part.backward for part in model.parts[-1]}

    def wild(name: str) -> Tensor:
        grown = GROWN * LEAST * unit * _size(floor[name])
        wild = tolerances[name] > torch.clamp(grown, max=limits[name])
        return wild | beyond_type(floor[name], unit).all(-1, keepdim=True)

    def from_there_on(beyond: Tensor, time: int) -> Tensor:
        ways = [
            (beyond.flip(time).cummax(time).values.flip(time) if b else beyond.cummax(time).values)
            for b in directions
        ]
        return torch.stack(ways).any(0)

    beyond = from_there_on(wild("output"), 0)
    result = {"output": torch.where(beyond, torch.inf, tolerances["output"])}
    lost = beyond.any(0)  # (batch, 1): rows whose last states chance decides
    for name, tolerance in tolerances.items():
        if tolerance.dim() == 5:
            result[name] = torch.where(from_there_on(wild(name), 3), torch.inf, tolerance)
        elif name != "output":
            far = tolerance > limits[name]
            far = far | beyond_type(floor[name], unit).all(-1, keepdim=True)
            if tolerance.shape[2] == len(lost):  # else a mistake has exchanged the axes
                far = far | lost
            result[name] = torch.where(far, torch.inf, tolerance)
    return result


def beyond_type(value: Tensor, unit: float) -> Tensor:
    """Where a number of the reference is NaN or infinite, in the type of numbers that rounds to
    ``unit``."""
    dtype = torch.float64 if unit <= UNIT[torch.float64] else torch.float32
    return ~(value.abs() <= torch.finfo(dtype).max)


def most_allowed(
    model: Model, inputs: Inputs, unit: float, simulator: Simulator
) -> dict[str, Tensor]:
    """No less than ``allowed`` where that is of use, from one run alone."""
    [exact] = simulator.run([model])
    if exact is None:
        return {}
    return {
        name: torch.full_like(value[..., :1], _limit(value, unit))
        for name, value in predicted(exact).items()
    }


def _limit(value: Tensor, unit: float) -> float:
    finite = value[torch.isfinite(value)]
    if finite.numel() == 0:
        return 100 * unit
    spread = float(finite.std()) if finite.numel() > 1 else float(finite.abs().max())
    # numbers that are all the same are told from others all the same
    return max(spread / 100, 100 * unit * max(1.0, float(finite.abs().max())))
