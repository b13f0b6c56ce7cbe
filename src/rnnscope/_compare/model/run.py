"""Parts run over time: many at once, from an input and initial states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from rnnscope._compare.model.batched import (
    MOST_BYTES,
    SHARED,
    Batch,
    Step,
    from_input,
    separable,
    share,
    stacked,
    started,
    widened,
)
from rnnscope._compare.model.lengths import flipped, moved
from rnnscope._compare.model.model import Part, Token
from rnnscope._compare.work import GATE, spend
from rnnscope._layers.sequences import valid_steps
from rnnscope.cells.algebra import Quantity

__all__ = ["Job", "ModelRun", "chunks", "run_jobs"]


@dataclass(frozen=True)
class ModelRun:
    """A part's run: ``emitted`` (time, batch, unit), ``before`` what was emitted a step before,
    ``final`` each state (batch, unit), ``steps`` what was asked for (time, batch, unit)."""

    emitted: Tensor
    before: Tensor
    final: Mapping[str, Tensor]
    token: Token
    steps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A part with its input (time, batch, feature) and initial states (batch, unit)."""

    part: Part
    x: Tensor
    initial: Mapping[str, Tensor]
    token: Token

    @property
    def alike(self) -> Token:
        """Jobs of the same kind can run as one batch."""
        part, w = self.part, self.part.stored
        flags = (part.backward, part.feeds, part.emits, part.ends, part.restarts)
        laid = (part.aligned, part.unmasked, part.flipped, part.in_place)
        recorded = part.unapplied
        present = tuple(t is None for t in (w.b_ih, w.b_hh, w.hr, part.first_b_hh))
        same = (id(w.ih), id(w.hh)) if w.hh.numel() >= SHARED else ()
        shapes = (self.x.shape, w.ih.shape, w.hh.shape)
        return (id(part.cell), flags, laid, recorded, present, shapes, same)


def chunks(jobs: list[Job]) -> Iterable[list[Job]]:
    """As many as run at once in little memory."""
    one = jobs[0].part.stored
    matrices = 0 if share([job.part for job in jobs]) else one.ih.nbytes + one.hh.nbytes
    size = matrices + jobs[0].x.nbytes * 8
    most = max(1, MOST_BYTES // max(1, size))
    for start in range(0, len(jobs), most):
        yield jobs[start : start + most]


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
        quantities = value.new_zeros(value.shape[0], self.steps, len(self.lengths), value.shape[-1])
        for row, here, there in self._places():
            quantities[:, here, row] = value[:, there, 0]
        return quantities

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


def run_jobs(
    jobs: Sequence[Job],
    lengths: Tensor | None,
    chained: bool,
    names: Sequence[str] = (),
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> list[ModelRun]:
    """Runs of jobs that are alike, as one batch; ``chained``: each row starts where the one before
    ended; ``names``: what is asked for of every step; ``rounded`` changes the states after it."""
    part = jobs[0].part
    lengths = None if part.unmasked else lengths
    weights, (steps, count, _) = part.stored, jobs[0].x.shape
    numbers = weights.ih.numel() + weights.hh.numel() + GATE * len(weights.ih)
    calls = steps * len(part.cell.equations) * (weights.hidden_size if part.in_place else 1)
    spend(len(jobs) * steps * count * numbers, calls=calls)
    batch = Batch([job.part for job in jobs])
    reading, handing = part.flipped
    x = _flipped(stacked([job.x for job in jobs]), reading, lengths)
    if part.backward:
        x = x.flip(1)
    states = {name: stacked([job.initial[name] for job in jobs]) for name in jobs[0].initial}
    rows = _Chained.of(x, lengths, part.backward) if chained else None
    if rows is not None:
        x = rows.joined(x)
        states = {name: value[:, :1] for name, value in states.items()}
    padded = None if chained else lengths
    lines, finals, kept = _recur(batch, part, x, states, padded, rows, names, rounded)
    if rows is not None:
        final = {name: rows.ends(value) for name, value in finals.items()}
        lines, kept = ({n: rows.cut(v) for n, v in values.items()} for values in (lines, kept))
    else:
        final = {name: value[:, -1] for name, value in finals.items()}
    for quantities in (lines, kept):
        for name, value in quantities.items():
            laid = _laid(value, part, lengths) if part.backward else value
            quantities[name] = _flipped(laid, handing, lengths)

    def of(values: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
        return {name: value[k if len(value) > 1 else 0] for name, value in values.items()}

    return [
        ModelRun(**of(lines, k), final=of(final, k), token=job.token, steps=of(kept, k))
        for k, job in enumerate(jobs)
    ]


def _flipped(values: Tensor, axis: str, lengths: Tensor | None) -> Tensor:
    """Every model's (time, batch, unit), reversed along an axis."""
    return torch.stack([flipped(value, axis, lengths) for value in values]) if axis else values


def _recur(
    batch: Batch,
    part: Part,
    x: Tensor,
    initial: Mapping[str, Tensor],
    lengths: Tensor | None,
    rows: _Chained | None = None,
    names: Sequence[str] = (),
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """What is "emitted" at every step and what was a step "before", each state after the last step,
    and what is asked for by ``names``; (model, time, batch, unit) in the order of computing.
    Padding keeps the states. With ``rows`` one row of the batch begins where the one before
    ended, and the states are those after each step."""
    from_x = from_input(batch, x)
    steps = x.shape[1]
    valid = None
    if lengths is not None:
        valid = valid_steps(lengths, steps)
        if part.backward:
            valid = valid.flip(0)
    emitted: list[Tensor] = []
    before: list[Tensor] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in initial}
    asked: dict[str, list[Tensor]] = {name: [] for name in names}
    states = carried = dict(initial)
    last = initial.get(part.emits, initial["h"])
    begins = () if rows is None else rows.begins
    for t in range(steps):
        b_hh = batch.b_hh
        if t in begins:
            initial = states = carried
        if batch.first is not None and b_hh is not None:
            begun = started(valid, 0 if t in begins else t, x.shape[2])
            b_hh = torch.where(begun[:, None], batch.first, b_hh)
        start = {name: initial[name] if name in part.restarts else states[name] for name in states}
        step = Step(batch, from_x[:, t], start, b_hh)
        if part.in_place:
            quantities = _in_place(batch, from_x[:, t], start, b_hh)
            step.values |= {Quantity(name): value for name, value in quantities.items()}
        else:
            quantities = step.run()
        after = {name: quantities[name] for name in states}
        if part.feeds != "h":
            after["h"] = quantities[part.feeds][..., : states["h"].shape[-1]]
        hands, inside = quantities[part.emits], None if valid is None else valid[t, :, None]
        if inside is not None:
            after = {name: torch.where(inside, after[name], states[name]) for name in after}
        for name, values in asked.items():
            values.append(_inside(step.recorded(name, part.unapplied), inside))
        states = after
        if rounded is not None:
            states = {name: rounded(value) for name, value in after.items()}
            hands = states.get(part.emits, hands)  # the layer above reads what is rounded
        hands = _inside(hands, inside)
        carried = states if part.feeds == "h" else {**states, "h": quantities["h"]}
        before.append(last)
        emitted.append(hands)
        if inside is None or last.shape[1:] != hands.shape[1:]:
            last = hands
        else:
            last = torch.where(inside, hands, last)
        ended = states if part.ends == "h" else {**states, "h": quantities[part.ends]}
        if part.feeds != "h" and part.ends == "h":
            ended = {**ended, "h": quantities["h"]}
        for name, value in ended.items():
            if rows is None:
                kept[name].clear()
            kept[name].append(value)
    # h may be the same in all models where c is not: made from a state that they share
    width = max(len(value) for line in (emitted, *kept.values(), *asked.values()) for value in line)
    shape = emitted[0].shape[1:]
    # a state that is handed on in the place of another has no number before the first step
    before = [v if v.shape[1:] == shape else v.new_zeros(1, *shape) for v in before]

    def lines(values: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        return {
            name: torch.stack([widened(value, width) for value in line], 1)
            for name, line in values.items()
        }

    handed = lines({"emitted": emitted, "before": before})
    return handed, lines(kept), lines(asked)


def _inside(value: Tensor, inside: Tensor | None) -> Tensor:
    """0 on padding."""
    return value if inside is None else value * inside


def _in_place(
    batch: Batch, x: Tensor, before: Mapping[str, Tensor], b_hh: Tensor | None
) -> dict[str, Tensor]:
    """A step in which each unit reads the states that the units before it have overwritten."""
    if separable(batch.cell):
        return _unit_by_unit(batch, x, before, b_hh)
    states, quantities = dict(before), Step(batch, x, before, b_hh).run()
    for unit in range(1, batch.units):
        states = {name: _units(quantities[name], value, unit) for name, value in before.items()}
        values = Step(batch, x, states, b_hh).run()
        quantities = {name: _units(quantities[name], value, unit) for name, value in values.items()}
    return quantities


def _unit_by_unit(
    batch: Batch, x: Tensor, before: Mapping[str, Tensor], b_hh: Tensor | None
) -> dict[str, Tensor]:
    """The same where a unit of a step needs no other one of the same step, but for its h."""
    states, units = dict(before), batch.units
    every: dict[str, list[Tensor]] = {name: [] for name in batch.cell.equations}
    for unit in range(units):
        rows, place = slice(unit, None, units), torch.tensor([unit], dtype=torch.long, device="cpu")
        bias = None if b_hh is None else b_hh[..., rows]
        step = Step(batch.of_unit(unit), x[..., rows], states, bias, place)
        for name, value in step.run().items():
            every[name].append(value)
        h = every["h"][-1]
        if unit == 0:
            states["h"] = widened(states["h"], max(len(states["h"]), len(h))).clone()
        states["h"][..., unit] = h[..., 0]
    return {name: torch.cat(values, -1) for name, values in every.items()}


def _units(first: Tensor, second: Tensor, unit: int) -> Tensor:
    """The first units of one, (model, batch, unit), those from ``unit`` on of the other."""
    width = max(len(first), len(second))
    return torch.cat([widened(first[..., :unit], width), widened(second[..., unit:], width)], -1)
