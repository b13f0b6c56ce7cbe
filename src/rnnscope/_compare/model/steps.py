"""Single steps: a candidate's own states before and after them, part by part.

What a candidate returned is opened with the reference's equations and the candidate's *own*
states, so an error of one step shows alone, whatever happened before it, and whatever else is
wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from torch import Tensor

from rnnscope._compare.model.batched import of_units, separable
from rnnscope._compare.model.lengths import moved
from rnnscope._compare.model.misfit import Misfit
from rnnscope._compare.model.model import Inputs, Model, Part, Token
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.model.simulate import changed_inputs, joined
from rnnscope._compare.model.single_steps import KnownStates, opened, restricted

__all__ = [
    "FEW",
    "Flows",
    "OpenedPart",
    "Steps",
    "entered",
    "opened_parts",
    "scale",
    "started",
    "worst_step",
]

FEW = 24
"""Units that are compared in the search of a large layer."""

STEP = 16
"""An opened step may be off by so many roundings of the largest sum of its products."""


@dataclass(frozen=True)
class Steps:
    """Single steps of one part: what is known of them and what came out, in the order of
    computing; ``after`` maps states to (time, batch, unit); ``unit`` is the rounding."""

    known: KnownStates
    after: Mapping[str, Tensor]
    observation: int
    unit: float

    @property
    def compared(self) -> int:
        """Steps of rows that are no padding."""
        valid = self.known.valid
        return self.known.x.shape[:2].numel() if valid is None else int(valid.sum())


@dataclass(frozen=True)
class OpenedPart:
    """All single steps that are known of one layer in one direction."""

    place: tuple[int, int]
    part: Part
    steps: tuple[Steps, ...]
    direction: str

    @cached_property
    def token(self) -> Token:
        """All that is known of the steps."""
        tensors = [
            tensor
            for steps in self.steps
            for known in (
                {"x": steps.known.x},
                steps.known.initial,
                steps.known.before,
                steps.after,
            )
            for tensor in known.values()
        ]
        numbers = (tensor.contiguous().numpy().tobytes() for tensor in tensors)
        return self.place, self.part.token, *numbers

    @cached_property
    def richest(self) -> OpenedPart:
        """The same with the steps of one call only, that of which most is known; rather one that
        begins with states."""

        def fullness(steps: Steps) -> tuple[int, bool]:
            begun = any(bool(value.any()) for value in steps.known.initial.values())
            return sum(value.numel() for value in steps.after.values()), begun

        return replace(self, steps=(max(self.steps, key=fullness),))

    @cached_property
    def few_units(self) -> bool:
        """Whether only few of many units differ: then no mistake of the catalogue explains it, for
        each of them concerns all units."""
        ratios = self.units(self.part)
        wrong = int((ratios > 1).sum())
        return 0 < wrong <= len(ratios) // 4

    @property
    def compares(self) -> bool:
        """Whether any number of any step is one."""
        for steps in self.steps:
            values = opened([self.part], steps.known, steps.after)
            for value in values.values():
                valid = steps.known.valid
                right = value[0] if valid is None else value[0][valid]
                if bool(torch.isfinite(right).any()):
                    return True
        return False

    def few(self, part: Part, most: int = FEW) -> Part:
        """Of a part what ``misfit`` needs of it: the weights of a large one are let go."""
        units = _some(self.part.stored.hidden_size, most)
        return part if units is None or not separable(part.cell) else restricted(part, units)

    def misfit(self, parts: Sequence[Part], most: int = FEW) -> Misfit:
        """How far each part's single steps are from what was observed.

        In a large layer at ``most`` so many units are compared, unless a cell's units need each
        other.
        """
        units = _some(self.part.stored.hidden_size, most)
        if units is None:
            return self._misfit(parts, None)
        apart = [separable(part.cell) for part in parts]
        misfit = Misfit.none(len(parts))
        for alone, chosen in ((True, units), (False, None)):
            places = [k for k, each in enumerate(apart) if each == alone]
            if places:
                those = [parts[k] for k in places]
                misfit = misfit.at(places, self._misfit(those, chosen))
        return misfit

    def _compared(
        self, parts: Sequence[Part], units: Tensor | None = None
    ) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
        """Call by call each state of every single step: its name, how far each part is from what
        was observed, (part, time, batch, unit), 0 on padding, and what rounding allows."""
        for steps, tolerance in zip(self.steps, self.tolerances, strict=True):
            values = opened(parts, replace(steps.known, units=units), steps.after)
            valid = steps.known.valid
            inside = 1 if valid is None else valid.unsqueeze(-1)
            yield [
                (name, distance(values[name], of_units(after, units)) * inside, tolerance[name])
                for name, after in steps.after.items()
            ]

    def _misfit(self, parts: Sequence[Part], units: Tensor | None) -> Misfit:
        numbers = [
            (away, away / within, steps.compared * away.shape[-1])
            for steps, call in zip(self.steps, self._compared(parts, units), strict=True)
            for _, away, within in call
        ]
        return Misfit.of(numbers)

    @cached_property
    def tolerances(self) -> list[dict[str, Tensor]]:
        """What rounding allows each state, for all steps."""
        return [tolerances(self.part, steps) for steps in self.steps]

    def ratios(self, part: Part) -> Iterator[list[Tensor]]:
        """Call by call how far each state of every single step is from what was observed, relative
        to what rounding allows, (time, batch, unit), 0 on padding."""
        for call in self._compared([part]):
            yield [away[0] / within for _, away, within in call]

    def largest(self) -> tuple[float, float, float]:
        """Of the state that is the most beyond what rounding allows a single step: by how many
        times, its difference, and what is allowed."""
        worst = (0.0, 0.0, 0.0)
        for call in self._compared([self.part]):
            for _, away, within in call:
                k = int((away / within).argmax())
                difference = float(away.flatten()[k])
                allowed = float(within.expand_as(away[0]).flatten()[k])
                worst = max(worst, (difference / allowed, difference, allowed))
        return worst

    def states(self) -> dict[str, float]:
        """How far each state that is known is beyond what rounding allows a single step."""
        ratios: dict[str, float] = {}
        for call in self._compared([self.part]):
            for name, away, within in call:
                ratios[name] = max(ratios.get(name, 0.0), float((away / within).max()))
        return ratios

    def units(self, part: Part) -> Tensor:
        """The largest deviation of each unit over all single steps, relative to what rounding
        allows, (unit): of the state that has one number a unit."""
        units = [ratio.flatten(0, 1).amax(0) for call in self.ratios(part) for ratio in call]
        size = max(map(len, units))
        return torch.stack([ratio for ratio in units if len(ratio) == size]).amax(0)


@cache
def _some(size: int, most: int) -> Tensor | None:
    """The units that are compared of so many; None where it is all of them."""
    return (
        None
        if size <= FEW
        else torch.linspace(0, size - 1, most, dtype=torch.float32, device="cpu").long()
    )


def scale(part: Part, known: KnownStates) -> Tensor:
    """|W_ih||x| + |W_hh||h| + |b| at every step, the largest of any row: (time, batch, 1)."""
    weights = part.weights
    total = known.x.abs() @ weights.ih.abs().mT
    total = total + known.before["h"].abs() @ weights.hh.abs().mT
    for bias in (weights.b_ih, weights.b_hh):
        if bias is not None:
            total = total + bias.abs()
    return total.nan_to_num(1.0).amax(-1, keepdim=True).clamp_min(1)


def tolerances(part: Part, steps: Steps) -> dict[str, Tensor]:
    """What rounding allows each state of an opened step."""
    step = STEP * steps.unit * scale(part, steps.known)
    by_place: dict[str, Tensor] = {}
    for name, value in steps.after.items():
        largest = value.nan_to_num(1.0).abs().amax(-1, keepdim=True).clamp_min(1)
        by_place[name] = step * largest
    hidden = [name for name in part.cell.states if name not in steps.known.before]
    if hidden:
        # a state that is run along gathers the errors of all steps before
        passed = torch.arange(1, steps.known.x.shape[0] + 1, dtype=step.dtype, device="cpu")
        gathered = torch.cummax(step, 0).values * passed[:, None, None].sqrt() * 2
        by_place = {name: torch.maximum(value, gathered) for name, value in by_place.items()}
    return by_place


Flows = Mapping[tuple[int, int], Tensor]
"""What layers read, (time, batch, feature), by observation and layer."""


def opened_parts(
    model: Model, observations: Sequence[Observation], flows: Flows | None = None
) -> dict[tuple[int, int], OpenedPart]:
    """Every part of which single steps are known, its input being what the candidate gave below
    it, as the model hands it on; or, where that is not known, one of ``flows``."""
    by_place: dict[tuple[int, int], list[Steps]] = {}
    for k, observation in enumerate(observations):
        for place, steps in _steps(model, observation, k, flows or {}).items():
            by_place.setdefault(place, []).append(steps)
    names = model.structure.directions
    return {
        (layer, d): OpenedPart((layer, d), model.parts[layer][d], tuple(steps), names[d])
        for (layer, d), steps in by_place.items()
    }


def worst_step(model: Model, observations: Sequence[Observation]) -> float:
    """The largest ratio of any single step to what rounding allows; 0 where none is known."""
    parts = opened_parts(model, observations).values()
    return max((float(part.misfit([part.part]).worst[0]) for part in parts), default=0.0)


def _steps(
    model: Model, observation: Observation, k: int, flows: Flows
) -> dict[tuple[int, int], Steps]:
    inputs = entered(model, observation.inputs)
    if inputs is None or model.shared_state:
        return {}
    h = _hidden(model, observation)
    by_place: dict[tuple[int, int], Steps] = {}
    states = model.structure.cell.states
    flow: Tensor | None = inputs.x
    finals: list[Mapping[str, Tensor]] = []
    for layer, row in enumerate(model.parts):
        if layer in model.skipped:
            continue
        flow = flows.get((k, layer), _read(model, layer, flow, finals))
        below, finals = finals, []
        emitted: list[Tensor] = []
        for d, part in enumerate(row):
            states_known = h.get((layer, d), {})
            if part.emits in states_known:
                emitted.append(states_known[part.emits])
            finals.append(_finals(observation, layer, d, states_known))
            if flow is None or "h" not in states_known or not states_known.keys() & set(states):
                continue
            if flow.shape[-1] != part.stored.ih.shape[-1] or any(part.flipped):
                continue
            if part.in_place and not separable(part.cell):
                continue
            initial = started(
                model,
                part,
                {name: value[layer, d] for name, value in inputs.initial.items()},
                finals,
                below[d] if below else {},
            )
            if initial is not None:
                by_place[layer, d] = _of_part(part, observation, flow, states_known, initial, k)
        whole = len(emitted) == model.num_directions
        flow = joined(model, layer, emitted, flow) if whole else None
    return by_place


def entered(model: Model, inputs: Inputs, undone: bool = False) -> Inputs | None:
    """The inputs as the model's layers get them; None where they do not fit, or where what is
    returned is changed back unless that may be (``undone``)."""
    if not undone and any(change.undo is not None for change in model.enter):
        return None
    stages = changed_inputs(inputs, model)
    return None if stages is None else stages[-1]


def _finals(
    observation: Observation, layer: int, d: int, states_known: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The final states of a part, (batch, unit), as far as they are known."""
    by_place = {name: value[layer, d] for name, value in observation.final.items()}
    if observation.inputs.steps == 1:
        by_place = {name: value[0] for name, value in states_known.items()} | by_place
    return by_place


def started(
    model: Model,
    part: Part,
    initial: Mapping[str, Tensor],
    beside: Sequence[Mapping[str, Tensor]],
    below: Mapping[str, Tensor],
) -> Mapping[str, Tensor] | None:
    """What a part starts from, (batch, unit); None where that is not known."""
    other = beside[0] if part.after_forward else below if part.after_below else initial
    if part.after_below and not below:
        other = initial
    if not initial.keys() <= other.keys():
        return None
    own = {name: other[name] for name in initial}
    if model.rows == "chained":
        states_known = beside[-1]
        if not own.keys() <= states_known.keys():
            return None
        own = {name: torch.cat([value[:1], states_known[name][:-1]]) for name, value in own.items()}
    return own


def _read(
    model: Model, layer: int, flow: Tensor | None, finals: Sequence[Mapping[str, Tensor]]
) -> Tensor | None:
    for change in model.reads[layer]:
        if flow is None or any("h" not in one for one in finals):
            return None
        flow = change(flow, [one["h"] for one in finals])
    return flow


def _of_part(
    part: Part,
    observation: Observation,
    flow: Tensor,
    states_known: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    k: int,
) -> Steps:
    backward = part.backward
    x = flow.flip(0) if backward else flow
    after = {name: _computed(value, part, observation) for name, value in states_known.items()}
    valid = observation.valid
    inside = None if valid is None else valid[..., 0].flip(0) if backward else valid[..., 0]
    before: dict[str, Tensor] = {}
    for name, value in after.items():
        if name not in initial:
            continue
        previous = torch.cat([initial[name].unsqueeze(0), value[:-1]])
        if inside is not None:
            fresh = inside.clone()
            fresh[1:] &= ~inside[:-1]
            previous = torch.where(fresh.unsqueeze(-1), initial[name], previous)
        before[name] = previous
    overwritten = after["h"] if part.in_place else None
    known = KnownStates(x, before, initial, inside, overwritten=overwritten)
    return Steps(known, after, k, observation.unit)


def _computed(value: Tensor, part: Part, observation: Observation) -> Tensor:
    """What a part gave, (time, batch, unit), in the order of computing: that of time, or as it was
    left where it was not laid into time."""
    if not part.backward:
        return value
    if part.aligned:
        return value.flip(0)
    lengths = observation.inputs.lengths
    return value if lengths is None else moved(value, lengths, True)


def _hidden(model: Model, observation: Observation) -> dict[tuple[int, int], dict[str, Tensor]]:
    """What is known of the states at every step, (time, batch, unit), by part."""
    by_place: dict[tuple[int, int], dict[str, Tensor]] = {}
    states = model.structure.cell.states
    last = model.num_layers - 1
    directions = model.num_directions
    for layer in range(model.num_layers):
        for d in range(directions):
            states_known: dict[str, Tensor] = {}
            for name in states:
                if name in observation.quantities:
                    value = observation.quantities[name][layer, d]
                    states_known[name] = value.transpose(0, 1)
                elif observation.inputs.steps == 1 and name in observation.final:
                    states_known[name] = observation.final[name][layer, d].unsqueeze(0)
            for name in observation.quantities.keys() - set(states):
                states_known[name] = observation.quantities[name][layer, d].transpose(0, 1)
            output = observation.output
            size = model.structure.output_size
            if layer == last and output is not None and output.shape[-1] == directions * size:
                states_known["h"] = output[..., d * size : (d + 1) * size]
            if states_known:
                by_place[layer, d] = states_known
    return by_place
