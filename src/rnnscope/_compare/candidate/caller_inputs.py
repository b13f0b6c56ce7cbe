"""The caller's own data for a comparison, in one form, and in words."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope._compare.candidate.tensors import short, tensor_of
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._layers.adopt import Adopted
from rnnscope.errors import DtypeError, ShapeError

__all__ = ["described", "doubled", "given_inputs", "unlike_its_calls"]


def given_inputs(adopted: Adopted, x: Any, initial: Any, lengths: Any) -> Inputs:
    """Inputs and initial states, as the layer takes them, time first in float64.

    Raises ``ShapeError`` and ``DtypeError`` for what the layer cannot take, for numbers that are
    not finite, and for lengths that are no whole numbers or none of x.
    """
    dtype = adopted.weights(fresh=True)[0][0].ih.dtype
    states = _states(initial, dtype, several=len(adopted.cell.states) > 1)
    call = adopted.call((_as_tensor(x, dtype, "x"), states), {})
    for name, value in {"x": call.x, **{f"{k}_0": v for k, v in call.initial.items()}}.items():
        if not bool(torch.isfinite(value).all()):
            raise ShapeError(
                f"{name} holds NaN or infinite numbers, with which nothing can be compared; "
                f"expected finite numbers. Leave these rows out."
            )
    inputs = Inputs(call.x.double(), doubled(call.initial), call.has_initial, call.lengths)
    if lengths is None:
        return inputs
    # x keeps what stands on the padding: one who ignores the lengths reads it
    sizes = _sizes(lengths, inputs.batch, inputs.steps)
    return Inputs(inputs.x, inputs.initial, inputs.given, sizes)


def _sizes(lengths: Any, batch: int, steps: int) -> Tensor:
    """The steps of each sequence, (batch) of int64."""
    expected = f"lengths must be {batch} whole number{'s'[: batch > 1]}, one a row of x"
    hint = "Give the steps of each sequence as a list of int."
    try:
        sizes = tensor_of(list(lengths) if isinstance(lengths, range) else lengths, "lengths")
    except (DtypeError, ShapeError) as error:
        if isinstance(lengths, Tensor):
            raise  # which says what kind of tensor it is
        raise type(error)(f"{expected}; got {reprlib.repr(lengths)}. {hint}") from error
    if sizes.is_floating_point() or sizes.is_complex() or sizes.dtype == torch.bool:
        raise DtypeError(f"{expected}; got {short(sizes.dtype)}. {hint}")
    if sizes.shape != (batch,):
        raise ShapeError(f"{expected}; got numbers of shape {tuple(sizes.shape)}. {hint}")
    if not bool(((sizes >= 1) & (sizes <= steps)).all()):
        raise ShapeError(
            f"lengths must lie between 1 and {steps}, the steps of x; got {sizes.tolist()}"
        )
    return sizes.long()


def _states(initial: Any, dtype: torch.dtype, several: bool) -> Any:
    """Initial states as tensors; of several, what is no tuple of them is left to the layer."""
    if several and isinstance(initial, tuple | list):
        return type(initial)(_as_tensor(state, dtype, "initial") for state in initial)
    return _as_tensor(initial, dtype, "initial")


def _as_tensor(value: Any, dtype: torch.dtype, label: str) -> Any:
    if value is None:
        return value
    if isinstance(value, PackedSequence):
        tensor_of(value.data, label)
        return value
    tensor = tensor_of(value, label)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def doubled(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in float64."""
    return {name: value.double() for name, value in states.items()}


def unlike_its_calls(adopted: Adopted) -> list[str]:
    """Notes on what a call of the reference would do now, and the comparison does not."""
    notes: list[str] = []
    if adopted.training and adopted.dropout and adopted.num_layers > 1:
        notes.append("the reference is compared in evaluation mode, without dropout")
    module = adopted.module
    if module._forward_hooks or module._forward_pre_hooks:
        notes.append("the reference has forward hooks, which are not run for the comparison")
    return notes


def described(adopted: Adopted, inputs: Inputs, model: Model, seed: int | None) -> str:
    """Sizes, states and biases of what was compared, in a line."""
    structure = adopted.structure
    sizes = f"time {inputs.steps}, batch {inputs.batch}, input {structure.input_size}, hidden "
    sizes += str(structure.hidden_size)
    if structure.num_layers > 1:
        sizes += f", {structure.num_layers} layers"
    if len(structure.directions) > 1:
        sizes += ", bidirectional"
    zero = [f"{n}_0" for n, v in inputs.initial.items() if not bool(v.any())]
    facts = []
    if zero:
        facts.append(f"{', '.join(zero)} zero")
    else:
        facts.append(f"{', '.join(f'{n}_0' for n in inputs.initial)} not zero")
    biases = [t for row in model.parts for p in row for t in (p.weights.b_ih, p.weights.b_hh)]
    if any(t is None for t in biases):
        facts.append("no biases")
    else:
        nonzero = any(bool(t.any()) for t in biases if t is not None)
        facts.append("biases not zero" if nonzero else "biases zero")
    if inputs.lengths is not None:
        facts.append(f"lengths {', '.join(map(str, inputs.lengths.tolist()))}")
    start = "" if seed is None else f"seed {seed}: "
    return f"{start}{sizes}; {', '.join(facts)}"
