"""Gradients that somebody's implementation gave, in one form; or an error that says what was
expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.backward.whole import QUANTITY
from rnnscope._compare.candidate.returned import of_state
from rnnscope._compare.candidate.subject import Told
from rnnscope._compare.candidate.tensors import as_numbers, kind_of
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Inputs, Model
from rnnscope.cells import quantity_names
from rnnscope.errors import DtypeError, ShapeError

__all__ = ["ReceivedGradients", "read_gradients"]

LIKE = 0.7


@dataclass(frozen=True)
class ReceivedGradients:
    """Gradients by name as in ``whole.gradients``, in float64; ``dtype`` as they came, ``notes`` on
    what was done to read them, ``read`` what had to be undone, ``unread``
    what has a name that may be meant for one that is known."""

    gradients: Mapping[str, Tensor]
    dtype: torch.dtype
    notes: tuple[str, ...] = ()
    read: tuple[Told, ...] = field(default=())
    unread: tuple[str, ...] = ()


def read_gradients(values: Any, model: Model, inputs: Inputs, who: str) -> ReceivedGradients:
    """A mapping of gradients by name: "x", "h_0", "c_0", PyTorch's names of parameters, and those
    of quantities with or without "grad." before it. What is None is left out.

    Raises ``ShapeError`` and ``DtypeError`` for what is none of these.
    """
    reading = _GradientReading(model, inputs, who)
    if not isinstance(values, Mapping):
        raise DtypeError(
            f"{who} must be a dict of gradients by name, such as {reading.examples}; got "
            f"{kind_of(values)}. Name what is in it: {{'x': dx, 'weight_ih_l0': dW_ih, ...}}"
        )
    for name, value in values.items():
        if value is not None:
            reading.add(str(name), value)
    if not reading.gradients:
        got = ", ".join(map(repr, values)) or "nothing"
        raise ShapeError(
            f"{who}: no gradient is known of {got}; expected any of {reading.examples}"
        )
    return ReceivedGradients(
        reading.gradients,
        reading.dtype,
        tuple(reading.notes),
        tuple(reading.read),
        tuple(reading.unread),
    )


class _GradientReading:
    """The gradients of one call while they are read."""

    def __init__(self, model: Model, inputs: Inputs, who: str) -> None:
        self.model, self.structure, self.inputs, self.who = model, model.structure, inputs, who
        self.gradients: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self.read: list[Told] = []
        self.unread: list[str] = []
        self.dtype = torch.float64
        self.states = {f"{state}_0": state for state in self.structure.cell.states}
        self.quantities = set(quantity_names(self.structure.cell))
        self.parameters = {
            name: tuple(value.shape)
            for row in model.parts
            for part in row
            for name, value in part.stored.named().items()
        }

    @property
    def examples(self) -> str:
        """Names that are read."""
        return ", ".join(["x", *self.states, *list(self.parameters)[:4]])

    def _name(self, name: str) -> str:
        """A name as it is known, or as it came."""
        names = ("x", *self.states, *self.parameters)
        for prefix in ("", QUANTITY, "grad_", "dL/d", "d_", "d"):
            stem = name.removeprefix(prefix)
            if name.startswith(prefix) and stem in names:
                return stem
        for prefix in (QUANTITY, "grad_", ""):
            stem = name.removeprefix(prefix)
            if name.startswith(prefix) and stem in self.quantities:
                return QUANTITY + stem
        return name

    def add(self, name: str, value: Any) -> None:
        """One gradient."""
        key = self._name(name)
        label = f"the gradient of {key.removeprefix(QUANTITY)} in {self.who}"
        if key == "x":
            self.gradients["x"] = self._x(self._numbers(value, label), label)
        elif key in self.states:
            self.gradients[key] = self._state(key, self._numbers(value, label), label)
        elif key in self.parameters:
            self.gradients[key] = self._parameter(key, self._numbers(value, label), label)
        elif key.startswith(QUANTITY):
            self.gradients[key] = self._quantity(key, self._numbers(value, label), label)
        else:
            names = ["x", *self.states, *self.parameters, *self.quantities]
            near = get_close_matches(name, names, 1, LIKE)
            if near:
                self.unread.append(f"the gradient {name!r} is not read: is it {near[0]!r}?")
            else:
                self.notes.append(f"the gradient {name!r} is not used: known are {self.examples}")

    def _numbers(self, value: Any, label: str) -> Tensor:
        numbers = as_numbers(value, label)
        if numbers.numel() == 0:
            raise ShapeError(f"{label} is empty, {tuple(numbers.shape)}; expected numbers")
        self.dtype = numbers.dtype
        return numbers.double()

    def _x(self, value: Tensor, label: str) -> Tensor:
        steps, batch, features = self.inputs.x.shape
        time_first, batch_first = (steps, batch, features), (batch, steps, features)
        expected = batch_first if self.structure.batch_first else time_first
        got = tuple(value.shape)
        if batch == 1 and got == (steps, features):
            return value.unsqueeze(1)
        if got == expected:
            return value.transpose(0, 1) if self.structure.batch_first else value
        if got in (time_first, batch_first):
            self._transposed("x", "its axes of time and batch are exchanged", "dx.swapaxes(0, 1)")
            return value if got == time_first else value.transpose(0, 1)
        raise self._wrong(label, expected, got)

    def _state(self, name: str, value: Tensor, label: str) -> Tensor:
        state = self.states[name]
        reading = of_state(state, value, self.structure, self.inputs.batch)
        if reading.value is None:
            shape = (
                self.structure.num_layers * len(self.structure.directions),
                self.inputs.batch,
                self.structure.state_size(state),
            )
            raise self._wrong(label, shape, tuple(value.shape))
        if reading.batch_first:
            self._transposed(name, "it comes back batch first", f"d{name}.swapaxes(0, 1)")
        return reading.value

    def _parameter(self, name: str, value: Tensor, label: str) -> Tensor:
        expected, got = self.parameters[name], tuple(value.shape)
        if got == expected:
            return value
        if len(expected) == 2 and got == expected[::-1]:
            self._transposed(name, "it comes back transposed", f"d{name}.T")
            return value.T.contiguous()
        if len(expected) == 1 and value.numel() == expected[0] and max(got) == expected[0]:
            return value.reshape(expected)
        raise self._wrong(label, expected, got)

    def _quantity(self, name: str, value: Tensor, label: str) -> Tensor:
        structure, inputs = self.structure, self.inputs
        lead = (structure.num_layers, len(structure.directions))
        unit = structure.state_size(name.removeprefix(QUANTITY))
        expected = (*lead, inputs.batch, inputs.steps, unit)
        swapped = (*lead, inputs.steps, inputs.batch, unit)
        got = tuple(value.shape)
        if got == expected or (lead == (1, 1) and got == expected[2:] != swapped[2:]):
            return value.reshape(expected)
        if got == swapped or (lead == (1, 1) and got == swapped[2:]):
            return value.reshape(swapped).transpose(2, 3).contiguous()
        raise ShapeError(
            f"{label} must be (layer, direction, batch, time, unit) = {expected}, of one layer in "
            f"one direction also (time, batch, unit); got {got}"
        )

    def _transposed(self, name: str, problem: str, repair: str) -> None:
        words = Words(
            f"the gradient of {name}: {problem}",
            f"it has the shape of {name} itself; turned back, its numbers are compared.",
            f"return {repair}",
        )
        self.read.append((Cause("gradient_transposed", name), words))

    def _wrong(self, label: str, expected: tuple[int, ...], got: tuple[int, ...]) -> ShapeError:
        same = math.prod(expected) == math.prod(got)
        hint = " It holds as many numbers: look at the order of its axes." if same else ""
        return ShapeError(
            f"{label} must have the shape of what it belongs to, {expected}; got {got}.{hint}"
        )
