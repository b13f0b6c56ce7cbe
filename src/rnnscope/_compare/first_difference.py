"""Where a candidate differs first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rnnscope._compare.model.model import Model
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
        places = (_in_part(model, parts[place], observation) for place in sorted(parts))
        difference = next(filter(None, places), None)
        difference = (
            difference or _in_quantities(model, observation) or _in_output(model, observation)
        )
        difference = difference or _in_final(model, observation)
        if difference is not None:
            return difference, observation
    return None, shown[0]


def _in_part(model: Model, part: OpenedPart, observation: Observation) -> FirstDifference | None:
    backward = part.part.backward
    for steps in part.steps:
        names = [n for n in quantity_names(part.part.cell) if n in steps.after]
        values = {n: value[0] for n, value in opened([part.part], steps.known, names).items()}
        tolerance = tolerances(part.part, steps)
        failing: list[tuple[int, str]] = []
        ratios: dict[str, Tensor] = {}
        for name in names:
            ratio = distance(values[name], steps.after[name]) / tolerance[name]
            if steps.known.valid is not None:
                ratio = ratio * steps.known.valid.unsqueeze(-1)
            ratios[name] = ratio
            times = (ratio > 1).flatten(1).any(1).nonzero().flatten()
            if len(times):
                failing.append((int(times[0]), name))
        if not failing:
            continue
        t, name = min(failing, key=lambda pair: (pair[0], names.index(pair[1])))
        away = distance(values[name], steps.after[name])[t]
        batch, unit = _worst(away, ratios[name][t])
        time = steps.known.x.shape[0] - 1 - t if backward else t
        return FirstDifference(
            name,
            part.place[0],
            part.direction,
            batch,
            time,
            unit,
            float(steps.after[name][t, batch, unit]),
            float(values[name][t, batch, unit]),
        )
    return None


def _in_quantities(model: Model, observation: Observation) -> FirstDifference | None:
    """Of the quantities that were given by name, layer by layer."""
    [outcome] = observation.simulator.run([model])
    if outcome is None:
        return None
    values = predicted(outcome)
    failing: list[tuple[tuple[int, int, int, int], int, str]] = []  # order of computing, time
    ratios: dict[str, Tensor] = {}
    order = quantity_names(model.parts[0][0].cell)
    for name, target in observation.quantities.items():
        ratio = distance(values[name], target) / observation.allowed[name]
        if (real := observation.inside(name)) is not None:
            ratio = ratio * real
        ratios[name] = ratio
        for layer, row in enumerate(model.parts):
            for d, part in enumerate(row):
                times = (ratio[layer, d].amax((0, 2)) > 1).nonzero().flatten().tolist()
                if times:
                    time = times[-1] if part.backward else times[0]
                    step = target.shape[3] - 1 - time if part.backward else time
                    failing.append(((layer, step, d, order.index(name)), time, name))
    if not failing:
        return None
    (layer, _, d, _), time, name = min(failing)
    away = distance(values[name], observation.quantities[name])[layer, d, :, time]
    batch, unit = _worst(away, ratios[name][layer, d, :, time])
    place = (layer, d, batch, time, unit)
    yours, expected = observation.quantities[name][place], values[name][place]
    direction = model.structure.directions[d]
    return FirstDifference(name, layer, direction, batch, time, unit, float(yours), float(expected))


def _in_output(model: Model, observation: Observation) -> FirstDifference | None:
    [outcome] = observation.simulator.run([model])
    output = observation.output
    if outcome is None or output is None or outcome.output.shape != output.shape:
        return None
    ratio = distance(outcome.output, output) / observation.allowed["output"]
    if observation.valid is not None:
        ratio = ratio * observation.valid
    width = output.shape[-1] // model.num_directions
    failing: list[tuple[int, int, int]] = []  # order of computing, direction, time
    for d, part in enumerate(model.parts[-1]):
        half = ratio[..., d * width : (d + 1) * width]
        times = (half > 1).flatten(1).any(1).nonzero().flatten().tolist()
        if times:
            time = times[-1] if part.backward else times[0]
            failing.append((output.shape[0] - 1 - time if part.backward else time, d, time))
    if not failing:
        return None
    _, d, time = min(failing)
    columns = slice(d * width, (d + 1) * width)
    batch, unit = _worst(
        distance(outcome.output, output)[time, :, columns], ratio[time, :, columns]
    )
    return FirstDifference(
        "h",
        model.num_layers - 1,
        model.structure.directions[d],
        batch,
        time,
        unit,
        float(output[time, batch, d * width + unit]),
        float(outcome.output[time, batch, d * width + unit]),
        seen_in_output=model.num_layers > 1,
    )


def _in_final(model: Model, observation: Observation) -> FirstDifference | None:
    [outcome] = observation.simulator.run([model])
    if outcome is None:
        return None
    for name, value in predicted(outcome).items():
        target = observation.targets().get(name)
        if not name.endswith("_n") or target is None or target.shape != value.shape:
            continue
        ratio = distance(value, target) / observation.allowed[name]
        if float(ratio.max()) > 1:
            layer, d, batch, unit = _index(distance(value, target) * (ratio > 1))
            return FirstDifference(
                name,
                layer,
                model.structure.directions[d],
                batch,
                None,
                unit,
                float(target[layer, d, batch, unit]),
                float(value[layer, d, batch, unit]),
            )
    return None


def _worst(away: Tensor, ratio: Tensor) -> tuple[int, int]:
    """The row and unit of (batch, unit) that are furthest away of those beyond what is allowed."""
    batch, unit = divmod(int((away * (ratio > 1)).argmax()), away.shape[-1])
    return batch, unit


def _index(value: Tensor) -> tuple[int, ...]:
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
