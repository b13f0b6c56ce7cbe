"""The equations of some units of a row, inside a kernel: the leaves come from the block's sums and
from the record, every quantity goes where it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnnscope._kernels.equations import evaluated
from rnnscope._kernels.lanes import Lanes, LaneTable, Whole
from rnnscope.cells import part_name
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

if TYPE_CHECKING:
    from rnnscope._kernels.forward import _Writer

__all__ = ["Units"]


class Units:
    """Some units of row k of the block; ``masked``: not all lanes are units."""

    def __init__(self, writer: _Writer, unit: Whole, k: Whole, masked: bool) -> None:
        self.writer, self.source, self.kernel = writer, writer.source, writer.kernel
        source, argument = self.source, writer.argument
        self.unit, self.k = unit, k
        units = argument("units")
        self.mask = source.first_lanes(units - unit) if masked else None
        row = source.whole_of(writer.row.get(self.k))
        self.index = row * units + unit
        self.index_before = (row + writer.before) * units + unit
        self.values: dict[Expr, Lanes] = {}
        self.recorded: set[str] = set()

    def write(self) -> None:
        """All equations, in their order."""
        for name, equation in self.kernel.cell.equations.items():
            self.values[Quantity(name)] = self._equation(name, equation)
        for table, expr in zip(self.writer.largest[1:], self.kernel.sizes, strict=True):
            self._measure(table, abs(evaluated(expr, self.source, self)))

    def _measure(self, table: LaneTable, size: Lanes) -> None:
        source = self.source
        inside = size if self.mask is None else size.where(self.mask, 0.0)
        largest = source.larger(inside, source.lanes_of(table.get(self.k)))
        table.set(self.k, largest.name)

    def _equation(self, name: str, equation: Expr) -> Lanes:
        source = self.source
        if isinstance(equation, Apply):
            pre = evaluated(equation.argument, source, self)
            self._keep(f"{name}_pre", pre)
            kernel = equation.function.kernel
            assert kernel is not None, "obstacle() tells of a function that has none"
            value: Lanes = kernel(pre)
        else:
            value = evaluated(equation, source, self)
        if name == "h" and self.kernel.opens:
            hidden = source.load(self.writer.argument("hidden"), self.index, self.mask)
            self._measure(self.writer.largest[0], abs(value - hidden))
            return hidden
        if name in self.kernel.cell.states:
            waits = source.whole_of(self.writer.waits.get(self.k)).compared("ne", 0)
            before = self.value(Previous(name))
            value = value.unless(source.everywhere(waits), before)
        if name == "h":
            source.store(self.writer.argument("hidden"), self.index, value, self.mask)
        else:
            self._keep(name, value)
        return value

    def _keep(self, name: str, value: Lanes) -> None:
        kept = self.kernel.kept
        if name not in kept or name in self.recorded:
            return
        self.recorded.add(name)
        place = self.writer.further("kept", kept.index(name))
        if name in self.kernel.cell.states:  # always recorded
            self.source.store(place, self.index, value, self.mask)
            return
        with self.source.only_if(place.compared("ne", 0)):
            self.source.store(place, self.index, value, self.mask)

    # leaves ------------------------------------------------------------------------------

    def value(self, leaf: Quantity | Previous | Vector) -> Lanes:
        """A quantity, state or vector parameter."""
        if leaf not in self.values:
            source = self.source
            match leaf:
                case Vector(name):
                    place = self.writer.further("vector", self.kernel.cell.vectors.index(name))
                    self.values[leaf] = source.load(place, self.unit, self.mask)
                case Previous(name):
                    base = (
                        self.writer.argument("hidden")
                        if name == "h"
                        else self.writer.further("kept", self.kernel.kept.index(name))
                    )
                    self.values[leaf] = source.load(base, self.index_before, self.mask)
                case Quantity(name):
                    raise AssertionError(f"{name} is computed before it is used")
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...]) -> Lanes:
        """The sum of affine parts."""
        columns = self.kernel.columns
        first, *further = leaves
        if isinstance(first, FromX) and first.gate in columns.summed:
            return self._sum(columns.first.index(first.gate))
        total = self._part(first)
        for leaf in further:
            total = total + self._part(leaf)
        return total

    def _part(self, leaf: Weighted) -> Lanes:
        columns = self.kernel.columns
        if leaf not in self.values:
            match leaf:
                case FromX(gate):
                    value = self._sum(columns.first.index(gate))
                case FromH(gate):
                    value = self._sum(len(columns.first) + columns.of_h.index(gate))
                case _:
                    raise AssertionError("obstacle() tells of a projection")
            self.values[leaf] = value
            self._keep(part_name(leaf) or "", value)
        return self.values[leaf]

    def _sum(self, column: int) -> Lanes:
        place = self.k * self.kernel.columns.count + column
        return self.source.lanes_of(self.writer.sums.get(place))
