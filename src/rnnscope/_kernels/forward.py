"""The kernel that computes a layer in one direction: the products of a few rows, while they are in
registers every equation, and what the proof needs.

Opening takes h of the step before from the layer and compares h with the layer's own; a run takes
its own. Rows are sequences at a step; a tile is some rows times the units of a few vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from rnnscope._kernels.equations import Columns, columns_of
from rnnscope._kernels.lanes import BYTES, Source, Whole, module
from rnnscope._kernels.machine import Compiled, compiled
from rnnscope._kernels.products import ROWS, row_times_columns, rows_times_column
from rnnscope._kernels.units import Units
from rnnscope.cells import Cell, part_name
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    Previous,
    Quantity,
    elementwise,
    leaves,
    linear_recurrence,
)

__all__ = ["ARGUMENTS", "EXTREME", "ROWS", "ForwardKernel", "forward_kernel"]

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

BLOCK = 8 * ROWS
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
    def scans(self) -> dict[str, tuple[Expr, Expr]]:
        """The states that are computed one step after the other: factor and addend."""
        splits = {n: linear_recurrence(self.cell.equations[n], n) for n in self.cell.states[1:]}
        return {name: split for name, split in splits.items() if split is not None}

    @cached_property
    def sizes(self) -> tuple[Expr, ...]:
        """The expressions whose largest magnitude over units is measured."""
        if not self.opens:
            return ()
        needed: list[Expr] = [e for n in self.scans for e in (Quantity(n), Previous(n))]
        needed += [factor for factor, _ in self.scans.values()]
        if any(Previous("h") in elementwise(e) for e in self.cell.equations.values()):
            needed.append(Previous("h"))
        return tuple(dict.fromkeys(needed))

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


class _Writer:
    """Writes the kernel."""

    def __init__(self, kernel: ForwardKernel) -> None:
        self.kernel = kernel
        self.source = Source("forward", kernel.element)
        source = self.source
        self.row = source.table("row", "i64", BLOCK)  # of the record
        self.x_place = source.table("x", "i64", BLOCK)
        self.waits = source.table("waits", "i64", BLOCK)
        self.sums = source.table("sums", source.type, ROWS * kernel.columns.count)
        self.places = source.table("places", "i64", ROWS)
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
        return module(
            source,
            [
                rows_times_column(source.element),
                row_times_columns("x", source.element, len(columns.first)),
                row_times_columns("h", source.element, len(columns.summed + columns.of_h)),
            ],
        )

    def _stretch(self, first: Whole, last: Whole) -> None:
        """Rows in the order in which they run."""
        source = self.source
        with source.loop(first, last, BLOCK) as start:
            count = (last - start).smaller(BLOCK)
            with source.loop(0, count) as k:
                self._place(start + k, k)
            units = self.argument("units")
            with source.loop(0, units, source.width) as u, source.loop(0, count, ROWS) as k:
                self._tile(u, k, count)
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
        self.row.set(k, (t * argument("batch") + b).name)
        self.x_place.set(k, (t * argument("x step") + b * argument("x row")).name)
        ahead = t.compared("sge", source.load_whole(argument("lengths"), b))
        waits = source.new(f"and i1 {ahead}, {reverse}")
        self.waits.set(k, source.new(f"zext i1 {waits} to i64"))
        zero = source.lanes(0.0).name
        for table in self.largest:
            table.set(k, zero)

    def _tile(self, unit: Whole, first: Whole, count: Whole) -> None:
        source, width = self.source, self.source.width
        last = (first + ROWS).smaller(count)
        self._products(unit, first, last)
        full = (unit + width).compared("sle", self.argument("units"))
        with source.loop(first, last) as k:
            with source.only_if(full):
                Units(self, unit, (k, k - first), masked=False).write()
            with source.only_if(source.new(f"xor i1 {full}, true")):
                Units(self, unit, (k, k - first), masked=True).write()

    def _products(self, unit: Whole, first: Whole, last: Whole) -> None:
        """The sums of the rows of a tile, into the table of sums."""
        source, columns = self.source, self.kernel.columns
        tile = unit.divided(source.width)
        with source.loop(first, last) as k:
            for c in range(columns.count):
                bias = source.load(
                    self.argument("biases"), (tile * columns.count + c) * source.width
                )
                self.sums.set((k - first) * columns.count + c, bias.name)
        with source.loop(first, last) as k:
            self.places.set(k - first, self._bytes("x", source.whole_of(self.x_place.get(k))).name)
        used = list(range(len(columns.first)))
        self._multiply("x", self.argument("features"), (tile, last - first), used)
        units, before = self.argument("units"), self.before
        with source.loop(first, last) as k:
            row = (source.whole_of(self.row.get(k)) + before) * units
            self.places.set(k - first, self._bytes("hidden", row).name)
        used = [*range(len(columns.summed)), *range(len(columns.first), columns.count)]
        self._multiply("h", units, (tile, last - first), used)

    def _bytes(self, array: str, index: Whole) -> Whole:
        """An address."""
        return self.argument(array) + index * self.source.bytes

    @property
    def before(self) -> Whole:
        """From a row to that of the step before."""
        reverse = self.argument("reverse").compared("ne", 0)
        batch = self.argument("batch")
        return self.source.choice(reverse, batch, batch * -1)

    def _multiply(
        self, name: str, length: Whole, tile_and_rows: tuple[Whole, Whole], used: list[int]
    ) -> None:
        """Add to the sums of some columns what the rows at ``places`` say through the weights."""
        if not used:
            return
        source, count = self.source, self.kernel.columns.count
        tile, rows = tile_and_rows
        block = length * source.width
        base = self.argument(f"of {name}") + tile * block * (len(used) * source.bytes)
        whole = rows.compared("eq", ROWS)
        with source.only_if(whole):
            for j, column in enumerate(used):
                weights = base + block * (j * source.bytes)
                sums = self.sums.place(source.number(column))
                source.line(
                    f"call void @rows_times_column(ptr {self.places.name}, i64 {weights.name}, "
                    f"i64 {length.name}, ptr {sums}, i64 {count})"
                )
        with source.only_if(source.new(f"xor i1 {whole}, true")), source.loop(0, rows) as r:
            place = self.places.get(r)
            columns = (self.sums.place(r * count + column) for column in used)
            given = ", ".join(f"ptr {column}" for column in columns)
            source.line(
                f"call void @row_times_columns_{name}(i64 {place}, i64 {base.name}, "
                f"i64 {length.name}, {given})"
            )

    # what the proof needs of a row ---------------------------------------------------------

    def _measure(self, k: Whole) -> None:
        source, argument = self.source, self.argument
        row = source.whole_of(self.row.get(k))
        places = [argument("off"), *(self.further("size", j) for j in range(len(self.largest) - 1))]
        for place, table in zip(places, self.largest, strict=True):
            source.store_single(place, row, source.largest(source.lanes_of(table.get(k))))
        x_row = source.whole_of(self.x_place.get(k))
        self._norm("x norm", row, (argument("x"), x_row, argument("features")))
        units = argument("units")
        self._norm("h norm", row, (argument("hidden"), (row + self.before) * units, units))

    def _norm(self, name: str, row: Whole, numbers: tuple[Whole, Whole, Whole]) -> None:
        """The root of a sum of squares; where the type cannot hold them, ``EXTREME``."""
        source = self.source
        base, first, length = numbers
        zero = source.lanes(0.0)
        squares, largest = source.variable(zero), source.variable(zero)

        def add(u: Whole, masked: bool) -> None:
            mask = source.first_lanes(length - u) if masked else None
            value = source.load(base, first + u, mask)
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
