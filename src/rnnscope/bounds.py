"""What rounding allows: how far the layer's h may lie from the equations' own.

A dot product of n terms in floating point is off by at most chain(n)·u·Σ|w||x|, where u is the
unit roundoff and chain(n) counts roundings. The worst case, n, is never met; with independent
roundings the error stays below λ·sqrt(n)·u·Σ|w||x| but for a probability of 2·exp(-λ²/2)
(Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci.
Comput. 41, 2019, theorem 2.4). Matrix kernels sum in parallel lanes, so the longest chain is
shorter. Σ|w||x| is bounded by |w|₂|x|₂ (Cauchy-Schwarz), which needs one norm a row instead of a
second matrix product.

The error of each quantity follows from its declared equation by the usual rules, and is carried
along a scan: for c = f·c_before + i·g, e_t = f·e_(t-1) + what the step adds. All sizes are
per step and sequence, (time, batch), the largest over units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope.adopt import Weights
from rnnscope.expr import (
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
)

__all__ = ["Errors", "Rounding", "Size"]

LANES = 16
"""Partial sums that a matrix kernel keeps at least (one AVX-512 or two AVX2 registers)."""
CONFIDENCE = 3.0
"""λ. The model takes every rounding at its largest; real ones are smaller, so that in the tests'
2,000 configurations no deviation comes near its bound."""
FUNCTION_ROUNDINGS = 4.0
"""Two implementations of sigmoid or tanh, each within a unit in the last place (2 u)."""
OPERATION_ROUNDINGS = 2.0
"""An elementwise operation, rounded on both sides, in orders of their own."""
CASTS = 3.0
"""A product in low precision sums in float32, but rounds both factors and the result."""

Size = float | Tensor
"""A magnitude: one number, or one a step and sequence (time, batch)."""


@dataclass(frozen=True)
class Rounding:
    """The unit roundoffs at work: in the sums of matrix products, in the casts around them (0
    where nothing is cast), and in elementwise operations. ``limit`` is the largest number of
    the type, beyond which a result is inf."""

    product: float
    cast: float
    operation: float
    limit: float

    @classmethod
    def of(cls, dtype: torch.dtype, device: torch.device, products: torch.dtype) -> Rounding:
        """For a layer that returns ``dtype`` and forms its products in ``products``.

        TF32, where the backend may use it for float32, keeps 11 bits of each factor.
        """
        operation = max(torch.finfo(dtype).eps, torch.finfo(products).eps) / 2
        limit = min(torch.finfo(dtype).max, torch.finfo(products).max)
        if products in (torch.float32, torch.float64):
            cast = 2.0**-11 if products == torch.float32 and _tf32(device) else 0.0
            return cls(torch.finfo(products).eps / 2, cast, operation, limit)
        return cls(torch.finfo(torch.float32).eps / 2, operation, operation, limit)

    def dot(self, length: int) -> float:
        """Error of a dot product of ``length`` terms, per unit of Σ|w||x|."""
        chain = min(length, length / LANES + math.log2(LANES)) + 1
        return CONFIDENCE * math.sqrt(chain) * self.product + CASTS * self.cast


def _tf32(device: torch.device) -> bool:
    if torch.get_float32_matmul_precision() != "highest":
        return True
    return device.type == "cuda" and bool(torch.backends.cudnn.allow_tf32)


class Errors:
    """Magnitude and error of every quantity of one layer and direction, from its equations.

    ``x_norm``, ``h_norm`` (time, batch): |x_t|₂ and |h_(t-1)|₂. ``sizes``: the largest |value| of
    quantities and previous states, where known better than from their function.
    """

    def __init__(
        self,
        weights: Weights,
        rounding: Rounding,
        x_norm: Tensor,
        h_norm: Tensor,
        sizes: Mapping[Expr, Tensor],
    ) -> None:
        self.rounding = rounding
        self.x_norm, self.h_norm = x_norm, h_norm
        self.sizes = sizes
        self.known: dict[Expr, tuple[Size, Size]] = {}
        self.weights = weights
        gates = len(weights.cell.gates)
        self._x_rows = _largest_rows(weights.ih, weights.b_ih, gates)
        self._h_rows = _largest_rows(weights.hh, weights.b_hh, gates)

    def add(self, name: str, expr: Expr) -> None:
        """Derive the error of the next quantity, whose equation is ``expr``."""
        size, error = self.of(expr)
        quantity = Quantity(name)
        self.known[quantity] = self.sizes.get(quantity, size), self._overflowed(size, error)

    def _overflowed(self, size: Size, error: Size) -> Size:
        """An error without limit where a value may pass the type's largest number."""
        if isinstance(size, Tensor):
            return torch.where(size < self.rounding.limit, error, torch.inf)
        return error

    def scan(self, name: str, factor: Expr, addend: Expr, reverse: bool) -> None:
        """Carry the error of a state along name_t = factor × name_(t-1) + addend."""
        before, result = self.sizes[Previous(name)], self.sizes[Quantity(name)]
        growth, error = self.of(factor)
        size, added = self.of(addend)
        own = OPERATION_ROUNDINGS * self.rounding.operation * (result + growth * before + size)
        step = before * error + added + own
        growth = torch.as_tensor(growth, dtype=step.dtype, device=step.device).expand_as(step)
        if reverse:
            carried = _accumulate(growth.flip(0), step.flip(0)).flip(0)
            previous = torch.cat([carried[1:], torch.zeros_like(carried[:1])])
        else:
            carried = _accumulate(growth, step)
            previous = torch.cat([torch.zeros_like(carried[:1]), carried[:-1]])
        self.known[Quantity(name)] = result, carried
        self.known[Previous(name)] = before, previous

    def of_state(self, name: str) -> Tensor:
        """The largest error of a state, (time, batch)."""
        error = self.known[Quantity(name)][1]
        return torch.as_tensor(error, device=self.x_norm.device).expand(self.x_norm.shape)

    def of(self, expr: Expr) -> tuple[Size, Size]:
        """(largest magnitude, largest error) of an expression."""
        match expr:
            case Number(value):
                return abs(value), 0.0
            case FromX(gate):
                return self._affine(gate, self._x_rows, self.x_norm, self.weights.ih.shape[1])
            case FromH(gate, Previous("h")):
                return self._affine(gate, self._h_rows, self.h_norm, self.weights.hh.shape[1])
            case Project(of):
                return self._projected(of)
            case Apply(_, argument):
                return self._function(expr, argument)
            case Sum(left, right):
                (a, e), (b, d) = self.of(left), self.of(right)
                size = self._range_of_sum(expr, a, b)
                return size, e + d + OPERATION_ROUNDINGS * self.rounding.operation * size
            case Product(left, right):
                (a, e), (b, d) = self.of(left), self.of(right)
                size = a * b
                return (
                    size,
                    a * d + b * e + e * d + OPERATION_ROUNDINGS * self.rounding.operation * size,
                )
            case _ if expr in self.known:
                return self.known[expr]
            case _ if expr in self.sizes:
                return self.sizes[expr], 0.0
        raise TypeError(f"no error rule for {expr!r}")

    def _range_of_sum(self, expr: Sum, left: Size, right: Size) -> Size:
        match expr:
            case Sum(Number(value), Quantity(name), negative=True):
                # 1 - z of a gate between 0 and 1
                equation = self.weights.cell.equations.get(name)
                if isinstance(equation, Apply) and equation.function.range == (0, value):
                    return value
        return left + right

    def _affine(
        self, gate: str, rows: tuple[list[float], list[float]], norm: Tensor, length: int
    ) -> tuple[Size, Size]:
        k = tuple(self.weights.cell.gates).index(gate)
        product, bias = rows[0][k] * norm, rows[1][k]
        rounding = self.rounding
        return product + bias, rounding.dot(length) * product + (
            OPERATION_ROUNDINGS * rounding.operation * bias
        )

    def _projected(self, of: Expr) -> tuple[Size, Size]:
        size, error = self.of(of)
        weight = self.weights.projection
        units = weight.shape[1]
        # |m|₂ <= sqrt(units)·max|m|, and an error in each unit adds up along the row
        product = float(weight.norm(dim=1).max()) * math.sqrt(units) * size
        spread = float(weight.abs().sum(1).max())
        return product, self.rounding.dot(units) * product + spread * error

    def _function(self, expr: Apply, argument: Expr) -> tuple[Size, Size]:
        size, error = self.of(argument)
        error = self._overflowed(size, error)
        function = expr.function
        largest: Size = size if function.largest is None else function.largest
        if function.through_zero and function.largest is not None:
            # |tanh(a)| <= |a|
            largest = size.clamp(max=function.largest) if isinstance(size, Tensor) else size
        own = FUNCTION_ROUNDINGS * self.rounding.operation * largest
        return largest, function.steepest * error + own


def _accumulate(growth: Tensor, step: Tensor) -> Tensor:
    """e_t = growth_t·e_(t-1) + step_t from e = 0, for all t, by doubling.

    Two stretches of steps, (a, q) and then (b, p), are one: (a·b, q·b + p); no division, so a
    product of growths that underflows is harmless.
    """
    growth, total = growth.clone(), step.clone()
    reach = 1
    while reach < len(step):
        total[reach:] += growth[reach:] * total[:-reach]
        growth[reach:] *= growth[:-reach].clone()
        reach *= 2
    return total


def _largest_rows(
    weight: Tensor, bias: Tensor | None, gates: int
) -> tuple[list[float], list[float]]:
    norms: list[float] = weight.norm(dim=1).view(gates, -1).amax(1).tolist()
    biases = [0.0] * gates if bias is None else bias.abs().view(gates, -1).amax(1).tolist()
    return norms, biases
