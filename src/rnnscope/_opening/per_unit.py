"""How far each unit may lie from the layer's own: the equations once more, an error beside each
number.

``bounds`` gives one bound for all units of a step, from row norms and the steepest slopes. In a
trained layer it can be thousands of times what rounding does. Here every number goes with its own
error: a product's from the sum of its terms' magnitudes, a function's from the slope where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnnscope._layers.call import Call
from rnnscope._layers.sequences import keep_on_padding, running_order, valid_steps
from rnnscope._layers.structure import Weights
from rnnscope._opening.bounds import FUNCTION_ROUNDINGS, OPERATION_ROUNDINGS, Rounding
from rnnscope._opening.buffers import working_type
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
from rnnscope.cells.functions import Function

__all__ = ["Ball", "Independent", "Judged", "LayerRun", "PerUnit"]

CHUNK = 1 << 18
"""Numbers of a quantity that are derived at once."""

Ball = tuple[Tensor, Tensor]
"""A number as it is evaluated here, and how far from it the layer's own may lie."""


@dataclass(frozen=True)
class Judged:
    """``h`` is the state by its equation and how far the layer's may lie from it, (time, batch,
    unit); ``widest`` that distance for each state, the largest over units (time, batch);
    ``final`` each state after its last step, (batch, unit): h only where it is carried, and
    ``apart`` is then how far its run may lie from the layer's (time, batch, unit)."""

    h: Ball
    widest: dict[str, Tensor]
    final: dict[str, Ball]
    apart: Tensor | None


@dataclass(frozen=True)
class LayerRun:
    """What is known of one layer in one direction, after it ran.

    ``inputs`` gives the layer's input for steps start to stop; ``hidden`` (time, batch, unit) are
    its states and ``before`` those one step earlier. The states are the layer's own unless
    ``carried``, when they and the inputs are those of a run that rounded otherwise: then
    ``x_error`` (time, batch, feature) tells how far the inputs may lie from the layer's, and what
    the states lie apart goes on from step to step.
    """

    weights: Weights
    rounding: Rounding
    call: Call
    reverse: bool
    inputs: Callable[[int, int], Tensor]
    before: Tensor
    hidden: Tensor
    x_error: Tensor | None = None
    carried: bool = False


class PerUnit:
    """The equations of a layer that ran, evaluated once more with the error that rounding allows in
    each unit. How products round, and in which type they are formed, is a subclass's.
    """

    def __init__(self, run: LayerRun) -> None:
        self.device, self.dtype = self._place(run.hidden)
        self.weights = run.weights.map(self._here)
        self.rounding, self.call, self.reverse = run.rounding, run.call, run.reverse
        self.inputs, self.before, self.hidden = run.inputs, run.before, run.hidden
        self.x_error, self.carried = run.x_error, run.carried
        self.operation = run.rounding.operation
        self.matrices: dict[Expr, Any] = {}
        self.balls: dict[Expr, Ball] = {}
        self.x: Ball

    def _place(self, hidden: Tensor) -> tuple[torch.device, torch.dtype]:
        """Where and in which type it is evaluated, of the layer's own states."""
        raise NotImplementedError

    def _affine(self, leaf: Expr, weight: Tensor, bias: Tensor | None, of: Ball) -> Ball:
        """W v + b and its error, of v with its own."""
        raise NotImplementedError

    def product_errors(self, factors: Tensor, rows: Tensor) -> list[Tensor]:
        """The errors of the products of some rows of the matrices of x and of h with some steps'
        [x, h], (step, feature + unit)."""
        weights, rows = self.weights, rows.to(self.device)
        features = weights.ih.shape[1]
        self.x, h = self._exact(factors[:, :features]), self._exact(factors[:, features:])
        self.balls = {Previous("h"): h}
        matrices = (
            (FromX(""), weights.ih, weights.b_ih, self.x),
            (FromH(""), weights.hh, weights.b_hh, h),
        )
        return [
            self._affine(leaf, matrix[rows], None if bias is None else bias[rows], of)[1]
            for leaf, matrix, bias, of in matrices
        ]

    def _here(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype)

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _exact(self, value: Tensor) -> Ball:
        value = self._here(value)
        return value, torch.zeros_like(value)

    def judge(self, initial: Mapping[str, Tensor]) -> Judged:
        """All steps, in the order of time of this direction; ``initial`` maps states to (batch,
        unit)."""
        cell, call = self.weights.cell, self.call
        steps, batch = call.steps, call.batch
        valid = valid_steps(call.every_length, steps).to(self.device)
        carried = cell.states[0 if self.carried else 1 :]
        self.states: dict[str, Ball] = {name: self._exact(initial[name]) for name in carried}
        apart = self._new(*self.hidden.shape).zero_() if self.carried else None
        h = self._new(2, *self.hidden.shape)
        widest = {name: self._new(steps, batch) for name in cell.states}
        step_by_step = self.carried or cell.stepwise
        span = 1 if step_by_step else max(1, CHUNK // (batch * self.weights.hidden_size))
        starts = range(0, steps, span)
        for start in running_order(starts, self.reverse):
            part = slice(start, min(start + span, steps))
            self.valid = valid[part]
            self._open(part)
            for name, equation in cell.equations.items():
                scanned = name in cell.states[1:] and not cell.stepwise
                split = linear_recurrence(equation, name) if scanned else None
                if split is not None:
                    self._scan(name, *split)
                    continue
                value, error = self.balls[Quantity(name)] = self.of(equation)
                if name in cell.states[1:]:
                    self._advance(name, 0, (value[0], error[0]))
            for name in cell.states:
                widest[name][part] = self.balls[Quantity(name)][1].amax(-1)
            for kept, value in zip(h, self.balls[Quantity("h")], strict=True):
                kept[part] = value
            if apart is not None:
                apart[part] = self._carry_h(part.start)
        return Judged((h[0], h[1]), widest, self.states, apart)

    def _open(self, part: slice) -> None:
        x = self._here(self.inputs(part.start, part.stop))
        x_error = torch.zeros_like(x) if self.x_error is None else self.x_error[part]
        if self.carried:
            value, error = self.states["h"]
            h = value.unsqueeze(0), error.unsqueeze(0)
        else:
            h = self._exact(self.before[part])
        self.x = x, x_error
        self.balls = {Previous("h"): h}
        if self.weights.cell.stepwise:
            for name in self.weights.cell.states[1:]:
                value, error = self.states[name]
                self.balls[Previous(name)] = value.unsqueeze(0), error.unsqueeze(0)

    def _carry_h(self, t: int) -> Tensor:
        """How far the layer's own h may lie from that of the run, (batch, unit)."""
        run_h = self._here(self.hidden[t])
        value, error = (tensor[0] for tensor in self.balls[Quantity("h")])
        apart = error + (value - run_h).abs()
        apart = torch.where(apart.isnan(), torch.inf, apart)
        return self._advance("h", 0, (run_h, apart))[1]

    def _advance(self, name: str, k: int, after: Ball) -> Ball:
        """The state after step k of the chunk; on padding it stays what it was."""
        value, error = (
            keep_on_padding(new, old, self.valid[k])
            for new, old in zip(after, self.states[name], strict=True)
        )
        self.states[name] = value, error
        return value, error

    def _scan(self, name: str, factor: Expr, addend: Expr) -> None:
        """name_t = factor × name_(t-1) + addend, step by step, with the error."""
        factors, addends = self.of(factor), self.of(addend)
        value, error = (torch.empty_like(t) for t in addends)
        steps = range(len(value))
        for k in running_order(steps, self.reverse):
            grown = self._times((factors[0][k], factors[1][k]), self.states[name])
            after = self._plus(grown, (addends[0][k], addends[1][k]))
            value[k], error[k] = self._advance(name, k, after)
        self.balls[Quantity(name)] = value, error

    # rules ---------------------------------------------------------------------------------

    def of(self, expr: Expr) -> Ball:
        """An expression, (time, batch, unit)."""
        match expr:
            case Number(value):
                return self._exact(torch.tensor(value, dtype=self.dtype, device=self.device))
            case Vector(name):
                return self._exact(self.weights.vectors[name])
            case FromX(gate):
                return self._affine(expr, *self.weights.of_x(gate), self.x)
            case FromH(gate, of):
                return self._affine(expr, *self.weights.of_h(gate), self.of(of))
            case Project(of):
                return self._affine(expr, self.weights.projection, None, self.of(of))
            case Apply(_, argument):
                return self._function(expr.function, *self.of(argument))
            case Sum(left, right, negative):
                addend, error = self.of(right)
                return self._plus(self.of(left), (-addend if negative else addend, error))
            case Product(left, right):
                return self._times(self.of(left), self.of(right))
            case _:
                return self.balls[expr]

    def _plus(self, left: Ball, right: Ball) -> Ball:
        value = left[0] + right[0]
        return self._rounded(value, left[1] + right[1], OPERATION_ROUNDINGS)

    def _times(self, left: Ball, right: Ball) -> Ball:
        (a, e), (b, d) = left, right
        return self._rounded(a * b, a.abs() * d + b.abs() * e + e * d, OPERATION_ROUNDINGS)

    def _function(self, function: Function, argument: Tensor, error: Tensor) -> Ball:
        value = function.forward(argument)
        inherited = error * self._slope(function, argument, error)
        if function.range is not None:
            low, high = function.range
            # what is inf may be NaN in the layer
            inherited = torch.where(error.isinf(), error, inherited.clamp(max=high - low))
            inherited = inherited + self.rounding.function * max(abs(low), abs(high))
        if function.range is not None and not function.through_zero:
            inherited = inherited + FUNCTION_ROUNDINGS * self.operation
        return self._rounded(value, inherited, FUNCTION_ROUNDINGS)

    def _slope(self, function: Function, argument: Tensor, error: Tensor) -> Tensor | float:
        """The largest slope of a function within ``error`` of an argument."""
        if not function.flattens:
            return function.steepest
        nearest = argument.sign() * (argument.abs() - error).clamp(min=0)  # to 0
        slope = function.slope(nearest, function.forward(nearest)).clamp(0, function.steepest)
        return torch.where(slope.isfinite(), slope, function.steepest)

    def _rounded(self, value: Tensor, error: Tensor, roundings: float) -> Ball:
        """With the roundings of an operation; without limit where it may have overflowed."""
        size = value.abs()
        error = error + roundings * self.operation * size + roundings * self.rounding.least
        return value, torch.where(size + error < self.rounding.limit, error, torch.inf)


class Independent(PerUnit):
    """With roundings that are independent of each other, as ``bounds`` takes them, in the type in
    which the layer was opened. Where a number lies farther off, ``WorstCase`` decides."""

    def _place(self, hidden: Tensor) -> tuple[torch.device, torch.dtype]:
        return hidden.device, working_type(hidden.dtype)

    def _affine(self, leaf: Expr, weight: Tensor, bias: Tensor | None, of: Ball) -> Ball:
        value, error = of
        units, length = weight.shape
        absolute = self.matrices.setdefault(leaf, weight.abs())
        flat = value.reshape(-1, length)
        magnitudes = flat.abs()
        total, size = flat @ weight.T, magnitudes @ absolute.T
        if bias is not None:
            total, size = total + bias, size + bias.abs()
        bound = self.rounding.dot(length) * size
        if of is not self.x and of is not self.balls[Previous("h")]:  # these are the layer's own
            bound = bound + error.reshape(-1, length) @ absolute.T
        # a factor too small for its type may be lost, and a product as well
        lost = magnitudes.sum(1, keepdim=True) + absolute.sum(1) + length
        bound = bound + self.rounding.least * lost
        bound = torch.where(size + bound < self.rounding.limit, bound, torch.inf)
        shape = (*value.shape[:-1], units)
        return total.view(shape), bound.view(shape)
