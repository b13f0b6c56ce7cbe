"""Whole runs of one part: from what it reads to the states in which it ended.

Where only the last layer's steps are known, a lower layer shows itself in its final states alone.
They depend on nothing but what it reads, so it can still be searched by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnscope._compare.model.misfit import Misfit, NumberGroup
from rnnscope._compare.model.model import Model, Part, PartIndex
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.model.run import ModelRun, ran
from rnnscope._compare.model.simulate import joined
from rnnscope._compare.model.steps import Flows, entered

__all__ = ["Run", "RunPart", "flows_above", "run_parts"]


@dataclass(frozen=True)
class Run:
    """What a part reads, (time, batch, feature), and starts from; ``final`` states as they came
    out and what rounding allows them, (batch, unit) and (batch, 1)."""

    x: Tensor
    initial: Mapping[str, Tensor]
    lengths: Tensor | None
    final: Mapping[str, Tensor]
    allowed: Mapping[str, Tensor]
    observation: int

    def of(self, parts: Sequence[Part]) -> list[ModelRun]:
        """The runs of parts with other weights or equations."""
        return ran(parts, self.x, self.initial, self.lengths)


@dataclass(frozen=True)
class RunPart:
    """All runs whose ends are known of one layer in one direction."""

    place: PartIndex
    part: Part
    runs: tuple[Run, ...]

    @property
    def richest(self) -> RunPart:
        """The same with the longest run only."""
        return replace(self, runs=(max(self.runs, key=lambda run: run.x.numel()),))

    few_units = False

    def few(self, part: Part) -> Part:
        """The part: a run needs all of it."""
        return part

    def misfit(self, parts: Sequence[Part]) -> Misfit:
        """How far the ends of each part's runs are from what was observed, by call and state."""
        return Misfit.gathered(self._differences(parts))

    def _differences(self, parts: Sequence[Part]) -> Iterator[tuple[NumberGroup, Tensor, Tensor]]:
        for run in self.runs:
            rans = run.of(parts)
            for name, seen in run.final.items():
                allowed = run.allowed[name]
                values = torch.stack([one.final[name] for one in rans])
                away = torch.where(torch.isfinite(allowed), distance(values, seen), 0.0)
                yield NumberGroup(run.observation, name, self.place), away, away / allowed


def run_parts(
    model: Model, observations: Sequence[Observation], layer: int, flows: Flows
) -> dict[PartIndex, RunPart]:
    """The parts of a layer whose ends are known; ``flows`` what layers read where it is not the
    input itself."""
    found: dict[PartIndex, RunPart] = {}
    for d, part in enumerate(model.parts[layer]):
        runs: list[Run] = []
        for k, one in enumerate(observations):
            inputs = entered(model, one.inputs, undone=True)
            x = None if inputs is None else inputs.x if layer == 0 else flows.get((k, layer))
            if inputs is None or x is None or x.shape[1] != one.inputs.batch:
                continue
            if "h" not in one.final:
                continue
            runs.append(
                Run(
                    x,
                    {name: value[layer, d] for name, value in inputs.initial.items()},
                    inputs.lengths,
                    {name: value[layer, d] for name, value in one.final.items()},
                    {name: one.allowed[f"{name}_n"][layer, d] for name in one.final},
                    k,
                )
            )
        apart = model.rows == "own" and not model.shared_state
        if runs and apart and not (part.after_forward or part.after_below):
            found[layer, d] = RunPart((layer, d), part, tuple(runs))
    return found


def flows_above(
    model: Model, witnesses: Mapping[PartIndex, RunPart], parts: Mapping[int, Part]
) -> Flows:
    """What the layer above reads when the parts of this one (by direction) run."""
    [layer] = {layer for layer, _ in witnesses}
    emitted: dict[int, list[Tensor]] = {}
    reads: dict[int, Tensor] = {}
    for (_, d), witness in sorted(witnesses.items()):
        for run in witness.runs:
            emitted.setdefault(run.observation, []).append(run.of([parts[d]])[0].emitted)
            reads[run.observation] = run.x
    flows: dict[tuple[int, int], Tensor] = {}
    for k, each in emitted.items():
        flow = joined(model, layer, each, reads[k])
        if flow is not None:
            flows[k, layer + 1] = flow
    return flows
