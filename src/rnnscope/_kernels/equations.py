"""A declared equation as vectors of a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

from rnnscope._kernels.lanes import Lanes, Source
from rnnscope.cells import Cell
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    FromX,
    Number,
    Previous,
    Product,
    Project,
    Quantity,
    Sum,
    Vector,
    Weighted,
    elementwise,
    leaves,
    linear_recurrence,
    nodes,
)

__all__ = ["Columns", "Leaves", "columns_of", "evaluated", "obstacle", "scans", "sized"]


class Leaves(Protocol):
    """Where ``evaluated`` finds the values of leaves."""

    def value(self, leaf: Quantity | Previous | Vector) -> Lanes:
        """A quantity, state or vector parameter."""

    def products(self, leaves: tuple[Weighted, ...]) -> Lanes:
        """The sum of affine parts."""


def evaluated(expr: Expr, source: Source, leaves: Leaves) -> Lanes:
    """The value of an expression, in the order in which ``algebra.evaluate`` takes it."""
    match expr:
        case Number(number):
            return source.lanes(number)
        case Quantity() | Previous() | Vector():
            return leaves.value(expr)
        case FromX() | FromH() | Project():
            return leaves.products((expr,))
        case Apply(_, argument):
            kernel = expr.function.kernel
            assert kernel is not None, "obstacle() tells of a function that has none"
            value: Lanes = kernel(evaluated(argument, source, leaves))
            return value
        case Product(left, right):
            return evaluated(left, source, leaves) * evaluated(right, source, leaves)
        case Sum():
            terms = list(expr.summands)
            if expr.added:
                total = leaves.products(expr.added)
                terms = [t for t in terms if t[0] or not isinstance(t[1], Weighted)]
            else:
                total = evaluated(terms.pop(0)[1], source, leaves)
            for negative, term in terms:
                total = _plus(total, negative, term, source, leaves)
            return total
    raise TypeError(f"not an equation: {expr!r}")


def _plus(total: Lanes, negative: bool, term: Expr, source: Source, leaves: Leaves) -> Lanes:
    if isinstance(term, Product):
        left = evaluated(term.left, source, leaves)
        right = evaluated(term.right, source, leaves)
        return (-left if negative else left).times_plus(right, total)
    value = evaluated(term, source, leaves)
    return total - value if negative else total + value


@cache
def obstacle(cell: Cell, slopes: bool = False) -> str | None:
    """Why a cell has no kernel; None where it has. ``slopes``: its derivatives are needed."""
    for name, equation in cell.equations.items():
        for node in nodes(equation):
            match node:
                case Project():
                    return f"{name} is a projection"
                case FromH(_, of) if of != Previous("h"):
                    return f"{name} multiplies a matrix with something other than x and h"
                case Apply() if node.function.kernel is None:
                    return f"{node.function.name} is compiled nowhere"
                case Apply() if slopes and (
                    node.function.kernel_slope is None or node.function.derivative_at is not None
                ):
                    return f"the slope of {node.function.name} is compiled nowhere"
    return None


@dataclass(frozen=True)
class Columns:
    """The sums of products that a kernel forms, in this order: with x and with h, with x alone,
    with h alone."""

    summed: tuple[str, ...]
    of_x: tuple[str, ...]
    of_h: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.summed) + len(self.of_x) + len(self.of_h)

    @property
    def first(self) -> tuple[str, ...]:
        """The gates whose products are with x."""
        return self.summed + self.of_x

    @property
    def with_x(self) -> list[int]:
        """The columns to which x adds."""
        return list(range(len(self.first)))

    @property
    def with_h(self) -> list[int]:
        """The columns to which h adds."""
        return [*range(len(self.summed)), *range(len(self.first), self.count)]


@cache
def columns_of(cell: Cell, parts: bool) -> Columns:
    """With ``parts`` no gate's products are summed, as they are recorded each by itself."""
    used = {leaf for equation in cell.equations.values() for leaf in leaves(equation)}
    summed = tuple(a.gate for a in cell.affine if a.summed and not parts)
    return Columns(
        summed,
        tuple(gate for gate in cell.gates if FromX(gate) in used and gate not in summed),
        tuple(gate for gate in cell.gates if FromH(gate) in used and gate not in summed),
    )


@cache
def scans(cell: Cell) -> dict[str, tuple[Expr, Expr]]:
    """The states that are computed one step after the other: factor and addend."""
    if cell.stepwise:
        return {}
    splits = {name: linear_recurrence(cell.equations[name], name) for name in cell.states[1:]}
    return {name: split for name, split in splits.items() if split is not None}


@cache
def sized(cell: Cell) -> tuple[Expr, ...]:
    """The expressions whose largest magnitude over units the bounds need."""
    needed: list[Expr] = [e for name in scans(cell) for e in (Quantity(name), Previous(name))]
    needed += [factor for factor, _ in scans(cell).values()]
    if any(Previous("h") in elementwise(e) for e in cell.equations.values()):
        needed.append(Previous("h"))
    return tuple(dict.fromkeys(needed))
