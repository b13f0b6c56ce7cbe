"""Many models run at once on the same inputs: what each would return.

Models that differ in few places share the rest: every part is run once for each different set of
weights and each different input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from rnnscope._compare.model.model import Change, Inputs, Model, Outcome, Token
from rnnscope._compare.model.run import Job, ModelRun, chunks, run_jobs
from rnnscope._compare.model.shared_state import fits_sharing, run_sharing
from rnnscope._compare.work import spend

__all__ = ["Simulator", "changed_inputs", "joined"]


@dataclass(frozen=True)
class _Flow:
    """What flows from layer to layer, with the token of how it came about."""

    x: Tensor
    token: Token


@dataclass
class _Progress:
    """A model on its way through the layers: its inputs before and after each change, what flows
    (None where it does not fit), the runs of each layer so far (None where it is skipped), and what
    each handed on."""

    model: Model
    stages: tuple[Inputs, ...] | None
    flow: _Flow | None = None
    runs: list[list[ModelRun | None]] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)

    @property
    def inputs(self) -> Inputs:
        """What the first layer is given."""
        assert self.stages is not None, "what flows has entered"
        return self.stages[-1]

    @property
    def start(self) -> Token:
        """Tells the changes of the inputs from others."""
        return tuple(change.token for change in self.model.enter)


@dataclass
class Simulator:
    """Runs models on one call's inputs; what has been run once is remembered. ``names`` are the
    quantities that are recorded at every step; ``rounded`` changes the states after each."""

    inputs: Inputs
    names: tuple[str, ...] = ()
    rounded: Callable[[Tensor], Tensor] | None = None
    _done: dict[Token, ModelRun] = field(default_factory=dict)
    _numbers: dict[Token, Token] = field(default_factory=dict)

    def run(self, models: Sequence[Model]) -> list[Outcome | None]:
        """What each model returns; None where a model does not fit these inputs."""
        with torch.inference_mode():
            all_progress = self._entered(models)
            entered = [progress for progress in all_progress if progress.flow is not None]
            self._share([progress for progress in entered if progress.model.shared_state])
            plain = [model for model in models if not model.shared_state]
            spend(sets=sum(model.num_layers * model.num_directions for model in plain))
            separate = [progress for progress in entered if not progress.model.shared_state]
            shared: dict[Token, Any] = {}
            for layer in range(models[0].num_layers if models else 0):
                self._layer(layer, separate, shared)
            return [_outcome(progress) for progress in all_progress]

    def _entered(self, models: Sequence[Model]) -> list[_Progress]:
        stages: dict[Token, tuple[Inputs, ...] | None] = {}
        all_progress = [_Progress(model, None) for model in models]
        for progress in all_progress:
            if progress.start not in stages:
                stages[progress.start] = changed_inputs(self.inputs, progress.model)
            progress.stages = stages[progress.start]
            if progress.stages is not None:
                progress.flow = _Flow(progress.inputs.x, progress.start)
        return all_progress

    def _share(self, all_progress: Sequence[_Progress]) -> None:
        """Runs models whose layers share one state."""
        fitting = []
        for progress in all_progress:
            progress.flow = None
            if fits_sharing(progress.model, progress.inputs):
                fitting.append(progress)
        pairs = [(progress.model, progress.inputs) for progress in fitting]
        results = run_sharing(pairs, self.names, self.rounded)
        for progress, layers in zip(fitting, results, strict=True):
            progress.runs = [[layer] for layer in layers]
            progress.written = [layer.emitted for layer in layers]
            progress.flow = _Flow(layers[-1].emitted, ())

    def _layer(
        self, layer: int, all_progress: Sequence[_Progress], shared: dict[Token, Any]
    ) -> None:
        """Runs one layer of every model whose flow has come to it."""
        flowing = [progress for progress in all_progress if progress.flow is not None]
        for progress in flowing:
            for change in progress.model.reads[layer]:
                progress.flow = self._read(change, progress, shared)
            progress.runs.append([])
        for d in range(flowing[0].model.num_directions if flowing else 0):
            jobs = [
                (progress, self._job(progress, progress.flow, layer, d, shared))
                for progress in flowing
                if progress.flow is not None and layer not in progress.model.skipped
            ]
            self._run(jobs)
            for progress, job in jobs:
                if job.token in self._done:
                    progress.runs[-1].append(self._done[job.token])
                else:
                    progress.flow = None
        for progress in flowing:
            if layer in progress.model.skipped:
                progress.runs[-1] = [None] * progress.model.num_directions
            elif progress.flow is not None:
                progress.flow = self._joined(layer, progress, progress.flow, shared)
            if progress.flow is not None:
                progress.written.append(progress.flow.x)

    def _short(self, token: Token) -> Token:
        """A number that stands for a token: those of layers above are made of it."""
        return self._numbers.setdefault(token, (len(self._numbers),))

    def _read(self, change: Change, progress: _Progress, shared: dict[Token, Any]) -> _Flow:
        flow = progress.flow
        assert flow is not None, "what is read flows"
        below = [run for run in progress.runs[-1] if run is not None]
        key = ("read", change.token, flow.token, tuple(run.token for run in below))
        if key not in shared:
            finals = [run.final["h"] for run in below]
            shared[key] = _Flow(change(flow.x, finals), self._short(key))
        return cast(_Flow, shared[key])

    def _job(
        self, progress: _Progress, flow: _Flow, layer: int, d: int, shared: dict[Token, Any]
    ) -> Job:
        model, inputs, start = progress.model, progress.inputs, progress.start
        part, runs = model.parts[layer][d], progress.runs
        below = runs[-2][d] if layer else None
        if part.after_forward and runs[-1]:
            source, start = runs[-1][0], ("after",)
        elif part.after_below and below is not None:
            source, start = below, ("above",)
        else:
            source = None
        if source is not None:
            initial, start = source.final, (*start, source.token)
        else:
            key = ("initial", id(inputs), layer, d)
            if key not in shared:
                shared[key] = {name: value[layer, d] for name, value in inputs.initial.items()}
            initial = shared[key]
        token = (part.token, layer, d, model.rows, start, flow.token)
        return Job(part, flow.x, initial, self._short(token))

    def _run(self, jobs: Sequence[tuple[_Progress, Job]]) -> None:
        """Runs all jobs that fit; equal ones once, those alike in batches."""
        groups: dict[Token, dict[Token, Job]] = {}
        facts: dict[Token, tuple[Tensor | None, bool]] = {}
        for progress, job in jobs:
            if job.token in self._done or not _fits(job):
                continue
            lengths, chained = progress.inputs.lengths, progress.model.rows == "chained"
            key = (job.alike, id(lengths), chained)
            groups.setdefault(key, {})[job.token] = job
            facts[key] = (lengths, chained)
        for key, group in groups.items():
            for chunk in chunks(list(group.values())):
                results = run_jobs(chunk, *facts[key], self.names, self.rounded)
                self._done |= {job.token: run for job, run in zip(chunk, results, strict=True)}

    def _joined(
        self, layer: int, progress: _Progress, read: _Flow, shared: dict[Token, Any]
    ) -> _Flow | None:
        model, runs = progress.model, [run for run in progress.runs[-1] if run is not None]
        changes = (*model.joins[layer], *model.writes[layer])
        key = (
            "join",
            tuple(run.token for run in runs),
            tuple(change.token for change in changes),
            read.token if model.writes[layer] else (),
        )
        if key not in shared:
            flow = joined(model, layer, [run.emitted for run in runs], read.x)
            if flow is None:
                return None
            shared[key] = _Flow(flow, self._short(key))
        return cast(_Flow, shared[key])


def changed_inputs(inputs: Inputs, model: Model) -> tuple[Inputs, ...] | None:
    """The inputs before and after each change."""
    stages = [inputs]
    for change in model.enter:
        changed: Inputs | None = change(stages[-1])
        if changed is None:
            return None
        stages.append(changed)
    return tuple(stages)


def _fits(job: Job) -> bool:
    weights = job.part.stored
    return (
        job.x.shape[-1] == weights.ih.shape[-1]
        and job.initial["h"].shape[-1] == weights.hh.shape[-1]
        and all(value.shape[0] == job.x.shape[1] for value in job.initial.values())
    )


def joined(
    model: Model, layer: int, emitted: Sequence[Tensor], read: Tensor | None
) -> Tensor | None:
    """What a layer hands on of what its directions emit; None where what it read is needed and does
    not fit, or is not known."""
    flow = emitted[0] if len(emitted) == 1 else torch.cat(list(emitted), -1)
    for change in model.joins[layer]:
        flow = change(flow)
    for change in model.writes[layer]:
        if read is None or read.shape != flow.shape:
            return None
        flow = change(flow, read)
    return flow


def _outcome(progress: _Progress) -> Outcome | None:
    model, flow, stages, runs = progress.model, progress.flow, progress.stages, progress.runs
    if flow is None or stages is None:
        return None
    states: dict[str, Tensor] = {}
    for name, initial in stages[-1].initial.items():
        rows = [
            [initial[layer, d] if run is None else run.final[name] for d, run in enumerate(row)]
            for layer, row in enumerate(runs)
        ]
        sizes = {value.shape for row in rows for value in row}
        if len(sizes) == 1:
            states[name] = _stacked(rows)
    recorded = [[run.steps for run in row if run is not None] for row in runs]
    complete = all(run is not None for row in runs for run in row)
    names = recorded[0][0] if complete else ()
    steps = {name: _stacked([[run[name] for run in row] for row in recorded]) for name in names}
    last = [run for run in runs[-1] if run is not None]
    before = None
    if last and not model.writes[-1] and not model.shared_state:
        before = torch.cat([run.before for run in last], -1)
        for change in model.joins[-1]:
            before = change(before)
    try:
        outcome = Outcome(flow.x, states, tuple(progress.written), before, steps)
        return _left(model, outcome, stages)
    except (RuntimeError, ValueError):
        return None  # changes whose shapes do not fit each other: no such implementation can be


def _stacked(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(list(row)) for row in rows])


def _left(model: Model, outcome: Outcome | None, stages: Sequence[Inputs]) -> Outcome | None:
    """What is returned, after all changes on the way out."""
    for change in model.inner:
        if outcome is None:
            return None
        outcome = change(outcome, stages[-1])
    for change, given in zip(reversed(model.enter), reversed(stages[:-1]), strict=True):
        if outcome is not None and change.undo is not None:
            outcome = change.undo(outcome, given)
    for change in model.leave:
        if outcome is None:
            return None
        outcome = change(outcome, stages[0])
    return outcome
