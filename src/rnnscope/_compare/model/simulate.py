"""Many models run at once on the same inputs: what each would return.

Models that differ in few places share the rest: every part is run once for each different set of
weights and each different input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rnnscope._compare.model.model import Inputs, Model, Outcome, Part, Token
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
            sharing = [k for k, model in enumerate(models) if model.shared_state]
            if not sharing:
                return self._run(models)
            apart = self._run_sharing([models[k] for k in sharing])
            plain = iter(self._run([model for model in models if not model.shared_state]))
            together = dict(zip(sharing, apart, strict=True))
            return [together[k] if k in together else next(plain) for k in range(len(models))]

    def _run_sharing(self, models: Sequence[Model]) -> list[Outcome | None]:
        """The same of models whose layers share one state."""
        entered: dict[Token, tuple[Inputs, ...] | None] = {}
        for model in models:
            token = tuple(change.token for change in model.enter)
            if token not in entered:
                entered[token] = changed_inputs(self.inputs, model)
        stages = [entered[tuple(change.token for change in model.enter)] for model in models]
        pairs = list(zip(models, stages, strict=True))
        fitting = [
            (model, stage[-1])
            for model, stage in pairs
            if stage is not None and fits_sharing(model, stage[-1])
        ]
        runs = run_sharing(fitting, self.names, self.rounded)
        ran = dict(zip((id(model) for model, _ in fitting), runs, strict=True))
        found: list[Outcome | None] = []
        for model, stage in pairs:
            if stage is None or id(model) not in ran:
                found.append(None)
                continue
            layers = [
                ModelRun(run.emitted, run.emitted, run.final, (), run.steps)
                for run in ran[id(model)]
            ]
            flow = _Flow(layers[-1].emitted, ())
            written = [run.emitted for run in layers]
            outcome = _outcome(model, stage, flow, [(run,) for run in layers], written)
            found.append(outcome)
        return found

    def _run(self, models: Sequence[Model]) -> list[Outcome | None]:
        spend(sets=sum(model.num_layers * model.num_directions for model in models))
        entered: dict[Token, tuple[Inputs, ...] | None] = {}
        stages: list[tuple[Inputs, ...] | None] = []
        given: list[Inputs | None] = []
        flows: list[_Flow | None] = []
        for model in models:
            token = tuple(change.token for change in model.enter)
            if token not in entered:
                entered[token] = changed_inputs(self.inputs, model)
            stages.append(entered[token])
            one = None if stages[-1] is None else stages[-1][-1]
            given.append(one)
            flows.append(None if one is None else _Flow(one.x, token))
        finals: list[list[tuple[ModelRun | None, ...]]] = [[] for _ in models]
        written: list[list[Tensor]] = [[] for _ in models]
        shared: dict[Token, _Flow] = {}
        for layer in range(models[0].num_layers if models else 0):
            flows = self._layer(layer, models, given, flows, finals, written, shared)
        return [
            None if stage is None or flow is None else _outcome(model, stage, flow, final, every)
            for model, stage, flow, final, every in zip(
                models, stages, flows, finals, written, strict=True
            )
        ]

    def _layer(
        self,
        layer: int,
        models: Sequence[Model],
        given: Sequence[Inputs | None],
        flows: Sequence[_Flow | None],
        finals: list[list[tuple[ModelRun | None, ...]]],
        written: list[list[Tensor]],
        shared: dict[Token, _Flow],
    ) -> list[_Flow | None]:
        reads: list[_Flow | None] = []
        for k, (model, flow) in enumerate(zip(models, flows, strict=True)):
            if flow is not None:
                for change in model.reads[layer]:
                    flow = _read(change.token, change, flow, finals[k][-1], shared, self._short)
            reads.append(flow)
        rans: list[list[ModelRun]] = [[] for _ in models]
        cut: dict[tuple[int, int], Mapping[str, Tensor]] = {}

        def slices(inputs: Inputs, layer: int, d: int) -> Mapping[str, Tensor]:
            key = (id(inputs), d)
            if key not in cut:
                cut[key] = {name: value[layer, d] for name, value in inputs.initial.items()}
            return cut[key]

        for d in range(models[0].num_directions):
            jobs: list[Job | None] = []
            lengths: list[Tensor | None] = []
            for k, (model, flow) in enumerate(zip(models, reads, strict=True)):
                inputs = given[k]
                if flow is None or inputs is None or layer in model.skipped:
                    jobs.append(None)
                    lengths.append(None)
                    continue
                part = model.parts[layer][d]
                lengths.append(inputs.lengths)
                below = finals[k][-1][d] if finals[k] else None
                jobs.append(
                    _job(part, layer, d, model, inputs, flow, rans[k], below, slices, self._short)
                )
            for k, ran in enumerate(self._all(jobs, lengths, models)):
                if ran is None:
                    if jobs[k] is not None:
                        reads[k] = None
                else:
                    rans[k].append(ran)
        after: list[_Flow | None] = []
        for k, (model, flow) in enumerate(zip(models, reads, strict=True)):
            if flow is None:
                after.append(None)
                continue
            if layer in model.skipped:
                finals[k].append((None,) * model.num_directions)
                after.append(flow)
                written[k].append(flow.x)
                continue
            finals[k].append(tuple(rans[k]))
            handed = _joined(model, layer, rans[k], flow, shared, self._short)
            after.append(handed)
            if handed is not None:
                written[k].append(handed.x)
        return after

    def _short(self, token: Token) -> Token:
        """A number that stands for a token: those of layers above are made of it."""
        return self._numbers.setdefault(token, (len(self._numbers),))

    def _all(
        self,
        jobs: Sequence[Job | None],
        lengths: Sequence[Tensor | None],
        models: Sequence[Model],
    ) -> list[ModelRun | None]:
        """Every job's run; equal jobs once, jobs alike in batches."""
        groups: dict[Token, dict[Token, Job]] = {}
        facts: dict[Token, tuple[Tensor | None, bool]] = {}
        for job, length, model in zip(jobs, lengths, models, strict=True):
            if job is None or job.token in self._done or not _fits(job):
                continue
            chained = model.rows == "chained"
            key = (job.alike, id(length), chained)
            groups.setdefault(key, {})[job.token] = job
            facts[key] = (length, chained)
        for key, group in groups.items():
            length, chained = facts[key]
            for chunk in chunks(list(group.values())):
                rans = run_jobs(chunk, length, chained, self.names, self.rounded)
                for job, ran in zip(chunk, rans, strict=True):
                    self._done[job.token] = ran
        return [None if job is None else self._done.get(job.token) for job in jobs]


def changed_inputs(inputs: Inputs, model: Model) -> tuple[Inputs, ...] | None:
    """The inputs before and after each change."""
    stages = [inputs]
    for change in model.enter:
        changed: Inputs | None = change(stages[-1])
        if changed is None:
            return None
        stages.append(changed)
    return tuple(stages)


def _read(
    token: Token,
    change: object,
    flow: _Flow,
    below: tuple[ModelRun | None, ...],
    shared: dict[Token, _Flow],
    short: Callable[[Token], Token],
) -> _Flow:
    key = ("read", token, flow.token, tuple(ran.token if ran else None for ran in below))
    if key not in shared:
        finals = [ran.final["h"] for ran in below if ran is not None]
        shared[key] = _Flow(change(flow.x, finals), short(key))  # type: ignore[operator]
    return shared[key]


def _job(
    part: Part,
    layer: int,
    d: int,
    model: Model,
    inputs: Inputs,
    flow: _Flow,
    rans: Sequence[ModelRun],
    below: ModelRun | None,
    slices: Callable[[Inputs, int, int], Mapping[str, Tensor]],
    short: Callable[[Token], Token],
) -> Job:
    start: Token = tuple(change.token for change in model.enter)
    if part.after_forward and rans:
        initial, start = rans[0].final, ("after", rans[0].token)
    elif part.after_below and below is not None:
        initial, start = below.final, ("above", below.token)
    else:
        initial = slices(inputs, layer, d)
    token = (part.token, layer, d, model.rows, start, flow.token)
    return Job(part, flow.x, initial, short(token))


def _fits(job: Job) -> bool:
    weights = job.part.stored
    return (
        job.x.shape[-1] == weights.ih.shape[-1]
        and job.initial["h"].shape[-1] == weights.hh.shape[-1]
        and all(value.shape[0] == job.x.shape[1] for value in job.initial.values())
    )


def _joined(
    model: Model,
    layer: int,
    rans: Sequence[ModelRun],
    read: _Flow,
    shared: dict[Token, _Flow],
    short: Callable[[Token], Token],
) -> _Flow | None:
    changes = (*model.joins[layer], *model.writes[layer])
    key = (
        "join",
        tuple(ran.token for ran in rans),
        tuple(change.token for change in changes),
        read.token if model.writes[layer] else (),
    )
    if key in shared:
        return shared[key]
    flow = joined(model, layer, [ran.emitted for ran in rans], read.x)
    if flow is None:
        return None
    shared[key] = _Flow(flow, short(key))
    return shared[key]


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


def _outcome(
    model: Model,
    stages: Sequence[Inputs],
    flow: _Flow,
    finals: Sequence[tuple[ModelRun | None, ...]],
    written: Sequence[Tensor],
) -> Outcome | None:
    inputs = stages[-1]
    states: dict[str, Tensor] = {}
    for name in inputs.initial:
        rows = [
            [
                inputs.initial[name][layer, d] if ran is None else ran.final[name]
                for d, ran in enumerate(row)
            ]
            for layer, row in enumerate(finals)
        ]
        sizes = {value.shape for row in rows for value in row}
        if len(sizes) == 1:
            states[name] = torch.stack([torch.stack(row) for row in rows])
    steps = {}
    if all(ran is not None for row in finals for ran in row):
        rans = [[ran.steps for ran in row if ran is not None] for row in finals]
        steps = {
            name: torch.stack([torch.stack([one[name] for one in row]) for row in rans])
            for name in rans[0][0]
        }
    last = [ran for ran in finals[-1] if ran is not None]
    before = None
    if last and not model.writes[-1] and not model.shared_state:
        before = torch.cat([ran.before for ran in last], -1)
        for change in model.joins[-1]:
            before = change(before)
    try:
        return _left(model, Outcome(flow.x, states, tuple(written), before, steps), stages)
    except (RuntimeError, ValueError):
        return None  # changes whose shapes do not fit each other: no such implementation can be


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
