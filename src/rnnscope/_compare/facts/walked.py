"""A call walked step by step: all layers of one direction, with states that are changed on the way.

Enters: the parts of a model, and what they read. Leaves: what comes out, and where the states were
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rnnscope._compare.model.model import Inputs, Model, Outcome, Part, PartIndex
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.model.run import Job, ModelRun, run_jobs
from rnnscope._compare.model.simulate import joined
from rnnscope._layers.sequences import keep_on_padding, running_order

__all__ = ["Schedule", "Standing", "States", "Walk", "Walked", "layered", "run_part"]

States = Mapping[str, Tensor]
"""Each state, (batch, unit)."""

RunOfPart = Callable[[Part, Tensor, States, PartIndex], ModelRun]
"""Of a part, what it reads, (time, batch, feature), where it starts, and its place."""

Schedule = Tensor
"""(time, batch): True where a row's states are changed before that step, in the order of
computing."""


@dataclass(frozen=True)
class Standing:
    """Where a walk stands before step ``done`` of the order of computing: every layer's states."""

    walk: Walk
    done: int
    states: Sequence[States]

    def replayed(self, count: int) -> Sequence[States]:
        """The states where the last steps, so many, are taken once more."""
        states = self.states
        for t in self.walk.order[max(0, self.done - count) : self.done]:
            _, states = self.walk.step(t, states)
        return states


@dataclass(frozen=True)
class Walked:
    """A walk to its end: the output (time, batch, unit), every layer's states, and where states
    were changed."""

    output: Tensor
    states: Sequence[States]
    changed: Schedule


@dataclass(frozen=True)
class Walk:
    """One direction of all layers on the inputs of a call; on padding, where ``valid`` (time,
    batch) is False, states stay as they are."""

    model: Model
    direction: int
    inputs: Inputs
    valid: Tensor | None = None

    @cached_property
    def parts(self) -> list[Part]:
        """Every layer's part."""
        return [row[self.direction] for row in self.model.parts]

    @cached_property
    def order(self) -> range:
        """The steps, in the order of computing."""
        return running_order(range(self.inputs.steps), self.parts[-1].backward)

    @cached_property
    def initial(self) -> Sequence[States]:
        """Every layer's initial states."""
        given = self.inputs.initial
        layers = range(self.model.num_layers)
        return [{n: value[layer, self.direction] for n, value in given.items()} for layer in layers]

    def first_wrong(self, observation: Observation) -> int:
        """The first step, in the order of computing, at which what was observed is not what the
        model gives; all steps where there is none."""
        [right] = observation.simulator.run([self.model])
        seen = observation.output
        if right is None or seen is None or right.output.shape != seen.shape:
            return 0
        off = distance(right.output, seen) > observation.allowed["output"]
        wrong = (off & observation.usable("output")).flatten(1).any(1)
        return next((k for k, t in enumerate(self.order) if bool(wrong[t])), len(self.order))

    def step(self, t: int, states: Sequence[States]) -> tuple[Tensor, list[States]]:
        """One step of all layers: what comes out, and every layer's states."""
        flow = self.inputs.x[t].unsqueeze(0)
        real = None if self.valid is None else self.valid[t]
        after: list[States] = []
        for part, before in zip(self.parts, states, strict=True):
            run = run_part(part, flow, before, None)
            flow = run.emitted
            after.append({n: keep_on_padding(v, before[n], real) for n, v in run.final.items()})
        return flow[0], after

    def unchanged(self, steps: int) -> tuple[list[Tensor], list[States]]:
        """The first steps, in the order of computing, at once: what comes out at each, and every
        layer's states."""
        if not steps:
            return [], list(self.initial)
        backward = self.parts[-1].backward
        first = self.inputs.steps - steps if backward else 0
        lengths, flow = self.inputs.lengths, self.inputs.x[first : first + steps]
        real = None if lengths is None else (lengths - first).clamp(0, steps)
        states: list[States] = []
        for part, begin in zip(self.parts, self.initial, strict=True):
            run = run_part(part, flow, begin, real)
            flow = run.emitted
            states.append(run.final)
        outputs = list(flow.unbind(0))
        return outputs[::-1] if backward else outputs, states

    def taken(
        self,
        rows: Callable[[int, Tensor], Tensor],
        change: Callable[[Standing], Sequence[States]],
        fits: Callable[[int, Tensor], Tensor] | None = None,
        start: int = 0,
    ) -> Walked | None:
        """To the end, with the states changed before a step in the ``rows`` (batch) that it and
        what would come out tell, from step ``start`` on; None where what comes out then ``fits``
        in one of them not."""
        outputs, states = self.unchanged(start)
        changed = torch.zeros(self.inputs.steps, self.inputs.batch, dtype=torch.bool, device="cpu")
        for k, t in enumerate(self.order[start:], start):
            output, after = self.step(t, states)
            changed[k] = rows(k, output)
            if bool(changed[k].any()):
                again, others = self.step(t, change(Standing(self, k, states)))
                if fits is not None and not bool((fits(k, again) | ~changed[k]).all()):
                    return None
                here = changed[k].unsqueeze(-1)
                output = torch.where(here, again, output)
                after = [
                    {name: torch.where(here, new[name], kept[name]) for name in kept}
                    for kept, new in zip(after, others, strict=True)
                ]
            outputs.append(output)
            states = after
        in_time = outputs[::-1] if self.parts[-1].backward else outputs
        return Walked(torch.stack(in_time), states, changed)


def run_part(
    part: Part, x: Tensor, initial: States, lengths: Tensor | None, names: Sequence[str] = ()
) -> ModelRun:
    """A part's run, with the quantities of each step that are named."""
    with torch.inference_mode():
        [run] = run_jobs([Job(part, x, initial, ())], lengths, False, names)
    return run


def layered(model: Model, inputs: Inputs, run: RunOfPart) -> Outcome:
    """What the reference's layers return if each part is run like this, one after the other."""
    flow = inputs.x
    runs: list[list[ModelRun]] = []
    for layer, row in enumerate(model.parts):
        begins = ({n: v[layer, d] for n, v in inputs.initial.items()} for d in range(len(row)))
        parts = enumerate(zip(row, begins, strict=True))
        runs.append([run(part, flow, begin, (layer, d)) for d, (part, begin) in parts])
        after = joined(model, layer, [ran.emitted for ran in runs[-1]], flow)
        assert after is not None, "the reference adds nothing to what a layer hands on"
        flow = after

    def stacked(numbers: Callable[[ModelRun], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {
            name: torch.stack([torch.stack([numbers(ran)[name] for ran in row]) for row in runs])
            for name in numbers(runs[0][0])
        }

    return Outcome(flow, stacked(lambda ran: ran.final), steps=stacked(lambda ran: ran.steps))
