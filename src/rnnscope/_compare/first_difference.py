"""Where a candidate differs first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope._compare.model.model import Model, PartIndex
from rnnscope._compare.model.observed import Observation, distance, predicted
from rnnscope._compare.model.single_steps import opened
from rnnscope._compare.model.steps import OpenedPart, opened_parts, tolerances
from rnnscope._compare.verdict import FirstDifference
from rnnscope.cells import quantity_names

__all__ = ["first_difference", "no_difference"]


def first_difference(
    model: Model, shown: Sequence[Observation]
) -> tuple[FirstDifference | None, Observation]:
    """The first number that differs by more than rounding, in the order of computing, and the call
    that it is of: by single steps where the states are known, else in the output of the last
    layer."""
    for observation in shown:
        parts = opened_parts(model, [observation])
        runs = [_single_steps(parts[place]) for place in sorted(parts)]
        runs += [_whole_runs(model, observation, observation.quantities)]
        runs += [_whole_runs(model, observation, ["output"])]
        differences = (_earliest(model, compared) for compared in runs)
        difference = next(filter(None, differences), None) or _in_final(model, observation)
        if difference is not None:
            return difference, observation
    return None, shown[0]


@dataclass(frozen=True)
class _Series:
    """An array of one layer and direction in the order of computing, (time, batch, unit): what came
    back, what is right, and how far apart they are relative to what rounding allows."""

    name: str
    place: PartIndex
    yours: Tensor
    expected: Tensor
    ratio: Tensor


def _single_steps(part: OpenedPart) -> Iterator[_Series]:
    for steps in part.steps:
        names = [n for n in quantity_names(part.part.cell) if n in steps.after]
        values, tolerance = opened([part.part], steps.known, names), tolerances(part.part, steps)
        for name in names:
            yours, expected = steps.after[name], values[name][0]
            ratio = distance(expected, yours) / tolerance[name]
            if steps.known.valid is not None:
                ratio = ratio * steps.known.valid.unsqueeze(-1)
            yield _Series(name, part.place, yours, expected, ratio)


def _whole_runs(model: Model, observation: Observation, names: Iterable[str]) -> Iterator[_Series]:
    for name, yours, expected in observation.beside(model):
        if name not in names or expected is None:
            continue
        ratio = distance(expected, yours) / observation.allowed[name]
        if (real := observation.inside(name)) is not None:
            ratio = ratio * real
        for layer, row in enumerate(model.parts):
            if name == "output" and layer < model.num_layers - 1:
                continue
            for d, part in enumerate(row):
                # one direction of the output, (time, batch, unit)
                arrays = (
                    value.chunk(len(row), -1)[d]
                    if name == "output"
                    else value[layer, d].transpose(0, 1)
                    for value in (yours, expected, ratio)
                )
                of_run = (value.flip(0) if part.backward else value for value in arrays)
                yield _Series(name, (layer, d), *of_run)


def _earliest(model: Model, runs: Iterable[_Series]) -> FirstDifference | None:
    """The number furthest away at the first step, in the order of computing, at which any differs
    by more than rounding."""
    order = ["output", *quantity_names(model.structure.cell)]
    failing: list[tuple[int, int, int, int, _Series]] = []
    for run in runs:
        steps = (run.ratio > 1).flatten(1).any(1).nonzero().flatten().tolist()
        if steps:
            (layer, d), rank = run.place, order.index(run.name)
            failing.append((layer, steps[0], d, rank, run))
    if not failing:
        return None
    layer, step, d, _, run = min(failing, key=lambda place: place[:4])
    away = distance(run.expected, run.yours)[step] * (run.ratio[step] > 1)
    batch, unit = _largest(away)
    of_output = run.name == "output"
    return FirstDifference(
        "h" if of_output else run.name,
        layer,
        model.structure.directions[d],
        batch,
        len(run.yours) - 1 - step if model.parts[layer][d].backward else step,
        unit,
        float(run.yours[step, batch, unit]),
        float(run.expected[step, batch, unit]),
        seen_in_output=of_output and model.num_layers > 1,
    )


def _in_final(model: Model, observation: Observation) -> FirstDifference | None:
    for name, yours, expected in observation.beside(model):
        if not name.endswith("_n") or expected is None:
            continue
        away = distance(expected, yours)
        beyond = away / observation.allowed[name] > 1
        if bool(beyond.any()):
            layer, d, batch, unit = place = _largest(away * beyond)
            direction = model.structure.directions[d]
            numbers = float(yours[place]), float(expected[place])
            return FirstDifference(name, layer, direction, batch, None, unit, *numbers)
    return None


def _largest(value: Tensor) -> tuple[int, ...]:
    return tuple(int(k) for k in torch.unravel_index(value.argmax(), value.shape))


# where two cannot be subtracted ------------------------------------------------------------------


def no_difference(model: Model, shown: Sequence[Observation]) -> str:
    """What stands where there is no difference: another shape, or what is no finite number on one
    side; empty where there is one everywhere."""
    kind = model.structure.kind
    for observation in shown:
        [outcome] = observation.simulator.run([model])
        values = {} if outcome is None else predicted(outcome)
        for name, target in observation.targets().items():
            value = values.get(name)
            if value is None or value.shape != target.shape:
                shapes = [_returned(model, name, v) for v in (target, value)]
                return f"{name} has shape {shapes[0]}, that of {kind} {shapes[1]}"
            wrong = observation.usable(name) & (torch.isfinite(target) != torch.isfinite(value))
            if bool(wrong.any()):
                where = tuple(wrong.nonzero()[0].tolist())
                place = ", ".join(f"{n} {k}" for n, k in zip(_axes(target), where, strict=True))
                yours, expected = _number(float(target[where])), _number(float(value[where]))
                return f"{name} is {yours} at {place}, that of {kind} {expected}"
    return ""


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.6g}"


def _axes(value: Tensor) -> tuple[str, ...]:
    return {
        3: ("time", "batch", "unit"),
        4: ("layer", "direction", "batch", "unit"),
        5: ("layer", "direction", "batch", "time", "unit"),
    }[value.dim()]


def _returned(model: Model, name: str, value: Tensor | None) -> tuple[int, ...] | None:
    """A shape as the reference returns it."""
    if value is None or name != "output" or not model.structure.batch_first:
        return None if value is None else tuple(value.shape)
    return tuple(value.transpose(0, 1).shape)
