"""Calls of one form, stacked: many short calls are kept as a few tensors, and opened as one batch.

A call of few steps and rows costs more in handling than in arithmetic. Rows of a batch do not see
each other, so calls of the same weights and shapes are opened as one call of a larger batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rnnscope._layers.call import Call
from rnnscope._opening.held import Held
from rnnscope._opening.opening import Opened
from rnnscope._opening.part import Proof
from rnnscope._trace.verbs import Trace

__all__ = ["CallStack", "form_of"]


def form_of(held: Held) -> tuple[Any, ...]:
    """What calls of one stack have in common."""
    return (
        id(held.adopted),
        id(held.snapshot),
        held.parts[0].shape,
        held.parts[0].dtype,
        held.widths,
        held.state_count,
        held.grad_mode,
    )


@dataclass(eq=False)
class CallStack:
    """So many calls of one form as one of a larger batch: until it is opened, ``parts`` holds them;
    then ``opened`` is the trace of all."""

    form: tuple[Any, ...]
    batched: bool
    count: int
    parts: list[Held]
    opened: Trace | None = None

    @classmethod
    def of(cls, calls: Sequence[Held]) -> CallStack:
        """Calls of one form."""
        first = calls[0]
        batched = first.x.dim() == (2 if first.adopted.single_step else 3)
        return cls(form_of(first), batched, len(calls), [_joined(calls, batched)])

    @classmethod
    def merged(cls, stacks: Sequence[CallStack]) -> CallStack:
        """Stacks of one form."""
        parts = [part for stack in stacks for part in stack.parts]
        count = sum(stack.count for stack in stacks)
        return cls(stacks[0].form, stacks[0].batched, count, parts)

    @property
    def held(self) -> Held:
        """All calls as one."""
        self.join()
        return self.parts[0]

    def join(self) -> None:
        """Lay the parts one behind the other."""
        if len(self.parts) > 1:
            self.parts = [_joined(self.parts, batched=True)]

    def settle(self, opened: Trace) -> None:
        """The calls were opened: what was held of them is in the trace."""
        # memory of states has places before the first step and behind the last: of one step, as
        # much again, twice
        opened._values = {
            name: value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
            for name, value in opened._values.items()
        }
        self.opened, self.parts = opened, []

    def call(self, k: int) -> Call:
        """What went into the k-th call, in one form."""
        whole = self.held.call if self.opened is None else self.opened.call
        return _rows_of_call(whole, k, self.count, self.batched)

    def one(self, k: int) -> Held:
        """The k-th call by itself, before the stack is opened."""
        whole = self.held
        single_step = whole.adopted.single_step
        of_x = 0 if single_step or whole.adopted.batch_first else 1
        of_states = 0 if single_step else 1
        batch = whole.x.shape[of_x] // self.count

        def rows(tensor: Tensor, axis: int) -> Tensor:
            part = tensor.narrow(axis, k * batch, batch)
            return (part if self.batched else part.squeeze(axis)).clone()

        axes = _axes(whole, of_x, of_states)
        return Held.of(whole, tuple(rows(*pair) for pair in zip(whole.tensors, axes, strict=True)))

    def trace(self, k: int) -> Trace:
        """The k-th call of an opened stack, with numbers of its own."""
        whole = self.opened
        assert whole is not None, "a stack is opened before its calls are asked for"
        call = _rows_of_call(whole.call, k, self.count, self.batched)
        rows = slice(k * call.batch, (k + 1) * call.batch)
        structure = whole.structure
        values = {name: value[:, :, rows].clone() for name, value in whole.items()}
        inputs = tuple(None if x is None else x[rows].clone() for x in whole._inputs)
        proofs = {
            name: _proof_of_one(proof, self.count, call.batch)
            for name, proof in whole.proofs.items()
        }
        form = structure.returned(whole._returned, whole.call)
        final = {name: value[:, :, rows].clone() for name, value in form.final.items()}
        h = None if structure.single_step else form.h[:, rows].clone()
        opened = Opened(values, inputs, proofs, whole._opened_in, engine=whole.engine)
        output = structure.returning(h, final, call)
        return Trace(structure, call, whole._snapshot, opened, output)


def _joined(calls: Sequence[Held], batched: bool) -> Held:
    """Calls of one form as one call of a larger batch, in the form of a batched one."""
    first = calls[0]
    single_step = first.adopted.single_step
    of_x = 0 if single_step or first.adopted.batch_first else 1
    of_states = 0 if single_step else 1
    if first.widths and of_x == of_states:
        whole = _side_by_side([call.parts[0] for call in calls], of_x, batched)
        return Held.of(first, tuple(torch.split(whole, list(first.widths), -1)))
    tensors = zip(*(call.tensors for call in calls), strict=True)
    axes = _axes(first, of_x, of_states)
    return Held.of(
        first,
        tuple(
            _side_by_side(parts, axis, batched) for parts, axis in zip(tensors, axes, strict=True)
        ),
    )


def _axes(held: Held, of_x: int, of_states: int) -> list[int]:
    """The axis of the batch in each tensor of a call."""
    axes = [of_states] * len(held.tensors)
    axes[0] = of_x
    if not held.adopted.single_step:
        axes[1 + held.state_count] = of_x
    return axes


def _side_by_side(tensors: Sequence[Tensor], axis: int, batched: bool) -> Tensor:
    parts = list(tensors)
    return torch.cat(parts, axis) if batched else torch.stack(parts, axis)


def _rows_of_call(whole: Call, k: int, count: int, batched: bool) -> Call:
    batch = whole.batch // count
    rows = slice(k * batch, (k + 1) * batch)
    initial = {name: value[:, :, rows].clone() for name, value in whole.initial.items()}
    return Call(whole.x[:, rows].clone(), initial, whole.has_initial, batched, None, None, False)


def _proof_of_one(proof: Proof, count: int, batch: int) -> Proof:
    """The proof of all calls as that of one: its deviation is the largest of all."""
    place = replace(proof.place, batch=proof.place.batch % batch)
    return replace(proof, place=place, places=proof.places // count)
