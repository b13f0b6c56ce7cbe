"""How a state depends on earlier ones: Jacobians through time, their norms, and what a state that
is a sum over the past was written by, and when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rnnscope._edit.edit import scaled
from rnnscope._gradients.backward import Backward, Block, ByStep, Swept, adjoint_of, adjoints_of_x
from rnnscope._gradients.gradients import Differentiable, known
from rnnscope._layers.sequences import last_steps, ran_until, shifted, turned
from rnnscope._opening.buffers import working_type
from rnnscope._record.record import Index, Record
from rnnscope.cells import quantity_names
from rnnscope.cells.algebra import Expr, evaluate, linear_recurrence
from rnnscope.errors import AddressError

__all__ = ["Memory", "flow", "jacobian", "memory"]

Time = int | Literal["last"]


@dataclass(frozen=True)
class Ends:
    """From where to where: ``of`` a state at a layer, direction and step, ``to`` a quantity, x or
    an initial state of a layer and direction, of the sequences ``rows``."""

    of: str
    to: str
    layer: int
    d: int
    to_layer: int
    to_d: int
    rows: Tensor
    times: Tensor  # of each sequence


@contextmanager
def _plainly(trace: Differentiable) -> Iterator[None]:
    """Without graph, and in the precision of the numbers, whatever the caller has set."""
    device = trace.call.x.device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        yield


class Asked:
    """What a caller says of a place, checked."""

    def __init__(self, trace: Differentiable) -> None:
        self.trace = trace

    def one(self, axis: str, index: int | None) -> int:
        """A position on an axis; left out, the only one."""
        length = self.trace.sizes[axis]
        if index is None:
            if length != 1:
                raise AddressError(
                    f"{axis} is left out, and its length is {length}: write {axis}=0 to "
                    f"{axis}={length - 1}"
                )
            return 0
        found = self.trace.position(axis, index)
        if isinstance(found, slice):
            raise AddressError(f"{axis} must be one position here; got {index}")
        return found

    def direction(self, direction: str | None) -> int:
        """A direction; left out, the only one."""
        have = self.trace.directions
        if direction is None and len(have) == 1:
            return 0
        if direction not in have:
            given = "is left out" if direction is None else f"is {direction!r}"
            raise AddressError(f"direction {given}; there is {' and '.join(map(repr, have))}")
        return have.index(direction)

    def rows(self, batch: Index) -> tuple[Tensor, bool]:
        """Sequences, and whether one position drops the dim."""
        found = self.trace.position("batch", batch)
        every = torch.arange(self.trace.sizes["batch"], device=self.trace.lengths.device)
        rows = every[found].reshape(-1)
        if not len(rows):
            raise AddressError(f"batch={batch} selects no sequence of {len(every)}")
        return rows, isinstance(found, int)

    def times(self, time: Time, d: int, rows: Tensor) -> Tensor:
        """The step of each sequence."""
        lengths = self.trace.lengths[rows]
        if isinstance(time, str):
            if time != "last":
                raise AddressError(f'time must be a whole number or "last"; got {time!r}')
            return last_steps(lengths, self.trace.directions[d] == "reverse")
        at = self.one("time", time)
        short = (lengths <= at).nonzero()
        if len(short):
            row = int(rows[short[0, 0]])
            raise AddressError(
                f"time={at} of batch {row} is padding: that sequence has length "
                f"{int(self.trace.lengths[row])}"
            )
        return torch.full_like(lengths, at)

    def state(self, of: str) -> str:
        """A state of the cell."""
        states = self.trace.cell.states
        if of not in states:
            raise AddressError(
                f"a Jacobian is of a state, which is carried over time: {' or '.join(states)}; "
                f"got {of!r}"
            )
        return of

    def target(self, to: str) -> str:
        """A quantity, x or an initial state."""
        cell = self.trace.cell
        known_ = (*quantity_names(cell), "x", *(f"{state}_0" for state in cell.states))
        if to not in known_:
            raise AddressError(f"no quantity {to!r}; there are {', '.join(known_)}")
        return to


class _Seeds:
    """The identity at each sequence's own step, by blocks: (time, seed, batch, unit)."""

    def __init__(self, times: Tensor, units: int, like: Tensor) -> None:
        self.times, self.units, self.like = times, units, like

    def __getitem__(self, steps: slice, /) -> Tensor:
        shape = (steps.stop - steps.start, self.units, len(self.times), self.units)
        found = self.like.new_zeros(shape)
        inside = (self.times >= steps.start) & (self.times < steps.stop)
        rows = inside.nonzero()[:, 0]
        own = torch.eye(self.units, dtype=found.dtype, device=found.device)
        found[self.times[rows] - steps.start, :, rows] = own
        return found


def _sweep(trace: Differentiable, ends: Ends) -> Iterator[tuple[int, int, Tensor]]:
    """∂of/∂to, block by block of the steps of ``to``: (start, stop, (steps, seed, batch, unit)).

    An initial state comes as one block of one step.
    """
    structure, dtype = trace.structure, working_type(trace.call.x.dtype)
    units = structure.state_size(ends.of)
    like = torch.empty(0, dtype=dtype, device=trace.call.x.device)
    # steps behind those of ``of`` know nothing of it
    reverse = trace.directions[ends.d] == "reverse"
    first = int(ends.times.min()) if reverse else 0
    last = trace.call.steps if reverse else int(ends.times.max()) + 1
    reached: Tensor | None = None
    for layer in range(ends.layer, ends.to_layer - 1, -1):
        arrived = layer == ends.to_layer
        own_last, own_first = (last, first) if layer == ends.layer else (trace.call.steps, 0)
        below: Tensor | None = None
        for d, direction in enumerate(trace.directions):
            if layer == ends.layer and d != ends.d:
                continue
            if arrived and ends.to != "x" and d != ends.to_d:
                continue
            own = known(trace, layer, d).part(own_first, own_last, ends.rows)
            direct: dict[str, ByStep]
            if reached is None:
                direct = {ends.of: _Seeds(ends.times - own_first, units, like)}
            else:
                size = structure.output_size
                direct = {"h": reached[..., d * size : (d + 1) * size]}
            valid = trace.call.valid
            if valid is not None:
                valid = valid[own_first:own_last, ends.rows]
            backward = Backward(own, direct, direction == "reverse", valid, (units,))
            needs_x = not arrived or ends.to == "x"
            if needs_x and below is None:
                shape = (trace.call.steps, units, len(ends.rows), own.x.shape[-1])
                below = like.new_zeros(shape)
            for start, stop, swept in backward.blocks():
                at = slice(own_first + start, own_first + stop)
                if needs_x:
                    assert below is not None, "it was made above"
                    below[at] += adjoints_of_x(swept, own.weights) @ own.weights.ih
                elif ends.to in quantity_names(trace.cell):
                    yield at.start, at.stop, _of(swept, ends.to, structure.state_size(ends.to))
            if arrived and ends.to not in ("x", *quantity_names(trace.cell)):
                yield 0, 1, backward.carry[ends.to.removesuffix("_0")].unsqueeze(0)
        if below is not None:
            mask = trace.masks[layer]
            if arrived:
                yield 0, trace.call.steps, below
            elif mask is not None:
                scale = scaled(mask, structure.dropout, dtype).transpose(0, 1)[:, ends.rows]
                below = below * scale.unsqueeze(1)
            reached = below


def _of(swept: Swept, name: str, units: int) -> Tensor:
    return swept.combined(adjoint_of(swept.block, name), units)


def jacobian(
    trace: Differentiable,
    of: str,
    to: str,
    *,
    layer: int | None,
    direction: str | None,
    batch: Index,
    time: Time,
    to_layer: int | None,
    to_direction: str | None,
    to_time: Index,
) -> Tensor:
    """See ``Trace.jacobian``."""
    asked = Asked(trace)
    ends, one_row = _ends(asked, of, to, layer, direction, batch, time, to_layer, to_direction)
    initial = to not in ("x", *quantity_names(trace.cell))
    if initial and to_time is not None:
        raise AddressError(f"{to} is the state before the first step: it has no time")
    steps = 1 if initial else trace.call.steps
    chosen = slice(None) if initial else trace.position("time", to_time)
    kept = torch.arange(steps, device=ends.rows.device)[chosen].reshape(-1)
    with _plainly(trace):
        found: Tensor | None = None
        for start, stop, block in _sweep(trace, ends):
            if found is None:
                shape = (len(ends.rows), len(kept), block.shape[1], block.shape[-1])
                found = block.new_zeros(shape)
            mine = (kept >= start) & (kept < stop)
            found[:, mine] = block[kept[mine] - start].permute(2, 0, 1, 3)
        assert found is not None, "there is a step"
    if initial or isinstance(chosen, int):
        found = found[:, 0]
    return found[0] if one_row else found


def _ends(
    asked: Asked,
    of: str,
    to: str,
    layer: int | None,
    direction: str | None,
    batch: Index,
    time: Time,
    to_layer: int | None,
    to_direction: str | None,
) -> tuple[Ends, bool]:
    own_layer, d = asked.one("layer", layer), asked.direction(direction)
    rows, one_row = asked.rows(batch)
    target = asked.target(to)
    low = own_layer if to_layer is None else asked.one("layer", to_layer)
    if low > own_layer:
        raise AddressError(
            f"layer {own_layer} does not depend on layer {low}, which is above it: to_layer is at "
            f"most {own_layer}"
        )
    to_d = d
    if low < own_layer:
        to_d = 0 if target == "x" else asked.direction(to_direction)
    elif to_direction is not None and asked.direction(to_direction) != d:
        raise AddressError(
            f"in one layer the directions do not depend on each other: to_direction is "
            f"{asked.trace.directions[d]!r}, or left out"
        )
    times = asked.times(time, d, rows)
    return Ends(asked.state(of), target, own_layer, d, low, to_d, rows, times), one_row


def flow(
    trace: Differentiable,
    of: str,
    to: str,
    *,
    layer: int | None,
    direction: str | None,
    batch: Index,
    time: Time | None,
    norm: float | str,
) -> Tensor:
    """See ``Trace.flow``."""
    asked = Asked(trace)
    if asked.target(to) not in ("x", *quantity_names(trace.cell)):
        raise AddressError(f"flow is to a quantity of the steps; got {to!r}, which has no time")
    rows, one_row = asked.rows(batch)
    d = asked.direction(direction)
    with _plainly(trace):
        if time is not None:
            ends, _ = _ends(asked, of, to, layer, direction, batch, time, None, None)
            found = _norms(trace, ends, norm)
        else:
            own_layer, steps = asked.one("layer", layer), trace.call.steps
            dtype = working_type(trace.call.x.dtype)
            found = torch.zeros(len(rows), steps, steps, dtype=dtype, device=rows.device)
            for at in range(steps):
                long = (trace.lengths[rows] > at).nonzero()[:, 0]
                times = torch.full_like(rows[long], at)
                ends = Ends(asked.state(of), to, own_layer, d, own_layer, d, rows[long], times)
                found[long, at] = _norms(trace, ends, norm)
    return found[0] if one_row else found


def _norms(trace: Differentiable, ends: Ends, norm: float | str) -> Tensor:
    """(batch, time): the norm of each matrix."""
    dtype = working_type(trace.call.x.dtype)
    found = torch.zeros(len(ends.rows), trace.call.steps, dtype=dtype, device=ends.rows.device)
    for start, stop, block in _sweep(trace, ends):
        matrices = block.permute(2, 0, 1, 3)
        # a sequence that holds NaN has no singular values, and must not take the others with it
        lost = ~matrices.isfinite().flatten(-2).all(-1)
        whole = matrices.masked_fill(lost[..., None, None], 0)
        norms = torch.linalg.matrix_norm(whole, ord=norm)
        found[:, start:stop] = norms.masked_fill(lost, torch.nan)
    return found


# a state that is a sum over the past -----------------------------------------------------------


class Memory(Record):
    """What a state holds of each step: c_T = Σ_t (Π_(s>t) f_s) i_t g_t + (Π f) c_0, exactly.

    A record: ``added`` is what each step adds (i × g), ``kept`` the share of it that is left at the
    end (the product of the forget gates behind it), ``written`` their product, all with dims
    (layer, direction, batch, time, unit). ``initial`` (layer, direction, batch, unit) is what is
    left of the initial state; ``state`` names the state. ``written`` summed over time and
    ``initial`` are the state.
    """

    def __init__(
        self, trace: Differentiable, state: str, parts: dict[str, Tensor], initial: Tensor
    ) -> None:
        inputs = tuple(trace.layer_input(k) for k in range(trace.structure.num_layers))
        projected = trace.structure.output_size != trace.structure.hidden_size
        names = dict.fromkeys(parts, "projected") if projected and state == "h" else {}
        super().__init__(parts, inputs, trace.lengths, trace.directions, names)
        self.state, self.initial = state, initial


def memory(trace: Differentiable, state: str | None, time: Time) -> Memory:
    """See ``Trace.memory``."""
    cell, asked = trace.cell, Asked(trace)
    splits = {
        name: split
        for name in cell.states
        if (split := linear_recurrence(cell.equations[name], name)) is not None
    }
    if state is not None:
        asked.state(state)
    name = next(iter(splits), None) if state is None else state
    if name is None or name not in splits:
        have = f"; {' and '.join(splits)} is" if splits else ""
        raise AddressError(
            f"{name or 'no state'} of {cell.name} is no sum over the past (factor × the state "
            f"before + what is added){have}: ask tr.flow() how it depends on earlier steps"
        )
    structure, dtype = trace.structure, working_type(trace.call.x.dtype)
    shape = (
        *(structure.num_layers, len(trace.directions)),
        *(trace.call.steps, trace.call.batch, structure.state_size(name)),
    )
    rows = torch.arange(trace.call.batch, device=trace.lengths.device)
    with _plainly(trace):
        added, kept, written = (trace.call.x.new_empty(shape, dtype=dtype) for _ in range(3))
        initial = trace.call.x.new_empty((*shape[:2], *shape[3:]), dtype=dtype)
        for layer in range(shape[0]):
            for d, direction in enumerate(trace.directions):
                own = known(trace, layer, d)
                ends, reverse = asked.times(time, d, rows), direction == "reverse"
                parts = _products(
                    own.block(0, trace.call.steps),
                    splits[name],
                    ran_until(ends, trace.lengths, trace.call.steps, reverse).unsqueeze(-1),
                    reverse,
                )
                added[layer, d], kept[layer, d], whole = parts
                torch.mul(added[layer, d], kept[layer, d], out=written[layer, d])
                initial[layer, d] = whole * trace.call.initial[name][layer, d]
    values = {"written": written, "added": added, "kept": kept}
    return Memory(trace, name, {n: v.transpose(2, 3) for n, v in values.items()}, initial)


def _products(
    block: Block, split: tuple[Expr, Expr], inside: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What is added (time, batch, unit), the product of the factors behind it, and of all.

    Products that underflow are 0, as what they stand for: nothing is divided by them.
    """
    units = block.weights.hidden_size
    shape = (*inside.shape[:2], units)
    factor, added = (evaluate(e, block).to(block.x.dtype).expand(shape) for e in split)
    factor, added = torch.where(inside, factor, 1.0), torch.where(inside, added, 0.0)
    products = turned(factor, not reverse).cumprod(0)
    kept = turned(shifted(products, torch.ones_like(products[0]), False), not reverse)
    return added, torch.where(inside, kept, 0.0), products[-1]
