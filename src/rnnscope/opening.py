"""Opening: from a layer's own outputs to every number inside, without re-running the recurrence.

The outputs are the hidden states, so at every step the state before is known, and all gates of
all steps come from matrix products over many steps at once. What is left is elementwise; only a
cell state is a scan over time. The work goes in blocks of time that stay in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnnscope.adopt import Adopted, Call, Returned, Weights
from rnnscope.bounds import Errors, Rounding
from rnnscope.cells import Cell, part_name
from rnnscope.expr import (
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
    linear_recurrence,
)
from rnnscope.record import Place

__all__ = ["Opened", "Proof", "open_call", "quantity_names"]

BLOCK_BYTES = 1 << 18
"""Size of one quantity in a block of time: several of them stay in a core's own cache."""


@dataclass(frozen=True)
class Proof:
    """How far the equations lie from the layer's own numbers, at the worst place.

    ``deviation`` is the largest difference, ``tolerance`` what rounding allows where it stands;
    ``ratio`` is the largest deviation / tolerance anywhere, at ``place``; ``size`` is the largest
    |value| of the state. ``every_step`` tells whether all steps were compared, or the last alone.
    """

    deviation: float
    tolerance: float
    ratio: float
    state: str
    place: Place
    size: float
    every_step: bool


@dataclass(frozen=True)
class Opened:
    """The numbers inside one call. ``values`` maps names to tensors (layer, direction, batch,
    time, unit), ``inputs`` holds each layer's input (batch, time, feature), or None where that is
    the states of the layer below, joined over directions."""

    values: dict[str, Tensor]
    inputs: tuple[Tensor | None, ...]
    proofs: dict[str, Proof]


def quantity_names(cell: Cell) -> tuple[str, ...]:
    """All that can be recorded of a cell: parts and quantities, in the order of the equations."""
    names: list[str] = []
    for name, equation in cell.equations.items():
        names += [p for leaf in leaves(equation) if (p := part_name(leaf)) and p not in names]
        if isinstance(equation, Apply):
            names.append(f"{name}_pre")
        names.append(name)
    return tuple(names)


def open_call(
    adopted: Adopted,
    call: Call,
    returned: Returned,
    weights: tuple[tuple[Weights, ...], ...],
    record: frozenset[str],
    products: torch.dtype,
    random_state: Tensor | None,
    thorough: bool = False,
) -> Opened:
    """Every recorded quantity of a call, with the proof against what the layer returned.

    ``products`` is the type in which the layer formed its products (autocast may lower it);
    ``random_state`` the state from which it drew its dropout masks, or None where it drew none.
    Nothing raises here when the proof fails: the caller decides.
    """
    buffers = Buffers(adopted, call, returned.h.dtype, record)
    rounding = Rounding.of(returned.h.dtype, call.x.device, products)
    proofs: list[Proof] = []
    inputs: list[Tensor | None] = [call.x]
    flow = call.x if call.packed is None else call.packed.data
    for layer, layer_weights in enumerate(weights):
        initial = {name: value[layer] for name, value in call.initial.items()}
        if layer == adopted.num_layers - 1:
            hidden = returned.h
        else:
            flow = adopted.rerun(flow, call.packed, initial, layer_weights)
            hidden = flow if call.packed is None else _padded(flow, call.packed)
        buffers.take(layer, hidden, initial)
        del hidden
        below = _blocks(inputs[layer]) or buffers.input_of(layer)
        for d, one in enumerate(layer_weights):
            opener = _Opener(adopted, call, one, buffers, layer, d, rounding, below)
            opener.run()
            proofs += opener.proofs({n: value[layer, d] for n, value in returned.final.items()})
            if thorough:
                proofs += opener.step_by_step(adopted, one)
        if layer < adopted.num_layers - 1:
            if random_state is not None:
                flow, random_state = _dropped(flow, adopted.dropout, random_state)
                inputs.append(flow if call.packed is None else _padded(flow, call.packed))
            else:
                inputs.append(None)
    kept = tuple(None if x is None else x.transpose(0, 1) for x in inputs)
    return Opened(buffers.finished(), kept, _worst(proofs))


def _blocks(x: Tensor | None) -> Callable[[int, int], Tensor] | None:
    return None if x is None else lambda start, stop: x[start:stop]


def _padded(data: Tensor, packed: PackedSequence) -> Tensor:
    return pad_packed_sequence(PackedSequence(data, *packed[1:]))[0]


def _dropped(flow: Tensor, p: float, state: Tensor) -> tuple[Tensor, Tensor]:
    """``flow`` under the mask that the layer drew in ``state``, and the state after it."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        dropped = torch.dropout(flow, p, True)
        return dropped, torch.get_rng_state()


def _worst(proofs: list[Proof]) -> dict[str, Proof]:
    found: dict[str, Proof] = {}
    for state in dict.fromkeys(p.state for p in proofs):
        mine = [p for p in proofs if p.state == state]
        largest = max(mine, key=lambda p: p.deviation)
        closest = max(mine, key=lambda p: p.ratio)
        found[state] = Proof(
            largest.deviation,
            largest.tolerance,
            closest.ratio,
            state,
            closest.place,
            max(p.size for p in mine),
            any(p.every_step for p in mine),
        )
    return found


def working_type(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: at least float32, so that opening adds no error of its own."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _empty(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    # a large fresh tensor costs more in page faults than in arithmetic; NumPy asks the system
    # for huge pages, torch does not
    if like.device.type == "cpu" and dtype in (torch.float32, torch.float64):
        numpy_type = np.float32 if dtype == torch.float32 else np.float64
        return torch.from_numpy(np.empty(shape, dtype=numpy_type))
    return torch.empty(shape, dtype=dtype, device=like.device)


class Buffers:
    """The memory of a record: one tensor a quantity, time first, for all layers and directions.

    States have a place before the first step and one after the last, where the initial state of
    the forward and the reverse direction stands: so the states before all steps are a view.
    """

    def __init__(
        self, adopted: Adopted, call: Call, dtype: torch.dtype, record: frozenset[str]
    ) -> None:
        self.cell = adopted.cell
        self.call = call
        self.dtype = dtype
        self.record = record
        self.output_size, self.hidden_size = adopted.output_size, adopted.hidden_size
        lead = (adopted.num_layers, len(adopted.directions))
        self.lead = lead
        kept = record.union(self.cell.states)
        self.values = {
            name: _empty(
                (*lead, call.steps + 2 * (name in self.cell.states), call.batch, self.size(name)),
                call.x,
                dtype,
            )
            for name in quantity_names(self.cell)
            if name in kept
        }

    def size(self, name: str) -> int:
        """Units of a quantity."""
        return self.output_size if name == "h" else self.hidden_size

    def take(self, layer: int, hidden: Tensor, initial: Mapping[str, Tensor]) -> None:
        """Copy a layer's hidden states (time, batch, direction × output), and what precedes."""
        h = self.values["h"][layer]
        for d in range(self.lead[1]):
            part = hidden[..., d * self.output_size : (d + 1) * self.output_size]
            h[d, 1:-1].copy_(part)
            h[d, 0].copy_(initial["h"][d])
            h[d, -1].copy_(initial["h"][d])
            if d == 1 and self.call.lengths is not None:
                # the reverse direction starts behind each sequence's own end
                padding = ~self.valid
                h[d, 1:-1][padding] = initial["h"][d].expand_as(part)[padding].to(self.dtype)

    @property
    def valid(self) -> Tensor:
        """(time, batch), False on padding."""
        assert self.call.lengths is not None
        valid = self.call.valid
        assert valid is not None
        return valid

    def input_of(self, layer: int) -> Callable[[int, int], Tensor]:
        """The input of a layer above the first, block by block: the states of the layer below."""
        h = self.values["h"][layer - 1]

        def block(start: int, stop: int) -> Tensor:
            parts = [h[d, start + 1 : stop + 1] for d in range(self.lead[1])]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

        return block

    def finished(self) -> dict[str, Tensor]:
        """The record: (layer, direction, batch, time, unit), zeros on padding."""
        padding = None if self.call.lengths is None else ~self.valid
        found: dict[str, Tensor] = {}
        for name, value in self.values.items():
            inner = value[:, :, 1:-1] if name in self.cell.states else value
            if padding is not None:
                inner.masked_fill_(padding[None, None, :, :, None], 0)
            found[name] = inner.transpose(2, 3)
        return found


class _Opener:
    """Opens one layer in one direction, a block of time after the other."""

    def __init__(
        self,
        adopted: Adopted,
        call: Call,
        weights: Weights,
        buffers: Buffers,
        layer: int,
        d: int,
        rounding: Rounding,
        inputs: Callable[[int, int], Tensor],
    ) -> None:
        self.cell, self.call = adopted.cell, call
        self.directions = adopted.directions
        self.layer, self.d, self.reverse = layer, d, d == 1
        self.rounding = rounding
        self.inputs = inputs
        self.work = working_type(buffers.dtype)
        self.weights = weights.map(lambda t: t.to(self.work))
        self.direct = self.work == buffers.dtype
        self.store = {name: value[layer, d] for name, value in buffers.values.items()}
        self.buffers = buffers
        steps, batch, units = call.steps, call.batch, adopted.hidden_size
        element = torch.finfo(self.work).bits // 8
        self.span = max(1, min(steps, BLOCK_BYTES // (batch * units * element)))
        # what the error bounds need: norms and largest values, (time, batch)
        like = call.x.new_empty(0, dtype=self.work)
        self.x_norm, self.h_norm, self.off = (like.new_empty(steps, batch) for _ in range(3))
        self.plan = {
            name: split
            for name in self.cell.states[1:]
            if (split := linear_recurrence(self.cell.equations[name], name)) is not None
        }
        needed = [Quantity(n) for n in self.plan] + [Previous(n) for n in self.plan]
        needed += [factor for factor, _ in self.plan.values()]
        self.sizes: dict[Expr, Tensor] = {e: like.new_empty(steps, batch) for e in needed}
        self.sizes[Previous("h")] = like.new_empty(steps, batch)
        self.scratch: dict[str, Tensor] = {}
        self.carry = {
            n: call.initial[n][layer, d].to(self.work) for n in self.cell.states if n in self.plan
        }
        self.start = {n: value.clone() for n, value in self.carry.items()}
        self.valid = None if call.lengths is None else buffers.valid

    # the environment of ``evaluate``, for the block that is open -----------------------------

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        """(rows, units): the block's steps and sequences in one dim."""
        return self.block[leaf]

    def product(self, leaf: Weighted, out: Tensor | None) -> Tensor:
        """A matrix product over all steps of the block."""
        part = self.parts.get(leaf)
        if part is not None:
            return part if out is None else out.copy_(part)
        factor, weight, bias = self._factors(leaf)
        shape = (factor.shape[0], weight.shape[0])
        target = factor.new_empty(shape) if out is None else out
        if bias is None:
            return torch.mm(factor, weight.T, out=target)
        return torch.addmm(bias, factor, weight.T, out=target)

    def add_product(self, total: Tensor, leaf: Weighted) -> Tensor:
        """The same, added to what stands in ``total``."""
        part = self.parts.get(leaf)
        if part is not None:
            return total.add_(part)
        factor, weight, bias = self._factors(leaf)
        total.addmm_(factor, weight.T)
        return total if bias is None else total.add_(bias)

    def _factors(self, leaf: Weighted) -> tuple[Tensor, Tensor, Tensor | None]:
        match leaf:
            case FromX(gate):
                return self.x, *self.weights.of_x(gate)
            case FromH(gate, of):
                return evaluate(of, self), *self.weights.of_h(gate)
            case Project(of):
                return evaluate(of, self), self.weights.projection, None

    # one block after the other -------------------------------------------------------------

    def run(self) -> None:
        """Fill the record of this layer and direction, and measure the deviation."""
        starts = range(0, self.call.steps, self.span)
        with torch.autocast(self.call.x.device.type, enabled=False):
            for start in reversed(starts) if self.reverse else starts:
                self._open(start, min(start + self.span, self.call.steps))

    def _open(self, start: int, stop: int) -> None:
        steps = stop - start
        rows = steps * self.call.batch
        x = self.inputs(start, stop).to(self.work)
        self.x = x.reshape(rows, -1)
        before = slice(start + 2, stop + 2) if self.reverse else slice(start, stop)
        h = self.store["h"]
        h_prev = h[before].to(self.work).view(rows, -1)
        self.block: dict[Expr, Tensor] = {Previous("h"): h_prev}
        self.parts: dict[Expr, Tensor] = {}
        torch.linalg.vector_norm(x, dim=-1, out=self.x_norm[start:stop])
        each = h_prev.view(steps, self.call.batch, -1)
        torch.linalg.vector_norm(each, dim=-1, out=self.h_norm[start:stop])
        torch.linalg.vector_norm(each, torch.inf, -1, out=self.sizes[Previous("h")][start:stop])
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

    def _target(self, name: str, start: int, stop: int) -> Tensor:
        """Where a quantity of the block is computed: in the record itself where it can be."""
        if name in self.store and self.direct:
            edge = int(name in self.cell.states)
            return self.store[name][start + edge : stop + edge].view(-1, self.buffers.size(name))
        rows, units = (stop - start) * self.call.batch, self.buffers.size(name)
        if name not in self.scratch:
            shape = (self.span * self.call.batch, units)
            self.scratch[name] = self.call.x.new_empty(shape, dtype=self.work)
        return self.scratch[name][:rows]

    def _keep(self, name: str, value: Tensor, start: int, stop: int) -> None:
        if name in self.store and not self.direct:
            edge = int(name in self.cell.states)
            place = self.store[name][start + edge : stop + edge]
            place.copy_(value.view(place.shape))

    def _parts(self, equation: Expr, start: int, stop: int) -> None:
        for leaf in leaves(equation):
            name = part_name(leaf)
            if name in self.store:
                assert isinstance(leaf, FromX | FromH)
                value = self.product(leaf, self._target(name, start, stop))
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
        own = self.store["h"][start + 1 : stop + 1].to(self.work)
        rows = own.shape[0] * own.shape[1]
        if "equation" not in self.scratch:
            shape = (self.span * self.call.batch, own.shape[-1])
            self.scratch["equation"] = own.new_empty(shape)
        found = self._equation("h", equation, self.scratch["equation"][:rows], start, stop)
        self.block[Quantity("h")] = own.reshape(rows, -1)
        off = self.off[start:stop]
        torch.linalg.vector_norm(found.view(own.shape).sub_(own), torch.inf, -1, out=off)
        if not torch.isfinite(off).all():
            # NaN and inf are data: the same on both sides is no difference
            found = self._equation("h", equation, found, start, stop).view(own.shape)
            off.copy_(_difference(found, own).amax(-1))

    def _scan(self, name: str, start: int, stop: int) -> None:
        """name_t = factor × name_(t-1) + addend, step by step, elementwise."""
        factor, addend = self.plan[name]
        steps, batch = stop - start, self.call.batch
        out = self._target(name, start, stop)
        evaluate(addend, self, out)
        grow = evaluate(factor, self).view(steps, batch, -1)
        states = list(out.view(steps, batch, -1).unbind(0))
        factors = list(grow.unbind(0))
        carried = self.carry[name]
        before = carried
        if self.reverse:
            states.reverse()
            factors.reverse()
        if self.reverse and self.valid is not None:
            valid = list(self.valid[start:stop, :, None].flip(0).unbind(0))
            for state, f, inside in zip(states, factors, valid, strict=True):
                state.addcmul_(f, carried)
                carried = state.copy_(torch.where(inside, state, self.start[name]))
        else:
            for state, f in zip(states, factors, strict=True):
                carried = state.addcmul_(f, carried)
        self.carry[name] = carried.clone()
        self._keep(name, out, start, stop)
        self.block[Quantity(name)] = out
        each = out.view(steps, batch, -1)
        norm = torch.linalg.vector_norm
        own = norm(each, torch.inf, -1, out=self.sizes[Quantity(name)][start:stop])
        norm(grow, torch.inf, -1, out=self.sizes[factor][start:stop])
        first = norm(before, torch.inf, -1)
        previous = self.sizes[Previous(name)][start:stop]
        if self.reverse:
            previous[-1], previous[:-1] = first, own[1:]
        else:
            previous[0], previous[1:] = first, own[:-1]

    # the proof -----------------------------------------------------------------------------

    def proofs(self, final: Mapping[str, Tensor]) -> list[Proof]:
        """H at every step and the other states at the end, against ``final`` (batch, unit)."""
        self.allowed = allowed = self._allowed()
        off = self.off if self.valid is None else self.off.masked_fill(~self.valid, 0)
        # the states that a layer below was re-run to may differ from its own in their last bits
        # (never on a CPU), and a difference may grow from step to step
        handed_on = self.call.steps * allowed["h"]
        found = [self._proof("h", off, allowed["h"], every_step=True)]
        found.append(self._proof("h", self._at_end("h", final["h"]), handed_on))
        for name in self.cell.states[1:]:
            found.append(self._proof(name, self._at_end(name, final[name]), allowed[name]))
        return found

    def step_by_step(self, adopted: Adopted, weights: Weights) -> list[Proof]:
        """Every state at every step against torch's own cell, one step at a time.

        Each step gets the layer's own h of the step before, and the other states that the cell
        itself returned: nothing of it passes through the declared equations.
        """
        states = self.cell.states
        steps = self.call.steps
        off = {name: torch.zeros_like(self.off) for name in states}
        dtype = weights.ih.dtype
        start = {n: self.call.initial[n][self.layer, self.d].to(dtype) for n in states}
        carried = dict(start)
        for t in reversed(range(steps)) if self.reverse else range(steps):
            found = adopted.step(self.inputs(t, t + 1)[0].to(dtype), carried, weights)
            for name in states:
                own = self.store[name][t + 1].to(self.work)
                off[name][t] = _difference(found[name].to(self.work), own).amax(-1)
            found["h"] = self.store["h"][t + 1].to(dtype)
            if self.valid is None:
                carried = found
            else:
                inside = self.valid[t, :, None]
                carried = {n: torch.where(inside, found[n], carried[n]) for n in states}
        if self.valid is not None:
            off = {name: value.masked_fill(~self.valid, 0) for name, value in off.items()}
        return [self._proof(n, off[n], self.allowed[n], every_step=True) for n in states]

    def _allowed(self) -> dict[str, Tensor]:
        """What rounding allows in each quantity, (time, batch)."""
        errors = Errors(
            self.weights, self.rounding, self.x_norm, self.h_norm, self.sizes, self.reverse
        )
        allowed: dict[str, Tensor] = {}
        for name, equation in self.cell.equations.items():
            if name in self.plan:
                allowed[name] = errors.scan(name, *self.plan[name])
            else:
                error = torch.as_tensor(errors.add(name, equation))
                allowed[name] = error.expand(self.off.shape)
        return allowed

    def _last(self) -> Tensor:
        """(batch): the last step of each sequence in this direction."""
        batch, steps = self.call.batch, self.call.steps
        device = self.off.device
        if self.reverse:
            return torch.zeros(batch, dtype=torch.long, device=device)
        if self.call.lengths is None:
            return torch.full((batch,), steps - 1, device=device)
        return self.call.lengths - 1

    def _at_end(self, name: str, final: Tensor) -> Tensor:
        """(time, batch): the deviation of a state at each sequence's last step, 0 before."""
        steps, rows = self._last(), torch.arange(self.call.batch, device=final.device)
        found = self.store[name][1:-1][steps, rows].to(self.work)
        off = torch.zeros_like(self.off)
        off[steps, rows] = _difference(found, final.to(self.work)).amax(-1)
        return off

    def _proof(self, state: str, off: Tensor, allowed: Tensor, every_step: bool = False) -> Proof:
        # a bound that overflowed allows anything
        ratio = torch.where(off == 0, 0.0, off / allowed.nan_to_num(nan=torch.inf))
        ratio = ratio.nan_to_num(nan=0.0)
        t, b = divmod(int(ratio.argmax()), off.shape[1])
        largest = int(off.argmax())
        place = Place(self.layer, self.directions[self.d], b, t, None)
        return Proof(
            float(off.reshape(-1)[largest]),
            float(allowed.reshape(-1)[largest]),
            float(ratio[t, b]),
            state,
            place,
            float(self.store[state].abs().nan_to_num(nan=0.0, posinf=0.0).max()),
            every_step,
        )


def _difference(found: Tensor, own: Tensor) -> Tensor:
    """|found - own|, 0 where both are NaN or the same infinity, inf where one only is NaN."""
    same = (found == own) | (found.isnan() & own.isnan())
    return torch.where(same, 0.0, (found - own).abs()).nan_to_num(nan=torch.inf)
