"""The rules of ``bounds`` as a kernel: they are followed once for a cell, with vectors of a kernel
in the place of numbers, so that the rules stand in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rnnscope._kernels.engine import ELEMENTS, pieces
from rnnscope._kernels.lanes import Lanes, Mask, Source, Variable, Whole, module
from rnnscope._kernels.machine import Compiled, compiled
from rnnscope._layers.derived import derived
from rnnscope._opening.bounds import Array, Errors, Rounding, Size, plans
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Expr, Previous, Quantity

__all__ = ["SymbolicErrors", "bounds_by_kernel", "bounds_kernel"]

ARGUMENTS = ("taken", "pieces", "batch of a piece", "steps", "batch", "reverse", "constants")
"""What the kernel gets first; then the norms of x and h, the sizes, and where the bounds go."""


@dataclass(frozen=True)
class _BoundsKernel:
    """``affine``: the affine parts whose numbers stand among the constants, four for each, their
    ``places`` as ``Errors.affine_numbers`` takes them; after them the largest |value| of each of
    the ``vectors``."""

    machine: Compiled
    affine: tuple[tuple[str, bool], ...]
    places: tuple[Array, Array]
    vectors: tuple[str, ...]


class SymbolicErrors(Errors):
    """Follows the rules for one vector of sequences at a step, and writes what it does."""

    def __init__(self, cell: Cell, rounding: Rounding, source: Source) -> None:
        self.cell, self.rounding, self.source = cell, rounding, source
        self.weights = cast(Any, self)  # of which the rules ask for the cell alone
        self.affine: list[tuple[str, bool]] = []
        self.vectors: list[str] = []
        self.norms: dict[bool, Lanes] = {}
        self._plans = plans(cell)

    def _constant(self, place: int) -> Lanes:
        source = self.source
        return source.broadcast(_argument(source, "constants"), source.number(place))

    def _affine(self, gate: str, of_x: bool) -> tuple[Size, Size]:
        if (gate, of_x) not in self.affine:
            self.affine.append((gate, of_x))
        first = 4 * self.affine.index((gate, of_x))
        slope, added, error_slope, error_added = (self._constant(first + k) for k in range(4))
        norm = self.norms[of_x]
        pair: Any = norm.times_plus(slope, added), norm.times_plus(error_slope, error_added)
        return cast(tuple[Size, Size], pair)

    def _vector(self, name: str) -> Size:
        raise NotImplementedError(f"a parameter {name} has no bound in a kernel")

    def follow(self, errors: Mapping[str, Variable]) -> None:
        """All equations in their order; ``errors`` of the states before become those after."""
        self.known = {}
        for name, error in errors.items():
            before: Any = error.get()
            self.known[Previous(name)] = self.sizes[Previous(name)], before
        for name, equation in self.cell.equations.items():
            plan = self._plans.get(name)
            if plan is None:
                self._derive(name, equation)
                continue
            pair: Any = self.carried_by(name, *plan)
            rate, step = (self.source.lanes(size) for size in pair)
            after: Any = rate.times_plus(errors[name].get(), step)
            errors[name].set(after)
            self.known[Quantity(name)] = self.sizes[Quantity(name)], after

    def _smaller(self, size: Any, limit: float) -> Any:
        return size.unless(size.above(limit), limit)


def _argument(source: Source, name: str) -> Whole:
    return source.argument(ARGUMENTS.index(name))


@cache
def bounds_kernel(
    cell: Cell, element: str, rounding: Rounding, expressions: tuple[Expr, ...]
) -> _BoundsKernel:
    """The kernel of a cell that is opened by one; ``expressions`` are those with a size."""
    source = Source("bounds", element)
    rules = SymbolicErrors(cell, rounding, source)
    with source.pieces(_argument(source, "pieces")) as piece:
        low = piece * _argument(source, "batch of a piece")
        high = (low + _argument(source, "batch of a piece")).smaller(_argument(source, "batch"))
        with source.loop(low, high, source.width) as b:
            mask = source.first_lanes(high - b)
            errors = {name: source.variable(source.lanes(0.0)) for name in cell.states[1:]}
            steps = _argument(source, "steps")
            with source.loop(0, steps) as k:
                reverse = _argument(source, "reverse").compared("ne", 0)
                t = source.choice(reverse, steps - 1 - k, k)
                place = t * _argument(source, "batch") + b
                _step(rules, errors, expressions, (place, mask))
    machine = compiled(module(source, []), "bounds")
    gates = tuple(cell.gates)
    of_x = np.array([of_x for _, of_x in rules.affine], dtype=np.intp)
    gate = np.array([gates.index(gate) for gate, _ in rules.affine], dtype=np.intp)
    return _BoundsKernel(machine, tuple(rules.affine), (of_x, gate), tuple(rules.vectors))


def _step(
    rules: SymbolicErrors,
    errors: Mapping[str, Variable],
    expressions: tuple[Expr, ...],
    where: tuple[Whole, Mask],
) -> None:
    source, cell = rules.source, rules.cell
    place, mask = where
    first = len(ARGUMENTS)

    def loaded(k: int) -> Any:
        return source.load(source.argument(first + k), place, mask)

    rules.norms = {True: loaded(0), False: loaded(1)}
    rules.sizes = {expr: loaded(2 + k) for k, expr in enumerate(expressions)}
    rules.follow(errors)
    for k, name in enumerate(cell.states):
        bound: Any = rules.known[Quantity(name)][1]
        target = source.argument(first + 2 + len(expressions) + k)
        source.store(target, place, source.lanes(bound), mask)


def bounds_by_kernel(
    errors: Errors, norms: tuple[Tensor, Tensor], sizes: Mapping[Expr, Tensor], reverse: bool
) -> dict[str, Tensor]:
    """As ``Errors.of_states``, of which ``errors`` holds the numbers; the norms of x and of h
    before each step and the sizes are (time, batch), contiguous, on a CPU."""
    cell, x_norm = errors.weights.cell, norms[0]

    def of_weights() -> tuple[_BoundsKernel, Tensor]:
        kernel = bounds_kernel(cell, ELEMENTS[x_norm.dtype], errors.rounding, tuple(sizes))
        constants = torch.from_numpy(errors.affine_numbers(kernel.places))
        return kernel, constants.to(x_norm.dtype)

    # the same sizes for the same weights
    kernel, constants = derived(errors.weights, ("bounds", errors.rounding), of_weights)
    steps, batch = x_norm.shape
    together = x_norm.new_empty(len(cell.states), steps, batch)
    bounds = dict(zip(cell.states, together.unbind(), strict=True))
    width = 64 // x_norm.element_size()
    tiles = -(-batch // width)
    count = pieces(x_norm.numel() * len(cell.equations), tiles)
    arrays = (*norms, *sizes.values(), *bounds.values())
    kernel.machine(
        [
            *(-(-tiles // count) * width, steps, batch, int(reverse), constants.data_ptr()),
            *(array.data_ptr() for array in arrays),
        ],
        count,
    )
    return bounds
