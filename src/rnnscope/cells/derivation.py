"""The derivatives of a cell's declared equations, by the chain rule, whatever its numbers are.

The derivative of the loss with respect to a number is its adjoint. All values of a step are known,
so each adjoint is a sum of (known factor) × (adjoint of a root), and the roots are few: the states,
and what a matrix is applied to that is neither x nor h. The numbers are tensors, or the vectors of
a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Self, TypeVar

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
    leaves,
)
from rnnscope.cells.cells import Cell, part_name, quantity_names

__all__ = ["Adjoint", "AdjointPlaces", "Derivation", "Root", "adjoint_of", "adjoint_places"]

Root = str | Expr
"""A state, by name; or an affine part whose matrix is applied to something else than x and h."""

Values = TypeVar("Values")

Adjoint = dict[Root, Values | float]
"""An adjoint as Σ factor × adjoint of root."""


class Derivation(Generic[Values]):
    """The adjoints of a cell's numbers; those who inherit say what its numbers are.

    An adjoint is Σ factor × adjoint of root. ``roots`` in the order in which their adjoints are
    known within a step; ``feeds`` what the adjoint of a root gets from those before it; ``of`` the
    adjoint of every quantity and pre-activation, by name; ``at`` that of every leaf.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.roots: list[Root] = []
        self.feeds: dict[Root, Adjoint[Values]] = {}
        self.of: dict[str, Adjoint[Values]] = {}
        self.at: dict[Expr, Adjoint[Values]] = {}
        self.equation = ""  # through which an adjoint descends

    def value(self, leaf: Quantity | Previous | Vector) -> Values:
        """The numbers of a leaf."""
        raise NotImplementedError

    def evaluated(self, expr: Expr) -> Values:
        """The value of a part of an equation, computed once."""
        raise NotImplementedError

    def slope(self, expr: Apply, value: Values, name: str | None) -> Values:
        """The derivative of an elementwise function; ``name`` where it is a quantity's equation."""
        raise NotImplementedError

    def factor(self, expr: Expr) -> Values | float:
        """The value of a part of an equation, a plain number where it is one."""
        if isinstance(expr, Number):
            return expr.value
        if isinstance(expr, Quantity | Previous | Vector):
            return self.value(expr)
        return self.evaluated(expr)

    def derived(self) -> Self:
        """Fill ``roots``, ``feeds``, ``of`` and ``at``, from the last equation to the first."""
        equations = list(self.cell.equations.items())
        for k, (name, equation) in reversed(list(enumerate(equations))):
            self.equation = name
            adjoint = self.at.get(Quantity(name), {})
            if name in self.cell.states:
                adjoint = self._root(name, adjoint)
            self.of[name] = adjoint
            if isinstance(equation, Apply):
                adjoint = self._through(equation, adjoint, self.value(Quantity(name)), name)
                self.of[f"{name}_pre"] = adjoint
                self._descend(equation.argument, adjoint)
            else:
                self._descend(equation, adjoint)
            above = [leaf for _, earlier in equations[:k] for leaf in leaves(earlier)]
            self._composites([leaf for leaf in leaves(equation) if leaf not in above])
        return self

    def _root(self, root: Root, adjoint: Adjoint[Values]) -> Adjoint[Values]:
        self.roots.append(root)
        self.feeds[root] = adjoint
        return {root: 1.0}

    def _composites(self, pending: Sequence[Expr]) -> None:
        """The expressions that a matrix is applied to, from the outside in: each one after all
        that uses its product."""
        waiting = [e for e in dict.fromkeys(pending) if isinstance(e, Project) or _composite(e)]
        while waiting:
            for leaf in waiting:
                if not any(leaf in leaves(outer) for outer in waiting if outer != leaf):
                    break
            waiting.remove(leaf)
            if leaf in self.at:
                assert isinstance(leaf, FromH | Project), "these have something inside"
                self._descend(leaf.of, self._root(leaf, self.at[leaf]))

    def _descend(self, expr: Expr, adjoint: Adjoint[Values]) -> None:
        """Pass an adjoint down to the leaves of an expression."""
        if not adjoint:
            return
        match expr:
            case Number():
                return
            case Sum(left, right, negative):
                self._descend(left, adjoint)
                self._descend(right, _times(adjoint, -1.0) if negative else adjoint)
            case Product(left, right):
                if not isinstance(left, Number):
                    self._descend(left, _times(adjoint, self.factor(right)))
                if not isinstance(right, Number):
                    self._descend(right, _times(adjoint, self.factor(left)))
            case Apply(_, argument):
                self._descend(argument, self._through(expr, adjoint, self.evaluated(expr)))
            case _:
                adjoint = self._arrived(expr, adjoint)
                partial = self.at.get(expr)
                self.at[expr] = adjoint if partial is None else _plus(partial, adjoint)

    def _through(
        self,
        expr: Apply,
        adjoint: Adjoint[Values],
        value: Values,
        name: str | None = None,
    ) -> Adjoint[Values]:
        """The adjoint of the argument of an elementwise function."""
        return _times(adjoint, self.slope(expr, value, name)) if adjoint else adjoint

    def _arrived(self, leaf: Expr, adjoint: Adjoint[Values]) -> Adjoint[Values]:
        """What an occurrence of a leaf adds to its adjoint."""
        return adjoint


def _composite(leaf: Expr) -> bool:
    return isinstance(leaf, FromH) and leaf.of != Previous("h")


def _times(adjoint: Mapping[Root, Any], factor: Any) -> dict[Root, Any]:
    return {root: _product(coefficient, factor) for root, coefficient in adjoint.items()}


def _product(a: Any, b: Any) -> Any:
    if isinstance(a, float) and a == 1.0:
        return b
    if isinstance(b, float) and b == 1.0:
        return a
    return a * b


def _plus(a: Mapping[Root, Any], b: Mapping[Root, Any]) -> dict[Root, Any]:
    total = dict(a)
    for root, factor in b.items():
        total[root] = total[root] + factor if root in total else factor
    return total


def adjoint_of(derivation: Derivation[Any], name: str) -> dict[Root, Any]:
    """The adjoint of a quantity, a pre-activation, or a part of a gate."""
    if name in derivation.of:
        return derivation.of[name]
    for leaf, adjoint in derivation.at.items():
        if part_name(leaf) == name:
            return adjoint
    return {}


@dataclass(frozen=True)
class AdjointPlaces:
    """Where the adjoint of each quantity of a cell stands: those of the products with h side by
    side, of the ``gates`` that read it; those of the products with x, in the same place where they
    are ``shared``; ``kept`` ones by themselves. ``same`` maps the names of all others to a kept
    name, or to the products' letter and the place of a gate among them, as ("h", 0)."""

    gates: tuple[str, ...]
    shared: bool
    kept: tuple[str, ...]
    same: Mapping[str, str | tuple[str, int]]


@cache
def adjoint_places(cell: Cell) -> AdjointPlaces:
    """One place for all quantities of a cell whose adjoints are the same."""
    derived = _OfAnything(cell).derived()
    gates = tuple(affine.gate for affine in cell.affine if affine.h is not None)
    shared = all(
        affine.x is not None
        and affine.h is not None
        and derived.at.get(FromX(affine.gate)) is derived.at.get(FromH(affine.gate))
        for affine in cell.affine
    )
    same: dict[str, str | tuple[str, int]] = {}
    first: dict[int, str | tuple[str, int]] = {}
    for k, gate in enumerate(gates):
        same[f"{gate}_from_h"] = "h", k
        first.setdefault(id(derived.at.get(FromH(gate))), ("h", k))
    for k, affine in enumerate(cell.affine):
        if affine.x is not None:
            place = "h" if shared else "x", k
            same[f"{affine.gate}_from_x"] = place
            first.setdefault(id(derived.at.get(FromX(affine.gate))), place)
    kept: list[str] = []
    for name in quantity_names(cell):
        if name in same:
            continue
        adjoint = adjoint_of(derived, name)
        if adjoint and id(adjoint) in first:
            same[name] = first[id(adjoint)]
            continue
        first[id(adjoint)] = name
        kept.append(name)
    return AdjointPlaces(gates, shared, tuple(kept), same)


class _OfAnything(Derivation[float]):
    """Which adjoints there are, whatever the numbers."""

    def value(self, leaf: Quantity | Previous | Vector) -> float:
        """Any number."""
        return 0.5

    def evaluated(self, expr: Expr) -> float:
        """Any number."""
        return 0.5

    def slope(self, expr: Apply, value: float, name: str | None) -> float:
        """Any number."""
        return 0.5
