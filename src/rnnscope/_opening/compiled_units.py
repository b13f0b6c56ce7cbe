"""A bound for each unit by a kernel that reads the record: no product is formed a second time.

The rules are those of ``bounds``, followed for some units of a sequence at a step, with what was
recorded in the place of the largest values over units, each unit's own row of the matrices, and
the slope of a function where it is. So the kernel needs all that the equations compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from rnnscope._kernels import engine
from rnnscope._kernels.engine import ELEMENTS, pieces
from rnnscope._kernels.equations import evaluated, obstacle
from rnnscope._kernels.lanes import Lanes, Mask, Source, Variable, Whole, module
from rnnscope._kernels.machine import Compiled, compiled
from rnnscope._opening.bounds import Errors, Rounding, Size
from rnnscope._opening.compiled_bounds import SymbolicErrors
from rnnscope.cells import Cell
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    FromX,
    Previous,
    Quantity,
    Vector,
    Weighted,
    leaves,
)

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


def has_kernel(cell: Cell) -> bool:
    """Whether there is a kernel: h must be computed from quantities, not from products."""
    return (
        obstacle(cell) is None
        and not cell.stepwise
        and not cell.vectors
        and not _has_products(cell.equations["h"])
    )


def _has_products(expr: Expr) -> bool:
    return any(isinstance(leaf, FromX | FromH) for leaf in leaves(expr))


class _UnitErrors(SymbolicErrors):
    """Follows the rules for some units of a sequence at a step."""

    def __init__(self, cell: Cell, rounding: Rounding, source: Source) -> None:
        super().__init__(cell, rounding, source)
        self.equations = {equation: name for name, equation in cell.equations.items()}
        self.at: tuple[Whole, Whole, Mask | None]  # index in the record, unit, which lanes
        self.before: Whole  # index of the state before
        self.values: dict[Expr, Lanes]

    def argument(self, name: str) -> Whole:
        """An argument that stands before the recorded quantities."""
        return self.source.argument(ARGUMENTS.index(name))

    def recorded(self, name: str) -> Whole:
        """Where a quantity stands."""
        return self.source.argument(len(ARGUMENTS) + tuple(self.cell.equations).index(name))

    def load(self) -> None:
        """What was recorded."""
        load = self.source.load
        names = self.cell.equations
        self.values = {Quantity(n): load(self.recorded(n), self.at[0], self.at[2]) for n in names}
        for name in self.cell.states:
            self.values[Previous(name)] = load(self.recorded(name), self.before, self.at[2])
        self.sizes: Any = {expr: abs(value) for expr, value in self.values.items()}

    def value(self, leaf: Quantity | Previous | Vector) -> Lanes:
        """As ``evaluated`` asks."""
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...]) -> Lanes:
        """As ``evaluated`` asks."""
        raise AssertionError("has_kernel() tells of products in h")

    def _constant(self, place: int) -> Lanes:
        _, unit, mask = self.at
        constants, units = self.argument("constants"), self.argument("units")
        return self.source.load(constants, units * place + unit, mask)

    def _slope(self, expr: Apply, error: Size) -> Size:
        function = expr.function
        name = self.equations.get(expr)
        if function.bend is None or function.kernel_slope is None:
            return function.steepest
        if name is None and _has_products(expr):
            return function.steepest
        value = evaluated(expr, self.source, self) if name is None else self.values[Quantity(name)]
        steepest, inside = self.source.lanes(function.steepest), self.source.lanes(error)  # type: ignore[arg-type]
        slope = inside.times_plus(function.bend, function.kernel_slope(value))
        slope = steepest.unless(slope.below(steepest), slope)  # NaN is the steepest
        return slope  # type: ignore[return-value]


@dataclass(frozen=True)
class _UnitsKernel:
    machine: Compiled
    affine: tuple[tuple[str, bool], ...]


@cache
def units_kernel(cell: Cell, element: str, rounding: Rounding) -> _UnitsKernel:
    """The kernel of a cell that has one."""
    source = Source("units", element)
    rules = _UnitErrors(cell, rounding, source)
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


def _row(rules: _UnitErrors, t: Whole, b: Whole) -> None:
    source, argument, cell = rules.source, rules.argument, rules.cell
    batch, units = argument("batch"), argument("units")
    row = t * batch + b
    rules.norms = {x: source.broadcast(argument(f"{'hx'[x]} norm"), row) for x in (True, False)}
    reverse = argument("reverse").compared("ne", 0)
    back = source.choice(reverse, batch, batch * -1)
    inside = t.compared("slt", source.load_whole(argument("lengths"), b))
    sums = {name: source.variable(source.lanes(0.0)) for name in ("off", "allowed", "ratio")}
    widest = {name: source.variable(source.lanes(0.0)) for name in cell.states}

    def write(unit: Whole, masked: bool) -> None:
        mask = source.first_lanes(units - unit) if masked else None
        rules.at = row * units + unit, unit, mask
        rules.before = (row + back) * units + unit
        _units(rules, (b * units + unit, inside), sums, widest)

    source.over_units(units, write)
    for name in ("off", "ratio"):
        source.store_single(argument(name), row, source.largest(sums[name].get()))
    # the bound where the difference is largest: the widest of those lanes
    largest = source.spread(source.largest(sums["off"].get()))
    at_largest = sums["allowed"].get().unless(sums["off"].get().below(largest), 0.0)
    source.store_single(argument("allowed"), row, source.largest(at_largest))
    first = len(ARGUMENTS) + len(cell.equations) + len(cell.states) - 1
    for k, variable in enumerate(widest.values()):
        source.store_single(source.argument(first + k), row, source.largest(variable.get()))


def _units(
    rules: _UnitErrors,
    state: tuple[Whole, str],
    sums: Mapping[str, Variable],
    widest: Mapping[str, Variable],
) -> None:
    source, cell = rules.source, rules.cell
    place, inside = state
    mask = rules.at[2]
    first = len(ARGUMENTS) + len(cell.equations)
    carried = {name: source.argument(first + k) for k, name in enumerate(cell.states[1:])}
    errors = {n: source.variable(source.load(e, place, mask)) for n, e in carried.items()}
    rules.load()
    rules.follow(errors)
    for name, variable in errors.items():
        with source.only_if(inside):
            source.store(carried[name], place, variable.get(), mask)

    def of_units(size: Lanes) -> Lanes:
        return size if mask is None else size.where(mask, 0.0)

    for name, variable in widest.items():
        error: Any = rules.known[Quantity(name)][1]
        variable.set(source.larger(of_units(source.lanes(error)), variable.get()))
    bound: Any = source.lanes(rules.known[Quantity("h")][1])  # type: ignore[arg-type]
    value = evaluated(cell.equations["h"], source, rules)
    off = of_units(abs(value - rules.values[Quantity("h")]))
    sums["allowed"].set(bound.where(off.above(sums["off"].get()), sums["allowed"].get()))
    sums["off"].set(source.larger(off, sums["off"].get()))
    ratio = (off / bound).unless(off.at_most(0.0), 0.0)
    sums["ratio"].set(source.larger(of_units(ratio), sums["ratio"].get()))


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
    units = weights.hidden_size
    numbers = x_norm.numel() * units * len(cell.equations)
    kernel_of = partial(units_kernel, cell, ELEMENTS.get(x_norm.dtype, ""), errors.rounding)
    compile_for = errors.rounding, kernel_of
    if not engine.judging(cell, x_norm.dtype, x_norm.device, numbers, compile_for):
        return None
    kernel = kernel_of()
    rows = [n for gate, of_x in kernel.affine for n in errors.affine_of_units(gate, of_x)]
    constants = torch.stack(rows)
    steps, batch = x_norm.shape
    off, allowed, ratio = (torch.empty_like(x_norm) for _ in range(3))
    widest = {name: torch.empty_like(x_norm) for name in cell.states}
    carried = {name: x_norm.new_zeros(batch, units) for name in cell.states[1:]}
    count = pieces(numbers, batch)
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
