"""The kernel that computes a layer in one direction: the products of a few rows, while they are in
registers every equation, and what the proof needs.

Opening takes h of the step before from the layer and compares h with the layer's own; a run takes
its own. Rows are sequences at a step; a tile is some rows times the units of a few vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from rnnscope._kernels.equations import Columns, columns_of, sized
from rnnscope._kernels.lanes import BYTES, LaneTable, Source, Whole, module
from rnnscope._kernels.machine import Compiled, compiled
from rnnscope._kernels.products import TERMS, groups, products
from rnnscope._kernels.units import Units
from rnnscope.cells import Cell, part_name
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    leaves,
)

__all__ = ["ARGUMENTS", "EXTREME", "ForwardKernel", "forward_kernel"]

ARGUMENTS = (
    *("taken", "pieces", "columns of pieces", "batch of a piece", "steps of a piece"),
    *("steps", "batch", "units", "reverse", "lengths"),
    *("x", "x step", "x row", "features", "hidden"),
    *("of x", "of h", "biases"),
    *("x norm", "h norm", "off"),
)
"""What every kernel gets, in this order; after it the parameters of ``vectors``, where quantities
are kept (0: nowhere), and where sizes are."""

EXTREME = -1.0
"""In the place of a norm whose square the type cannot hold."""
SQUARES = {"float": (2.0**-80, 2.0**120), "double": (2.0**-900, 2.0**1000)}
"""Between these a sum of squares is exact to rounding."""

BLOCK = 96
"""Rows that use a block of weights again while it is in cache."""


@dataclass(frozen=True)
class ForwardKernel:
    """A kernel, and what its arguments are: the gates' columns, the quantities that can be kept,
    the expressions whose largest magnitude is measured. ``opens``: h is compared, not computed."""

    cell: Cell
    element: str
    parts: bool
    opens: bool

    @cached_property
    def columns(self) -> Columns:
        """Where the gates' products stand."""
        return columns_of(self.cell, self.parts)

    @cached_property
    def tile_units(self) -> int:
        """Units of a tile: those of a vector."""
        return BYTES // (4 if self.element == "float" else 8)

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
    def sizes(self) -> tuple[Expr, ...]:
        """The expressions whose largest magnitude over units is measured."""
        return sized(self.cell) if self.opens else ()

    @cached_property
    def compiled(self) -> Compiled:
        """The machine code."""
        return compiled(_Writer(self).text(), "forward")

    def compile(self) -> None:
        """Compile it now."""
        assert self.compiled.address, "code has an address"


@cache
def forward_kernel(cell: Cell, element: str, parts: bool, opens: bool) -> ForwardKernel:
    """The kernel of a cell that has no ``obstacle``."""
    return ForwardKernel(cell, element, parts, opens)


@dataclass
class _Factor:
    """x or h inside a kernel: the addresses of its rows; the columns that it adds to, whose weights
    stand ``block`` numbers from each other; its length, and which ``terms`` are multiplied."""

    rows: LaneTable
    columns: list[int]
    weights: Whole
    block: Whole
    length: Whole
    terms: tuple[Whole, ...] = ()

    def of_column(self, column: int, k: Whole) -> list[str]:
        """What ``rows_times_column`` gets, of rows from k on."""
        first, last = self.terms
        weights = self.weights
        if column in self.columns:
            apart = self.columns.index(column) * weights.source.bytes
            weights = weights + self.block * apart
        else:
            last = first
        return [f"ptr {self.rows.place(k)}", *(f"i64 {w.name}" for w in (weights, first, last))]

    def of_row(self, k: Whole) -> list[str]:
        """What ``row_times_columns`` gets."""
        numbers = (self.weights, self.block, *self.terms)
        return [f"i64 {self.rows.get(k)}", *(f"i64 {number.name}" for number in numbers)]


class _Writer:
    """Writes the kernel."""

    def __init__(self, kernel: ForwardKernel) -> None:
        self.kernel = kernel
        self.source = Source("forward", kernel.element)
        source = self.source
        self.row = source.table("row", "i64", BLOCK)  # of the record
        self.x_place = source.table("x", "i64", BLOCK)  # addresses
        self.h_place = source.table("h", "i64", BLOCK)  # of h of the step before
        self.waits = source.table("waits", "i64", BLOCK)
        self.sums = source.table("sums", source.type, BLOCK * kernel.columns.count)
        self.largest = [
            source.table(f"largest{k}", source.type, BLOCK) for k in range(1 + len(kernel.sizes))
        ]

    def argument(self, name: str) -> Whole:
        """An argument that every kernel gets."""
        return self.source.argument(ARGUMENTS.index(name))

    def further(self, kind: str, k: int) -> Whole:
        """An argument after those that every kernel gets."""
        vectors, kept = len(self.kernel.cell.vectors), len(self.kernel.kept)
        offset = {"vector": 0, "kept": vectors, "size": vectors + kept}[kind]
        return self.source.argument(len(ARGUMENTS) + offset + k)

    def text(self) -> str:
        """The whole."""
        source, argument = self.source, self.argument
        with source.pieces(argument("pieces")) as piece:
            column = piece.remainder(argument("columns of pieces"))
            turn = piece.divided(argument("columns of pieces"))
            self.low = column * argument("batch of a piece")
            high = (self.low + argument("batch of a piece")).smaller(argument("batch"))
            self.batch = high - self.low
            first = turn * argument("steps of a piece")
            last = (first + argument("steps of a piece")).smaller(argument("steps"))
            if self.kernel.opens:
                self._stretch(first * self.batch, last * self.batch)
            else:  # all units of a step before the next
                with source.loop(first, last) as step:
                    self._stretch(step * self.batch, (step + 1) * self.batch)
        columns = self.kernel.columns
        used = (columns.with_x, columns.with_h)
        return module(source, products(source.element, used, columns.count))

    def _stretch(self, first: Whole, last: Whole) -> None:
        """Rows in the order in which they run."""
        source = self.source
        with source.loop(first, last, BLOCK) as start:
            count = (last - start).smaller(BLOCK)
            with source.loop(0, count) as k:
                self._place(start + k, k)
            with source.loop(0, self.argument("units"), source.width) as u:
                self._tile(u, count)
            if self.kernel.opens:
                with source.loop(0, count) as k:
                    self._measure(k)

    def _place(self, running: Whole, k: Whole) -> None:
        """Where a row stands in the record and the input, and whether its sequence has not
        begun."""
        source, argument = self.source, self.argument
        step = running.divided(self.batch)
        b = self.low + running.remainder(self.batch)
        reverse = argument("reverse").compared("ne", 0)
        t = source.choice(reverse, argument("steps") - 1 - step, step)
        row = t * argument("batch") + b
        self.row.set(k, row.name)
        x_place = t * argument("x step") + b * argument("x row")
        before = (row + self.before) * argument("units")
        self.x_place.set(k, (argument("x") + x_place * source.bytes).name)
        self.h_place.set(k, (argument("hidden") + before * source.bytes).name)
        ahead = t.compared("sge", source.load_whole(argument("lengths"), b))
        waits = source.new(f"and i1 {ahead}, {reverse}")
        self.waits.set(k, source.new(f"zext i1 {waits} to i64"))
        zero = source.lanes(0.0).name
        for table in self.largest:
            table.set(k, zero)

    def _tile(self, unit: Whole, count: Whole) -> None:
        source, width = self.source, self.source.width
        self._products(unit.divided(width), count)
        full = (unit + width).compared("sle", self.argument("units"))
        with source.only_if(full), source.loop(0, count) as k:
            Units(self, unit, k, masked=False).write()
        with source.only_if(source.new(f"xor i1 {full}, true")), source.loop(0, count) as k:
            Units(self, unit, k, masked=True).write()

    @property
    def before(self) -> Whole:
        """From a row to that of the step before."""
        reverse = self.argument("reverse").compared("ne", 0)
        batch = self.argument("batch")
        return self.source.choice(reverse, batch, batch * -1)

    def _products(self, tile: Whole, count: Whole) -> None:
        """The sums of a tile of all rows, into the table of sums: some terms after the others, so
        that their weights stay in cache meanwhile."""
        source, columns = self.source, self.kernel.columns
        factors = [self._factor(name, tile) for name in ("x", "h")]
        biases = self.argument("biases") + tile * (columns.count * source.width * source.bytes)
        x, h = (factor.length for factor in factors)
        longest = source.choice(x.compared("slt", h), h, x)
        with source.loop(0, longest, TERMS) as first:
            begins = first.compared("eq", 0)
            apart = source.choice(begins, source.number(0), columns.count)
            for factor in factors:
                factor.terms = tuple(n.smaller(factor.length) for n in (first, first + TERMS))
            for rows, k in groups(source, 0, count):
                # of several rows a column at a time, of one all columns
                for column in range(columns.count if rows > 1 else 1):
                    bias = source.address(biases, source.number(column * source.width))
                    sums = self.sums.place(k * columns.count + column)
                    start = source.new(f"select i1 {begins}, ptr {bias}, ptr {sums}")
                    if rows > 1:
                        given = [part for factor in factors for part in factor.of_column(column, k)]
                        given += [f"ptr {start}", f"i64 {apart.name}", f"ptr {sums}"]
                        given += [f"i64 {columns.count}"]
                        source.line(f"call void @times_column_{rows}({', '.join(given)})")
                    else:
                        given = [part for factor in factors for part in factor.of_row(k)]
                        given += [f"ptr {start}", f"ptr {sums}"]
                        source.line(f"call void @row_times_columns({', '.join(given)})")

    def _factor(self, name: str, tile: Whole) -> _Factor:
        columns = self.kernel.columns
        used = columns.with_x if name == "x" else columns.with_h
        length = self.argument("features" if name == "x" else "units")
        rows = self.x_place if name == "x" else self.h_place
        block = length * self.source.width
        weights = self.argument(f"of {name}") + tile * block * (len(used) * self.source.bytes)
        return _Factor(rows, used, weights, block, length)

    # what the proof needs of a row ---------------------------------------------------------

    def _measure(self, k: Whole) -> None:
        source, argument = self.source, self.argument
        row = source.whole_of(self.row.get(k))
        places = [argument("off"), *(self.further("size", j) for j in range(len(self.largest) - 1))]
        for place, table in zip(places, self.largest, strict=True):
            source.store_single(place, row, source.largest(source.lanes_of(table.get(k))))
        self._norm("x norm", row, self.x_place.get(k), argument("features"))
        self._norm("h norm", row, self.h_place.get(k), argument("units"))

    def _norm(self, name: str, row: Whole, address: str, length: Whole) -> None:
        """The root of a sum of squares; where the type cannot hold them, ``EXTREME``."""
        source = self.source
        numbers = source.whole_of(address)
        zero = source.lanes(0.0)
        squares, largest = source.variable(zero), source.variable(zero)

        def add(u: Whole, masked: bool) -> None:
            mask = source.first_lanes(length - u) if masked else None
            value = source.load(numbers, u, mask)
            squares.set(value.times_plus(value, squares.get()))
            largest.set(source.larger(abs(value), largest.get()))

        source.over_units(length, add)
        total = source.total(squares.get())
        size = source.largest(largest.get())
        low, high = SQUARES[source.element]
        element, constant = source.element, source.constant
        above = source.new(f"fcmp ogt {element} {total}, {constant(low)}")
        below = source.new(f"fcmp olt {element} {total}, {constant(high)}")
        nothing = source.new(f"fcmp oeq {element} {size}, {constant(0.0)}")
        inside = source.new(f"and i1 {above}, {below}")
        fits = source.new(f"or i1 {inside}, {nothing}")
        value = source.new(
            f"select i1 {fits}, {element} {source.root(total)}, {element} {constant(EXTREME)}"
        )
        source.store_single(self.argument(name), row, value)
