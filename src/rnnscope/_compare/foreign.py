"""A reference of somebody's own class: the layer of the cell that it is said to compute.

Nothing is compared with a layer that was only said to be the same: the module is called once, and
what it returns must be what the layer computes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._compare.candidate.inputs import built, drawn_inputs, given_inputs
from rnnscope._compare.candidate.recorded import OfArrays
from rnnscope._compare.candidate.subject import dtype_of
from rnnscope._compare.candidate.tensors import tensor_of
from rnnscope._compare.deciding import Decision, Settings
from rnnscope._layers.adapter import Adapter
from rnnscope._layers.adopt import adopt
from rnnscope._layers.foreign import Foreign
from rnnscope.errors import RefusedError, ShapeError, VerificationError

__all__ = ["layer_of", "note_on"]


def layer_of(module: nn.Module, adapter: Adapter, x: Any, seed: int) -> nn.Module:
    """The layer of ``torch.nn``, or the ``Recurrent``, that computes what a module does, with its
    weights; proven on ``x``, or on inputs that are drawn.

    Raises ``RefusedError`` for a module of one step, one that cannot be copied or called with x
    alone; ``VerificationError`` where it returns other numbers.
    """
    try:
        copied = copy.deepcopy(module).eval()
    except Exception as error:  # of any kind: the module's own class may say how it is copied
        raise RefusedError(
            f"cannot be compared with: {type(module).__name__} cannot be copied "
            f"({type(error).__name__}: {error}), and compare calls a copy. Compare with numbers "
            f"that it returned: rs.compare({{'output': output}}, layer, x), with a layer of "
            f"torch.nn that has its weights"
        ) from error
    foreign = Foreign.of_adapter(copied, adapter)
    if foreign.single_step:
        raise ShapeError(
            f"{foreign.kind} makes one step; expected a module that runs over time. If it does, "
            f"say so: cells={{{type(module).__name__}: rs.Adapter(cell, ..., single_step=False)}}"
        )
    layer = _layer(foreign)
    _prove(foreign, layer, x, seed)
    return layer


def note_on(module: nn.Module, layer: nn.Module) -> str:
    """What the verdict says of a reference that another layer stands for."""
    return (
        f"the reference is {type(module).__name__}; {adopt(layer).structure} with its weights "
        f"stands for it, and gave what it returned"
    )


def _layer(foreign: Foreign) -> nn.Module:
    sizes = foreign.input_size, foreign.hidden_size, foreign.output_size
    # on the meta device nothing is drawn from the random state
    layer = built(foreign.structure, sizes, device="meta")
    named = {n: t for row in foreign.weights() for part in row for n, t in part.named().items()}
    like = next(iter(named.values()))
    state = {
        name: nn.Parameter(
            named[name].detach().clone()
            if name in named
            else torch.zeros(shape.shape, dtype=like.dtype, device=like.device)
        )
        for name, shape in layer.named_parameters()
    }
    layer.load_state_dict(state, assign=True)
    return layer.eval()


def _prove(foreign: Foreign, layer: nn.Module, x: Any, seed: int) -> None:
    """Raise unless the module returns what the layer computes."""
    adopted = adopt(layer)
    if x is None:
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn = drawn_inputs(adopted.structure, 6, 3, False, generator).x.to(dtype_of(adopted))
        x = drawn.transpose(0, 1) if foreign.batch_first else drawn
    elif not isinstance(x, nn.utils.rnn.PackedSequence):
        x = tensor_of(x, "x")
    inputs = given_inputs(adopted, x, None, None)
    numbers = _returned(foreign, x.to(dtype_of(adopted)))
    verdict = Decision(OfArrays(numbers, adopted, inputs, None), Settings(0.0)).verdict()
    if not verdict:
        raise VerificationError(
            f"{foreign.kind} does not compute the cell {foreign.cell.name} that cells= says: what "
            f"it returns lies {verdict.difference:.3g} off the equations, where rounding allows "
            f"{verdict.allowed:.3g}. Look at the cell, and at where rs.Adapter says that the "
            f"parameters are; rs.compare(module, layer) with a layer of this cell says more"
        )


def _returned(foreign: Foreign, x: Any) -> dict[str, Tensor]:
    call = foreign.call((x,), {})
    module: Any = foreign.module
    with torch.no_grad():
        try:
            output = module(x)
        except TypeError as error:
            raise RefusedError(
                f"cannot be compared with: {foreign.kind} was called with x alone, and raised "
                f"TypeError: {error}. Give its other arguments a default, as in a subclass whose "
                f"forward(self, x) passes them"
            ) from error
    canonical, finals = foreign.canonical(output, call)
    h, states = canonical
    values = states if isinstance(states, tuple) else (states,)
    by_name = dict(zip(foreign.cell.states, values, strict=True))
    data = nn.utils.rnn.pad_packed_sequence(h)[0] if hasattr(h, "batch_sizes") else h
    if hasattr(h, "batch_sizes") and foreign.batch_first:
        data = data.transpose(0, 1)
    return {"output": data, **{f"{name}_n": by_name[name] for name in finals}}
