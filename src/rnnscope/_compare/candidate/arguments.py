"""What a candidate is given at a call, and whether it changed that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from rnnscope._compare.candidate.signature import Signature
from rnnscope._compare.candidate.tensors import short
from rnnscope._compare.model.model import Inputs
from rnnscope._layers.structure import Structure

__all__ = [
    "Arrays",
    "arguments_of",
    "described",
    "each_alone",
    "equal",
    "passed",
    "same",
    "without_batch",
]


Arrays = Literal["torch", "numpy"]


def arguments_of(
    signature: Signature,
    structure: Structure,
    inputs: Inputs,
    weights: Mapping[str, Tensor] | None,
    packed: bool,
) -> dict[str, Any]:
    """The value of every role that is given one."""
    wanted = signature.required
    x = inputs.x.transpose(0, 1) if structure.batch_first else inputs.x
    arguments: dict[str, Any] = {"x": x.contiguous()}
    if inputs.lengths is not None and "lengths" not in wanted and packed:
        arguments["x"] = pack_padded_sequence(
            arguments["x"], inputs.lengths.cpu(), structure.batch_first, enforce_sorted=False
        )
    states = {
        name: value.reshape(structure.state_shape(name, inputs.batch))
        for name, value in inputs.initial.items()
    }
    together = tuple(states.values()) if len(states) > 1 else next(iter(states.values()), None)
    for role, required in wanted.items():
        # without states a required parameter gets the zeros that they stand for
        if role == "initial" and (inputs.given or required):
            arguments[role] = together
        elif role.startswith("state:") and (inputs.given or required):
            arguments[role] = states[role.removeprefix("state:")]
        elif role == "flat" and (inputs.given or required):
            arguments[role] = _flat(inputs)
        elif role == "weights" and weights is not None:
            arguments[role] = dict(weights)
        elif role == "lengths" and (inputs.lengths is not None or required):
            full = torch.full((inputs.batch,), inputs.steps, dtype=torch.long, device="cpu")
            arguments[role] = full if inputs.lengths is None else inputs.lengths
    return arguments


def _flat(inputs: Inputs) -> list[Tensor]:
    """[h, c] of the first direction, [h, c] of the next: (batch, unit) each."""
    values = [value.flatten(0, 1) for value in inputs.initial.values()]
    return [value[k] for k in range(values[0].shape[0]) for value in values]


def each_alone(inputs: Inputs) -> list[Inputs]:
    """Each sequence of a call by itself, still with an axis for the batch, of length 1."""
    return [
        replace(
            inputs,
            x=inputs.x[:, row : row + 1],
            initial={name: value[:, :, row : row + 1] for name, value in inputs.initial.items()},
            lengths=None if inputs.lengths is None else inputs.lengths[row : row + 1],
            single=True,
        )
        for row in range(inputs.batch)
    ]


def without_batch(arguments: Mapping[str, Any], batch_first: bool) -> dict[str, Any]:
    """The arguments of a call with one sequence without the axis of the batch: x (time, feature),
    each initial state (layers × directions, unit)."""

    def of_role(role: str, value: Any) -> Any:
        if role == "x":
            return value.squeeze(0 if batch_first else 1)
        if role == "flat":
            return [state.squeeze(0) for state in value]
        if role == "initial" and isinstance(value, tuple):
            return tuple(state.squeeze(1) for state in value)
        if role == "initial" or role.startswith("state:"):
            return value.squeeze(1)
        return value

    return {role: of_role(role, value) for role, value in arguments.items()}


def passed(value: Any, arrays: Arrays) -> Any:
    """A copy, as tensors or as arrays."""
    if isinstance(value, Mapping):
        return {name: passed(item, arrays) for name, item in value.items()}
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.clone())
    if isinstance(value, list | tuple):
        return type(value)(passed(item, arrays) for item in value)
    copied = value.detach().clone(memory_format=torch.contiguous_format)
    if arrays == "torch":
        return copied
    return copied.cpu().numpy()


def same(value: Any, before: Any) -> bool:
    """Bit for bit; NaN is itself."""
    if isinstance(value, PackedSequence):
        return same(value.data, before.data)
    if isinstance(value, Mapping):
        return value.keys() == before.keys() and all(same(value[k], before[k]) for k in before)
    if isinstance(value, list | tuple):
        return len(value) == len(before) and all(map(same, value, before))
    if isinstance(value, Tensor):
        return value.shape == before.shape and equal(value.detach(), before)
    return value is before or np.array_equal(value, before, equal_nan=value.dtype.kind == "f")


def equal(value: Tensor, before: Tensor) -> bool:
    """The same numbers; NaN is itself."""
    return torch.allclose(value, before, rtol=0, atol=0, equal_nan=True)


def described(role: str, value: Any) -> str:
    """What is given in one role, for an error."""
    if isinstance(value, Mapping):
        return f"{role} of {len(value)} names"
    if isinstance(value, PackedSequence):
        return f"{role} packed {tuple(value.data.shape)} {short(value.data.dtype)}"
    if isinstance(value, list | tuple):
        return f"{role} ({', '.join(str(tuple(tensor.shape)) for tensor in value)})"
    return f"{role.removeprefix('state:')} {tuple(value.shape)} {short(value.dtype)}"
