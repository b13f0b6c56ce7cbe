"""One layer in one direction by a kernel, but for the steps at which something is changed, which
torch runs by the equations.

A stretch is some steps after each other that run in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rnnscope._kernels import engine
from rnnscope._kernels.forward import ForwardKernel
from rnnscope._layers.compiled import Frames, Packed
from rnnscope._layers.sequences import at_steps, keep_on_padding
from rnnscope._layers.steps import NOTHING, DirectionInput, Passage, StepChange, run_direction
from rnnscope._layers.structure import Weights
from rnnscope._layers.tensors import fresh
from rnnscope.cells import Cell, quantity_names
from rnnscope.cells.algebra import Quantity, leaves

__all__ = [
    "RunMemory",
    "Stretch",
    "memory_for",
    "repays",
    "run_by_kernel",
    "run_entry",
    "running_kernel",
]

GAP = 4
"""Fewer steps than these between two that torch runs are run by torch too: to begin anew costs it
as much as some steps."""


def run_entry(
    entry: DirectionInput, record: frozenset[str], changes: Mapping[str, StepChange] = NOTHING
) -> Passage:
    """One layer in one direction, by a kernel where one serves; see ``run_direction``."""
    kernel = None
    if repays(entry.weights, len(entry.x)):
        kernel = running_kernel(entry.x, entry.tensors(), entry.weights, record)
    if kernel is None:
        return run_direction(entry, record, changes)
    return run_by_kernel(kernel, entry, record, changes)


def repays(weights: Weights, steps: int) -> bool:
    """Whether so many steps by a kernel save more than the packing of its weights costs."""
    return engine.repays(weights.ih.numel() + weights.hh.numel(), steps)


def running_kernel(
    x: Tensor, tensors: Iterable[Tensor], weights: Weights, record: frozenset[str]
) -> ForwardKernel | None:
    """The kernel that runs a layer of such weights on x (time, batch, feature); None where torch
    does.

    ``tensors`` are all that it reads: autograd follows none of them, and all are of the type and
    on the device of x. Beside that the size alone decides.
    """
    cell = weights.cell
    for tensor in tensors:
        if tensor.requires_grad and torch.is_grad_enabled():
            return None
        if tensor.dtype != x.dtype or tensor.device != x.device:
            return None
    if not x.numel():
        return None
    parts = any(name not in cell.equations for name in record)
    numbers = len(x) * x.shape[1] * weights.hidden_size * len(cell.equations)
    return engine.running(cell, x.dtype, x.device, parts, numbers)


def run_by_kernel(
    kernel: ForwardKernel,
    entry: DirectionInput,
    record: frozenset[str],
    changes: Mapping[str, StepChange] = NOTHING,
) -> Passage:
    """One layer in one direction, for which there is a kernel.

    Where a change brings in a graph, as a function of the user's may, torch goes on to the end.
    """
    plan = _plan(entry, changes)
    if not any(stretch.compiled for stretch in plan):
        return run_direction(entry, record, changes)
    memory = RunMemory.of(kernel, entry, record)
    for stretch in plan:
        if stretch.compiled:
            memory.fill(stretch)
            last = stretch.last_step(entry.reverse)
            values = memory.changed(last, changes)
            if any(value.requires_grad for value in values.values()):
                return memory.followed(last, memory.with_values(last, values), changes)
            memory.put(last, values)
        else:
            passage = _by_torch(entry, stretch, memory.before(stretch), memory.names, changes)
            if any(value.requires_grad for value in passage.quantities.values()):
                return memory.followed(stretch, passage, changes)
            memory.write(stretch, passage)
    return memory.passage()


# the plan ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stretch:
    """The steps from ``start`` to before ``stop``; ``compiled``: a kernel runs them, and what is
    changed at the last of them is changed afterwards."""

    start: int
    stop: int
    compiled: bool

    def last_step(self, reverse: bool) -> Stretch:
        """The step that is run last."""
        last = self.start if reverse else self.stop - 1
        return Stretch(last, last + 1, self.compiled)


def _plan(entry: DirectionInput, changes: Mapping[str, StepChange]) -> list[Stretch]:
    """The stretches in the order in which they run."""
    read = _read_at_once(entry.weights.cell)
    inside: set[int] = set()
    behind: set[int] = set()  # changed where the same step goes on with nothing of it
    for name, change in changes.items():
        (inside if name in read else behind).update(change.steps)
    by_torch: list[tuple[int, int]] = []
    for t in sorted(inside):
        if by_torch and t - by_torch[-1][1] < GAP:
            by_torch[-1] = by_torch[-1][0], t + 1
        else:
            by_torch.append((t, t + 1))
    plan: list[Stretch] = []
    steps, begin = len(entry.x), 0
    for start, stop in [*by_torch, (steps, steps)]:
        cuts = {t + (not entry.reverse) for t in behind if begin <= t < start}
        ends = sorted({begin, start} | cuts)
        plan += [Stretch(a, b, True) for a, b in pairwise(ends)]
        if start < stop:
            plan.append(Stretch(start, stop, False))
        begin = stop
    return plan[::-1] if entry.reverse else plan


def _read_at_once(cell: Cell) -> set[str]:
    """The quantities, and parts of them, with which the same step goes on."""
    read = {
        leaf.name
        for equation in cell.equations.values()
        for leaf in leaves(equation)
        if isinstance(leaf, Quantity)
    }
    return {name for name in quantity_names(cell) if name not in cell.equations} | read


def _by_torch(
    entry: DirectionInput,
    stretch: Stretch,
    states: Mapping[str, Tensor],
    record: frozenset[str],
    changes: Mapping[str, StepChange],
) -> Passage:
    """A stretch by torch."""
    start, stop = stretch.start, stretch.stop
    inside = {name: change.within(start, stop) for name, change in changes.items()}
    return run_direction(entry.between(start, stop, states), record, inside)


# the numbers -------------------------------------------------------------------------------------


class RunMemory:
    """What is kept of one layer in one direction while it is run, by name: states (1 + time + 1,
    batch, unit), with a place before the first step and one after the last, as a kernel reads
    them; other quantities (time, batch, unit)."""

    def __init__(
        self, kernel: ForwardKernel, entry: DirectionInput, values: Mapping[str, Tensor]
    ) -> None:
        self.kernel, self.entry, self.values = kernel, entry, values
        self.packed = Packed.of(kernel, entry.weights)
        self.x = entry.x if entry.x.stride(-1) == 1 else entry.x.contiguous()
        self.lengths = entry.lengths
        self.frames = Frames(values, (), self.lengths, entry.reverse)
        self.states = kernel.cell.states
        self.names = frozenset(values)
        for name, value in entry.initial.items():
            values[name][0] = values[name][-1] = value

    @classmethod
    def of(cls, kernel: ForwardKernel, entry: DirectionInput, record: frozenset[str]) -> RunMemory:
        """Fresh memory for the states and what is recorded."""
        shape = (*entry.x.shape[:2], entry.weights.hidden_size)
        return cls(kernel, entry, memory_for(kernel.cell, record, (), shape, entry.x))

    def fill(self, stretch: Stretch) -> None:
        """Run a stretch by the kernel."""
        span = stretch.start, stretch.stop
        self.frames.fill(self.kernel, self.packed, self.x, span)

    def steps(self, name: str) -> Tensor:
        """A quantity (time, batch, unit)."""
        return self.values[name][1:-1] if name in self.states else self.values[name]

    def before(self, stretch: Stretch) -> dict[str, Tensor]:
        """Each state before a stretch; of a sequence that ended earlier, its last."""
        return self._states(stretch.stop + 1 if self.entry.reverse else stretch.start)

    def after(self, stretch: Stretch) -> dict[str, Tensor]:
        """Each state after a stretch, in the same way."""
        return self._states(stretch.start + 1 if self.entry.reverse else stretch.stop)

    def _states(self, place: int) -> dict[str, Tensor]:
        if self.entry.reverse or self.entry.valid is None:
            return {name: self.values[name][place] for name in self.states}
        ends = at_steps(self.lengths.clamp(max=place))
        return {name: self.values[name][ends] for name in self.states}

    def changed(self, step: Stretch, changes: Mapping[str, StepChange]) -> dict[str, Tensor]:
        """What changes make of a step that the kernel ran, (batch, unit) by name."""
        t = step.start
        return {
            name: change.at(t, self.steps(name)[t])
            for name, change in changes.items()
            if t in change.steps and name in self.values
        }

    def put(self, step: Stretch, values: Mapping[str, Tensor]) -> None:
        """Write what was changed at a step."""
        for name, value in values.items():
            self.steps(name)[step.start] = value

    def write(self, stretch: Stretch, passage: Passage) -> None:
        """Write a stretch that torch ran."""
        for name in self.values:
            self.steps(name)[stretch.start : stretch.stop] = passage.quantities[name]
        for name, value in passage.final.items():
            self.values[name][stretch.start + 1 if self.entry.reverse else stretch.stop] = value

    def with_values(self, step: Stretch, values: Mapping[str, Tensor]) -> Passage:
        """A step that the kernel ran, with other values of some quantities."""
        span, valid = slice(step.start, step.stop), self.entry.valid
        quantities = {name: self.steps(name)[span] for name in self.values}
        quantities |= {name: value.unsqueeze(0) for name, value in values.items()}
        inside = None if valid is None else valid[step.start]
        final = {
            name: keep_on_padding(values.get(name, value), value, inside)
            for name, value in self.after(step).items()
        }
        return Passage(quantities, final)

    def followed(
        self, stretch: Stretch, passage: Passage, changes: Mapping[str, StepChange]
    ) -> Passage:
        """All steps: those before a stretch, that stretch, and by torch what follows from it."""
        start, stop, final = stretch.start, stretch.stop, passage.final
        steps, reverse = len(self.entry.x), self.entry.reverse
        rest = Stretch(0, start, False) if reverse else Stretch(stop, steps, False)
        pieces = [passage.quantities]
        if rest.start < rest.stop:
            remaining = _by_torch(self.entry, rest, final, self.names, changes)
            pieces.append(remaining.quantities)
            final = remaining.final
        earlier = slice(stop, None) if reverse else slice(0, start)
        pieces.insert(0, {name: self.steps(name)[earlier] for name in self.values})
        ordered = pieces[::-1] if reverse else pieces
        quantities = {name: torch.cat([piece[name] for piece in ordered]) for name in self.values}
        return Passage(quantities, final, compiled=True)

    def passage(self) -> Passage:
        """All steps, when they have run."""
        whole = Stretch(0, len(self.entry.x), True)
        quantities = {name: self.steps(name) for name in self.values}
        return Passage(quantities, self.after(whole), compiled=True)


def memory_for(
    cell: Cell, record: frozenset[str], lead: tuple[int, ...], sizes: tuple[int, ...], like: Tensor
) -> dict[str, Tensor]:
    """Memory for the states and what is recorded, (*lead, time, batch, unit) of ``sizes``; states
    have two places more over time."""
    steps, *inner = sizes
    return {
        name: fresh((*lead, steps + 2 * (name in cell.states), *inner), like, like.dtype)
        for name in quantity_names(cell)
        if name in record.union(cell.states)
    }
