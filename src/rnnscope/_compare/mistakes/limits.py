"""Mistakes that change a state as a whole at every step: it is cut, mixed with the old, scaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words
from rnnscope._compare.mistakes.equations import first_part, with_equations
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


def _cell_state(model: Model) -> str | None:
    return next((s for s in first_part(model).cell.states if s != "h"), None)


# cut ------------------------------------------------------------------------------------------


def _limits(model: Model) -> Iterator[Choice]:
    cell = _cell_state(model)
    if cell is not None:
        yield from ((f"{cell}:{limit}", "") for limit in USUAL["c"])
    if not model.structure.cell.projected:
        yield from ((f"h:{limit}", "") for limit in USUAL["h"])


def _reached(model: Model, observations: Sequence[Observation]) -> Iterator[Choice]:
    """The largest number, where several are exactly that."""
    choices = {choice for choice, _ in _limits(model)}
    for observation in observations:
        values = dict(observation.final)
        if observation.output is not None:
            values["h"] = observation.output
        values |= {
            n: v for n, v in observation.quantities.items() if n in model.structure.cell.states
        }
        cells = [] if _cell_state(model) is None else list(_cells(model, observation))
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
    name = _cell_state(model)
    for step in _steps([model], [observation]):
        match first_part(model).cell.equations["h"]:
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


def _cut_words(cause: Cause, model: Model) -> Words:
    name, limit = _state(cause.choice)
    return Words(
        f"{name} is clipped at ±{limit:g}",
        f"{model.structure.kind} leaves larger numbers as they are.",
        "c = f * c + i * g" if name != "h" else "h = step(x[t], h)   # not np.clip(h, ...)",
        f"{name} clipped at {limit:g} (it is never larger)",
    )


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


def _mixed(step: _LastLayerSteps, k: int) -> str | None:
    share = _share(step.after - step.expected[k], step.before - step.expected[k])
    if share is None or not 1e-4 < share < 1 - 1e-4:
        return None
    return f"h:{_written(share, step.unit)}"


def _scaled(step: _LastLayerSteps, k: int) -> str | None:
    scale = _share(step.after, step.expected[k])
    if scale is None or abs(scale) <= 1e-4 or abs(scale - 1) <= 1e-4:
        return None
    return f"h:{_written(scale, step.unit)}"


def _mixed_shares(model: Model, observations: Sequence[Observation]) -> Iterator[Choice]:
    found = (_mixed(step, 0) for step in _steps([model], observations))
    yield from ((choice, "") for choice in islice(filter(None, found), 1))


def _scales(model: Model, observations: Sequence[Observation]) -> Iterator[Choice]:
    found = (_scaled(step, 0) for step in _steps([model], observations))
    yield from ((choice, "") for choice in islice(filter(None, found), 1))


def shares_beside(
    models: Sequence[Model], observations: Sequence[Observation]
) -> Iterator[tuple[int, Cause]]:
    """What of the old h is mixed into the new one, or by what it is scaled, where one of some
    models of the same layers below is right but for that; in the last layer, in each direction."""
    names = models[0].structure.directions
    for step, direction in zip(_steps(models, observations), names, strict=False):
        for k in range(len(step.expected)):
            for name, measured in (("mixed", _mixed), ("scaled", _scaled)):
                choice = measured(step, k)
                if choice is not None:
                    yield k, Cause(name, choice, direction=direction)


def _nothing(model: Model) -> Iterator[Choice]:
    return iter(())


def _mix(part: Part, cause: Cause) -> Part | None:
    name, share = _state(cause.choice)
    mixed = share * Previous(name) + (1 - share) * part.cell.equations[name]
    return with_equations(part, cause, **{name: mixed})


def _scale(part: Part, cause: Cause) -> Part | None:
    name, scale = _state(cause.choice)
    return with_equations(part, cause, **{name: scale * part.cell.equations[name]})


def _share_words(cause: Cause, model: Model) -> Words:
    name, share = _state(cause.choice)
    kind = model.structure.kind
    if cause.name == "mixed":
        return Words(
            f"{share:g} of the old {name} is mixed into the new one",
            f"as zoneout does; {kind} has none: {name}_t is what the step gives.",
            f"h = step(x[t], h)   # not {share:g} * h + {1 - share:g} * step(x[t], h)",
        )
    return Words(
        f"{name} is multiplied by {share:g} at every step",
        f"{kind} does not scale it, and the next step reads it.",
        "h = step(x[t], h)",
    )


LIMITS = (
    Entry(
        "clipped",
        "limits of the states",
        "parts",
        _limits,
        _cut_words,
        _cut,
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
        _nothing,
        _share_words,
        _mix,
        measured=_mixed_shares,
        examples=("h:0.1",),
        exactly="`h:0.1`: h_t = 0.1 × h_(t-1) + 0.9 × what the step gives. The share is measured.",
    ),
    Entry(
        "scaled",
        "the carried state",
        "parts",
        _nothing,
        _share_words,
        _scale,
        measured=_scales,
        examples=("h:0.9",),
        exactly="`h:0.9`: h_t = 0.9 × what the step gives, also for the next. It is measured.",
    ),
)
