"""Many models run at once on the same inputs: what each would return.

Models that differ in few places share the rest: every part is run once for each different set of
weights and each different input, and parts with the same equations run as one batch of products.
``opened`` evaluates single steps instead, from states that are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from rnnscope.adopt import Weights
from rnnscope.cells import Cell, part_name
from rnnscope.compare.lengths import moved
from rnnscope.compare.model import Inputs, Model, Outcome, Part, Token
from rnnscope.expr import (
    Apply,
    Expr,
    FromH,
    FromX,
    Previous,
    Project,
    Quantity,
    Vector,
    Weighted,
    evaluate,
    leaves,
)

__all__ = [
    "LARGE",
    "Known",
    "Ran",
    "Simulator",
    "changed_inputs",
    "joined",
    "opened",
    "ran",
    "restricted",
    "separable",
]

LARGE = 96 * 4 * 96
"""Numbers of W_hh from which on a run is dear."""

MOST_BYTES = 2**26
"""Weights that are stacked for one batch of products."""

SHARED = 2**15
"""Numbers of a matrix from which on models that have it in common run apart from others, so that
it is multiplied once for all, and never copied to have its rows in another order."""


@dataclass(frozen=True)
class Ran:
    """A part's run: ``emitted`` (time, batch, unit), ``before`` what was emitted a step before,
    ``final`` each state (batch, unit), ``steps`` what was asked for (time, batch, unit)."""

    emitted: Tensor
    before: Tensor
    final: Mapping[str, Tensor]
    token: Token
    steps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A part with its input (time, batch, feature) and initial states (batch, unit)."""

    part: Part
    x: Tensor
    initial: Mapping[str, Tensor]
    token: Token

    @property
    def alike(self) -> Token:
        """Jobs of the same kind can run as one batch."""
        part, w = self.part, self.part.stored
        flags = (part.backward, part.feeds, part.emits, part.ends, part.restarts, part.aligned)
        recorded = part.unapplied
        present = tuple(t is None for t in (w.b_ih, w.b_hh, w.hr, part.first_b_hh))
        same = (id(w.ih), id(w.hh)) if w.hh.numel() >= SHARED else ()
        shapes = (self.x.shape, w.ih.shape, w.hh.shape)
        return (id(part.cell), flags, recorded, present, shapes, same)


@dataclass(frozen=True)
class _Flow:
    """What flows from layer to layer, with the token of how it came about."""

    x: Tensor
    token: Token


@dataclass
class Simulator:
    """Runs models on one call's inputs; what has been run once is remembered. ``names`` are the
    quantities that are recorded at every step."""

    inputs: Inputs
    names: tuple[str, ...] = ()
    _done: dict[Token, Ran] = field(default_factory=dict)

    def run(self, models: Sequence[Model]) -> list[Outcome | None]:
        """What each model returns; None where a model does not fit these inputs."""
        with torch.inference_mode():
            return self._run(models)

    def _run(self, models: Sequence[Model]) -> list[Outcome | None]:
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
        finals: list[list[tuple[Ran | None, ...]]] = [[] for _ in models]
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
        finals: list[list[tuple[Ran | None, ...]]],
        written: list[list[Tensor]],
        shared: dict[Token, _Flow],
    ) -> list[_Flow | None]:
        reads: list[_Flow | None] = []
        for k, (model, flow) in enumerate(zip(models, flows, strict=True)):
            if flow is not None:
                for change in model.reads[layer]:
                    flow = _read(change.token, change, flow, finals[k][-1], shared)
            reads.append(flow)
        rans: list[list[Ran]] = [[] for _ in models]
        cut: dict[tuple[int, int], Mapping[str, Tensor]] = {}

        def slices(inputs: Inputs, layer: int, d: int) -> Mapping[str, Tensor]:
            key = (id(inputs), d)
            if key not in cut:
                cut[key] = {name: value[layer, d] for name, value in inputs.initial.items()}
            return cut[key]

        for d in range(models[0].num_directions):
            jobs: list[_Job | None] = []
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
                jobs.append(_job(part, layer, d, model, inputs, flow, rans[k], below, slices))
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
            handed = _joined(model, layer, rans[k], flow, shared)
            after.append(handed)
            if handed is not None:
                written[k].append(handed.x)
        return after

    def _all(
        self,
        jobs: Sequence[_Job | None],
        lengths: Sequence[Tensor | None],
        models: Sequence[Model],
    ) -> list[Ran | None]:
        """Every job's run; equal jobs once, jobs alike in batches."""
        groups: dict[Token, dict[Token, _Job]] = {}
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
            for chunk in _chunks(list(group.values())):
                for job, ran in zip(
                    chunk, _run_jobs(chunk, length, chained, self.names), strict=True
                ):
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
    below: tuple[Ran | None, ...],
    shared: dict[Token, _Flow],
) -> _Flow:
    key = ("read", token, flow.token, tuple(ran.token if ran else None for ran in below))
    if key not in shared:
        finals = [ran.final["h"] for ran in below if ran is not None]
        shared[key] = _Flow(change(flow.x, finals), key)  # type: ignore[operator]
    return shared[key]


def _job(
    part: Part,
    layer: int,
    d: int,
    model: Model,
    inputs: Inputs,
    flow: _Flow,
    rans: Sequence[Ran],
    below: Ran | None,
    slices: Callable[[Inputs, int, int], Mapping[str, Tensor]],
) -> _Job:
    start: Token = tuple(change.token for change in model.enter)
    if part.after_forward and rans:
        initial, start = rans[0].final, ("after", rans[0].token)
    elif part.after_below and below is not None:
        initial, start = below.final, ("above", below.token)
    else:
        initial = slices(inputs, layer, d)
    token = (part.token, layer, d, model.rows, start, flow.token)
    return _Job(part, flow.x, initial, token)


def _fits(job: _Job) -> bool:
    weights = job.part.stored
    return (
        job.x.shape[-1] == weights.ih.shape[-1]
        and job.initial["h"].shape[-1] == weights.hh.shape[-1]
        and all(value.shape[0] == job.x.shape[1] for value in job.initial.values())
    )


def _joined(
    model: Model, layer: int, rans: Sequence[Ran], read: _Flow, shared: dict[Token, _Flow]
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
    shared[key] = _Flow(flow, key)
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
    finals: Sequence[tuple[Ran | None, ...]],
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
    if last and not model.writes[-1]:
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


# parts, in batches of models -----------------------------------------------------------------


def _chunks(jobs: list[_Job]) -> Iterable[list[_Job]]:
    one = jobs[0].part.stored
    matrices = 0 if _share([job.part for job in jobs]) else one.ih.nbytes + one.hh.nbytes
    size = matrices + jobs[0].x.nbytes * 8
    most = max(1, MOST_BYTES // max(1, size))
    for start in range(0, len(jobs), most):
        yield jobs[start : start + most]


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """(model, ...), of one only where all are the same tensor."""
    first = tensors[0]
    if all(t is first for t in tensors):
        return first.unsqueeze(0)
    return torch.stack(list(tensors))


@dataclass(frozen=True)
class _Ordered:
    """A matrix (out, in) that many models share, with ``rows`` (model, 1, out), the order in which
    each takes its rows, or None where all take them as they are."""

    weight: Tensor
    rows: Tensor | None

    @classmethod
    def of(cls, parts: Sequence[Part], name: str) -> _Ordered:
        weight: Tensor = getattr(parts[0].stored, name)
        if all(name not in part.pending for part in parts):
            return cls(weight, None)
        whole = torch.arange(len(weight))
        return cls(weight, _stacked([part.pending.get(name, whole) for part in parts]).unsqueeze(1))

    def times(self, x: Tensor) -> Tensor:
        """Of x (model, n, in) → (model, n, out)."""
        product = torch.matmul(x, self.weight.mT)
        if self.rows is None:
            return product
        shape = max(len(x), len(self.rows)), *product.shape[1:]
        return product.expand(shape).gather(-1, self.rows.expand(shape))


def _share(parts: Sequence[Part]) -> bool:
    """Whether parts have their matrices in common, but for the order of the rows."""
    first = parts[0].stored
    return (
        len(parts) > 1
        and first.hh.numel() >= SHARED
        and all(part.stored.ih is first.ih and part.stored.hh is first.hh for part in parts)
        and separable(parts[0].cell)
    )


def _with_biases(part: Part) -> Weights:
    """The weights with the biases in order, and the matrices as they are stored."""
    names = [name for name in part.pending if name not in ("ih", "hh")]
    ordered: dict[str, Any] = {
        name: getattr(part.stored, name)[part.pending[name]] for name in names
    }
    return replace(part.stored, **ordered)


class _Batch:
    """The weights of many parts with the same equations; each tensor has a first axis of models,
    of size 1 where all share it."""

    def __init__(self, parts: Sequence[Part]):
        share = _share(parts)
        weights = [_with_biases(part) if share else part.weights for part in parts]
        self.cell = parts[0].cell
        self.units = weights[0].hidden_size
        self.ih, self.hh = (
            _Ordered.of(parts, name) if share else _stacked([getattr(w, name) for w in weights])
            for name in ("ih", "hh")
        )
        self.b_ih = _optional([w.b_ih for w in weights], rows=True)
        self.b_hh = _optional([w.b_hh for w in weights], rows=True)
        self.hr = _optional([w.hr for w in weights])
        self.first = _optional([part.first_b_hh for part in parts], rows=True)
        self.vectors = {
            name: _stacked([w.vectors[name] for w in weights]).unsqueeze(-2)
            for name in weights[0].vectors
        }
        self.gates = tuple(self.cell.gates)

    def rows(self, gate: str) -> slice:
        k = self.gates.index(gate)
        return slice(k * self.units, (k + 1) * self.units)


def _optional(tensors: Sequence[Tensor | None], rows: bool = False) -> Tensor | None:
    """Stacked, or None where there are none; with ``rows`` as (model, 1, out), to be added."""
    found = [t for t in tensors if t is not None]
    if len(found) < len(tensors):
        return None
    return _stacked(found).unsqueeze(-2) if rows else _stacked(found)


def _affine(x: Tensor, weight: Tensor | _Ordered, bias: Tensor | None) -> Tensor:
    """Of x (model, n, in), weight (model, out, in), bias (model, 1 or n, out) → (model, n, out)."""
    product = weight.times(x) if isinstance(weight, _Ordered) else torch.matmul(x, weight.mT)
    if bias is None:
        return product
    return product.add_(bias) if len(bias) <= len(product) else product + bias


class _Step:
    """The environment of ``evaluate`` for all models of a batch: (model, batch, unit) each."""

    def __init__(
        self,
        batch: _Batch,
        x: Tensor,
        before: Mapping[str, Tensor],
        b_hh: Tensor | None,
        units: Tensor | None = None,
        own: Iterable[str] = (),
    ):
        self.batch, self.x, self.b_hh = batch, x, b_hh
        self.h = before["h"]
        self.after: Callable[[Tensor], Tensor] | None = None  # what comes of a product of h
        self.values: dict[Expr, Tensor] = {
            Previous(name): t if name in own else _of_units(t, units) for name, t in before.items()
        }
        self.products_of: dict[Expr, Tensor] = {}

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        if isinstance(leaf, Vector):
            return self.batch.vectors[leaf.name]
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        first, *rest = (self._product(leaf) for leaf in leaves)
        return sum(rest, first)

    def _product(self, leaf: Weighted) -> Tensor:
        batch = self.batch
        match leaf:
            case FromX(gate):
                return self.x[..., batch.rows(gate)]
            case Project(of):
                assert batch.hr is not None, "the cell projects, so there is a projection"
                return _affine(evaluate(of, self), batch.hr, None)
            case FromH(gate, Previous("h")):
                # all gates in one product
                if leaf.of not in self.products_of:
                    product = _affine(self.h, batch.hh, self.b_hh)
                    self.products_of[leaf.of] = self.after(product) if self.after else product
                return self.products_of[leaf.of][..., batch.rows(gate)]
            case FromH(gate, of):
                rows = batch.rows(gate)
                bias = None if self.b_hh is None else self.b_hh[..., rows]
                assert isinstance(batch.hh, Tensor), "of cells that are separable alone it is not"
                return _affine(evaluate(of, self), batch.hh[:, rows], bias)

    def run(self) -> dict[str, Tensor]:
        """Every quantity of the step."""
        found: dict[str, Tensor] = {}
        for name, equation in self.batch.cell.equations.items():
            found[name] = self.values[Quantity(name)] = evaluate(equation, self)
        return found

    def recorded(self, name: str, unapplied: Iterable[str] = ()) -> Tensor:
        """A quantity or a part of one, as a trace names them, once the step has run; of those
        ``unapplied`` the argument of their function."""
        equations = self.batch.cell.equations
        if name in equations and name not in unapplied:
            return self.values[Quantity(name)]
        whole = name.removesuffix("_pre")
        if whole in equations:
            equation = equations[whole]
            return evaluate(equation.argument if isinstance(equation, Apply) else equation, self)
        for equation in equations.values():
            for leaf in leaves(equation):
                if isinstance(leaf, FromX | FromH) and part_name(leaf) == name:
                    return self._product(leaf)
        # a part that these equations do not have
        return torch.full_like(self.values[Quantity(next(iter(equations)))], torch.nan)


def _from_input(batch: _Batch, x: Tensor) -> Tensor:
    """From x (model, time, batch, feature) the inputs' part of every gate, (model, time, batch,
    rows)."""
    flat = _affine(x.flatten(1, 2), batch.ih, batch.b_ih)
    return flat.reshape(flat.shape[0], *x.shape[1:3], -1)


@dataclass(frozen=True)
class _Chained:
    """Rows of a batch run as one long sequence, each from where the one before ended: ``lengths``
    steps each, in an array of so many ``steps``, at its start or at its end (``late``)."""

    lengths: tuple[int, ...]
    steps: int
    late: bool

    @classmethod
    def of(cls, x: Tensor, lengths: Tensor | None, backward: bool) -> _Chained:
        """For x (model, time, batch, feature) in the order of computing."""
        steps, rows = x.shape[1:3]
        return cls((steps,) * rows if lengths is None else tuple(lengths.tolist()), steps, backward)

    @property
    def begins(self) -> tuple[int, ...]:
        """The long sequence's step at which each row begins."""
        return tuple(accumulate(self.lengths[:-1], initial=0))

    def _places(self) -> Iterator[tuple[int, slice, slice]]:
        """Each row, with its steps in the array and in the long sequence."""
        for row, (count, begin) in enumerate(zip(self.lengths, self.begins, strict=True)):
            start = self.steps - count if self.late else 0
            yield row, slice(start, start + count), slice(begin, begin + count)

    def joined(self, x: Tensor) -> Tensor:
        """One long row, (model, time, 1, ...)."""
        return torch.cat([x[:, here, row] for row, here, _ in self._places()], 1).unsqueeze(2)

    def cut(self, value: Tensor) -> Tensor:
        """The rows again, zero on padding."""
        found = value.new_zeros(value.shape[0], self.steps, len(self.lengths), value.shape[-1])
        for row, here, there in self._places():
            found[:, here, row] = value[:, there, 0]
        return found

    def ends(self, value: Tensor) -> Tensor:
        """What every row ends with, (model, batch, ...)."""
        last = [begin + n - 1 for begin, n in zip(self.begins, self.lengths, strict=True)]
        return value[:, last, 0]


def _laid(value: Tensor, part: Part, lengths: Tensor | None) -> Tensor:
    """What a part that runs backward gave, (model, time, batch, unit), laid into time; or left in
    the order of computing, every row from the start, where that is its mistake."""
    if part.aligned:
        return value.flip(1)
    if lengths is None:
        return value
    return torch.stack([moved(one, lengths, False) for one in value])


def _run_jobs(
    jobs: Sequence[_Job], lengths: Tensor | None, chained: bool, names: Sequence[str] = ()
) -> list[Ran]:
    part = jobs[0].part
    batch = _Batch([job.part for job in jobs])
    x = _stacked([job.x for job in jobs])
    if part.backward:
        x = x.flip(1)
    states = {name: _stacked([job.initial[name] for job in jobs]) for name in jobs[0].initial}
    rows = _Chained.of(x, lengths, part.backward) if chained else None
    if rows is not None:
        x = rows.joined(x)
        states = {name: value[:, :1] for name, value in states.items()}
    padded = None if chained else lengths
    emitted, before, finals, kept = _recur(batch, part, x, states, padded, rows, names)
    if rows is not None:
        final = {name: rows.ends(value) for name, value in finals.items()}
        emitted, before = rows.cut(emitted), rows.cut(before)
        kept = {name: rows.cut(value) for name, value in kept.items()}
    else:
        final = {name: value[:, -1] for name, value in finals.items()}
    if part.backward:
        emitted, before = (_laid(value, part, lengths) for value in (emitted, before))
        kept = {name: _laid(value, part, lengths) for name, value in kept.items()}
    return [
        Ran(
            emitted[k if emitted.shape[0] > 1 else 0],
            before[k if before.shape[0] > 1 else 0],
            {name: value[k if value.shape[0] > 1 else 0] for name, value in final.items()},
            job.token,
            {name: value[k if value.shape[0] > 1 else 0] for name, value in kept.items()},
        )
        for k, job in enumerate(jobs)
    ]


def ran(
    parts: Sequence[Part], x: Tensor, initial: Mapping[str, Tensor], lengths: Tensor | None
) -> list[Ran]:
    """Runs of parts by themselves, each from x (time, batch, feature) and initial states."""
    groups: dict[Token, list[int]] = {}
    jobs = [_Job(part, x, initial, (k,)) for k, part in enumerate(parts)]
    for k, job in enumerate(jobs):
        groups.setdefault(job.alike, []).append(k)
    found: dict[Token, Ran] = {}
    with torch.inference_mode():
        for places in groups.values():
            for chunk in _chunks([jobs[k] for k in places]):
                found |= {one.token: one for one in _run_jobs(chunk, lengths, False)}
    return [found[job.token] for job in jobs]


def _recur(
    batch: _Batch,
    part: Part,
    x: Tensor,
    initial: Mapping[str, Tensor],
    lengths: Tensor | None,
    rows: _Chained | None = None,
    names: Sequence[str] = (),
) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """What is handed on at every step, what was a step before, each state after the last step,
    and what is asked for by ``names``; (model, time, batch, unit) in the order of computing.
    Padding keeps the states. With ``rows`` one row of the batch begins where the one before
    ended, and the states are those after each step."""
    from_x = _from_input(batch, x)
    steps = x.shape[1]
    valid = None
    if lengths is not None:
        valid = torch.arange(steps)[:, None] < lengths
        if part.backward:
            valid = valid.flip(0)
    emitted: list[Tensor] = []
    before: list[Tensor] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in initial}
    asked: dict[str, list[Tensor]] = {name: [] for name in names}
    states = carried = dict(initial)
    last = _handed(part, initial)
    begins = () if rows is None else rows.begins
    for t in range(steps):
        b_hh = batch.b_hh
        if t in begins:
            initial = states = carried
        if batch.first is not None and b_hh is not None:
            started = _started(valid, 0 if t in begins else t, x.shape[2])
            b_hh = torch.where(started[:, None], batch.first, b_hh)
        start = {name: initial[name] if name in part.restarts else states[name] for name in states}
        step = _Step(batch, from_x[:, t], start, b_hh)
        found = step.run()
        after = {name: found[name] for name in states}
        if part.feeds != "h":
            after["h"] = found[part.feeds][..., : states["h"].shape[-1]]
        hands = found[part.emits]
        if valid is not None:
            inside = valid[t, :, None]
            after = {name: torch.where(inside, after[name], states[name]) for name in after}
            hands = hands * inside
        for name, values in asked.items():
            value = step.recorded(name, part.unapplied)
            values.append(value if valid is None else value * valid[t, :, None])
        states = after
        carried = states if part.feeds == "h" else {**states, "h": found["h"]}
        before.append(last)
        emitted.append(hands)
        if valid is None or last.shape[1:] != hands.shape[1:]:
            last = hands
        else:
            last = torch.where(valid[t, :, None], hands, last)
        ended = states if part.ends == "h" else {**states, "h": found[part.ends]}
        if part.feeds != "h":
            ended = {**ended, "h": found["h"]}
        for name, value in ended.items():
            if rows is None:
                kept[name].clear()
            kept[name].append(value)
    # h may be the same in all models where c is not: made from a state that they share
    listed = (emitted, *kept.values(), *asked.values())
    width = max(value.shape[0] for values in listed for value in values)
    shape = emitted[0].shape[1:]
    return (
        torch.stack([value.expand(width, *shape) for value in emitted], 1),
        torch.stack([_as_before(value, width, shape) for value in before], 1),
        {
            name: torch.stack([_widened(value, width) for value in values], 1)
            for name, values in kept.items()
        },
        {
            name: torch.stack([_widened(value, width) for value in values], 1)
            for name, values in asked.items()
        },
    )


def _handed(part: Part, initial: Mapping[str, Tensor]) -> Tensor:
    """What would have been handed on before the first step: the initial state."""
    return initial.get(part.emits, initial["h"])


def _as_before(value: Tensor, width: int, shape: torch.Size) -> Tensor:
    if value.shape[1:] != shape:
        value = value.new_zeros(1, *shape)
    return value.expand(width, *shape)


def _widened(value: Tensor, width: int) -> Tensor:
    return value.expand(width, *value.shape[1:])


def _started(valid: Tensor | None, t: int, rows: int) -> Tensor:
    """(batch): whether a row takes its first step at t."""
    if valid is None:
        return torch.full((rows,), t == 0)
    return valid[t] & ~valid[t - 1] if t else valid[0]


def _of_units(value: Tensor, units: Tensor | None) -> Tensor:
    return value if units is None else value[..., units]


@lru_cache(maxsize=512)
def separable(cell: Cell) -> bool:
    """Whether each unit of a step needs no other unit of the same step."""
    return all(
        not isinstance(leaf, Project) and not (isinstance(leaf, FromH) and leaf.of != Previous("h"))
        for equation in cell.equations.values()
        for leaf in leaves(equation)
    )


def restricted(part: Part, units: Tensor) -> Part:
    """The part with the rows of some units only; itself where it has no others."""
    if part.only is units:
        return part
    stored, pending = part.stored, part.pending
    size = stored.hidden_size
    rows = torch.cat([k * size + units for k in range(len(part.cell.gates))])

    def of(name: str) -> Any:
        value = getattr(stored, name)
        return None if value is None else value[pending[name][rows] if name in pending else rows]

    fewer = replace(
        stored,
        **{name: of(name) for name in ("ih", "hh", "b_ih", "b_hh")},
        vectors={name: v[units] for name, v in stored.vectors.items()},
    )
    first = None if part.first_b_hh is None else part.first_b_hh[rows]
    return part.with_weights(fewer, first_b_hh=first, only=units)


# single steps --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What is known of one part: its input (time, batch, feature), and each state before every
    step, (time, batch, unit), in the order of computing; a state that is not known is absent from
    ``before`` and is run along from ``initial``. ``valid`` (time, batch) is False on padding.
    With ``units`` only these are computed, which a cell allows whose matrices meet nothing but x
    and h. ``operand`` is h before every step as W_hh meets it, where that is another; ``product``
    changes what comes of every product.
    """

    x: Tensor
    before: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    valid: Tensor | None = None
    units: Tensor | None = None
    operand: Tensor | None = None
    product: Callable[[Tensor], Tensor] | None = None


def opened(
    parts: Sequence[Part], known: Known, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Quantities of every single step, (part, time, batch, unit), for parts with their weights;
    every quantity unless ``names`` are told."""
    groups: dict[Token, list[int]] = {}
    for k, part in enumerate(parts):
        shape = part.stored.ih.shape
        present = tuple(t is None for t in (part.stored.b_ih, part.stored.b_hh, part.first_b_hh))
        key = (id(part.cell), shape, present, part.restarts, part.feeds, part.unapplied)
        groups.setdefault(key, []).append(k)
    first = parts[0].stored
    share = 1.0 if known.units is None else len(known.units) / first.hidden_size
    size = int(share * (first.ih.nbytes + first.hh.nbytes)) + known.x.nbytes * 8
    most = max(1, MOST_BYTES // max(1, size))
    wanted = tuple(parts[0].cell.equations if names is None else names)
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    order: list[int] = []
    with torch.inference_mode():
        for places in groups.values():
            for start in range(0, len(places), most):
                chunk = places[start : start + most]
                order += chunk
                values = _opened([parts[k] for k in chunk], known, wanted)
                for name in wanted:
                    found[name].append(_widened(values[name], len(chunk)))
        back = torch.tensor(order).argsort()
        return {name: torch.cat(values)[back] for name, values in found.items()}


def _opened(parts: Sequence[Part], known: Known, names: Sequence[str]) -> dict[str, Tensor]:
    part = parts[0]
    units = known.units
    batch = _Batch(parts if units is None else [restricted(one, units) for one in parts])
    steps, rows = known.x.shape[:2]
    from_x = _from_input(batch, known.x.unsqueeze(0))
    if known.product is not None:
        from_x = known.product(from_x)
    before = {name: value.unsqueeze(0) for name, value in known.before.items()}
    before |= {
        name: known.initial[name].expand(1, steps, *known.initial[name].shape)
        for name in part.restarts
    }
    b_hh: list[Tensor | None] = [batch.b_hh] * steps
    if batch.first is not None and batch.b_hh is not None:
        b_hh = [
            torch.where(_started(known.valid, t, rows)[:, None], batch.first, batch.b_hh)
            for t in range(steps)
        ]
    hidden = [name for name in part.cell.states if name not in before]
    width = len(parts)
    if not hidden and part.feeds == "h":
        flat_bias = batch.b_hh
        if batch.first is not None:
            flat_bias = torch.cat([_rows(value, rows) for value in b_hh if value is not None], 1)
        flat = {name: value.flatten(1, 2) for name, value in before.items()}
        step = _Step(batch, from_x.flatten(1, 2), flat, flat_bias, units)
        if known.operand is not None:
            step.h, step.after = known.operand.unsqueeze(0).flatten(1, 2), known.product
        step.run()
        values = {name: step.recorded(name, part.unapplied) for name in names}
        return {
            name: value.reshape(value.shape[0], steps, rows, -1) for name, value in values.items()
        }
    run: dict[str, Tensor] = {
        name: _of_units(known.initial[name].unsqueeze(0), units) for name in hidden
    }
    kept: dict[str, list[Tensor]] = {}
    fed: Tensor | None = None
    for t in range(steps):
        states = {name: value[:, t] for name, value in before.items()} | run
        if fed is not None:
            states["h"] = fed
        step = _Step(batch, from_x[:, t], states, b_hh[t], units, hidden)
        if known.operand is not None:
            step.h, step.after = known.operand[t].unsqueeze(0), known.product
        values = step.run()
        for name in hidden:
            after = values[name]
            if known.valid is not None:
                after = torch.where(known.valid[t, :, None], after, run[name])
            run[name] = after
        if part.feeds != "h":
            fed = values[part.feeds][..., : states["h"].shape[-1]]
        for name in names:
            kept.setdefault(name, []).append(step.recorded(name, part.unapplied))
    return {
        name: torch.stack([_widened(value, width) for value in values], 1)
        for name, values in kept.items()
    }


def _rows(bias: Tensor, rows: int) -> Tensor:
    return bias.expand(bias.shape[0], rows, bias.shape[-1])
