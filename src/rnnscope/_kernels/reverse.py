"""The kernel that takes a layer in one direction backwards: every adjoint of a step while its
numbers are in registers, then one product with W_hh for the step before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from rnnscope._kernels.equations import evaluated
from rnnscope._kernels.lanes import BYTES, Lanes, Mask, Source, Whole, module
from rnnscope._kernels.machine import Compiled, compiled
from rnnscope._kernels.products import MOST, groups, products
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
)
from rnnscope.cells.derivation import (
    Adjoint,
    AdjointPlaces,
    Derivation,
    Root,
    adjoint_of,
    adjoint_places,
)

__all__ = ["ReverseKernel", "reverse_kernel"]

ARGUMENTS = (
    *("taken", "pieces", "batch of a piece", "steps", "batch", "units", "reverse", "lengths"),
    *("of h", "of x", "hh"),
)
"""What every kernel gets, in this order. After it for each state where what reaches it from
outside stands (0: nothing does) and where its adjoint is carried, (batch, unit); where each vector
parameter's and each kept adjoint goes; and the numbers that are read."""


@dataclass(frozen=True)
class ReverseKernel:
    """A kernel, and what its arguments are."""

    cell: Cell
    element: str

    @property
    def places(self) -> AdjointPlaces:
        """Where the adjoints go."""
        return adjoint_places(self.cell)

    @property
    def lanes(self) -> int:
        """Numbers of a vector."""
        return BYTES // (4 if self.element == "float" else 8)

    @cached_property
    def _written(self) -> _ReverseWriter:
        return _ReverseWriter(self)

    @property
    def read(self) -> tuple[Expr, ...]:
        """The leaves whose numbers are arguments, in this order."""
        return tuple(self._written.read)

    @cached_property
    def compiled(self) -> Compiled:
        """The machine code."""
        return compiled(self._written.text, "reverse")

    def compile(self) -> None:
        """Compile it now."""
        assert self.compiled.address, "code has an address"


@cache
def reverse_kernel(cell: Cell, element: str) -> ReverseKernel:
    """The kernel of a cell of whose derivatives there is no ``obstacle``."""
    return ReverseKernel(cell, element)


class _ReverseWriter:
    """Writes the kernel; ``read`` are the leaves that it needs."""

    def __init__(self, kernel: ReverseKernel) -> None:
        self.kernel = kernel
        self.source = Source("reverse", kernel.element)
        self.read: list[Expr] = []
        self.sums = self.source.table("sums", self.source.type, MOST)
        self.places = self.source.table("places", "i64", MOST)
        self.text = self._text()

    def argument(self, name: str) -> Whole:
        """An argument that every kernel gets."""
        return self.source.argument(ARGUMENTS.index(name))

    def _further(self, kind: str, k: int) -> Whole:
        states, vectors = len(self.kernel.cell.states), len(self.kernel.cell.vectors)
        start = {
            "direct": 0,
            "carry": states,
            "vector": 2 * states,
            "kept": 2 * states + vectors,
            "read": 2 * states + vectors + len(self.kernel.places.kept),
        }
        return self.source.argument(len(ARGUMENTS) + start[kind] + k)

    def direct(self, state: str) -> Whole:
        """Where what reaches a state from outside stands."""
        return self._further("direct", self.kernel.cell.states.index(state))

    def carry(self, state: str) -> Whole:
        """Where the adjoint of a state of the step before stands."""
        return self._further("carry", self.kernel.cell.states.index(state))

    def adjoint(self, name: str) -> Whole:
        """Where an adjoint that is kept goes."""
        return self._further("kept", self.kernel.places.kept.index(name))

    def vector(self, name: str) -> Whole:
        """Where the adjoints of a vector parameter go."""
        return self._further("vector", self.kernel.cell.vectors.index(name))

    def numbers(self, leaf: Expr) -> Whole:
        """Where the numbers of a leaf stand."""
        if leaf not in self.read:
            self.read.append(leaf)
        return self._further("read", self.read.index(leaf))

    def _text(self) -> str:
        source, argument = self.source, self.argument
        with source.pieces(argument("pieces")) as piece:
            low = piece * argument("batch of a piece")
            high = (low + argument("batch of a piece")).smaller(argument("batch"))
            with source.loop(0, argument("steps")) as step:
                reverse = argument("reverse").compared("ne", 0)
                t = source.choice(reverse, step, argument("steps") - 1 - step)
                with source.loop(low, high) as b:
                    self._row(t, b)
                if self.kernel.places.gates:
                    self._product(t, low, high)
        return module(source, products(source.element, ([0], []), 1))

    def _row(self, t: Whole, b: Whole) -> None:
        """A sequence at a step; behind its end everything is 0, and what is carried stays."""
        source, units = self.source, self.argument("units")
        inside = t.compared("slt", source.load_whole(self.argument("lengths"), b))
        row = t * self.argument("batch") + b

        def write(unit: Whole, masked: bool) -> None:
            mask = source.first_lanes(units - unit) if masked else None
            _UnitAdjoints(self, row, b, unit, mask).write()

        def clear(unit: Whole, masked: bool) -> None:
            mask = source.first_lanes(units - unit) if masked else None
            _UnitAdjoints(self, row, b, unit, mask).clear()

        with source.only_if(inside):
            source.over_units(units, write)
        with source.only_if(source.new(f"xor i1 {inside}, true")):
            source.over_units(units, clear)

    def _product(self, t: Whole, low: Whole, high: Whole) -> None:
        """Add to what is carried of h what the gates' adjoints say through W_hh."""
        source, units = self.source, self.argument("units")
        length = units * len(self.kernel.places.gates)
        first_row = t * self.argument("batch")
        with source.loop(0, units, source.width) as unit:
            full = (unit + source.width).compared("sle", units)
            weights = self.argument("hh") + unit * length * source.bytes
            for rows, first in groups(source, low, high):
                self._product_of_rows(rows, first, first_row + first, unit, full, weights)

    def _product_of_rows(
        self, rows: int, first: Whole, row: Whole, unit: Whole, full: str, weights: Whole
    ) -> None:
        """Of some units, which are all there where ``full``, and some sequences."""
        source, units = self.source, self.argument("units")
        length = units * len(self.kernel.places.gates)
        last = first + rows
        partial = source.new(f"xor i1 {full}, true")

        def carried(masked: bool) -> _Carried:
            mask = source.first_lanes(units - unit) if masked else None
            return _Carried(self, first, unit, mask)

        for truth, masked in ((full, False), (partial, True)):
            with source.only_if(truth), source.loop(first, last) as b:
                carried(masked).read(b)
        with source.loop(0, source.number(rows)) as r:
            place = self.argument("of h") + (row + r) * length * source.bytes
            self.places.set(r, place.name)
        sums, terms = self.sums.name, f"i64 0, i64 {length.name}"
        if rows > 1:  # one product alone
            given, none = f"ptr {self.places.name}, i64 {weights.name}", "i64 0, i64 0"
            source.line(
                f"call void @times_column_{rows}({given}, {terms}, {given}, {none}, "
                f"ptr {sums}, i64 1, ptr {sums}, i64 1)"
            )
        else:
            given = f"i64 {self.places.get(source.number(0))}, i64 {weights.name}, i64 0"
            source.line(
                f"call void @row_times_columns({given}, {terms}, {given}, i64 0, i64 0, "
                f"ptr {sums}, ptr {sums})"
            )
        for truth, masked in ((full, False), (partial, True)):
            with source.only_if(truth), source.loop(first, last) as b:
                carried(masked).write(b)


@dataclass(frozen=True)
class _Carried:
    """What is carried of h, of some units and of sequences from ``first`` on, and its place in the
    table of sums."""

    writer: _ReverseWriter
    first: Whole
    unit: Whole
    mask: Mask | None

    def read(self, b: Whole) -> None:
        """Into the table."""
        source = self.writer.source
        value = source.load(self.writer.carry("h"), self._place(b), self.mask)
        self.writer.sums.set(b - self.first, value.name)

    def write(self, b: Whole) -> None:
        """Back again."""
        source = self.writer.source
        value = source.lanes_of(self.writer.sums.get(b - self.first))
        source.store(self.writer.carry("h"), self._place(b), value, self.mask)

    def _place(self, b: Whole) -> Whole:
        return b * self.writer.argument("units") + self.unit


class _UnitAdjoints(Derivation[Lanes]):
    """The adjoints of some units of a sequence at a step."""

    def __init__(
        self, writer: _ReverseWriter, row: Whole, b: Whole, unit: Whole, mask: Mask | None
    ) -> None:
        super().__init__(writer.kernel.cell)
        self.writer, self.source, self.mask = writer, writer.source, mask
        units = writer.argument("units")
        self.row, self.unit = row, unit
        self.index, self.carried = row * units + unit, b * units + unit
        self.found: dict[Expr, Lanes] = {}
        self.live: dict[Root, Lanes] = {}

    # the numbers of the step ---------------------------------------------------------------

    def value(self, leaf: Quantity | Previous | Vector) -> Lanes:
        """Read where it is first used."""
        return self._number(leaf)

    def products(self, leaves: tuple[Weighted, ...]) -> Lanes:
        """The sum of affine parts."""
        first, *further = map(self._number, leaves)
        return sum(further, first)

    def _number(self, leaf: Expr) -> Lanes:
        if leaf not in self.found:
            place = self.writer.numbers(leaf)
            index = self.unit if isinstance(leaf, Vector) else self.index
            self.found[leaf] = self.source.load(place, index, self.mask)
        return self.found[leaf]

    def evaluated(self, expr: Expr) -> Lanes:
        """The value of a part of an equation, computed once."""
        if expr not in self.found:
            self.found[expr] = evaluated(expr, self.source, self)
        return self.found[expr]

    def slope(self, expr: Apply, value: Lanes, name: str | None) -> Lanes:
        """The derivative of an elementwise function, by its value."""
        slope = expr.function.kernel_slope
        assert slope is not None, "obstacle() tells of a function that has none"
        derivative: Lanes = slope(value)
        return derivative

    # its adjoints --------------------------------------------------------------------------

    def write(self) -> None:
        """All adjoints of the step, and what goes to the states before."""
        self.derived()
        for root in self.roots:
            assert isinstance(root, str), "obstacle() tells of other roots"
            self.live[root] = self._root_adjoint(root)
        self._keep({part: self._combined(adjoint) for part, adjoint in self._outputs()})
        for state in self.cell.states:
            value = self._combined(self.at.get(Previous(state), {}))
            self._store(self.writer.carry(state), self.carried, value)

    def clear(self) -> None:
        """Zeros."""
        self._keep({part: self.source.lanes(0.0) for part, _ in self._outputs()})

    def _root_adjoint(self, state: str) -> Lanes:
        source = self.source
        total = source.variable(source.load(self.writer.carry(state), self.carried, self.mask))
        place = self.writer.direct(state)
        with source.only_if(place.compared("ne", 0)):
            total.set(total.get() + source.load(place, self.index, self.mask))
        value = total.get()
        for root, factor in self.feeds[state].items():
            value = self.live[root].times_plus(factor, value)
        return value

    def _outputs(self) -> list[tuple[tuple[str, int | str], Adjoint[Lanes]]]:
        """The adjoints that are written, with the array and the place in it."""
        cell, places = self.cell, self.writer.kernel.places
        outputs: list[tuple[tuple[str, int | str], Adjoint[Lanes]]] = [
            (("of h", k), self.at.get(FromH(gate), {})) for k, gate in enumerate(places.gates)
        ]
        if not places.shared:
            outputs += [
                (("of x", k), self.at.get(FromX(gate), {})) for k, gate in enumerate(cell.gates)
            ]
        outputs += [(("vector", name), self.at.get(Vector(name), {})) for name in cell.vectors]
        outputs += [(("kept", name), adjoint_of(self, name)) for name in places.kept]
        return outputs

    def _keep(self, values: dict[tuple[str, int | str], Lanes]) -> None:
        writer, kernel = self.writer, self.writer.kernel
        units = writer.argument("units")
        for (array, place), value in values.items():
            if isinstance(place, str):
                base = writer.vector(place) if array == "vector" else writer.adjoint(place)
                self._store(base, self.index, value)
            else:
                count = len(kernel.places.gates) if array == "of h" else len(self.cell.gates)
                index = (self.row * count + place) * units + self.unit
                self._store(writer.argument(array), index, value)

    def _store(self, base: Whole, index: Whole, value: Lanes) -> None:
        self.source.store(base, index, value, self.mask)

    def _combined(self, adjoint: Adjoint[Lanes]) -> Lanes:
        """Σ factor × root."""
        total: Lanes | None = None
        for root, factor in adjoint.items():
            live = self.live[root]
            if total is not None:
                total = live.times_plus(factor, total)
            else:
                total = live if factor == 1.0 else live * factor
        return self.source.lanes(0.0) if total is None else total
