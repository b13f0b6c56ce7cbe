"""A cell over time, step by step, by its declared equations.

What opening cannot do is done here: there are no outputs to open yet. Every operation is a plain
one, so autograd can follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnscope._layers.sequences import keep_on_padding, running_order
from rnnscope._layers.structure import Weights
from rnnscope.cells import part_name
from rnnscope.cells.algebra import (
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
from rnnscope.cells.cells import Affine

__all__ = ["NOTHING", "StepChange", "DirectionInput", "Passage", "parts_of", "run_direction"]

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class StepChange:
    """What edits make of a quantity at some steps: ``apply`` takes a step and the numbers (batch,
    units) that were computed there."""

    steps: frozenset[int]
    apply: Callable[[int, Tensor], Tensor]

    def at(self, t: int, value: Tensor) -> Tensor:
        """The numbers (batch, units) of a step, changed where they are."""
        return self.apply(t, value) if t in self.steps else value

    def within(self, start: int, stop: int) -> StepChange:
        """The same for a run of the steps from ``start`` to before ``stop``."""
        steps = frozenset(t - start for t in self.steps if start <= t < stop)
        return StepChange(steps, lambda t, value: self.apply(t + start, value))


@dataclass(frozen=True)
class DirectionInput:
    """What one layer in one direction runs on.

    ``x`` (time, batch, feature); ``initial`` maps states to (batch, unit); ``valid`` (time,
    batch) is False on padding, where states stay what they were; None where there is none.
    """

    weights: Weights
    x: Tensor
    initial: Mapping[str, Tensor]
    valid: Tensor | None
    reverse: bool

    @property
    def lengths(self) -> Tensor:
        """(batch): the steps of each sequence."""
        if self.valid is not None:
            return self.valid.sum(0)
        return self.x.new_full((self.x.shape[1],), len(self.x), dtype=torch.long)

    def between(self, start: int, stop: int, initial: Mapping[str, Tensor]) -> DirectionInput:
        """The steps from ``start`` to before ``stop``, from other states."""
        valid = None if self.valid is None else self.valid[start:stop]
        return DirectionInput(self.weights, self.x[start:stop], initial, valid, self.reverse)

    def tensors(self) -> list[Tensor]:
        """All numbers that it holds."""
        return [self.x, *self.initial.values(), *self.weights.tensors()]


def _part_names(gate: Affine) -> tuple[str, str]:
    return f"{gate.gate}_from_x", f"{gate.gate}_from_h"


class _AffineParts:
    """The affine parts of one layer in one direction: what x says at all steps, and what h says
    at one, each in one product of all gates.

    Where an equation only asks for the sum W_ik x + b_ik + W_hk h + b_hk of a gate, and nothing
    changes its parts, the gates' sums are one addition too.
    """

    def __init__(
        self, weights: Weights, x: Tensor, record: frozenset[str], changes: Mapping[str, StepChange]
    ) -> None:
        self.weights, self.changes = weights, changes
        affine = weights.cell.affine
        edited = {
            gate.gate for gate in affine if any(name in changes for name in _part_names(gate))
        }
        self.summed = [gate for gate in affine if gate.summed and gate.gate not in edited]
        apart = [gate for gate in affine if not gate.summed or gate.gate in edited]
        self.of_x = [gate for gate in apart if gate.x is not None]
        self.of_h = [gate for gate in apart if gate.h is not None]
        self.recorded = any(name in record for gate in self.summed for name in _part_names(gate))
        self.size = weights.hidden_size
        gates = [affine_gate.gate for affine_gate in (*self.summed, *self.of_h)]
        self.matrix_h = self._rows(gates, weights.hh, weights.b_hh)
        self.from_x = self._of_all_steps(x)
        self.composite: dict[Expr, tuple[Tensor, Tensor | None]] = {}

    def _rows(
        self, gates: list[str], weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The rows of several gates."""
        if gates == list(self.weights.cell.gates):
            return weight, bias
        slices = [self.weights.rows(k) for k in gates]
        if not slices:
            return weight[:0], None
        if all(block.stop == next_block.start for block, next_block in pairwise(slices)):
            rows = slice(slices[0].start, slices[-1].stop)
            return weight[rows], None if bias is None else bias[rows]
        stacked = torch.cat([weight[rows] for rows in slices])
        return stacked, None if bias is None else torch.cat([bias[rows] for rows in slices])

    def _split(self, stacked: Tensor, apart: int) -> Sequence[Tensor]:
        """The block of the gates that are summed, then every other gate."""
        sizes = [len(self.summed) * self.size, *[self.size] * apart]
        return torch.split(stacked, sizes, dim=-1) if len(sizes) > 1 else (stacked,)

    def _of_all_steps(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        """What x says, each block by step."""
        gates = [affine_gate.gate for affine_gate in (*self.summed, *self.of_x)]
        if not gates:
            return []
        # flat: how three dims are multiplied depends on strides and on whether a graph is made
        matrix = self._rows(gates, self.weights.ih, self.weights.b_ih)
        stacked = linear(x.flatten(0, 1), *matrix)
        stacked = stacked.reshape(*x.shape[:2], stacked.shape[-1])
        # not by index: the gradient of each step would be a tensor of all steps
        return [block.unbind(0) for block in self._split(stacked, len(self.of_x))]

    def at(self, t: int, h: Tensor) -> tuple[dict[Expr, Tensor], dict[object, Tensor]]:
        """Single parts and sums of parts at a step, from h of the step before."""
        parts: dict[Expr, Tensor] = {}
        sums: dict[object, Tensor] = {}
        ours = self._split(linear(h, *self.matrix_h), len(self.of_h))
        count = len(self.summed)
        if count:
            total = self.from_x[0][t] + ours[0]
            each_gate = total.chunk(count, dim=-1) if count > 1 else (total,)
            for gate, value in zip(self.summed, each_gate, strict=True):
                sums[gate.both] = value
        if self.recorded:
            of_x, of_h = self.from_x[0][t].chunk(count, dim=-1), ours[0].chunk(count, dim=-1)
            for gate, from_x, from_h in zip(self.summed, of_x, of_h, strict=True):
                parts[gate.both[0]], parts[gate.both[1]] = from_x, from_h
        for gate, block in zip(self.of_x, self.from_x[1:], strict=True):
            parts[gate.both[0]] = self._changed(gate.both[0], t, block[t])
        for gate, value in zip(self.of_h, ours[1:], strict=True):
            parts[gate.both[1]] = self._changed(gate.both[1], t, value)
        return parts, sums

    def other(self, leaf: Weighted, t: int, value: Tensor) -> Tensor:
        """An affine part of something else than x or h."""
        if leaf not in self.composite:
            match leaf:
                case FromH(gate):
                    self.composite[leaf] = self.weights.of_h(gate)
                case Project():
                    self.composite[leaf] = self.weights.projection, None
                case FromX():
                    raise AssertionError("the inputs' parts of all steps are given")
        return self._changed(leaf, t, linear(value, *self.composite[leaf]))

    def _changed(self, leaf: Expr, t: int, value: Tensor) -> Tensor:
        change = self.changes.get(part_name(leaf) or "")
        return value if change is None else change.at(t, value)


class _Step:
    """The environment of ``evaluate`` at one step: (batch, units) each."""

    def __init__(self, parts: _AffineParts, t: int, before: Mapping[str, Tensor]) -> None:
        self.of, self.t = parts, t
        self.values: dict[Expr, Tensor] = {Previous(name): t for name, t in before.items()}
        self.parts, self.sums = parts.at(t, before["h"])

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        if isinstance(leaf, Vector):
            return self.of.weights.vectors[leaf.name]
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        if leaves in self.sums:
            return self.sums[leaves]
        first, *further = (self._product(leaf) for leaf in leaves)
        return sum(further, first)

    def _product(self, leaf: Weighted) -> Tensor:
        if leaf not in self.parts:
            assert not isinstance(leaf, FromX), "the inputs' parts of all steps are given"
            self.parts[leaf] = self.of.other(leaf, self.t, evaluate(leaf.of, self))
        return self.parts[leaf]


@dataclass(frozen=True)
class Passage:
    """One layer in one direction, run: every recorded quantity and h (time, batch, units),
    anything on padding, and each state after the last step (batch, units). ``compiled``: a kernel
    computed it, at least in part."""

    quantities: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    compiled: bool = False


def run_direction(
    entry: DirectionInput, record: frozenset[str], changes: Mapping[str, StepChange] = NOTHING
) -> Passage:
    """One layer in one direction, step by step; ``changes`` are applied to the quantities of these
    names as soon as each is computed."""
    weights, x = entry.weights, entry.x
    cell = weights.cell
    parts = _AffineParts(weights, x, record, changes)

    def spread(value: Tensor) -> Tensor:
        """A quantity of parameters or numbers alone is the same for all sequences."""
        return (
            value.to(x.dtype).expand(x.shape[1], weights.hidden_size) if value.dim() < 2 else value
        )

    plan = [
        (name, equation, f"{name}_pre", changes.get(name), changes.get(f"{name}_pre"))
        for name, equation in cell.equations.items()
    ]
    kept: dict[str, list[Tensor]] = {name: [] for name in sorted(record | {"h"})}
    affine = any("_from_" in name for name in kept)
    states = dict(entry.initial)
    steps = range(x.shape[0])
    for t in running_order(steps, entry.reverse):
        env = _Step(parts, t, states)
        quantities: dict[str, Tensor] = {}
        for name, equation, pre, change, change_of_pre in plan:
            if isinstance(equation, Apply):
                argument = spread(evaluate(equation.argument, env))
                if change_of_pre is not None:
                    argument = change_of_pre.at(t, argument)
                quantities[pre] = argument
                value = equation.function.forward(argument)
            else:
                value = spread(evaluate(equation, env))
            if change is not None:
                value = change.at(t, value)
            quantities[name] = env.values[Quantity(name)] = value
        if affine:
            named = ((part_name(leaf), value) for leaf, value in env.parts.items())
            quantities |= {part: value for part, value in named if part is not None}
        inside = None if entry.valid is None else entry.valid[t]
        after = {
            name: keep_on_padding(quantities[name], states[name], inside) for name in cell.states
        }
        for name, values in kept.items():
            values.append(quantities[name])
        states = after
    stacked = {name: torch.stack(v[::-1] if entry.reverse else v) for name, v in kept.items()}
    return Passage(stacked, states)


# all steps at once -------------------------------------------------------------------------------


def parts_of(
    entry: DirectionInput,
    before: Mapping[str, Tensor],
    quantities: Mapping[str, Tensor],
    names: frozenset[str],
) -> dict[str, Tensor]:
    """The parts of these names (time, batch, unit) of a run of which all quantities are known, and
    each state before each step; anything on padding."""
    env = _Afterwards(entry, before, quantities)
    shape = (*entry.x.shape[:2], entry.weights.hidden_size)
    parts: dict[str, Tensor] = {}
    for name, equation in entry.weights.cell.equations.items():
        for leaf in leaves(equation):
            part = part_name(leaf)
            if part in names and isinstance(leaf, Weighted):
                parts[part] = env.products((leaf,), None)
        if isinstance(equation, Apply) and f"{name}_pre" in names:
            argument = evaluate(equation.argument, env)
            parts[f"{name}_pre"] = argument.to(entry.x.dtype).expand(shape)
    return parts


class _Afterwards:
    """The environment of ``evaluate`` at all steps of a run: (time, batch, units) each."""

    def __init__(
        self, entry: DirectionInput, before: Mapping[str, Tensor], quantities: Mapping[str, Tensor]
    ) -> None:
        self.weights, self.x, self.h = entry.weights, entry.x, before["h"]
        self.values: dict[Expr, Tensor] = {Previous(name): t for name, t in before.items()}
        self.values |= {Quantity(name): t for name, t in quantities.items()}
        self.values |= {Vector(name): t for name, t in entry.weights.vectors.items()}

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        first, *further = (self._product(leaf) for leaf in leaves)
        return sum(further, first)

    def _product(self, leaf: Weighted) -> Tensor:
        match leaf:
            case FromX(gate):
                return linear(self.x, *self.weights.of_x(gate))
            case FromH(gate):
                return linear(self.h, *self.weights.of_h(gate))
            case _:
                raise AssertionError("a cell that projects is run by torch")
