"""Mistakes that change a state as a whole at every step: it is cut, mixed with the old, scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry
from rnnscope._compare.mistakes.equations import with_equations
from rnnscope._compare.mistakes.words import declared
from rnnscope._compare.model.model import Model, Part
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.single_steps import KnownStates, opened
from rnnscope.cells.algebra import Apply, Previous, Product, Quantity

__all__ = ["LIMITS", "shares_beside"]

USUAL = {"c": (1, 3, 5, 10, 50), "h": (0.5, 1, 6, 20)}
"""At what frameworks and papers cut a cell state and a hidden state."""

OFTEN = 3
"""So many numbers that are exactly the largest one are cut there."""

CLOSE = 1e-3
"""A share is measured where it leaves so small a part of what differs."""

SURE = 0.99
"""Up to which tanh(c) tells c."""

DIGITS = 4
"""Shares that people write have at most so many decimals."""


def _state(choice: str) -> tuple[str, float]:
    name, _, value = choice.partition(":")
    return name, float(value)


# cut ------------------------------------------------------------------------------------------


def _limits(model: Model) -> Iterator[str]:
    cell = model.first.cell_state
    if cell is not None:
        yield from (f"{cell}:{limit}" for limit in USUAL["c"])
    if not model.structure.cell.projected:
        yield from (f"h:{limit}" for limit in USUAL["h"])


def _reached(model: Model, observations: Sequence[Observation]) -> Iterator[Choice]:
    """The largest number, where several are exactly that."""
    choices = set(_limits(model))
    for observation in observations:
        values = dict(observation.final)
        if observation.output is not None:
            values["h"] = observation.output
        values |= {
            n: v for n, v in observation.quantities.items() if n in model.structure.cell.states
        }
        cells = [] if model.first.cell_state is None else list(_cells(model, observation))
        for name, value, unit in (*((n, v, observation.unit) for n, v in values.items()), *cells):
            size = value.abs().nan_to_num(0.0)
            largest = float(size.max()) if size.numel() else 0.0
            cut = int((size >= largest * (1 - unit)).sum()) >= OFTEN
            choice = f"{name}:{_written(largest, unit)}"
            if cut and largest > 0 and choice not in choices:
                choices.add(choice)
                yield choice, ""


def _cells(model: Model, observation: Observation) -> Iterator[tuple[str, Tensor, float]]:
    """The cell state after every step of the last layer, as h and the output gate tell it where
    h = o × tanh(c), with how exactly they do."""
    name = model.first.cell_state
    for step in _steps([model], [observation]):
        match model.first.cell.equations["h"]:
            case Product(Quantity("o"), Apply("tanh", Quantity(cell))) if cell == name:
                tanh = step.after / step.output_gate
                yield (
                    cell,
                    torch.atanh(tanh.clamp(-1, 1)).where(tanh.abs() < SURE, 0),
                    1e4 * observation.unit,
                )


def _cut(part: Part, cause: Cause) -> Part | None:
    name, limit = _state(cause.choice)
    if name not in part.cell.equations:
        return None
    equation = part.cell.equations[name]
    return with_equations(part, cause, **{name: Apply(f"clip({limit!r})", equation)})


# mixed and scaled -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _LastLayerSteps:
    """h before and after the steps of one direction, what each of some models makes of them,
    (model, time, batch, unit), and the first one's output gate."""

    before: Tensor
    after: Tensor
    expected: Tensor
    output_gate: Tensor
    unit: float


def _steps(
    models: Sequence[Model], observations: Sequence[Observation]
) -> Iterator[_LastLayerSteps]:
    """The last layer's steps, where the layers below are those of the first model."""
    model = models[0]
    size, states = model.structure.output_size, model.structure.cell.states
    for observation in observations:
        output = observation.output
        if output is None or output.shape[-1] != size * model.num_directions:
            continue
        if observation.inputs.lengths is not None or not bool(torch.isfinite(output).all()):
            continue
        reads = observation.inputs.x
        if model.num_layers > 1:
            [outcome] = observation.simulator.run([model])
            if outcome is None:
                continue
            reads = outcome.layers[-2]
        for d, part in enumerate(model.parts[-1]):
            h = output[..., d * size : (d + 1) * size]
            x = reads
            if part.backward:
                h, x = h.flip(0), x.flip(0)
            initial = {name: observation.inputs.initial[name][-1, d] for name in states}
            before = torch.cat([initial["h"].unsqueeze(0), h[:-1]])
            states_before = KnownStates(x, {"h": before}, initial)
            gate = "o" if "o" in part.cell.gates else "h"
            values = opened([m.parts[-1][d] for m in models], states_before, ["h", gate])
            yield _LastLayerSteps(before, h, values["h"], values[gate][0], observation.unit)


def _share(wanted: Tensor, by: Tensor) -> float | None:
    """The number k of which ``wanted`` is k times ``by``; None where it is none."""
    size = float((by * by).sum())
    share = float((wanted * by).sum()) / size if size else 0.0
    remainder = (wanted - share * by).abs().max()
    return share if float(remainder) <= CLOSE * float(wanted.abs().max()) else None


def _written(value: float, unit: float) -> str:
    """A number as people write it, where it is one of few decimals; else all its digits."""
    few = round(value, DIGITS)
    return f"{few:g}" if abs(value - few) <= 1e4 * unit * max(1.0, abs(value)) else repr(value)


def _measured(name: str, step: _LastLayerSteps, k: int) -> str | None:
    """The choice of ``mixed`` or ``scaled`` by which a model comes to what is there."""
    after, expected = step.after, step.expected[k]
    if name == "mixed":
        share = _share(after - expected, step.before - expected)
        fits = share is not None and 1e-4 < share < 1 - 1e-4
    else:
        share = _share(after, expected)
        fits = share is not None and abs(share) > 1e-4 and abs(share - 1) > 1e-4
    return f"h:{_written(share, step.unit)}" if fits and share is not None else None


def _shares(name: str) -> Callable[[Model, Sequence[Observation]], Iterator[Choice]]:
    """What is measured of an entry."""

    def measured(model: Model, observations: Sequence[Observation]) -> Iterator[Choice]:
        choices = (_measured(name, step, 0) for step in _steps([model], observations))
        yield from ((choice, "") for choice in islice(filter(None, choices), 1))

    return measured


def shares_beside(
    models: Sequence[Model], observations: Sequence[Observation]
) -> Iterator[tuple[int, Cause]]:
    """What of the old h is mixed into the new one, or by what it is scaled, where one of some
    models of the same layers below is right but for that; in the last layer, in each direction."""
    names = models[0].structure.directions
    for step, direction in zip(_steps(models, observations), names, strict=False):
        for k in range(len(step.expected)):
            for name in ("mixed", "scaled"):
                choice = _measured(name, step, k)
                if choice is not None:
                    yield k, Cause(name, choice, direction=direction)


def _mix(part: Part, cause: Cause) -> Part | None:
    name, share = _state(cause.choice)
    equation = part.cell.equations[name]
    if cause.name == "scaled":
        return with_equations(part, cause, **{name: share * equation})
    mixed = share * Previous(name) + (1 - share) * equation
    return with_equations(part, cause, **{name: mixed})


def _facts(cause: Cause, model: Model) -> dict[str, object]:
    name, number = _state(cause.choice)
    line = "c = f * c + i * g" if name != "h" else "h = step(x[t], h)   # not np.clip(h, ...)"
    return {"name": name, "number": f"{number:g}", "other": f"{1 - number:g}", "line": line}


LIMITS = declared(
    """
    clipped
        {name} is clipped at ±{number}
        {kind} leaves larger numbers as they are.
        {line}
        {name} clipped at {number} (it is never larger)
    mixed
        {number} of the old {name} is mixed into the new one
        as zoneout does; {kind} has none: {name}_t is what the step gives.
        h = step(x[t], h)   # not {number} * h + {other} * step(x[t], h)
    scaled
        {name} is multiplied by {number} at every step
        {kind} does not scale it, and the next step reads it.
        h = step(x[t], h)
    """,
    Entry(
        "clipped",
        "limits of the states",
        "parts",
        _cut,
        options=_limits,
        measured=_reached,
        only_seen=True,
        concerns=("the cell state",),
        exactly="`c:3`: c = min(max(f × c_(t-1) + i × g, -3), 3) at every step. Other limits are "
        "read from the numbers, where several are exactly the largest.",
    ),
    Entry(
        "mixed",
        "the carried state",
        "parts",
        _mix,
        options=(),
        measured=_shares("mixed"),
        examples=("h:0.1",),
        exactly="`h:0.1`: h_t = 0.1 × h_(t-1) + 0.9 × what the step gives. The share is measured.",
    ),
    Entry(
        "scaled",
        "the carried state",
        "parts",
        _mix,
        options=(),
        measured=_shares("scaled"),
        examples=("h:0.9",),
        exactly="`h:0.9`: h_t = 0.9 × what the step gives, also for the next. It is measured.",
    ),
    facts=_facts,
)
