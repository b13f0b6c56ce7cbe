"""Where a candidate differs first, and what can be said where nothing explains it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnnscope.cells import quantity_names
from rnnscope.compare.catalogue.weights import forget_gates
from rnnscope.compare.model import Model
from rnnscope.compare.observed import Observation, distance, predicted
from rnnscope.compare.parts import OpenedPart, opened_parts, tolerances
from rnnscope.compare.simulate import opened
from rnnscope.compare.verdict import Place

__all__ = ["first_difference", "what_holds"]


def first_difference(model: Model, shown: Sequence[Observation]) -> Place | None:
    """The first number that differs by more than rounding, in the order of computing: by single
    steps where the states are known, else in the output of the last layer."""
    for k, _ in enumerate(shown):
        parts = opened_parts(model, [shown[k]])
        for place in sorted(parts):
            found = _in_part(model, parts[place], shown[k])
            if found is not None:
                return found
        found = _in_quantities(model, shown[k]) or _in_output(model, shown[k])
        found = found or _in_final(model, shown[k])
        if found is not None:
            return found
    return None


def _in_part(model: Model, part: OpenedPart, observation: Observation) -> Place | None:
    backward = part.part.backward
    for steps in part.steps:
        names = [n for n in quantity_names(part.part.cell) if n in steps.after]
        values = {n: value[0] for n, value in opened([part.part], steps.known, names).items()}
        tolerance = tolerances(part.part, steps)
        failing: list[tuple[int, str]] = []
        for name in names:
            ratio = distance(values[name], steps.after[name]) / tolerance[name]
            if steps.known.valid is not None:
                ratio = ratio * steps.known.valid.unsqueeze(-1)
            times = (ratio > 1).flatten(1).any(1).nonzero().flatten()
            if len(times):
                failing.append((int(times[0]), name))
        if not failing:
            continue
        t, name = min(failing, key=lambda pair: (pair[0], names.index(pair[1])))
        away = distance(values[name], steps.after[name])[t]
        batch, unit = divmod(int(away.argmax()), away.shape[-1])
        time = steps.known.x.shape[0] - 1 - t if backward else t
        return Place(
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


def _in_quantities(model: Model, observation: Observation) -> Place | None:
    """Of the quantities that were given by name, layer by layer."""
    [outcome] = observation.simulator.run([model])
    if outcome is None:
        return None
    values = predicted(outcome)
    failing: list[tuple[tuple[int, int, int, int], int, str]] = []  # order of computing, time
    order = quantity_names(model.parts[0][0].cell)
    for name, seen in observation.quantities.items():
        ratio = distance(values[name], seen) / observation.allowed[name]
        if (real := observation.inside(name)) is not None:
            ratio = ratio * real
        for layer, row in enumerate(model.parts):
            for d, part in enumerate(row):
                times = (ratio[layer, d].amax((0, 2)) > 1).nonzero().flatten().tolist()
                if times:
                    time = times[-1] if part.backward else times[0]
                    step = seen.shape[3] - 1 - time if part.backward else time
                    failing.append(((layer, step, d, order.index(name)), time, name))
    if not failing:
        return None
    (layer, _, d, _), time, name = min(failing)
    away = distance(values[name], observation.quantities[name])[layer, d, :, time]
    batch, unit = divmod(int(away.argmax()), away.shape[-1])
    place = (layer, d, batch, time, unit)
    yours, expected = observation.quantities[name][place], values[name][place]
    direction = model.structure.directions[d]
    return Place(name, layer, direction, batch, time, unit, float(yours), float(expected))


def _in_output(model: Model, observation: Observation) -> Place | None:
    [outcome] = observation.simulator.run([model])
    seen = observation.output
    if outcome is None or seen is None or outcome.output.shape != seen.shape:
        return None
    ratio = distance(outcome.output, seen) / observation.allowed["output"]
    if observation.valid is not None:
        ratio = ratio * observation.valid
    width = seen.shape[-1] // model.num_directions
    found: list[tuple[int, int, int]] = []  # order of computing, direction, time
    for d, part in enumerate(model.parts[-1]):
        half = ratio[..., d * width : (d + 1) * width]
        times = (half > 1).flatten(1).any(1).nonzero().flatten().tolist()
        if times:
            time = times[-1] if part.backward else times[0]
            found.append((seen.shape[0] - 1 - time if part.backward else time, d, time))
    if not found:
        return None
    _, d, time = min(found)
    away = distance(outcome.output, seen)[time, :, d * width : (d + 1) * width]
    batch, unit = divmod(int(away.argmax()), width)
    return Place(
        "h",
        model.num_layers - 1,
        model.structure.directions[d],
        batch,
        time,
        unit,
        float(seen[time, batch, d * width + unit]),
        float(outcome.output[time, batch, d * width + unit]),
        seen_in_output=model.num_layers > 1,
    )


def _in_final(model: Model, observation: Observation) -> Place | None:
    [outcome] = observation.simulator.run([model])
    if outcome is None:
        return None
    for name, value in predicted(outcome).items():
        seen = observation.targets().get(name)
        if not name.endswith("_n") or seen is None or seen.shape != value.shape:
            continue
        ratio = distance(value, seen) / observation.allowed[name]
        if float(ratio.max()) > 1:
            away = distance(value, seen)
            layer, d, batch, unit = _index(away)
            return Place(
                name,
                layer,
                model.structure.directions[d],
                batch,
                None,
                unit,
                float(seen[layer, d, batch, unit]),
                float(value[layer, d, batch, unit]),
            )
    return None


def _index(value: Tensor) -> tuple[int, ...]:
    return tuple(int(k) for k in torch.unravel_index(value.argmax(), value.shape))


# where nothing explains it -------------------------------------------------------------------


def what_holds(model: Model, observations: Sequence[Observation]) -> tuple[str, ...]:
    """Sentences on what agrees and which units do not, as far as single steps tell."""
    lost = _not_numbers(model, observations)
    if lost:
        return (lost,)
    found = _only_final(model, observations)
    parts = opened_parts(model, observations)
    several = len(model.parts) * model.num_directions > 1
    for place, part in sorted(parts.items()):
        where = f"layer {place[0]}, {part.direction}: " if several else ""
        zero = _first_step_from_zero(part, observations)
        if zero is not None and zero[0] <= 1:
            found.append(
                f"{where}with zero initial states the first step agrees ({zero[1]:.1e}): "
                f"the input weights and biases are right{_unseen_gates(part)}."
            )
        ratios = part.units(part.part)
        wrong = (ratios > 1).nonzero().flatten().tolist()
        one_step = _one_step(part) if len(wrong) == len(ratios) > 1 else None
        if not wrong:
            found.append(f"{where}every single step agrees.")
        elif one_step is not None:
            found.append(f"{where}every single step agrees but the {one_step}: is it computed?")
        elif len(wrong) <= max(1, len(ratios) // 4):
            found.append(_units(model, part, where, wrong, zero is not None and zero[0] <= 1))
        else:
            found.append(f"{where}{len(wrong)} of {len(ratios)} units differ in single steps.")
    return tuple(found)


def _unseen_gates(part: OpenedPart) -> str:
    """Of a first step from zeros, what it does not show: gates that scale the state before."""
    gates = forget_gates(part.part)
    if not gates:
        return ""
    return f", but for those of {_joined(gates)}, which scale a state that is zero there"


def _one_step(part: OpenedPart) -> str | None:
    """Which step is the only one that differs, the first or the last, in all calls of several."""
    places: set[str] = set()
    for steps, tolerance in zip(part.steps, part.tolerances, strict=True):
        values = opened([part.part], steps.known, steps.after)
        for name, seen in steps.after.items():
            ratio = distance(values[name][0], seen) / tolerance[name]
            if steps.known.valid is not None:
                ratio = torch.where(steps.known.valid.unsqueeze(-1), ratio, 0.0)
            wrong = (ratio.flatten(1).amax(1) > 1).nonzero().flatten().tolist()
            if len(wrong) > 1 or (wrong and 0 < wrong[0] < len(seen) - 1):
                return None
            if wrong and len(seen) > 2:
                places.add("last" if wrong[0] else "first")
    return places.pop() if len(places) == 1 else None


def _not_numbers(model: Model, observations: Sequence[Observation]) -> str:
    """A sentence on NaN and infinities where the reference has numbers."""
    kind = model.structure.kind
    for one in observations:
        [outcome] = one.simulator.run([model])
        values = {} if outcome is None else predicted(outcome)
        for name, seen in one.targets().items():
            value = values.get(name)
            if value is None or value.shape != seen.shape:
                continue
            wrong = ~torch.isfinite(seen) & torch.isfinite(value)
            if bool(wrong.any()):
                return (
                    f"{int(wrong.sum())} of {seen.numel()} numbers of {name} are NaN or infinite "
                    f"where those of {kind} are not."
                )
    return ""


def _only_final(model: Model, observations: Sequence[Observation]) -> list[str]:
    """A sentence on what differs although every output agrees."""
    worst: dict[str, float] = {}
    for one in observations:
        [outcome] = one.simulator.run([model])
        values = {} if outcome is None else predicted(outcome)
        for name, seen in one.targets().items():
            value = values.get(name)
            if value is None or value.shape != seen.shape:
                return []
            ratio = distance(value, seen) / one.allowed[name]
            if (real := one.inside(name)) is not None:
                ratio = ratio * real
            worst[name] = max(worst.get(name, 0.0), float(ratio.max()))
    differing = [name for name, ratio in worst.items() if ratio > 1]
    if "output" not in worst or "output" in differing or not differing:
        return []
    return [f"The output agrees; {_joined(differing)} do{'es' * (len(differing) == 1)} not."]


def _first_step_from_zero(
    part: OpenedPart, observations: Sequence[Observation]
) -> tuple[float, float] | None:
    """The worst ratio and difference of first steps from zero states, where there are any."""
    worst: tuple[float, float] | None = None
    for steps in part.steps:
        if any(bool(value.any()) for value in steps.known.initial.values()):
            continue
        values = opened([part.part], steps.known, steps.after)
        tolerance = tolerances(part.part, steps)
        for name, seen in steps.after.items():
            away = distance(values[name][0], seen)
            ratio = float((away / tolerance[name])[0].max())
            one = (ratio, float(away[0].max()))
            worst = one if worst is None or ratio > worst[0] else worst
    return worst


def _units(model: Model, part: OpenedPart, where: str, wrong: list[int], inputs_right: bool) -> str:
    weights = part.part.weights
    units = f"unit {wrong[0]} differs" if len(wrong) == 1 else f"units {_list(wrong)} differ"
    rows = [
        gate * weights.hidden_size + unit
        for gate in range(len(part.part.cell.gates))
        for unit in wrong
    ]
    names = [f"weight_hh{weights.suffix}"]
    if not inputs_right:
        names.insert(0, f"weight_ih{weights.suffix}")
        if weights.b_ih is not None:
            names.append("the biases")
    return (
        f"{where}only {units} in single steps: look at row{'s' * (len(rows) > 1)} "
        f"{_list(sorted(rows))} of {_joined(names)}."
    )


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
