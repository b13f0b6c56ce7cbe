"""Arrays of any layout to PyTorch's parameters, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnscope._layouts.kinds import cell_of, kind_of, nonlinearity_of, storage_kind
from rnnscope._layouts.layout import Layout
from rnnscope._layouts.records import LAYOUTS, PYTORCH, RNNSCOPE
from rnnscope._layouts.stack import Stack, read_stack, write_stack
from rnnscope.cells import Cell
from rnnscope.errors import DeclarationError, DtypeError, FileError, RefusedError, ShapeError

__all__ = ["Converted", "candidates", "from_torch", "layout_named", "to_torch"]

REVERSE = "_reverse"  # what PyTorch's names of the reverse direction end in

Arrays = Mapping[str, Any]
"""NumPy arrays, torch tensors, or what NumPy takes; mappings inside are joined with /."""


class Converted(NamedTuple):
    """A layer as PyTorch holds it.

    ``options`` are keyword arguments of ``nn.RNN``, ``nn.GRU``, ``nn.LSTM`` and
    ``rnnscope.Recurrent``: input_size, hidden_size, num_layers, bias, bidirectional, proj_size
    where there is a projection, and ``reverse=True`` (of ``Recurrent`` only) where it was asked.
    """

    cell: Cell
    state_dict: dict[str, Tensor]
    options: dict[str, int | bool]


def layout_named(name: str) -> Layout:
    """The layout of a framework; ``DeclarationError`` names those that there are."""
    if name not in LAYOUTS:
        raise DeclarationError(f"unknown layout {name!r}; expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def to_torch(
    layout: Layout | str,
    arrays: Arrays,
    *,
    kind: str | None = None,
    forget_bias: float | None = None,
    reverse: bool = False,
) -> Converted:
    """The layer that arrays of a layout hold: its cell, its parameters, its sizes.

    ``kind`` is the cell's: ``lstm``, ``gru``, ``gru_reset_before``, ``rnn_tanh``,
    ``rnn_relu``, ``lstm_peephole``; left out, it is found where only one fits the names and
    shapes. An ``rnn`` has the nonlinearity that it has in the framework unless told otherwise.
    ``forget_bias`` replaces what the layout says the framework adds at run time. With ``reverse``
    the layer's one direction runs from the end, as ``Recurrent(reverse=True)`` does.

    >>> import numpy as np
    >>> from rnnscope._layouts import to_torch
    >>> cell, state_dict, options = to_torch("keras", {
    ...     "kernel": np.ones((3, 8)), "recurrent_kernel": np.ones((2, 8)), "bias": np.ones(8)
    ... })
    >>> options
    {'input_size': 3, 'hidden_size': 2, 'num_layers': 1, 'bias': True, 'bidirectional': False}
    >>> list(state_dict)
    ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']

    Raises ``FileError`` for names, ``ShapeError`` for shapes and ``DtypeError`` for types that
    are not the layout's.
    """
    layout = _with_forget_bias(layout, forget_bias)
    tensors = _tensors(arrays)
    if kind is None:
        kind = _only_kind(layout, tensors)
    stack = read_stack(layout, storage_kind(kind), tensors)
    stored = layout.stored(stack.kind)
    cell = cell_of(kind, stack.projected, stored.nonlinearity)
    if stored.nonlinearity_fixed and nonlinearity_of(cell) != stored.nonlinearity:
        raise DeclarationError(
            f"an rnn of layout {layout.name} has {stored.nonlinearity} alone; got kind={kind!r}"
        )
    state_dict, options = write_stack(_own_layout(stack.kind), stack), _options(stack)
    if reverse:
        if stack.bidirectional:
            raise ShapeError("reverse is for a layer of one direction; the arrays hold two")
        state_dict = {f"{name}{REVERSE}": tensor for name, tensor in state_dict.items()}
        options["reverse"] = True
    return Converted(cell, state_dict, options)


def from_torch(
    layout: Layout | str,
    cell: Cell,
    state_dict: Arrays,
    *,
    forget_bias: float | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays in which a layout stores a layer of PyTorch, or of ``rnnscope.Recurrent``.

    Of a layer that runs in reverse only, that direction is stored: a layout's arrays do not say
    which one it is.

    >>> import torch
    >>> from rnnscope.cells import GRU
    >>> from rnnscope._layouts import from_torch
    >>> arrays = from_torch("onnx", GRU, torch.nn.GRU(3, 2).state_dict())
    >>> {name: array.shape for name, array in arrays.items()}
    {'W': (1, 6, 3), 'R': (1, 6, 2), 'B': (1, 12)}

    Raises ``RefusedError`` where the layout cannot hold the layer, with the reason.
    """
    layout = _with_forget_bias(layout, forget_bias)
    kind = kind_of(cell)
    if kind in layout.cells and layout.cells[kind].nonlinearity_fixed:
        fixed, activation = layout.cells[kind].nonlinearity, nonlinearity_of(cell)
        if activation != fixed:
            raise RefusedError(
                f"an rnn of layout {layout.name} has {fixed} alone; the layer is {activation}"
            )
    tensors = _tensors(state_dict)
    if all(name.endswith(REVERSE) for name in tensors):
        tensors = {name.removesuffix(REVERSE): tensor for name, tensor in tensors.items()}
    stack = read_stack(_own_layout(kind), kind, tensors)
    return {name: _array(name, tensor) for name, tensor in write_stack(layout, stack).items()}


def candidates(layout: Layout | str, arrays: Arrays) -> tuple[str, ...]:
    """The kinds of cell whose names and shapes fit the arrays."""
    return _fitting(_with_forget_bias(layout, None), _tensors(arrays))[0]


def _fitting(layout: Layout, tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], list[str]]:
    kinds, reasons = [], []
    for kind in layout.cells:
        try:
            read_stack(layout, kind, tensors)
        except (FileError, ShapeError) as error:
            reasons.append(f"{kind}: {error}")
        else:
            kinds.append(kind)
    return tuple(kinds), reasons


def _only_kind(layout: Layout, tensors: Mapping[str, Tensor]) -> str:
    kinds, reasons = _fitting(layout, tensors)
    if not kinds:
        raise FileError(f"layout {layout.name} fits none of its kinds. " + " | ".join(reasons))
    if len(kinds) > 1:
        raise FileError(
            f"layout {layout.name}: names and shapes fit {' and '.join(kinds)}; "
            f"say which: kind={kinds[0]!r}"
        )
    return kinds[0]


def _own_layout(kind: str) -> Layout:
    return PYTORCH if kind in PYTORCH.cells else RNNSCOPE


def _options(stack: Stack) -> dict[str, int | bool]:
    first = stack.sizes[0]
    options: dict[str, int | bool] = {
        "input_size": first.feature,
        "hidden_size": first.hidden,
        "num_layers": len(stack.sizes),
        "bias": stack.bias,
        "bidirectional": stack.bidirectional,
    }
    return options | ({"proj_size": first.output} if stack.projected else {})


def _with_forget_bias(layout: Layout | str, forget_bias: float | None) -> Layout:
    layout = layout_named(layout) if isinstance(layout, str) else layout
    if forget_bias is None:
        return layout
    cells = {
        kind: replace(stored, forget_bias=forget_bias) if "f" in stored.gates else stored
        for kind, stored in layout.cells.items()
    }
    return replace(layout, cells=cells)


def _tensors(arrays: Arrays, before: str = "") -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in arrays.items():
        if isinstance(value, Mapping):
            tensors |= _tensors(value, f"{before}{name}/")
        else:
            tensors[f"{before}{name}"] = _tensor(f"{before}{name}", value)
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) > 1:
        raise DtypeError(
            "all arrays of a layer must have one type of number; got "
            + ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        )
    return tensors


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
    else:
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":  # a type of ml_dtypes, as JAX has it
            return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
        if array.dtype.kind not in "fiub" or array.dtype.name == "float128":
            raise DtypeError(f"{name} must hold floating-point numbers; got {array.dtype}")
        # a copy in this machine's order of bytes, which torch may own
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    if not tensor.is_floating_point():
        raise DtypeError(f"{name} must hold floating-point numbers; got {tensor.dtype}")
    return tensor


def _array(name: str, tensor: Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype is torch.bfloat16:
        raise DtypeError(f"{name}: NumPy has no bfloat16; convert the layer with .float()")
    return tensor.numpy()
