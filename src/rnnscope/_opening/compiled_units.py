"""A bound for each unit, as ``per_unit`` has, by a kernel that reads the record: no product is
formed a second time.

The sum of a product's magnitudes is bounded by the norm of its row and that of x or h, here with
each unit's own row. Values are those that were recorded, so the kernel needs all that the equations
compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rnnscope._kernels.engine import ELEMENTS, pieces
from rnnscope._kernels.equations import obstacle
from rnnscope._kernels.lanes import Lanes, Mask, Source, Variable, Whole, module
from rnnscope._kernels.machine import Compiled, compiled
from rnnscope._opening.bounds import FUNCTION_ROUNDINGS, OPERATION_ROUNDINGS, Errors, Rounding
from rnnscope.cells import Cell
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    FromX,
    Number,
    Previous,
    Product,
    Quantity,
    Sum,
    leaves,
)
from rnnscope.cells.functions import Function

__all__ = ["UnitBounds", "bounds_of_units", "has_kernel", "units_kernel"]

ARGUMENTS = (
    *("taken", "pieces", "batch of a piece", "steps", "batch", "units", "reverse", "lengths"),
    *("x norm", "h norm", "constants", "off", "allowed", "ratio"),
)
"""What the kernel gets first; then the recorded quantities, the errors that go on from step to
step, and where the widest bound of each state goes."""


@dataclass(frozen=True)
class UnitBounds:
    """What comparing h unit by unit gives, (time, batch): the largest difference, what is allowed
    there, and the largest ratio; ``widest`` for each state; ``errors`` of the other states after
    their last step, (batch, unit)."""

    off: Tensor
    allowed: Tensor
    ratio: Tensor
    widest: dict[str, Tensor]
    errors: dict[str, Tensor]


@dataclass(frozen=True)
class _Ball:
    """A number, where it is known, the largest that its magnitude may be, and its error."""

    value: Lanes | None
    size: Lanes
    error: Lanes


def has_kernel(cell: Cell) -> bool:
    """Whether there is a kernel: h must be computed from quantities, not from products."""
    return (
        obstacle(cell) is None
        and not cell.stepwise
        and not cell.vectors
        and not any(isinstance(leaf, FromX | FromH) for leaf in leaves(cell.equations["h"]))
    )


class _Rules:
    """The rules of ``per_unit`` for some units of a sequence at a step."""

    def __init__(self, cell: Cell, rounding: Rounding, source: Source) -> None:
        self.cell, self.rounding, self.source = cell, rounding, source
        self.affine: list[tuple[str, bool]] = []
        self.at: tuple[Whole, Whole, Mask | None]  # index in the record, unit, which lanes
        self.row: Whole
        self.before: Whole  # index of the state before
        self.balls: dict[Expr, _Ball] = {}

    def argument(self, name: str) -> Whole:
        return self.source.argument(ARGUMENTS.index(name))

    def recorded(self, name: str) -> Whole:
        return self.source.argument(len(ARGUMENTS) + tuple(self.cell.equations).index(name))

    def of(self, expr: Expr) -> _Ball:
        """An expression; see ``per_unit.PerUnit.of``."""
        source = self.source
        match expr:
            case Number(value):
                number = source.lanes(value)
                return _Ball(number, abs(number), source.lanes(0.0))
            case FromX(gate):
                return self._affine(gate, True)
            case FromH(gate):
                return self._affine(gate, False)
            case Apply(_, argument):
                return self._function(expr.function, self.of(argument), None)
            case Sum(left, right, negative):
                return self._plus(self.of(left), self.of(right), negative)
            case Product(left, right):
                return self._times(self.of(left), self.of(right))
            case Previous("h"):
                before = source.load(self.recorded("h"), self.before, self.at[2])
                return _Ball(before, abs(before), source.lanes(0.0))
            case _:
                return self.balls[expr]

    def equation(self, name: str, equation: Expr) -> _Ball:
        """A quantity whose value was recorded."""
        value = self.source.load(self.recorded(name), self.at[0], self.at[2])
        if isinstance(equation, Apply):
            return self._function(equation.function, self.of(equation.argument), value)
        ball = self.of(equation)
        return _Ball(value, abs(value), ball.error)

    def _affine(self, gate: str, of_x: bool) -> _Ball:
        if (gate, of_x) not in self.affine:
            self.affine.append((gate, of_x))
        source, units = self.source, self.argument("units")
        first = 4 * self.affine.index((gate, of_x))
        slope, added, error_slope, error_added = (
            source.load(self.argument("constants"), units * (first + k) + self.at[1], self.at[2])
            for k in range(4)
        )
        norm = source.broadcast(self.argument("x norm" if of_x else "h norm"), self.row)
        size, error = norm.times_plus(slope, added), norm.times_plus(error_slope, error_added)
        return _Ball(None, size, error)

    def _plus(self, left: _Ball, right: _Ball, negative: bool) -> _Ball:
        value = None
        if left.value is not None and right.value is not None:
            value = left.value - right.value if negative else left.value + right.value
        size = left.size + right.size if value is None else abs(value)
        return self._rounded(value, size, left.error + right.error, OPERATION_ROUNDINGS)

    def _times(self, left: _Ball, right: _Ball) -> _Ball:
        value = None
        if left.value is not None and right.value is not None:
            value = left.value * right.value
        size = left.size * right.size
        crossed = (left.size + left.error) * right.error
        error = right.size.times_plus(left.error, crossed)
        return self._rounded(value, size, error, OPERATION_ROUNDINGS)

    def _function(self, function: Function, argument: _Ball, value: Lanes | None) -> _Ball:
        if value is None:
            assert argument.value is not None, "only a recorded function has a product inside"
            assert function.kernel is not None, "obstacle() tells of a function that has none"
            value = function.kernel(argument.value)
        slope = self.source.lanes(function.steepest)
        if function.bend is not None and function.kernel_slope is not None:
            there = argument.error.times_plus(function.bend, function.kernel_slope(value))
            slope = slope.unless(there.below(slope), there)
        error = argument.error * slope
        if function.range is not None:
            low, high = function.range
            error = error.unless(error.above(high - low), high - low)
            error = error + self.rounding.function * max(abs(low), abs(high))
            if not function.through_zero:
                error = error + FUNCTION_ROUNDINGS * self.rounding.operation
        return self._rounded(value, abs(value), error, FUNCTION_ROUNDINGS)

    def _rounded(self, value: Lanes | None, size: Lanes, error: Lanes, roundings: float) -> _Ball:
        error = size.times_plus(roundings * self.rounding.operation, error)
        return _Ball(value, size, error + roundings * self.rounding.least)


@dataclass(frozen=True)
class _UnitsKernel:
    machine: Compiled
    affine: tuple[tuple[str, bool], ...]


@cache
def units_kernel(cell: Cell, element: str, rounding: Rounding) -> _UnitsKernel:
    """The kernel of a cell that has one."""
    source = Source("units", element)
    rules = _Rules(cell, rounding, source)
    argument = rules.argument
    with source.pieces(argument("pieces")) as piece:
        low = piece * argument("batch of a piece")
        high = (low + argument("batch of a piece")).smaller(argument("batch"))
        with source.loop(0, argument("steps")) as k:
            reverse = argument("reverse").compared("ne", 0)
            t = source.choice(reverse, argument("steps") - 1 - k, k)
            with source.loop(low, high) as b:
                _row(rules, t, b)
    return _UnitsKernel(compiled(module(source, []), "units"), tuple(rules.affine))


def _row(rules: _Rules, t: Whole, b: Whole) -> None:
    source, argument, cell = rules.source, rules.argument, rules.cell
    batch, units = argument("batch"), argument("units")
    rules.row = t * batch + b
    reverse = argument("reverse").compared("ne", 0)
    back = source.choice(reverse, batch, batch * -1)
    inside = t.compared("slt", source.load_whole(argument("lengths"), b))
    sums = {name: source.variable(source.lanes(0.0)) for name in ("off", "allowed", "ratio")}
    widest = {name: source.variable(source.lanes(0.0)) for name in cell.states}

    def write(unit: Whole, masked: bool) -> None:
        mask = source.first_lanes(units - unit) if masked else None
        rules.at = rules.row * units + unit, unit, mask
        rules.before = (rules.row + back) * units + unit
        _units(rules, (b * units + unit, inside), sums, widest)

    source.over_units(units, write)
    for name in ("off", "ratio"):
        source.store_single(argument(name), rules.row, source.largest(sums[name].get()))
    # the bound where the difference is largest: the widest of those lanes
    largest = source.spread(source.largest(sums["off"].get()))
    at_largest = sums["allowed"].get().unless(sums["off"].get().below(largest), 0.0)
    source.store_single(argument("allowed"), rules.row, source.largest(at_largest))
    first = len(ARGUMENTS) + len(cell.equations) + len(cell.states) - 1
    for k, variable in enumerate(widest.values()):
        source.store_single(source.argument(first + k), rules.row, source.largest(variable.get()))


def _units(
    rules: _Rules,
    state: tuple[Whole, str],
    sums: Mapping[str, Variable],
    widest: Mapping[str, Variable],
) -> None:
    source, cell = rules.source, rules.cell
    place, inside = state
    mask = rules.at[2]
    first = len(ARGUMENTS) + len(cell.equations)
    carried = {name: source.argument(first + k) for k, name in enumerate(cell.states[1:])}
    rules.balls = {}
    for name, errors in carried.items():
        value = source.load(rules.recorded(name), rules.before, mask)
        error = source.load(errors, place, mask)
        rules.balls[Previous(name)] = _Ball(value, abs(value), error)

    def widen(variable: Variable, size: Lanes) -> None:
        size = size if mask is None else size.where(mask, 0.0)
        variable.set(source.larger(size, variable.get()))

    for name, equation in cell.equations.items():
        if name == "h":
            ball = rules.of(equation)
            hidden = source.load(rules.recorded("h"), rules.at[0], mask)
            assert ball.value is not None, "has_kernel() asks for that"
            off = abs(ball.value - hidden)
            off = off if mask is None else off.where(mask, 0.0)
            larger = off.above(sums["off"].get())
            sums["allowed"].set(ball.error.where(larger, sums["allowed"].get()))
            sums["off"].set(source.larger(off, sums["off"].get()))
            widen(sums["ratio"], (off / ball.error).unless(off.at_most(0.0), 0.0))
            rules.balls[Quantity("h")] = _Ball(hidden, abs(hidden), ball.error)
        else:
            rules.balls[Quantity(name)] = rules.equation(name, equation)
    for name, variable in widest.items():
        widen(variable, rules.balls[Quantity(name)].error)
    for name, errors in carried.items():
        with source.only_if(inside):
            source.store(errors, place, rules.balls[Quantity(name)].error, mask)


def bounds_of_units(
    errors: Errors,
    norms: tuple[Tensor, Tensor],
    store: Mapping[str, Tensor],
    lengths: Tensor,
    reverse: bool,
) -> UnitBounds | None:
    """A bound for each unit of a layer in one direction; ``store`` holds its record, time first,
    states with a place at both ends. None where the kernel cannot do it, or a bound is not finite.
    """
    weights = errors.weights
    cell, x_norm = weights.cell, norms[0]
    limit = torch.finfo(torch.float32).max
    everything = all(name in store for name in cell.equations)
    if not (has_kernel(cell) and everything) or errors.rounding.limit < limit:
        return None
    kernel = units_kernel(cell, ELEMENTS[x_norm.dtype], errors.rounding)
    rows = [n for gate, of_x in kernel.affine for n in errors.affine_of_units(gate, of_x)]
    constants = torch.stack(rows)
    steps, batch = x_norm.shape
    off, allowed, ratio = (torch.empty_like(x_norm) for _ in range(3))
    widest = {name: torch.empty_like(x_norm) for name in cell.states}
    units = weights.hidden_size
    carried = {name: x_norm.new_zeros(batch, units) for name in cell.states[1:]}
    count = pieces(x_norm.numel() * units * len(cell.equations), batch)
    lengths = lengths.to(torch.int64).contiguous()
    arrays: list[Any] = [*norms, constants, off, allowed, ratio]
    quantities = [store[n][1:] if n in cell.states else store[n] for n in cell.equations]
    kernel.machine(
        [
            *(-(-batch // count), steps, batch, units, int(reverse), lengths.data_ptr()),
            *(t.data_ptr() for t in [*arrays, *quantities, *carried.values(), *widest.values()]),
        ],
        count,
    )
    if not all(bool(t.isfinite().all()) for t in (off, ratio, *widest.values())):
        return None
    return UnitBounds(off, allowed, ratio, widest, carried)
