"""The caller's own data for a comparison, in one form, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope.adopt import Adopted
from rnnscope.compare.model import Inputs, Model
from rnnscope.errors import DtypeError, ShapeError

__all__ = ["described", "doubled", "given_inputs"]


def given_inputs(adopted: Adopted, x: Any, initial: Any, lengths: Any) -> Inputs:
    """Inputs and initial states, as the layer takes them, time first in float64.

    Raises ``ShapeError`` and ``DtypeError`` for what the layer cannot take, and for numbers that
    are not finite.
    """
    dtype = adopted.weights(fresh=True)[0][0].ih.dtype
    if isinstance(x, list):
        x = np.asarray(x)
    call = adopted.call((_as_tensor(x, dtype), _as_tensor(initial, dtype)), {})
    for name, value in {"x": call.x, **{f"{k}_0": v for k, v in call.initial.items()}}.items():
        if not bool(torch.isfinite(value).all()):
            raise ShapeError(
                f"{name} holds NaN or infinite numbers, with which nothing can be compared; "
                f"expected finite numbers. Leave these rows out."
            )
    found = Inputs(call.x.double(), doubled(call.initial), call.given, call.lengths)
    if lengths is None:
        return found
    sizes = torch.as_tensor(lengths)
    if sizes.shape != (found.batch,) or sizes.is_floating_point() or sizes.is_complex():
        raise ShapeError(
            f"lengths must be {found.batch} whole numbers, one a row; got {tuple(sizes.shape)}"
        )
    if not bool(((sizes >= 1) & (sizes <= found.steps)).all()):
        raise ShapeError(
            f"lengths must lie between 1 and {found.steps}, the steps of x; got {sizes.tolist()}"
        )
    # x keeps what stands on the padding: one who ignores the lengths reads it
    return Inputs(found.x, found.initial, found.given, sizes.long())


def _as_tensor(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        return type(value)(_as_tensor(each, dtype) for each in value)
    if isinstance(value, PackedSequence) or value is None:
        return value
    try:
        tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"x must be a tensor or an array of numbers; got {error}") from error
    return tensor.detach().to("cpu", dtype) if tensor.is_floating_point() else tensor


def doubled(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in float64."""
    return {name: value.double() for name, value in states.items()}


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
        some = any(bool(t.any()) for t in biases if t is not None)
        facts.append("biases not zero" if some else "biases zero")
    if inputs.lengths is not None:
        facts.append(f"lengths {', '.join(map(str, inputs.lengths.tolist()))}")
    start = "" if seed is None else f"seed {seed}: "
    return f"{start}{sizes}; {', '.join(facts)}"
