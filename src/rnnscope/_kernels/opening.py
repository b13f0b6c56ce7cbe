"""The kernel that opens a layer: from the products of some steps to every number of them, compared
with the layer's own h, with the sizes that the error bounds need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from rnnscope._kernels.equations import Columns, columns_of, evaluated
from rnnscope._kernels.lanes import Lanes, Mask, Source, Variable, Whole
from rnnscope._kernels.machine import Compiled, compiled
from rnnscope.cells import Cell, part_name
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    FromX,
    Previous,
    Quantity,
    Vector,
    Weighted,
    elementwise,
    leaves,
    linear_recurrence,
)

__all__ = ["ARGUMENTS", "OpeningKernel", "opening_kernel"]

ARGUMENTS = (
    *("taken", "pieces", "columns of pieces", "batch of a piece", "steps of a piece"),
    *("steps", "batch", "units", "reverse", "start", "lengths"),
    *("x", "features", "hidden", "x norm", "h norm", "off"),
    *("first", "first row", "first bias", "second", "second row", "second bias"),
)
"""What every opening kernel gets, in this order; after it the parameters of ``vectors``, where
quantities are kept (0: nowhere), and where sizes are."""

EXTREME = -1.0
"""In the place of a norm whose square the type cannot hold."""
SQUARES = {"float": (2.0**-80, 2.0**120), "double": (2.0**-900, 2.0**1000)}
"""Between these a sum of squares is exact to rounding."""


@dataclass(frozen=True)
class OpeningKernel:
    """A kernel, and what its arguments are: the gates' columns, the quantities that can be kept, the
    expressions whose largest magnitude is measured."""

    cell: Cell
    element: str
    parts: bool

    @cached_property
    def columns(self) -> Columns:
        """Where the gates' products stand."""
        return columns_of(self.cell, self.parts)

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The quantities that the kernel writes."""
        names: list[str] = []
        for name, equation in self.cell.equations.items():
            if self.parts:
                found = (part_name(leaf) for leaf in leaves(equation))
                names += [part for part in found if part is not None and part not in names]
                if isinstance(equation, Apply):
                    names.append(f"{name}_pre")
            if name != "h":
                names.append(name)
        return tuple(names)

    @cached_property
    def scans(self) -> dict[str, tuple[Expr, Expr]]:
        """The states that are computed one step after the other: factor and addend."""
        splits = {n: linear_recurrence(self.cell.equations[n], n) for n in self.cell.states[1:]}
        return {name: split for name, split in splits.items() if split is not None}

    @cached_property
    def sizes(self) -> tuple[Expr, ...]:
        """The expressions whose largest magnitude over units is measured."""
        needed: list[Expr] = [e for n in self.scans for e in (Quantity(n), Previous(n))]
        needed += [factor for factor, _ in self.scans.values()]
        if any(Previous("h") in elementwise(e) for e in self.cell.equations.values()):
            needed.append(Previous("h"))
        return tuple(dict.fromkeys(needed))

    @cached_property
    def compiled(self) -> Compiled:
        """The machine code."""
        return compiled(_Writer(self).text(), "opening")


@cache
def opening_kernel(cell: Cell, element: str, parts: bool) -> OpeningKernel:
    """The kernel of a cell that has no ``obstacle`` and is not stepwise."""
    return OpeningKernel(cell, element, parts)


class _Writer:
    """Writes the kernel: pieces of work, steps, sequences, units."""

    def __init__(self, kernel: OpeningKernel) -> None:
        self.kernel = kernel
        self.source = Source("opening", kernel.element)

    def argument(self, name: str) -> Whole:
        return self.source.argument(ARGUMENTS.index(name))

    def further(self, kind: str, k: int) -> Whole:
        """An argument after those that every kernel gets."""
        vectors, kept = len(self.kernel.cell.vectors), len(self.kernel.kept)
        offset = {"vector": 0, "kept": vectors, "size": vectors + kept}[kind]
        return self.source.argument(len(ARGUMENTS) + offset + k)

    def text(self) -> str:
        source, argument = self.source, self.argument
        with source.pieces(argument("pieces")) as piece:
            column = piece.remainder(argument("columns of pieces"))
            turn = piece.divided(argument("columns of pieces"))
            low = column * argument("batch of a piece")
            high = (low + argument("batch of a piece")).smaller(argument("batch"))
            first = turn * argument("steps of a piece")
            last = (first + argument("steps of a piece")).smaller(argument("steps"))
            reverse = argument("reverse").compared("ne", 0)
            before = source.choice(reverse, argument("batch"), argument("batch") * -1)
            with source.loop(first, last) as k:
                t = source.choice(reverse, argument("steps") - 1 - k, k)
                with source.loop(low, high) as b:
                    _Row(self, t * argument("batch") + b, t, b, before).write()
        return source.text()


@dataclass
class _Row:
    """One sequence at one step: its units, a vector after the other."""

    writer: _Writer
    row: Whole
    t: Whole
    b: Whole
    before: Whole
    sizes: dict[Expr, Variable] = field(default_factory=dict)

    def write(self) -> None:
        writer, source = self.writer, self.writer.source
        argument, units = writer.argument, writer.argument("units")
        zero = source.lanes(0.0)
        self.off, self.squares, self.largest_h = (source.variable(zero) for _ in range(3))
        self.sizes = {expr: source.variable(zero) for expr in writer.kernel.sizes}
        end = argument("lengths")
        length = source.load_whole(end, self.b)
        ahead = (self.t + argument("start")).compared("sge", length)
        backwards = argument("reverse").compared("ne", 0)
        self.waiting = source.everywhere(source.new(f"and i1 {ahead}, {backwards}"))
        source.over_units(units, lambda u, mask: _Units(self, u, mask).write())
        source.store_single(argument("off"), self.row, source.largest(self.off.get()))
        for k, variable in enumerate(self.sizes.values()):
            source.store_single(writer.further("size", k), self.row, source.largest(variable.get()))
        self._norm("h norm", self.squares, self.largest_h)
        squares, largest = source.variable(zero), source.variable(zero)
        features = argument("features")
        x_row = self.row * features

        def add(u: Whole, mask: Mask | None) -> None:
            x = source.load(argument("x"), x_row + u, mask)
            squares.set(x.times_plus(x, squares.get()))
            largest.set(source.larger(abs(x), largest.get()))

        source.over_units(features, add)
        self._norm("x norm", squares, largest)

    def _norm(self, name: str, squares: Variable, largest: Variable) -> None:
        """The root of a sum of squares; where the type cannot hold them, ``EXTREME``."""
        source = self.writer.source
        total = source.total(squares.get())
        size = source.largest(largest.get())
        low, high = SQUARES[source.element]
        norm = source.root(total)
        element, constant = source.element, source.constant
        above = source.new(f"fcmp ogt {element} {total}, {constant(low)}")
        below = source.new(f"fcmp olt {element} {total}, {constant(high)}")
        nothing = source.new(f"fcmp oeq {element} {size}, {constant(0.0)}")
        inside = source.new(f"and i1 {above}, {below}")
        fits = source.new(f"or i1 {inside}, {nothing}")
        value = source.new(
            f"select i1 {fits}, {element} {norm}, {element} {source.constant(EXTREME)}"
        )
        source.store_single(self.writer.argument(name), self.row, value)


class _Units:
    """Some units of a row; the leaves of its equations."""

    def __init__(self, row: _Row, unit: Whole, mask: Mask | None) -> None:
        self.row, self.unit, self.mask = row, unit, mask
        self.writer, self.source = row.writer, row.writer.source
        units = self.writer.argument("units")
        self.index = row.row * units + unit
        self.index_before = (row.row + row.before) * units + unit
        self.values: dict[Expr, Lanes] = {}
        self.recorded: set[str] = set()

    def write(self) -> None:
        kernel = self.writer.kernel
        before = self.value(Previous("h"))
        squares, size = self.row.squares, abs(before)
        squares.set(before.times_plus(before, squares.get()))
        self.row.largest_h.set(self.source.larger(size, self.row.largest_h.get()))
        for name, equation in kernel.cell.equations.items():
            self.values[Quantity(name)] = self._equation(name, equation)
        for expr, variable in self.row.sizes.items():
            value = abs(evaluated(expr, self.source, self))
            variable.set(self.source.larger(self._inside(value), variable.get()))

    def _inside(self, value: Lanes) -> Lanes:
        """With 0 where there is no unit."""
        return value if self.mask is None else value.where(self.mask, 0.0)

    def _equation(self, name: str, equation: Expr) -> Lanes:
        if isinstance(equation, Apply):
            pre = evaluated(equation.argument, self.source, self)
            self._keep(f"{name}_pre", pre)
            kernel = equation.function.kernel
            assert kernel is not None, "obstacle() tells of a function that has none"
            value: Lanes = kernel(pre)
        else:
            value = evaluated(equation, self.source, self)
        if name == "h":
            hidden = self.source.load(self.writer.argument("hidden"), self.index, self.mask)
            off = self._inside(abs(value - hidden))
            self.row.off.set(self.source.larger(off, self.row.off.get()))
            return hidden
        if name in self.writer.kernel.scans:
            value = value.unless(self.row.waiting, self.value(Previous(name)))
        self._keep(name, value)
        return value

    def _keep(self, name: str, value: Lanes) -> None:
        kept = self.writer.kernel.kept
        if name not in kept or name in self.recorded:
            return
        self.recorded.add(name)
        place = self.writer.further("kept", kept.index(name))
        if name in self.writer.kernel.cell.states:  # always recorded
            self.source.store(place, self.index, value, self.mask)
            return
        with self.source.only_if(place.compared("ne", 0)):
            self.source.store(place, self.index, value, self.mask)

    # leaves ------------------------------------------------------------------------------

    def value(self, leaf: Quantity | Previous | Vector) -> Lanes:
        if leaf not in self.values:
            kernel, source = self.writer.kernel, self.source
            match leaf:
                case Vector(name):
                    place = self.writer.further("vector", kernel.cell.vectors.index(name))
                    self.values[leaf] = source.load(place, self.unit, self.mask)
                case Previous(name):
                    base = (
                        self.writer.argument("hidden")
                        if name == "h"
                        else self.writer.further("kept", kernel.kept.index(name))
                    )
                    self.values[leaf] = source.load(base, self.index_before, self.mask)
                case Quantity(name):
                    raise AssertionError(f"{name} is computed before it is used")
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...]) -> Lanes:
        columns = self.writer.kernel.columns
        first, *further = leaves
        if isinstance(first, FromX) and first.gate in columns.summed:
            return self._product("first", columns.first.index(first.gate))
        total = self._part(first)
        for leaf in further:
            total = total + self._part(leaf)
        return total

    def _part(self, leaf: Weighted) -> Lanes:
        columns = self.writer.kernel.columns
        if leaf not in self.values:
            match leaf:
                case FromX(gate):
                    value = self._product("first", columns.first.index(gate))
                case FromH(gate):
                    value = self._product("second", columns.of_h.index(gate))
                case _:
                    raise AssertionError("obstacle() tells of a projection")
            self.values[leaf] = value
            self._keep(part_name(leaf) or "", value)
        return self.values[leaf]

    def _product(self, array: str, column: int) -> Lanes:
        argument, source = self.writer.argument, self.source
        offset = argument("units") * column + self.unit
        place = self.row.row * argument(f"{array} row") + offset
        value = source.load(argument(array), place, self.mask)
        return value + source.load(argument(f"{array} bias"), offset, self.mask)


UnitWriter = Callable[[Whole, Mask | None], None]
Addresses = Sequence[int]
