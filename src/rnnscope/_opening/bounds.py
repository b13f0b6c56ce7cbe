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
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnscope._layers.derived import derived
from rnnscope._layers.sequences import running_order, shifted, turned
from rnnscope._layers.structure import Weights
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
    linear_recurrence,
)

__all__ = [
    "CASTS",
    "FUNCTION_ROUNDINGS",
    "GPU_OFF",
    "OPERATION_ROUNDINGS",
    "Array",
    "Errors",
    "Rounding",
    "Size",
    "norms",
    "plans",
]

LANES = 16
"""Partial sums that a matrix kernel keeps at least (one AVX-512 or two AVX2 registers)."""
CONFIDENCE = 3.0
"""λ. The model takes every rounding at its largest; real ones are smaller, so that in the tests'
2,000 configurations no deviation comes near its bound."""
FUNCTION_ROUNDINGS = 4.0
"""Two implementations of sigmoid or tanh, each within a unit in the last place (2 u)."""
GPU_OFF = 7.7e-6
"""What tanh and sigmoid of cuDNN in float32 were measured to be off by, on an H200 (9.19), in
layers of 16 units; in one of 256 by no more than rounding."""
GPU_FUNCTION = 2.0**-16
"""What a bounded function of a GPU is allowed: twice that."""
OPERATION_ROUNDINGS = 2.0
"""An elementwise operation, rounded on both sides, in orders of their own."""
CASTS = 3.0
"""A product in low precision sums in float32, but rounds both factors and the result."""

CHUNK = 1 << 14
"""Steps × sequences for which errors are derived at once: small tensors, used again from cache."""


@dataclass(frozen=True, slots=True)
class Linear:
    """x·|x_t|₂ + h·|h_(t-1)|₂ + constant: what a bound on an affine part is made of."""

    x: float
    h: float
    constant: float


Array = np.ndarray[Any, Any]
Size = float | Tensor | Linear
"""A magnitude: one number, one per step and sequence (time, batch), or that of an affine part."""


@dataclass(frozen=True)
class Rounding:
    """The unit roundoffs at work: in the sums of matrix products, in the casts around them (0
    where nothing is cast), and in elementwise operations. ``limit`` is the largest number of
    the type, beyond which a result is inf; ``least`` a magnitude below which it may be lost;
    ``function`` what a bounded function may be off by beside its roundings."""

    product: float
    cast: float
    operation: float
    limit: float
    least: float
    function: float = 0.0

    @classmethod
    def of(cls, dtype: torch.dtype, device: torch.device, products: torch.dtype) -> Rounding:
        """For a layer that returns ``dtype`` and forms its products in ``products``.

        Where the backend may use TF32 or bfloat16 for float32, that is what it casts to.
        """
        cast = _cast_of_float32(device) if products == torch.float32 else 0.0
        return cls._of(dtype, products, cast, device.type == "cuda")

    @classmethod
    @cache
    def _of(cls, dtype: torch.dtype, products: torch.dtype, cast: float, on_gpu: bool) -> Rounding:
        operation = max(torch.finfo(dtype).eps, torch.finfo(products).eps) / 2
        limit = min(torch.finfo(dtype).max, torch.finfo(products).max)
        least = max(map(_least, (dtype, products)))
        if products in (torch.float32, torch.float64):
            function = GPU_FUNCTION if on_gpu and products == torch.float32 else 0.0
            return cls(torch.finfo(products).eps / 2, cast, operation, limit, least, function)
        return cls(torch.finfo(torch.float32).eps / 2, operation, operation, limit, least)

    def dot(self, length: int) -> float:
        """Error of a dot product of ``length`` terms, per unit of Σ|w||x|."""
        chain = min(length, length / LANES + math.log2(LANES)) + 1
        return CONFIDENCE * math.sqrt(chain) * self.product + CASTS * self.cast


def _least(dtype: torch.dtype) -> float:
    """The smallest normal number, for a kernel may flush what is smaller to zero; of float16,
    whose numbers are widened without that, half of the smallest number."""
    limits = torch.finfo(dtype)
    return limits.tiny * limits.eps / 2 if dtype == torch.float16 else limits.tiny


CASTS_OF_FLOAT32 = {"high": 2.0**-11, "tf32": 2.0**-11, "medium": 2.0**-8, "bf16": 2.0**-8}
"""The unit roundoff by the names of torch's settings; of bfloat16 ("medium") on a CPU alone."""


def _cast_of_float32(device: torch.device) -> float:
    """The unit roundoff to which a backend may round the factors of a float32 product."""
    backend = torch.backends.cudnn if device.type == "cuda" else torch.backends.mkldnn
    matmul = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    rnn: Any = getattr(backend, "rnn", None)
    if hasattr(rnn, "fp32_precision"):
        # asking torch.get_float32_matmul_precision() raises where these were set
        of_products: Any = matmul.matmul
        settings = rnn.fp32_precision, of_products.fp32_precision
    else:
        tf32 = device.type == "cuda" and torch.backends.cudnn.allow_tf32
        settings = torch.get_float32_matmul_precision(), "tf32" if tf32 else ""
    casts = [CASTS_OF_FLOAT32.get(setting, 0.0) for setting in settings]
    return max(casts)


class Errors:
    """Magnitude and error of every quantity of one layer and direction, from its equations.

    ``x_norm``, ``h_norm`` (time, batch): |x_t|₂ and |h_(t-1)|₂. ``sizes``: the largest |value| of
    quantities and previous states, where known better than from their function.
    """

    def __init__(self, weights: Weights, rounding: Rounding) -> None:
        self.weights, self.rounding = weights, rounding
        self._affine_numbers = derived(weights, rounding, self._largest_rows)
        self._plans = plans(weights.cell)

    def of_states(
        self, x_norm: Tensor, h_norm: Tensor, sizes: Mapping[Expr, Tensor], reverse: bool
    ) -> dict[str, Tensor]:
        """The largest error that rounding allows in each state, (time, batch)."""
        states = self.weights.cell.states
        allowed = {name: torch.empty_like(x_norm) for name in states}
        steps, batch = x_norm.shape
        span = max(1, CHUNK // batch)
        self._carried = {name: x_norm.new_zeros(batch) for name in self._plans}
        starts = range(0, steps, span)
        for start in running_order(starts, reverse):
            part = slice(start, start + span)
            self._begin(x_norm[part], h_norm[part], {e: t[part] for e, t in sizes.items()})
            for name, equation in self.weights.cell.equations.items():
                plan = self._plans.get(name)
                if plan is None:
                    self._derive(name, equation)
                else:
                    self._scan(name, *plan, reverse=reverse)
            for name in states:
                allowed[name][part] = self._tensor(self.known[Quantity(name)][1])
        return allowed

    def _begin(self, x_norm: Tensor, h_norm: Tensor, sizes: dict[Expr, Tensor]) -> None:
        self.x_norm, self.h_norm, self.sizes = x_norm, h_norm, sizes
        self.known: dict[Expr, tuple[Size, Size]] = {}
        self._most = float(x_norm.max()), float(h_norm.max())

    def _derive(self, name: str, expr: Expr) -> None:
        size, error = self.of(expr)
        quantity = Quantity(name)
        self.known[quantity] = self.sizes.get(quantity, size), self._overflowed(size, error)

    def _scan(self, name: str, factor: Expr, addend: Expr, reverse: bool) -> None:
        """Carry the error of a state along name_t = factor × name_(t-1) + addend."""
        before, result = self.sizes[Previous(name)], self.sizes[Quantity(name)]
        rate, step = (self._tensor(size) for size in self.carried_by(name, factor, addend))
        start = self._carried[name]
        errors = _accumulate(turned(rate, reverse), turned(step, reverse), start)
        carried = turned(errors, reverse)
        self._carried[name] = errors[-1]
        self.known[Quantity(name)] = result, carried
        self.known[Previous(name)] = before, shifted(carried, start, reverse)

    def carried_by(self, name: str, factor: Expr, addend: Expr) -> tuple[Size, Size]:
        """(rate, step) of a scan: error_t = rate × error_(t-1) + step."""
        before, result = self.sizes[Previous(name)], self.sizes[Quantity(name)]
        growth, error = self.of(factor)
        size, added = self.of(addend)
        operations = self._sum(self._sum(result, self._product(growth, before)), size)
        operations = self._product(operations, OPERATION_ROUNDINGS * self.rounding.operation)
        return growth, self._sum(self._sum(self._product(before, error), added), operations)

    def of(self, expr: Expr) -> tuple[Size, Size]:
        """(largest magnitude, largest error) of an expression."""
        unit = OPERATION_ROUNDINGS * self.rounding.operation
        match expr:
            case Number(value):
                return abs(value), 0.0
            case Vector(name):
                return self._vector(name), 0.0
            case FromX(gate):
                return self._affine(gate, of_x=True)
            case FromH(gate, Previous("h")):
                return self._affine(gate, of_x=False)
            case FromH(gate, of):
                weight, bias = self.weights.of_h(gate)
                return self._product_of(weight, bias, of)
            case Project(of):
                return self._product_of(self.weights.projection, None, of)
            case Apply(_, argument):
                return self._function(expr, argument)
            case Sum(left, right):
                (a, e), (b, d) = self.of(left), self.of(right)
                size = self._range_of_sum(expr, a, b)
                return size, self._sum(self._sum(e, d), self._product(size, unit))
            case Product(left, right):
                (a, e), (b, d) = self.of(left), self.of(right)
                size = self._product(a, b)
                crossed = self._sum(self._product(self._sum(a, e), d), self._product(b, e))
                return size, self._sum(crossed, self._product(size, unit))
            case _ if expr in self.known:
                return self.known[expr]
            case _ if expr in self.sizes:
                return self.sizes[expr], 0.0
        raise TypeError(f"no error rule for {expr!r}")

    def _vector(self, name: str) -> Size:
        return float(self.weights.vectors[name].abs().max())

    # arithmetic on sizes: affine parts stay three numbers as long as they can ----------------

    def _tensor(self, size: Size) -> Tensor:
        """(time, batch)."""
        match size:
            case Linear(x, h, constant):
                return torch.add(self.x_norm * x, self.h_norm, alpha=h).add_(constant)
            case Tensor():
                return size
            case _:
                return torch.full_like(self.x_norm, size)

    def _sum(self, a: Size, b: Size) -> Size:
        match a, b:
            case Linear(), Linear():
                return Linear(a.x + b.x, a.h + b.h, a.constant + b.constant)
            case (Linear(x, h, constant), float(number)) | (float(number), Linear(x, h, constant)):
                return Linear(x, h, constant + number)
        left, right = self._plain(a), self._plain(b)
        return right if _zero(left) else left if _zero(right) else left + right

    def _product(self, a: Size, b: Size) -> Size:
        if isinstance(b, Linear):
            a, b = b, a
        if isinstance(a, Linear) and isinstance(b, float):
            return Linear(a.x * b, a.h * b, a.constant * b)
        left, right = self._plain(a), self._plain(b)
        if _zero(left) or _zero(right):
            return 0.0
        return left if _one(right) else right if _one(left) else left * right

    def _plain(self, size: Size) -> float | Tensor:
        return self._tensor(size) if isinstance(size, Linear) else size

    def _overflowed(self, size: Size, error: Size) -> Size:
        """An error without limit where a value may pass the type's largest number."""
        limit = self.rounding.limit
        if limit >= torch.finfo(torch.float32).max:
            return error  # then the bound overflows with the value
        if self._below(size, limit):
            return error
        return torch.where(self._tensor(size) < limit, self._tensor(error), torch.inf)

    def _below(self, size: Size, limit: float) -> bool:
        """Whether a size that is no tensor is below a limit at every step."""
        match size:
            case Linear(x, h, one):
                return x * self._most[0] + h * self._most[1] + one < limit
            case float():
                return size < limit
        return False

    def _smaller(self, size: Tensor, limit: float) -> Tensor:
        return size.clamp(max=limit)

    # rules --------------------------------------------------------------------------------

    def _range_of_sum(self, expr: Sum, left: Size, right: Size) -> Size:
        match expr:
            case Sum(Number(value), Quantity(name), negative=True):
                # 1 - z of a gate between 0 and 1
                equation = self.weights.cell.equations.get(name)
                if isinstance(equation, Apply) and equation.function.range == (0, value):
                    return value
        return self._sum(left, right)

    def affine_numbers(self, places: tuple[Array, Array]) -> Array:
        """Of some affine parts, four numbers each: how its size grows with the norm of x or h and
        what is added, and the same of its error. ``places``: 1 for a part of x and 0 for one of h,
        and the gate's place."""
        numbers: Array = self._affine_numbers[places]
        return numbers

    def _largest_rows(self) -> Array:
        """(part of h or x, gate, 4): of each gate, by its largest row and bias."""
        weights = self.weights
        gates = len(weights.cell.gates)
        numbers = np.empty((2, gates, 4))
        for k, (matrix, bias) in enumerate(
            ((weights.hh, weights.b_hh), (weights.ih, weights.b_ih))
        ):
            largest = np.array([_largest_norms(matrix, gates), _largest_sizes(bias, gates)])
            for j, number in enumerate(self._of_rows(largest[0], largest[1], matrix.shape[1])):
                numbers[k, :, j] = number
        return numbers

    def affine_of_units(self, gate: str, of_x: bool) -> list[Tensor]:
        """The same for each unit, of its own row of the matrix."""
        weight, bias = self.weights.of_x(gate) if of_x else self.weights.of_h(gate)
        norm = norms(weight)
        size = torch.zeros_like(norm) if bias is None else bias.abs()
        return [*self._of_rows(norm, size, weight.shape[1])]

    def _of_rows(self, norm: Any, bias: Any, length: int) -> tuple[Any, Any, Any, Any]:
        """Of W v + b by the norms of rows of W and the magnitudes of b: (size, error) as the factor
        of v's norm and what is added."""
        # |v|₁ <= sqrt(n)·|v|₂: what is lost of factors and products that are too small
        root = math.sqrt(length)
        lost = self.rounding.least * root
        added = OPERATION_ROUNDINGS * self.rounding.operation * bias + lost * (norm + root)
        return norm, bias, self.rounding.dot(length) * norm + lost, added

    def _affine(self, gate: str, of_x: bool) -> tuple[Size, Size]:
        k = tuple(self.weights.cell.gates).index(gate)
        norm, bias, off, added = self._affine_numbers[int(of_x), k].tolist()
        if of_x:
            return Linear(norm, 0.0, bias), Linear(off, 0.0, added)
        return Linear(0.0, norm, bias), Linear(0.0, off, added)

    def _product_of(self, weight: Tensor, bias: Tensor | None, of: Expr) -> tuple[Size, Size]:
        """Of a matrix product with something that is itself computed."""
        size, error = self.of(of)
        units = weight.shape[1]
        # |m|₂ <= sqrt(units)·max|m|, and an error in each unit adds up along the row
        product = self._product(size, float(norms(weight).max()) * math.sqrt(units))
        spread = self._product(error, float(weight.abs().sum(1).max()))
        error = self._sum(self._product(product, self.rounding.dot(units)), spread)
        if bias is None:
            return product, error
        largest = float(bias.abs().max())
        rounded = OPERATION_ROUNDINGS * self.rounding.operation * largest
        return self._sum(product, largest), self._sum(error, rounded)

    def _function(self, expr: Apply, argument: Expr) -> tuple[Size, Size]:
        size, error = self.of(argument)
        function = expr.function
        error = self._overflowed(size, error)
        error = self._product(error, self._slope(expr, error))
        largest: Size = size
        if function.largest is not None:
            largest = function.largest
        elif not function.through_zero:  # |f(a)| <= |f(0)| + steepest·|a|
            largest = self._sum(self._product(size, function.steepest), abs(function.at_zero))
        if function.through_zero and function.largest is not None:  # |tanh(a)| <= |a|
            if self._below(size, function.largest):
                largest = size
            elif not isinstance(size, float | Linear):
                largest = self._smaller(size, function.largest)
        function_error = self._product(largest, FUNCTION_ROUNDINGS * self.rounding.operation)
        if function.largest is not None and self.rounding.function:
            function_error = self._sum(function_error, self.rounding.function * function.largest)
        return largest, self._sum(error, function_error)

    def _slope(self, expr: Apply, error: Size) -> Size:
        """The largest slope of a function within an error of its argument."""
        return expr.function.steepest


@cache
def plans(cell: Cell) -> dict[str, tuple[Expr, Expr] | None]:
    """How each state other than h follows from that before."""
    return {name: linear_recurrence(cell.equations[name], name) for name in cell.states[1:]}


def _zero(size: float | Tensor) -> bool:
    return isinstance(size, float) and size == 0


def _one(size: float | Tensor) -> bool:
    return isinstance(size, float) and size == 1


def _accumulate(growth: Tensor, step: Tensor, start: Tensor) -> Tensor:
    """e_t = growth_t·e_(t-1) + step_t from e = ``start``, for all t, in about 3·sqrt(t) operations.

    Stretches of sqrt(t) steps run side by side from 0, each with the product of its growths so
    far; then what enters each stretch is added. No division, so a product that underflows is
    harmless. In NumPy: the tensors are small, and its calls cost a third of torch's.
    """
    steps, batch = step.shape
    width = math.isqrt(steps - 1) + 1
    rows = -(-steps // width)
    rates, added = np.zeros((2, rows * width, batch), dtype=step.cpu().numpy().dtype)
    rates[:steps], added[:steps] = growth.cpu().numpy(), step.cpu().numpy()
    rates, added = (t.reshape(rows, width, batch) for t in (rates, added))
    total, reach = np.empty_like(added), np.empty_like(rates)
    entering = np.empty_like(added[:, 0])
    error, product = np.zeros_like(entering), np.ones_like(entering)
    carried = start.cpu().numpy()
    with np.errstate(all="ignore"):  # a bound may overflow
        for k in range(width):
            rate = rates[:, k]
            error = np.add(rate * error, added[:, k], out=total[:, k])
            product = np.multiply(product, rate, out=reach[:, k])
        for row in range(rows):
            entering[row] = carried
            carried = total[row, -1] + reach[row, -1] * carried
        total += reach * entering[:, None]
    return torch.from_numpy(total.reshape(-1, batch)[:steps]).to(step.device)


def _largest_norms(weight: Tensor, gates: int) -> list[float]:
    """Of the rows of each gate."""
    euclidean: Tensor = torch.linalg.vector_norm(weight, dim=-1)
    low, high = (t.tolist() for t in torch.aminmax(euclidean.view(gates, -1), dim=1))
    least, most = _squares(weight.dtype)
    if not (min(low) >= least and max(high) < most):
        high = norms(weight).view(gates, -1).amax(1).tolist()
    largest: list[float] = high
    return largest


def _largest_sizes(bias: Tensor | None, gates: int) -> list[float]:
    """Of the numbers of each gate."""
    if bias is None:
        return [0.0] * gates
    largest: list[float] = bias.abs().view(gates, -1).amax(1).tolist()
    return largest


@cache
def _squares(dtype: torch.dtype) -> tuple[float, float]:
    """Between these a norm is exact to rounding, as the type can hold its square."""
    limits = torch.finfo(dtype)
    return math.sqrt(limits.tiny) / limits.eps, math.sqrt(limits.max)


def norms(rows: Tensor, out: Tensor | None = None) -> Tensor:
    """The Euclidean norm of each row, of very large and very small numbers too, whose squares are
    beyond what the type can hold."""
    euclidean: Tensor = torch.linalg.vector_norm(rows, dim=-1, out=out)
    limits = torch.finfo(rows.dtype)
    least, most = _squares(rows.dtype)
    if not euclidean.numel():
        return euclidean
    low, high = torch.aminmax(euclidean)
    if not (least <= float(low) and float(high) < most):
        extreme = (euclidean < least) | ~(euclidean < most)
        few = rows[extreme]
        largest = few.abs().amax(-1, keepdim=True).clamp(min=limits.tiny)
        scaled = torch.linalg.vector_norm(few / largest, dim=-1, keepdim=True) * largest
        euclidean[extreme] = scaled.squeeze(-1)
    return euclidean
