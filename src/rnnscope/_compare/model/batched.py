"""Parts with the same equations as one batch of products: the weights of many, and one step.

A matrix that many have in common is multiplied once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.model.model import Part
from rnnscope._layers.structure import Weights
from rnnscope.cells import Cell, part_name
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

__all__ = [
    "LARGE",
    "MOST_BYTES",
    "SHARED",
    "Batch",
    "Picked",
    "Step",
    "from_input",
    "of_overwritten",
    "of_units",
    "separable",
    "share",
    "stacked",
    "started",
    "widened",
]

LARGE = 96 * 4 * 96
"""Numbers of W_hh from which on a run is dear."""


MOST_BYTES = 2**26
"""Weights that are stacked for one batch of products."""


SHARED = 2**15
"""Numbers of a matrix from which on models that have it in common run apart from others, so that
it is multiplied once for all, and never copied to have its rows in another order."""


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """(model, ...), of one only where all are the same tensor."""
    first = tensors[0]
    if all(t is first for t in tensors):
        return first.unsqueeze(0)
    return torch.stack(list(tensors))


@dataclass(frozen=True)
class _Ordered:
    """A matrix (out, in) that many models share, with ``rows`` (model, 1, out), the order in which
    each takes its rows, or None where all take them as they are."""

    weight: Tensor
    rows: Tensor | None

    @classmethod
    def of(cls, parts: Sequence[Part], name: str) -> _Ordered:
        weight: Tensor = getattr(parts[0].stored, name)
        if all(name not in part.pending for part in parts):
            return cls(weight, None)
        whole = torch.arange(len(weight), device="cpu")
        return cls(weight, stacked([part.pending.get(name, whole) for part in parts]).unsqueeze(1))

    def times(self, x: Tensor) -> Tensor:
        """Of x (model, n, in) → (model, n, out)."""
        product = torch.matmul(x, self.weight.mT)
        if self.rows is None:
            return product
        shape = max(len(x), len(self.rows)), *product.shape[1:]
        return product.expand(shape).gather(-1, self.rows.expand(shape))


@dataclass(frozen=True)
class Picked:
    """Of many matrices (number, out, in) that of each model, by its number."""

    matrices: Tensor
    which: Tensor

    def of_rows(self, rows: slice) -> Tensor:
        """Some rows of each model's, (model, out, in)."""
        return self.matrices[:, rows][self.which]


@lru_cache(maxsize=512)
def separable(cell: Cell) -> bool:
    """Whether each unit of a step needs no other unit of the same step."""
    return all(
        not isinstance(leaf, Project) and not (isinstance(leaf, FromH) and leaf.of != Previous("h"))
        for equation in cell.equations.values()
        for leaf in leaves(equation)
    )


def share(parts: Sequence[Part]) -> bool:
    """Whether parts have their matrices in common, but for the order of the rows."""
    first = parts[0].stored
    return (
        len(parts) > 1
        and not parts[0].in_place
        and first.hh.numel() >= SHARED
        and all(part.stored.ih is first.ih and part.stored.hh is first.hh for part in parts)
        and separable(parts[0].cell)
    )


def _with_biases(part: Part) -> Weights:
    """The weights with the biases in order, and the matrices as they are stored."""
    names = [name for name in part.pending if name not in ("ih", "hh")]
    ordered: dict[str, Any] = {
        name: getattr(part.stored, name)[part.pending[name]] for name in names
    }
    return replace(part.stored, **ordered)


class Batch:
    """The weights of many parts with the same equations; each tensor has a first axis of models,
    of size 1 where all share it."""

    def __init__(self, parts: Sequence[Part]):
        shared = share(parts)
        weights = [_with_biases(part) if shared else part.weights for part in parts]
        self.cell = parts[0].cell
        self.units = weights[0].hidden_size
        self.ih: Tensor | _Ordered
        self.hh: Tensor | _Ordered | Picked
        self.ih, self.hh = (
            _Ordered.of(parts, name) if shared else stacked([getattr(w, name) for w in weights])
            for name in ("ih", "hh")
        )
        self.b_ih = _optional([w.b_ih for w in weights], rows=True)
        self.b_hh = _optional([w.b_hh for w in weights], rows=True)
        self.hr = _optional([w.hr for w in weights])
        self.first = _optional([part.first_b_hh for part in parts], rows=True)
        self.vectors = {
            name: stacked([w.vectors[name] for w in weights]).unsqueeze(-2)
            for name in weights[0].vectors
        }
        self.gates = tuple(self.cell.gates)

    def of_unit(self, unit: int) -> Batch:
        """Of one unit alone, all matrices being its own."""
        assert isinstance(self.hh, Tensor), "matrices that are shared have all units"
        rows = slice(unit, None, self.units)
        alone = copy(self)
        alone.units, alone.hh = 1, self.hh[:, rows]
        alone.vectors = {name: v[..., unit : unit + 1] for name, v in self.vectors.items()}
        return alone

    def rows(self, gate: str) -> slice:
        """The rows of a gate."""
        k = self.gates.index(gate)
        return slice(k * self.units, (k + 1) * self.units)


def _optional(tensors: Sequence[Tensor | None], rows: bool = False) -> Tensor | None:
    """Stacked, or None where there are none; with ``rows`` as (model, 1, out), to be added."""
    found = [t for t in tensors if t is not None]
    if len(found) < len(tensors):
        return None
    return stacked(found).unsqueeze(-2) if rows else stacked(found)


def _affine(x: Tensor, weight: Tensor | _Ordered, bias: Tensor | None) -> Tensor:
    """Of x (model, n, in), weight (model, out, in), bias (model, 1 or n, out) → (model, n, out)."""
    product = weight.times(x) if isinstance(weight, _Ordered) else torch.matmul(x, weight.mT)
    if bias is None:
        return product
    return product.add_(bias) if len(bias) <= len(product) else product + bias


class Step:
    """The environment of ``evaluate`` for all models of a batch: (model, batch, unit) each."""

    def __init__(
        self,
        batch: Batch,
        x: Tensor,
        before: Mapping[str, Tensor],
        b_hh: Tensor | None,
        units: Tensor | None = None,
        own: Iterable[str] = (),
    ):
        self.batch, self.x, self.b_hh = batch, x, b_hh
        self.h = before["h"]
        self.after: Callable[[Tensor], Tensor] | None = None  # what comes of a product of h
        self.whole: Callable[[Expr], Tensor] = lambda of: evaluate(of, self)  # of all units
        self.values: dict[Expr, Tensor] = {
            Previous(name): t if name in own else of_units(t, units) for name, t in before.items()
        }
        self.products_of: dict[Expr, Tensor] = {}

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        """What stands in an equation and is no product."""
        if isinstance(leaf, Vector):
            return self.batch.vectors[leaf.name]
        return self.values[leaf]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        """The sum of products with weights."""
        first, *rest = (self._product(leaf) for leaf in leaves)
        return sum(rest, first)

    def _product(self, leaf: Weighted) -> Tensor:
        batch = self.batch
        match leaf:
            case FromX(gate):
                return self.x[..., batch.rows(gate)]
            case Project(of):
                assert batch.hr is not None, "the cell projects, so there is a projection"
                return _affine(evaluate(of, self), batch.hr, None)
            case FromH(gate, Previous("h")):
                # all gates in one product
                if leaf.of not in self.products_of:
                    assert not isinstance(batch.hh, Picked), "its products with h are known"
                    product = _affine(self.h, batch.hh, self.b_hh)
                    self.products_of[leaf.of] = self.after(product) if self.after else product
                return self.products_of[leaf.of][..., batch.rows(gate)]
            case FromH(gate, of):
                rows = batch.rows(gate)
                bias = None if self.b_hh is None else self.b_hh[..., rows]
                assert not isinstance(batch.hh, _Ordered), "of cells that are separable alone it is"
                hh = batch.hh[:, rows] if isinstance(batch.hh, Tensor) else batch.hh.of_rows(rows)
                return _affine(self.whole(of), hh, bias)

    def run(self) -> dict[str, Tensor]:
        """Every quantity of the step."""
        found: dict[str, Tensor] = {}
        for name, equation in self.batch.cell.equations.items():
            found[name] = self.values[Quantity(name)] = evaluate(equation, self)
        return found

    def recorded(self, name: str, unapplied: Iterable[str] = ()) -> Tensor:
        """A quantity or a part of one, as a trace names them, once the step has run; of those
        ``unapplied`` the argument of their function."""
        equations = self.batch.cell.equations
        if name in equations and name not in unapplied:
            return self.values[Quantity(name)]
        whole = name.removesuffix("_pre")
        if whole in equations:
            equation = equations[whole]
            return evaluate(equation.argument if isinstance(equation, Apply) else equation, self)
        for equation in equations.values():
            for leaf in leaves(equation):
                if isinstance(leaf, FromX | FromH) and part_name(leaf) == name:
                    return self._product(leaf)
        # a part that these equations do not have
        return torch.full_like(self.values[Quantity(next(iter(equations)))], torch.nan)


def from_input(batch: Batch, x: Tensor) -> Tensor:
    """From x (model, time, batch, feature) the inputs' part of every gate, (model, time, batch,
    rows)."""
    flat = _affine(x.flatten(1, 2), batch.ih, batch.b_ih)
    return flat.reshape(flat.shape[0], *x.shape[1:3], -1)


def of_overwritten(more: Tensor, hh: Tensor, units: Tensor | None) -> Tensor:
    """What comes of W_hh, (model, rows, unit), where each unit reads h of the units before it as it
    is after the step: by how much ``more`` that is, (model, n, unit) → (model, n, rows)."""
    size = hh.shape[-1]
    computed = torch.arange(size, device="cpu") if units is None else units
    before = torch.arange(size, device="cpu") < computed.unsqueeze(-1)
    read = hh.reshape(len(hh), -1, len(computed), size) * before
    return torch.matmul(more, read.flatten(-3, -2).mT)


def of_units(value: Tensor, units: Tensor | None) -> Tensor:
    """Some units, or all of them."""
    return value if units is None else value[..., units]


def widened(value: Tensor, width: int) -> Tensor:
    """What many models have in common, once for each: (width, ...)."""
    return value.expand(width, *value.shape[1:])


def started(valid: Tensor | None, t: int, rows: int) -> Tensor:
    """(batch): whether a row takes its first step at t."""
    if valid is None:
        return torch.full((rows,), t == 0, dtype=torch.bool, device="cpu")
    return valid[t] & ~valid[t - 1] if t else valid[0]
