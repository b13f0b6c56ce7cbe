"""Gradients that somebody's implementation gave, in one form; or an error that says what was
expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.backward.forward import stored_parameters
from rnnscope._compare.backward.whole import QUANTITY, Trial
from rnnscope._compare.candidate.returned import of_state
from rnnscope._compare.candidate.subject import Told
from rnnscope._compare.candidate.tensors import as_numbers, kind_of
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model
from rnnscope.cells import quantity_names
from rnnscope.errors import DtypeError, ShapeError

__all__ = ["ReceivedGradients"]

LIKE = 0.7


class ReceivedGradients:
    """The ``gradients`` of one call by name as in ``whole.gradients``, in float64.

    They come as a mapping by name: "x", "h_0", "c_0", PyTorch's names of parameters, and those of
    quantities with or without "grad." before it. What is None is left out. ``dtype`` is the type in
    which they came, ``reached`` what reached the outputs of that call; ``notes`` say what was done
    to read them, ``read`` what had to be undone, ``unread`` what has a name that may be meant for
    one that is known.

    Raises ``ShapeError`` and ``DtypeError`` for what is none of these.
    """

    def __init__(self, values: Any, model: Model, trial: Trial, who: str) -> None:
        self.structure, self.inputs, self.who = model.structure, trial.inputs, who
        self.reached = trial.reached
        self.gradients: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self.read: list[Told] = []
        self.unread: list[str] = []
        self.dtype = torch.float64
        self._states = {f"{state}_0": state for state in self.structure.cell.states}
        self._quantities = set(quantity_names(self.structure.cell))
        self._parameters = {name: tuple(t.shape) for name, t in stored_parameters(model).items()}
        examples = ", ".join(["x", *self._states, *list(self._parameters)[:4]])
        if not isinstance(values, Mapping):
            raise DtypeError(
                f"{who} must be a dict of gradients by name, such as {examples}; got "
                f"{kind_of(values)}. Name what is in it: {{'x': dx, 'weight_ih_l0': dW_ih, ...}}"
            )
        for name, value in values.items():
            if value is not None:
                self._add(str(name), value, examples)
        if not self.gradients:
            got = ", ".join(map(repr, values)) or "nothing"
            raise ShapeError(f"{who}: no gradient is known of {got}; expected any of {examples}")

    def _key(self, name: str) -> str:
        """A name as it is known, or as it came."""
        names = ("x", *self._states, *self._parameters)
        for prefix in ("", QUANTITY, "grad_", "dL/d", "d_", "d"):
            if name.startswith(prefix) and name.removeprefix(prefix) in names:
                return name.removeprefix(prefix)
        for prefix in (QUANTITY, "grad_", ""):
            if name.startswith(prefix) and name.removeprefix(prefix) in self._quantities:
                return QUANTITY + name.removeprefix(prefix)
        return name

    def _add(self, name: str, value: Any, examples: str) -> None:
        """One gradient."""
        key = self._key(name)
        names = ["x", *self._states, *self._parameters]
        if key not in names and not key.startswith(QUANTITY):
            near = get_close_matches(name, [*names, *self._quantities], 1, LIKE)
            if near:
                self.unread.append(f"the gradient {name!r} is not read: is it {near[0]!r}?")
            else:
                self.notes.append(f"the gradient {name!r} is not used: known are {examples}")
            return
        label = f"the gradient of {key.removeprefix(QUANTITY)} in {self.who}"
        numbers = as_numbers(value, label)
        if numbers.numel() == 0:
            raise ShapeError(f"{label} is empty, {tuple(numbers.shape)}; expected numbers")
        self.dtype = numbers.dtype
        numbers = numbers.double()
        if key == "x":
            self.gradients[key] = self._x(numbers, label)
        elif key in self._states:
            self.gradients[key] = self._state(key, numbers, label)
        elif key in self._parameters:
            self.gradients[key] = self._parameter(key, numbers, label)
        else:
            self.gradients[key] = self._quantity(key, numbers, label)

    def _x(self, value: Tensor, label: str) -> Tensor:
        steps, batch, features = self.inputs.x.shape
        time_first, batch_first = (steps, batch, features), (batch, steps, features)
        expected = batch_first if self.structure.batch_first else time_first
        got = tuple(value.shape)
        if batch == 1 and got == (steps, features):
            return value.unsqueeze(1)
        if got not in (time_first, batch_first):
            raise self._wrong(label, expected, got)
        if got != expected:
            self._transposed("x", "its axes of time and batch are exchanged", "dx.swapaxes(0, 1)")
        is_time_first = (got == expected) != self.structure.batch_first
        return value if is_time_first else value.transpose(0, 1)

    def _state(self, name: str, value: Tensor, label: str) -> Tensor:
        state = self._states[name]
        reading = of_state(state, value, self.structure, self.inputs.batch)
        if reading.value is None:
            rows = self.structure.num_layers * len(self.structure.directions)
            shape = (rows, self.inputs.batch, self.structure.state_size(state))
            raise self._wrong(label, shape, tuple(value.shape))
        if reading.batch_first:
            self._transposed(name, "it comes back batch first", f"d{name}.swapaxes(0, 1)")
        return reading.value

    def _parameter(self, name: str, value: Tensor, label: str) -> Tensor:
        expected, got = self._parameters[name], tuple(value.shape)
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
