"""Sequences of unequal length in one padded array: the one home of lengths and directions.

Arrays are (time, batch, ...), ``lengths`` (batch). A sequence fills the first steps of its column;
what is behind them is padding. The forward direction runs from time 0 to the sequence's own end,
``reverse`` from that end to time 0, so padding is behind a forward run and before a reverse one.

>>> valid_steps(torch.tensor([3, 1]), 3).int()
tensor([[1, 1],
        [1, 0],
        [1, 0]], dtype=torch.int32)
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

__all__ = [
    "at_steps",
    "caller_order",
    "first_steps",
    "frame_states",
    "framed_before",
    "keep_on_padding",
    "last_steps",
    "pack",
    "packed_order",
    "padded",
    "ran_until",
    "running_order",
    "shifted",
    "state_before",
    "states_before",
    "turned",
    "unpack",
    "valid_steps",
    "without_padding",
]

_Length = TypeVar("_Length", int, Tensor)


# which steps there are -----------------------------------------------------------------------


def valid_steps(lengths: Tensor, steps: int, batch_first: bool = False) -> Tensor:
    """(time, batch), or (batch, time): True on a sequence's own steps, False on padding."""
    times = torch.arange(steps, device=lengths.device)
    return times < lengths[:, None] if batch_first else times[:, None] < lengths


def first_steps(lengths: _Length, reverse: bool) -> _Length:
    """The step at which each sequence begins to run in a direction; of one length, one step."""
    return last_steps(lengths, not reverse)


def last_steps(lengths: _Length, reverse: bool) -> _Length:
    """The step that each sequence runs last in a direction; of one length, one step."""
    return lengths * 0 if reverse else lengths - 1


def at_steps(steps: Tensor) -> tuple[Tensor, Tensor]:
    """The index of one step of each sequence, (batch), into an array (time, batch, ...)."""
    return steps, torch.arange(len(steps), device=steps.device)


def ran_until(ends: Tensor, lengths: Tensor, steps: int, reverse: bool) -> Tensor:
    """(time, batch): the steps that have run when each sequence is at its step of ``ends``."""
    times = torch.arange(steps, device=ends.device)[:, None]
    return (times >= ends) & (times < lengths) if reverse else times <= ends


# the order of a direction --------------------------------------------------------------------


def running_order(steps: range, reverse: bool) -> range:
    """Steps, or the starts of blocks of them, in the order in which a direction runs."""
    return steps[::-1] if reverse else steps


def turned(values: Tensor, reverse: bool) -> Tensor:
    """(time, ...) in the order in which a direction runs, and from there back."""
    return values.flip(0) if reverse else values


# the state before each step ------------------------------------------------------------------


def shifted(states: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    """(time, ...): the state before each step where all sequences are full."""
    start = initial.unsqueeze(0).to(states.dtype)
    return torch.cat([states[1:], start] if reverse else [start, states[:-1]])


def states_before(states: Tensor, initial: Tensor, lengths: Tensor, reverse: bool) -> Tensor:
    """(time, batch, unit): the state before each step, ``initial`` (batch, unit) before the first;
    anything on padding."""
    before = shifted(states, initial, reverse)
    if not reverse:
        return before
    times = torch.arange(len(states), device=states.device)[:, None]
    begins = times == first_steps(lengths, reverse)
    return torch.where(begins.unsqueeze(-1), initial.to(states.dtype), before)


def state_before(
    states: Tensor, initial: Tensor, lengths: Tensor, step: int, reverse: bool
) -> Tensor:
    """(batch, unit): the state in which each sequence is when a direction comes to ``step``.

    That is ``initial`` where a sequence has not begun, and its last state where it has ended.
    """
    if reverse:
        begins = step >= lengths - 1
        before = (lengths - 1).clamp(max=step + 1)
    else:
        begins = torch.full_like(lengths, step == 0, dtype=torch.bool)
        before = (lengths.clamp(max=step) - 1).clamp(min=0)
    return torch.where(begins[:, None], initial.to(states.dtype), states[at_steps(before)])


def frame_states(
    frame: Tensor, states: Tensor, initial: Tensor, valid: Tensor | None, reverse: bool
) -> None:
    """Write states (time, batch, unit) into a frame (1 + time + 1, batch, unit), so that the
    states before all steps are a view of it: see ``framed_before``."""
    frame[1:-1].copy_(states)
    frame[0].copy_(initial)
    frame[-1].copy_(initial)
    if reverse and valid is not None:
        # the reverse direction starts behind each sequence's own end
        padding = ~valid
        frame[1:-1][padding] = initial.expand_as(states)[padding].to(frame.dtype)


def framed_before(frame: Tensor, reverse: bool) -> Tensor:
    """(time, batch, unit): the state before each step, a view of a frame of states."""
    return frame[2:] if reverse else frame[:-2]


# padding -------------------------------------------------------------------------------------


def without_padding(values: Tensor, valid: Tensor | None) -> Tensor:
    """The same, zero where ``valid`` (all dims but the last) is False."""
    return values if valid is None else values.masked_fill(~valid.unsqueeze(-1), 0)


def keep_on_padding(after: Tensor, before: Tensor, valid: Tensor | None) -> Tensor:
    """A state after a step, (batch, unit); on padding it stays what it was."""
    return after if valid is None else torch.where(valid.unsqueeze(-1), after, before)


# packed sequences ----------------------------------------------------------------------------


def padded(packed: PackedSequence) -> tuple[Tensor, Tensor | None]:
    """(time, batch, ...) in the caller's order, zeros on padding; and the lengths, on the device
    of the data, or None where all are full."""
    values, lengths = pad_packed_sequence(packed)
    full = bool((lengths == values.shape[0]).all())
    return values, None if full else lengths.to(packed.data.device)


def pack(values: Tensor, packed: PackedSequence) -> Tensor:
    """(time, batch, ...) in the caller's order to the layout of a packed sequence's data."""
    in_order = packed_order(values, packed)
    sizes = packed.batch_sizes.tolist()
    return torch.cat([in_order[t, :size] for t, size in enumerate(sizes)])


def unpack(data: Tensor, packed: PackedSequence) -> Tensor:
    """The layout of a packed sequence's data to (time, batch, ...) in the caller's order."""
    return pad_packed_sequence(PackedSequence(data, *packed[1:]))[0]


def packed_order(values: Tensor, packed: PackedSequence) -> Tensor:
    """(…, batch, ...) by dim 1: from the caller's order to that of the packed data, which is by
    length."""
    order = packed.sorted_indices
    return values if order is None else values.index_select(1, order)


def caller_order(values: Tensor, packed: PackedSequence) -> Tensor:
    """(…, batch, ...) by dim 1: from the order of the packed data to the caller's."""
    order = packed.unsorted_indices
    return values if order is None else values.index_select(1, order)
