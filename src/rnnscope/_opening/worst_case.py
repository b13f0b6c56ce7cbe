"""What rounding does at worst, where the usual bound of ``bounds`` is exceeded.

That bound takes roundings as independent. Where all terms of a sum have one sign, or all weights
are equal, they are not: each rounds in the same direction. So before anything is raised, the
equations are evaluated once more in float64, from the layer's own numbers, and beside each number
goes the largest error that the layer may have made until there.

A sum of n terms is off by at most u times the sum of the magnitudes of its n partial sums (Higham,
"Accuracy and Stability of Numerical Algorithms", 2002, section 4.2). A kernel adds terms in their
order, in stretches of any length, so a partial sum is one of consecutive terms; or in lanes side by
side, each of which sums n / lanes terms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from rnnscope._layers.call import Call
from rnnscope._layers.sequences import keep_on_padding, running_order, valid_steps
from rnnscope._layers.structure import Weights
from rnnscope._opening.bounds import CASTS, FUNCTION_ROUNDINGS, OPERATION_ROUNDINGS, Rounding
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

__all__ = ["Ball", "Judged", "WorstCase"]

STRETCHES = 32
"""Into how many stretches a sum is cut to find its largest partial sum."""
LANES = 8
"""Partial sums that a kernel keeps at least where it sums in lanes: an AVX register."""
JOINING = 4
"""Roundings of a term when lanes are joined."""
SECOND_ORDER = 1.01
"""Products of roundings."""
JUDGE = 2.0**-53
"""The unit roundoff of the evaluation here."""
CHUNK = 1 << 18
"""Numbers of a quantity that are derived at once."""

Ball = tuple[Tensor, Tensor]
"""A number as float64 gives it, and how far from it the layer's own may lie."""


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


class WorstCase:
    """One layer in one direction, evaluated in float64 with the error that rounding allows.

    ``inputs`` gives the layer's input for steps start to stop; ``hidden`` (time, batch, unit) are
    its states and ``before`` those one step earlier; ``initial`` maps states to (batch, unit).
    The states are the layer's own unless ``carried``, when they and the inputs are those of a run
    that rounded otherwise: then ``x_error`` (time, batch, feature) tells how far the inputs may
    lie from the layer's, and what the states lie apart goes on from step to step.
    """

    def __init__(
        self,
        weights: Weights,
        rounding: Rounding,
        call: Call,
        reverse: bool,
        inputs: Callable[[int, int], Tensor],
        before: Tensor,
        hidden: Tensor,
        x_error: Tensor | None,
        carried: bool,
    ) -> None:
        self.weights = weights.map(lambda t: t.to("cpu", torch.float64))
        self.rounding, self.call, self.reverse = rounding, call, reverse
        self.inputs, self.before, self.hidden = inputs, before, hidden
        self.x_error, self.carried = x_error, carried
        self.product = SECOND_ORDER * (rounding.product + JUDGE)
        self.operation = SECOND_ORDER * (rounding.operation + JUDGE)
        # of the sum of W_ih x, W_hh h and two biases: kernels add one to the other
        self.terms = weights.ih.shape[1] + weights.hh.shape[1] + 2
        self.cast = SECOND_ORDER * rounding.cast
        self.matrices: dict[Expr, _Matrix] = {}

    def judge(self, initial: dict[str, Tensor]) -> Judged:
        """All steps, in the order of time of this direction."""
        cell, call = self.weights.cell, self.call
        steps, batch = call.steps, call.batch
        valid = valid_steps(call.every_length, steps).cpu()
        carried = cell.states[0 if self.carried else 1 :]
        self.states: dict[str, Ball] = {name: _exact(initial[name]) for name in carried}
        apart = (
            torch.zeros(self.hidden.shape, dtype=torch.float64, device="cpu")
            if self.carried
            else None
        )
        h = torch.empty(2, *self.hidden.shape, dtype=torch.float64, device="cpu")
        widest = {
            name: torch.empty(steps, batch, dtype=torch.float64, device="cpu")
            for name in cell.states
        }
        span = 1 if self.carried else max(1, CHUNK // (batch * self.weights.hidden_size))
        starts = range(0, steps, span)
        for start in running_order(starts, self.reverse):
            part = slice(start, min(start + span, steps))
            self.valid = valid[part]
            self._open(part)
            for name, equation in cell.equations.items():
                split = linear_recurrence(equation, name) if name in cell.states[1:] else None
                if split is None:
                    self.balls[Quantity(name)] = self.of(equation)
                else:
                    self._scan(name, *split)
            for name in cell.states:
                widest[name][part] = self.balls[Quantity(name)][1].amax(-1)
            for kept, value in zip(h, self.balls[Quantity("h")], strict=True):
                kept[part] = value
            if apart is not None:
                apart[part] = self._carry_h(part.start)
        return Judged((h[0], h[1]), widest, self.states, apart)

    def _open(self, part: slice) -> None:
        x = self.inputs(part.start, part.stop).to("cpu", torch.float64)
        x_error = torch.zeros_like(x) if self.x_error is None else self.x_error[part]
        if self.carried:
            value, error = self.states["h"]
            h = value.unsqueeze(0), error.unsqueeze(0)
        else:
            h = _exact(self.before[part])
        self.x: Ball = x, x_error
        self.balls: dict[Expr, Ball] = {Previous("h"): h}

    def _carry_h(self, t: int) -> Tensor:
        """How far the layer's own h may lie from that of the run, (batch, unit)."""
        run_h = self.hidden[t].to("cpu", torch.float64)
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
                return _exact(torch.tensor(value, dtype=torch.float64, device="cpu"))
            case Vector(name):
                return _exact(self.weights.vectors[name])
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
        inherited = error * function.steepest
        if function.range is not None:
            low, high = function.range
            # what is inf may be NaN in the layer
            inherited = torch.where(error.isinf(), error, inherited.clamp(max=high - low))
            inherited = inherited + self.rounding.function * max(abs(low), abs(high))
        if function.range is not None and not function.through_zero:
            inherited = inherited + FUNCTION_ROUNDINGS * self.operation
        return self._rounded(value, inherited, FUNCTION_ROUNDINGS)

    def _rounded(self, value: Tensor, error: Tensor, roundings: float) -> Ball:
        """With the roundings of an operation; without limit where it may have overflowed."""
        size = value.abs()
        error = error + roundings * self.operation * size + roundings * self.rounding.least
        return value, torch.where(size + error < self.rounding.limit, error, torch.inf)

    def _affine(self, leaf: Expr, weight: Tensor, bias: Tensor | None, of: Ball) -> Ball:
        """W v + b, its products summed in any order that a kernel takes."""
        value, error = of
        units, length = weight.shape
        if leaf not in self.matrices:
            self.matrices[leaf] = _Matrix.of(weight)
        matrix = self.matrices[leaf]
        flat = value.reshape(-1, length)
        stretches = _stretches(flat)
        width = stretches.shape[2]
        spread = error.reshape(-1, length) @ matrix.absolute.T
        total, run = _consecutive(
            torch.bmm(stretches, matrix.stretches), torch.bmm(stretches.abs(), matrix.sizes)
        )
        size = flat.abs() @ matrix.absolute.T + spread
        chain = torch.maximum(run * width, flat.abs() @ matrix.lanes.T) + length * spread
        if not isinstance(leaf, Project):
            # W_ih x, W_hh h and two biases are added to each other, before or after they are summed
            chain = chain + (self.terms - length) * (total.abs() + spread)
        if bias is not None:
            chain, size = chain + self.terms * bias.abs(), size + bias.abs()
            total = total + bias
        rounded = self.product * (chain + 2 * size) + CASTS * self.cast * size
        # a factor too small for its type may be lost, and a product as well
        lost = flat.abs().sum(1, keepdim=True) + matrix.absolute.sum(1) + self.terms
        bound = spread + rounded + self.rounding.least * lost
        # a sum may overflow, and a factor in the type to which it is cast
        largest = torch.maximum(flat.abs().amax(1, keepdim=True), matrix.absolute.amax(1))
        fits = torch.maximum(size + bound, largest) < self.rounding.limit
        bound = torch.where(fits, bound, torch.inf)
        shape = (*value.shape[:-1], units)
        return total.view(shape), bound.view(shape)


@dataclass(frozen=True)
class _Matrix:
    """A weight (unit, term): its magnitudes, those times the roundings that meet a term where a
    kernel sums in lanes, and (stretch, term, unit) as it is and in magnitudes."""

    absolute: Tensor
    lanes: Tensor
    stretches: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> _Matrix:
        absolute = weight.abs()
        after = torch.arange(weight.shape[1] - 1, -1, -1, device="cpu") // LANES
        stretches = _stretches(weight).transpose(1, 2).contiguous()
        return cls(absolute, absolute * (after + 1 + JOINING), stretches, stretches.abs())


def _consecutive(parts: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The sum, and the sum of the magnitudes of all partial sums where terms are added in their
    order, from any term on; of each stretch one.

    ``parts`` (stretch, row, unit) are the sums of stretches of terms, ``sizes`` those of their
    magnitudes. Within a stretch the sum of all terms until there lies between low and high.
    """
    after = parts.cumsum(0)
    middle = after - parts / 2
    low, high = middle - sizes / 2, middle + sizes / 2
    longest = torch.maximum(
        high - low.cummin(0).values.clamp(max=0), high.cummax(0).values.clamp(min=0) - low
    )
    return after[-1], longest.sum(0)


def _exact(value: Tensor) -> Ball:
    value = value.to("cpu", torch.float64)
    return value, torch.zeros_like(value)


def _stretches(rows: Tensor) -> Tensor:
    """(rows, terms) cut into (stretches, rows, terms of a stretch), with zeros at the end."""
    count, length = rows.shape
    stretches = min(STRETCHES, length)
    width = -(-length // stretches)
    return pad(rows, (0, stretches * width - length)).view(count, stretches, width).transpose(0, 1)
