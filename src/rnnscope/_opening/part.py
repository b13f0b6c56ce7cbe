"""One layer in one direction, opened: all gates of all steps from the states already known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnscope._kernels import engine
from rnnscope._kernels.equations import scans, sized
from rnnscope._kernels.forward import ForwardKernel
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.call import Call
from rnnscope._layers.sequences import (
    at_steps,
    framed_before,
    keep_on_padding,
    last_steps,
    running_order,
    shifted,
)
from rnnscope._layers.structure import Weights
from rnnscope._layers.tensors import fresh
from rnnscope._opening.bounds import Array, Errors, Rounding, norms
from rnnscope._opening.buffers import Buffers, working_type
from rnnscope._opening.compiled import Measured, open_by_kernel
from rnnscope._opening.compiled_bounds import bounds_by_kernel
from rnnscope._opening.compiled_units import bounds_of_units, has_kernel
from rnnscope._opening.per_unit import Ball, Independent, Judged, LayerRun
from rnnscope._opening.threshold import Sample, Threshold
from rnnscope._opening.worst_case import WorstCase
from rnnscope._record.difference import absolute_difference
from rnnscope._record.record import Place
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

__all__ = ["Direction", "Proof", "usual_bounds"]

BLOCK_BYTES = 1 << 20
"""Size of one quantity in a block of time: few enough operations, and little memory beside."""


USELESS = 0.25
"""A bound wider than this share of a state's largest value proves nothing worth saying."""


WIDE = 500.0
"""A bound wider than so many last bits of 1, or of a state's largest value, is computed for each
unit."""

_finer: ContextVar[bool] = ContextVar("finer", default=True)


@contextmanager
def usual_bounds() -> Iterator[None]:
    """Within it wide bounds are left as wide as they are: where many calls of one layer are opened,
    finer ones for a few of them tell as much."""
    token = _finer.set(False)
    try:
        yield
    finally:
        _finer.reset(token)


MOST_AGAIN = 1 << 26
"""Numbers of a layer that are computed once more where a bound for each unit needs what was not
recorded: more would need much memory."""


@dataclass(frozen=True)
class Proof:
    """How far the equations lie from the layer's own numbers, at the worst place.

    ``deviation`` is the largest difference, ``tolerance`` what rounding allows where it stands;
    ``ratio`` is the largest deviation / tolerance anywhere; ``place`` is where it stands, or where
    a ratio above 1 comes first, in the order of computation. ``every_step`` tells whether all steps
    were compared, or the last alone. Of ``places`` (steps of sequences, in each layer and
    direction) ``loose`` prove nothing: the numbers differ there, and rounding allows too much.
    ``widest`` is the most that rounding allows at any place. Where that is much, ``threshold`` is
    the size from which on an error at any place would be noticed.
    """

    deviation: float
    tolerance: float
    ratio: float
    state: str
    place: Place
    every_step: bool
    places: int
    loose: int
    widest: float = 0.0
    threshold: Threshold | None = None

    @property
    def shows(self) -> float | None:
        """The size from which on an error at any place would be noticed, where that is not small;
        computed when it is first asked for."""
        return None if self.threshold is None else self.threshold.size

    @property
    def words(self) -> str:
        """What was compared, as in: h at every step."""
        if not self.loose:
            return f"{self.state} {'at every step' if self.every_step else 'at the end'}"
        shown = f"{self.places - self.loose} of {self.places}"
        where = f"at {shown} steps" if self.every_step else f"at {shown} ends"
        return f"{self.state} {where} (at the others rounding allows too much to tell)"


@dataclass(frozen=True)
class Compared:
    """Two sides of a state, compared at every step, (time, batch), or after the last, (batch).

    ``off`` is the largest difference over units, ``allowed`` what rounding allows where it stands;
    ``ratio`` the largest of one over the other, ``widest`` the most that rounding allows. In NumPy,
    whose calls on small arrays cost a fifth of torch's.
    """

    off: Array
    allowed: Array
    ratio: Array
    widest: Array

    @classmethod
    def of(cls, off: Tensor, allowed: Tensor) -> Compared:
        """With one bound for all units."""
        bound = _array(allowed)
        return cls(_array(off), bound, _ratio(off, allowed), bound)

    @classmethod
    def by_units(cls, layer_value: Tensor, ball: Ball, like: Tensor) -> Compared:
        """With a bound for each unit, the last dim; in the type of ``like``."""
        value, allowed = ball
        off = absolute_difference(value, layer_value)
        largest = off.argmax(-1, keepdim=True)
        ratio = torch.from_numpy(_ratio(off, allowed))
        at_largest = (
            off.gather(-1, largest).squeeze(-1),
            allowed.gather(-1, largest).squeeze(-1),
            ratio.amax(-1),
            allowed.amax(-1),
        )
        return cls(*(t.to(like).cpu().numpy() for t in at_largest))


def _array(value: Tensor) -> Array:
    array: Array = value.numpy() if value.is_cpu else value.cpu().numpy()
    return array


def _ratio(off: Tensor, allowed: Tensor) -> Array:
    quotient = _array(torch.div(off, allowed))
    # of numbers among which NaN is, the largest is NaN
    if quotient.size and math.isnan(quotient.flat[quotient.argmax()]):
        # no difference, or a bound that overflowed, which allows anything and proves nothing
        proves = (off > 0) & allowed.isfinite()
        quotient[~_array(proves)] = 0
    return quotient


class Direction:
    """Opens one layer in one direction, a block of time after the other.

    ``at`` is (layer, direction); ``inputs`` gives the layer's input for steps start to stop.
    """

    def __init__(
        self,
        adopted: Adopted,
        call: Call,
        weights: Weights,
        buffers: Buffers,
        at: tuple[int, int],
        rounding: Rounding,
        inputs: Callable[[int, int], Tensor],
    ) -> None:
        self.cell, self.call, self.buffers = adopted.cell, call, buffers
        self.at, self.direction = at, adopted.directions[at[1]]
        self.reverse = self.direction == "reverse"
        self.foreign = adopted.foreign
        self.rounding, self.inputs, self.engine = rounding, inputs, "torch"
        self.largest: dict[str, float] = {}
        self.least: dict[str, float] = {}
        self.work = working_type(buffers.dtype)
        self.direct = self.work == buffers.dtype
        self.weights = weights if self.direct else weights.map(lambda t: t.to(self.work))
        self.store = {name: value[at] for name, value in buffers.values.items()}
        self.valid = call.valid
        self.plan = scans(self.cell)
        self.carry = {name: call.initial[name][at].to(self.work) for name in self.cell.states[1:]}
        steps, batch = call.steps, call.batch
        element = torch.finfo(self.work).bits // 8
        self.span = max(1, min(steps, BLOCK_BYTES // (batch * adopted.hidden_size * element)))
        self.span = 1 if self.cell.stepwise else self.span
        self.scratch: dict[str, Tensor] = {}
        self.stacked: dict[tuple[Weighted, ...], tuple[slice, Tensor]] = {}
        self.bias = int(weights.b_ih is not None)
        self.features, self.outputs = weights.ih.shape[1], weights.hh.shape[1]
        # what the error bounds need, (time, batch): norms, and the largest values over units
        self.x_norm: Tensor
        self.h_norm: Tensor
        self.off: Tensor
        self.sizes: dict[Expr, Tensor]

    def _new(self, *shape: int) -> Tensor:
        return self.call.x.new_empty(shape, dtype=self.work)

    def _scratch(self, name: str, rows: int, columns: int) -> Tensor:
        """Memory that every block uses again."""
        if name not in self.scratch:
            self.scratch[name] = self._new(self.span * self.call.batch, columns)
        return self.scratch[name][:rows]

    # the environment of ``evaluate``, for the block that is open -----------------------------

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        """(rows, units): the block's steps and sequences in one dim; a parameter is (units)."""
        if isinstance(leaf, Vector):
            return self.weights.vectors[leaf.name]
        return self.block[leaf]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        """Affine parts of all steps of the block; where x and h enter as they are, as one
        product with [x, 1, h, 1]."""
        if not any(leaf in self.parts for leaf in leaves) and _plain(leaves):
            columns, weight = self._stack(leaves)
            return torch.mm(self.factors[:, columns], weight, out=out)
        first, *further = leaves
        total = self._product(first, out)
        for leaf in further:
            total.add_(self._product(leaf, None))
        return total

    def _product(self, leaf: Weighted, out: Tensor | None) -> Tensor:
        part = self.parts.get(leaf)
        if part is not None:
            return part.clone() if out is None else out.copy_(part)
        match leaf:
            case Project(of):
                return torch.mm(evaluate(of, self), self.weights.projection.T, out=out)
            case FromH(gate, of) if of != Previous("h"):
                weight, bias = self.weights.of_h(gate)
                total = torch.mm(evaluate(of, self), weight.T, out=out)
                return total if bias is None else total.add_(bias)
            case _:
                return self.products((leaf,), out)

    def _stack(self, leaves: tuple[Weighted, ...]) -> tuple[slice, Tensor]:
        """The columns of [x, 1, h, 1] that affine parts need, and their weights, stacked."""
        if leaves not in self.stacked:
            middle = self.features + self.bias
            start = 0 if isinstance(leaves[0], FromX) else middle
            stop = middle + self.outputs + self.bias if isinstance(leaves[-1], FromH) else middle
            rows: list[Tensor] = []
            for leaf in leaves:
                of = self.weights.of_x if isinstance(leaf, FromX) else self.weights.of_h
                assert not isinstance(leaf, Project), "only x and h are stacked"
                weight, bias = of(leaf.gate)
                rows += [weight.T] if bias is None else [weight.T, bias.unsqueeze(0)]
            self.stacked[leaves] = slice(start, stop), torch.cat(rows)
        return self.stacked[leaves]

    # one block after the other -------------------------------------------------------------

    def run(self) -> None:
        """Fill the record of this layer and direction, and measure the deviation."""
        if self._compiled():
            self.engine = "llvm"
            return
        shape = self.call.steps, self.call.batch
        self.x_norm, self.h_norm, self.off = (self._new(*shape) for _ in range(3))
        self.sizes = {expr: self._new(*shape) for expr in sized(self.cell)}
        starts = range(0, self.call.steps, self.span)
        with torch.autocast(self.call.x.device.type, enabled=False):
            for start in running_order(starts, self.reverse):
                self._open(start, min(start + self.span, self.call.steps))

    def _compiled(self) -> bool:
        """The same by a kernel, where there is one that pays."""
        h = self.store["h"]
        parts = not self.store.keys() <= self.cell.equations.keys()
        numbers = h[1:-1].numel() * len(self.cell.equations)
        if not (self.direct and numbers):
            return False
        kernel = engine.opening(self.cell, self.work, h.device, parts, numbers)
        measured = None if kernel is None else self._open_by(kernel, self.store)
        if measured is None:
            return False
        self.x_norm, self.h_norm, self.off = measured.x_norm, measured.h_norm, measured.off
        self.sizes = measured.sizes
        return True

    def _frame(self, store: Mapping[str, Tensor]) -> None:
        """Write the initial states other than h, which kernels read, before the first step."""
        for name in self.cell.states[1:]:
            store[name][0] = store[name][-1] = self.call.initial[name][self.at]

    def _open_by(self, kernel: ForwardKernel, store: Mapping[str, Tensor]) -> Measured | None:
        """Fill a record by a kernel, where that of h is filled already."""
        self._frame(store)
        x, lengths = self.inputs(0, self.call.steps), self.call.every_length
        return open_by_kernel(kernel, self.weights, store, lengths, self.reverse, x)

    def _open(self, start: int, stop: int) -> None:
        steps, batch = stop - start, self.call.batch
        rows = steps * batch
        features, outputs, bias = self.features, self.outputs, self.bias
        first = "factors" not in self.scratch
        self.factors = self._scratch("factors", rows, features + outputs + 2 * bias)
        if bias and first:
            # the ones of [x, 1, h, 1], which no block overwrites
            self.scratch["factors"][:, features].fill_(1)
            self.scratch["factors"][:, -1].fill_(1)
        cube = self.factors.view(steps, batch, -1)
        x, h_prev = cube[..., :features], cube[..., features + bias : features + bias + outputs]
        x.copy_(self.inputs(start, stop))
        h_prev.copy_(framed_before(self.store["h"], self.reverse)[start:stop])
        self.block: dict[Expr, Tensor] = {Previous("h"): h_prev.view(rows, outputs)}
        if self.cell.stepwise:
            self.block |= {Previous(name): value for name, value in self.carry.items()}
        self.parts: dict[Expr, Tensor] = {}
        norms(x, out=self.x_norm[start:stop])
        norms(h_prev, out=self.h_norm[start:stop])
        if Previous("h") in self.sizes:
            self._largest(h_prev, self.sizes[Previous("h")][start:stop])
        for name, equation in self.cell.equations.items():
            self._parts(equation, start, stop)
            if name in self.plan:
                self._scan(name, start, stop)
            elif name == "h":
                self._compare(equation, start, stop)
            else:
                out = self._target(name, start, stop)
                self.block[Quantity(name)] = self._equation(name, equation, out, start, stop)
                self._keep(name, out, start, stop)
                if name in self.carry:
                    inside = None if self.valid is None else self.valid[start]
                    self.carry[name] = keep_on_padding(out.clone(), self.carry[name], inside)

    def _largest(self, value: Tensor, out: Tensor) -> Tensor:
        """The largest |value| over the last dim."""
        scratch = self._scratch(f"abs {value.shape[-1]}", out.numel(), value.shape[-1])
        absolute = torch.abs(value, out=scratch.view(value.shape))
        return torch.amax(absolute, -1, out=out)

    def _place(self, name: str, start: int, stop: int) -> Tensor:
        """Where the block stands in the record; states have one place before the first step."""
        edge = int(name in self.cell.states)
        return self.store[name][start + edge : stop + edge]

    def _target(self, name: str, start: int, stop: int) -> Tensor:
        """Where a quantity of the block is computed: in the record itself where it can be."""
        units = self.buffers.size(name)
        if name in self.store and self.direct:
            return self._place(name, start, stop).view(-1, units)
        return self._scratch(name, (stop - start) * self.call.batch, units)

    def _keep(self, name: str, value: Tensor, start: int, stop: int) -> None:
        if name in self.store and not self.direct:
            place = self._place(name, start, stop)
            place.copy_(value.view(place.shape))

    def _parts(self, equation: Expr, start: int, stop: int) -> None:
        for leaf in leaves(equation):
            name = part_name(leaf)
            if name in self.store:
                assert isinstance(leaf, FromX | FromH), "only affine parts have such names"
                value = self._product(leaf, self._target(name, start, stop))
                self.parts[leaf] = value
                self._keep(name, value, start, stop)

    def _equation(self, name: str, equation: Expr, out: Tensor, start: int, stop: int) -> Tensor:
        pre = f"{name}_pre"
        if not isinstance(equation, Apply) or pre not in self.store:
            return evaluate(equation, self, out)
        argument = evaluate(equation.argument, self, self._target(pre, start, stop))
        self._keep(pre, argument, start, stop)
        return equation.function.forward_(out.copy_(argument))

    def _compare(self, equation: Expr, start: int, stop: int) -> None:
        """H by its equation against the layer's own h."""
        layer_h = self._place("h", start, stop).to(self.work)
        h = self._scratch("h by equation", layer_h.shape[0] * layer_h.shape[1], layer_h.shape[2])
        self._equation("h", equation, h, start, stop)
        self.block[Quantity("h")] = layer_h.reshape(h.shape)
        difference = h.view(layer_h.shape).sub_(layer_h).abs_()
        off = torch.amax(difference, -1, out=self.off[start:stop])
        if not torch.isfinite(off).all():
            # NaN and inf are data: the same on both sides is no difference
            h = self._equation("h", equation, h, start, stop).view(layer_h.shape)
            h = h.to(self.buffers.dtype).to(self.work)
            off.copy_(absolute_difference(h, layer_h).amax(-1))

    def _scan(self, name: str, start: int, stop: int) -> None:
        """name_t = factor × name_(t-1) + addend, step by step, elementwise."""
        factor, addend = self.plan[name]
        shape = (stop - start, self.call.batch, -1)
        out = self._target(name, start, stop)
        states = evaluate(addend, self, out).view(shape)
        growth = evaluate(factor, self).view(shape)
        before = self.carry[name]
        self._carry(name, states, growth, start, stop)
        self._keep(name, out, start, stop)
        self.block[Quantity(name)] = out
        state_sizes = self._largest(states, self.sizes[Quantity(name)][start:stop])
        if _never_negative(factor, self.cell):
            torch.amax(growth, -1, out=self.sizes[factor][start:stop])
        else:
            self._largest(growth, self.sizes[factor][start:stop])
        previous = self.sizes[Previous(name)][start:stop]
        previous.copy_(shifted(state_sizes, before.abs().amax(-1), self.reverse))

    def _carry(self, name: str, states: Tensor, growth: Tensor, start: int, stop: int) -> None:
        """The loop over time that remains; ``states`` holds the addends and becomes the states."""
        carried = self.carry[name]
        product = torch.empty_like(carried)
        rows: Any = (states, growth, carried, product)
        multiply: Callable[..., Any] = torch.mul
        add: Callable[..., Any] = torch.add
        if states.device.type == "cpu":
            # the same numbers, and a third of the overhead of a call
            rows, multiply, add = [t.numpy() for t in rows], np.multiply, np.add
        addend_steps, factors, before, scratch = rows
        # read from its end, a shorter sequence waits in its initial state until its own begins
        waiting = None
        if self.valid is not None and self.reverse:
            waiting = ~self.valid[start:stop].cpu().numpy()
            first = before.copy() if states.device.type == "cpu" else before.clone()
        pairs = zip(addend_steps, factors, strict=True)
        if self.reverse:
            pairs = zip(reversed(list(addend_steps)), reversed(list(factors)), strict=True)
        with np.errstate(all="ignore"):  # inf and NaN are data
            for t, (state, factor) in enumerate(pairs, 1):
                multiply(factor, before, out=scratch)
                add(state, scratch, out=state)
                if waiting is not None:
                    state[waiting[-t]] = first[waiting[-t]]
                before = state
        self.carry[name] = states[0 if self.reverse else -1].clone()

    # the proof -----------------------------------------------------------------------------

    def prove(
        self,
        final: Mapping[str, Tensor],
        by_cells: Mapping[str, Tensor],
        replayed: bool,
        judge: Callable[[], Judged],
    ) -> list[Proof]:
        """H at every step and the states at the end, against ``final`` (batch, unit); and
        ``by_cells``, the distances that ``step_by_step`` measured, if any.

        Where the usual bound is exceeded ``judge`` decides, which gives what rounding does at
        worst. ``replayed`` is as in ``judged``.
        """
        ends = {name: (self._ends(name), final[name].to(self.work)) for name in final}
        # h_n, by every kernel
        copied = self.off.device.type == "cpu" and not replayed and not self.foreign
        if copied and "h" in ends and torch.equal(*ends["h"]):
            del ends["h"]  # which says nothing that h at every step does not
        off_ends = {name: absolute_difference(*sides).amax(-1) for name, sides in ends.items()}

        def proofs(allowed: Mapping[str, Tensor]) -> list[Proof]:
            of_states = [self._proof("h", Compared.of(self.off, allowed["h"]))]
            for name, off in off_ends.items():
                limit = self._at_ends(allowed[name])
                if name == "h" and copied:
                    limit = torch.zeros_like(limit)
                of_states.append(self._proof(name, Compared.of(off, limit), at_ends=True))
            return of_states + [
                self._proof(name, Compared.of(off, allowed[name])) for name, off in by_cells.items()
            ]

        if self.cell.stepwise:
            if not replayed:
                judged = Independent(self._ran()).judge(self._initial())
                of_units = self._by_units(final, judged) + proofs(judged.widest)
                if all(proof.ratio <= 1 for proof in of_units):
                    return of_units
            judged = judge()
            worst = {name: 2 * widest.to(self.off) for name, widest in judged.widest.items()}
            return self._by_units(final, judged) + proofs(worst)
        errors = Errors(self.weights, self.rounding)
        usual = proofs(self._bounds(errors))
        if all(proof.ratio <= 1 for proof in usual):
            if replayed or not any(map(self._wide, usual)):
                return usual
            by_kernel = self._units_by_kernel(errors, final, proofs)
            of_units = [] if by_kernel is None else by_kernel
            if by_kernel is None:
                judged = Independent(self._ran()).judge(self._initial())
                of_units = self._by_units(final, judged) + proofs(judged.widest)
            if all(proof.ratio <= 1 for proof in of_units):
                sample = Sample(self._ran())
                return [replace(p, threshold=Threshold((sample, p.widest))) for p in of_units]
        judged = judge()
        return self._by_units(final, judged) + proofs(
            # both sides round
            {name: 2 * widest.to(self.off) for name, widest in judged.widest.items()}
        )

    def _bounds(self, errors: Errors) -> dict[str, Tensor]:
        """The usual bound on each state, (time, batch)."""
        limit = torch.finfo(torch.float32).max
        if self.engine == "torch" or self.cell.vectors or self.rounding.limit < limit:
            return errors.of_states(self.x_norm, self.h_norm, self.sizes, self.reverse)
        return bounds_by_kernel(errors, (self.x_norm, self.h_norm), self.sizes, self.reverse)

    def _units_by_kernel(
        self,
        errors: Errors,
        final: Mapping[str, Tensor],
        proofs: Callable[[Mapping[str, Tensor]], list[Proof]],
    ) -> list[Proof] | None:
        """With a bound for each unit, by a kernel; None where there is none, or it proves too
        little."""
        store = self._every_quantity()
        if store is None:
            return None
        norms = self.x_norm, self.h_norm
        lengths = self.call.every_length
        bounds = bounds_of_units(errors, norms, store, lengths, self.reverse)
        if bounds is None:
            return None
        sides = (bounds.off, bounds.allowed, bounds.ratio, bounds.widest["h"])
        compared = Compared(*(t.numpy() for t in sides))
        of_units = [self._proof("h", compared)]
        for name, error in bounds.errors.items():
            if name in final:
                ball = self._ends(name), error
                of_end = Compared.by_units(final[name].to(self.work), ball, self.off)
                of_units.append(self._proof(name, of_end, at_ends=True))
        of_units += proofs(bounds.widest)
        # where a function is saturated by far, the slopes of ``per_unit`` prove more
        proven = all(proof.ratio <= 1 and not proof.loose for proof in of_units)
        return of_units if proven else None

    def _every_quantity(self) -> Mapping[str, Tensor] | None:
        """The record of this layer, with what was not asked for computed once more by a kernel;
        None where none does that."""
        h, equations = self.store["h"], self.cell.equations
        numbers = h[1:-1].numel() * len(equations)
        lowered = self.rounding.limit < torch.finfo(torch.float32).max
        if lowered or not (self.direct and has_kernel(self.cell)):
            return None
        if all(name in self.store for name in equations):
            self._frame(self.store)
            return self.store
        if numbers > MOST_AGAIN:
            return None
        kernel = engine.opening(self.cell, self.work, h.device, False, numbers, for_units=True)
        if kernel is None:
            return None
        edges = {name: 2 * (name in self.cell.states) for name in equations}
        shapes = {name: (self.call.steps + edge, *h.shape[1:]) for name, edge in edges.items()}
        store = {name: fresh(shape, h, self.work) for name, shape in shapes.items() if name != "h"}
        store["h"] = h
        return None if self._open_by(kernel, store) is None else store

    def judged(self, x_error: Callable[[], Tensor] | None, replayed: bool) -> Judged:
        """What rounding does at worst; see ``WorstCase``. ``replayed``: the states are those of a
        run that rounded otherwise than the layer's own."""
        run = replace(self._ran(), x_error=None if x_error is None else x_error(), carried=replayed)
        return WorstCase(run).judge(self._initial())

    def _ran(self) -> LayerRun:
        """This layer in this direction, as it ran."""
        h = self.store["h"]
        return LayerRun(
            *(self.weights, self.rounding, self.call, self.reverse, self.inputs),
            framed_before(h, self.reverse),
            h[1:-1],
        )

    def _initial(self) -> dict[str, Tensor]:
        """The initial states, (batch, unit)."""
        return {name: value[self.at] for name, value in self.call.initial.items()}

    def _wide(self, proof: Proof) -> bool:
        """Whether a bound is so wide that one for each unit is worth its computing."""
        if not _finer.get():
            return False
        limit = WIDE * self.rounding.operation
        if proof.widest <= limit or proof.widest <= limit * self._least_size(proof.state):
            return False
        return limit < proof.widest / max(self._size(proof.state), 1.0) < math.inf

    def _by_units(self, final: Mapping[str, Tensor], judged: Judged) -> list[Proof]:
        """The layer's own numbers against those that were judged, unit by unit."""
        h = self.store["h"][1:-1].to(judged.h[0])
        proofs = [self._proof("h", Compared.by_units(h, judged.h, self.off))]
        for name, ball in judged.final.items():
            if name not in final:
                continue
            compared = Compared.by_units(final[name].to(ball[0]), ball, self.off)
            proofs.append(self._proof(name, compared, at_ends=True))
        return proofs

    def _ends(self, name: str) -> Tensor:
        """The state after each sequence's last step, (batch, unit)."""
        return self._at_ends(self.store[name][1:-1]).to(self.work)

    def _at_ends(self, values: Tensor) -> Tensor:
        """Of (time, batch, ...) each sequence's last step in this direction."""
        if self.call.lengths is None:
            return values[0 if self.reverse else -1]
        return values[at_steps(self.last_steps)]

    def step_by_step(self, adopted: Adopted, weights: Weights) -> dict[str, Tensor]:
        """How far every state at every step lies from torch's own cell, one step at a time.

        Each step gets the layer's own h of the step before, and the other states that the cell
        itself returned: nothing of it passes through the declared equations.
        """
        states = self.cell.states
        steps = range(self.call.steps)
        off = {name: torch.zeros_like(self.off) for name in states}
        dtype = weights.ih.dtype
        carried = {n: self.call.initial[n][self.at].to(dtype) for n in states}
        for t in running_order(steps, self.reverse):
            after = adopted.step(self.inputs(t, t + 1)[0].to(dtype), carried, weights)
            for name in states:
                layer_state = self.store[name][t + 1].to(self.work)
                off[name][t] = absolute_difference(after[name].to(self.work), layer_state).amax(-1)
            after["h"] = self.store["h"][t + 1].to(dtype)
            inside = None if self.valid is None else self.valid[t]
            carried = {n: keep_on_padding(after[n], carried[n], inside) for n in states}
        return off

    def _last_step(self, b: int) -> int:
        if self.call.lengths is None:
            return 0 if self.reverse else self.call.steps - 1
        return int(self.last_steps[b])

    @cached_property
    def last_steps(self) -> Tensor:
        """(batch): the last step of each sequence in this direction."""
        return last_steps(self.call.every_length, self.reverse)

    def _proof(self, state: str, compared: Compared, at_ends: bool = False) -> Proof:
        """The worst of a comparison, at every step or after each sequence's last step (batch)."""
        off, ratio = compared.off, compared.ratio
        widest, allowed = compared.widest, compared.allowed
        padding = None if self.valid is None or at_ends else ~self.valid.cpu().numpy()
        if padding is not None:
            off, ratio, widest = (np.where(padding, 0, t) for t in (off, ratio, widest))
        worst = int(ratio.argmax())
        most = float(np.maximum.reduce(widest, axis=None))
        if most <= USELESS * self._least_size(state):
            largest, loose = int(off.argmax()), 0
        else:
            useful = USELESS * self._size(state)
            tight = widest <= useful
            proven = tight if tight.any() else np.isfinite(widest)
            largest = int(np.where(proven, off, -1.0).argmax())
            loose = int((~tight & (off != 0)).sum())  # the same bits need no bound
        t, b = divmod(worst, self.call.batch)
        if at_ends:
            t = self._last_step(b)
        elif ratio.flat[worst] > 1:
            t, b = self._first(ratio > 1)
        at_largest = float(allowed.flat[largest])
        return Proof(
            float(off.flat[largest]),
            at_largest if math.isfinite(at_largest) else math.inf,
            float(ratio.flat[worst]),
            state,
            Place(self.at[0], self.direction, b, t),
            not at_ends,
            off.size - (0 if padding is None else int(padding.sum())),
            loose,
            most,
        )

    def _first(self, failed: Array) -> tuple[int, int]:
        """The first True of (time, batch), in the order in which the steps are computed."""
        steps = np.flatnonzero(failed.any(1))
        t = int(steps[-1] if self.reverse else steps[0])
        return t, int(failed[t].argmax())

    def _least_size(self, state: str) -> float:
        """The largest |value| of a state, or less where that is known without looking at all."""
        if state not in self.least:
            self.least[state] = self._size(state) if state != "h" else self._least_of_h()
        return self.least[state]

    def _least_of_h(self) -> float:
        if self.call.steps == 1:
            return self._size("h")
        # of the steps but the last, as the norm before the first is that of the initial state
        norm = self.h_norm[:-1] if self.reverse else self.h_norm[1:]
        least = float(norm.max()) / math.sqrt(self.outputs)
        return least if math.isfinite(least) else self._size("h")

    def _size(self, state: str) -> float:
        """The largest finite |value| of a state."""
        if state not in self.largest:
            values = self.store[state][1:-1]
            if self.direct and Quantity(state) in self.sizes:
                size = float(self.sizes[Quantity(state)].max())
            else:
                low, high = (float(t) for t in torch.aminmax(values))
                size = max(-low, high)
            if not math.isfinite(size):
                size = float(values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().max())
            self.largest[state] = size
        return self.largest[state]


def _never_negative(expr: Expr, cell: Cell) -> bool:
    """Whether this is a gate whose function has no negative value."""
    equation = cell.equations.get(expr.name) if isinstance(expr, Quantity) else None
    span = equation.function.range if isinstance(equation, Apply) else None
    return span is not None and span[0] >= 0


def _plain(leaves: tuple[Weighted, ...]) -> bool:
    """Whether these are what x says, what h says, or both in this order."""
    match leaves:
        case (FromX(),) | (FromH(_, Previous("h")),) | (FromX(), FromH(_, Previous("h"))):
            return True
        case _:
            return False
