"""Tensors whose numbers can be read: what else a tensor may be is refused, with the reason.

A class of somebody's own that only adds names to ``torch.Tensor`` is harmless: its numbers are
taken as a plain tensor. One that computes in its own way (``__torch_dispatch__``) is not.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from rnnscope.errors import RefusedError

__all__ = ["fresh", "plain", "require_numbers"]

_PLAIN = (Tensor, nn.Parameter)
HUGE = 1 << 21
"""Bytes of a huge page."""


def plain(value: Tensor) -> Tensor:
    """The same numbers, with their graph, as a ``torch.Tensor`` itself.

    >>> class Tagged(Tensor): ...
    >>> type(plain(torch.ones(2).as_subclass(Tagged)))
    <class 'torch.Tensor'>
    """
    if type(value) in _PLAIN:
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)


def require_numbers(name: str, value: Tensor) -> None:
    """Raise ``RefusedError`` where no real numbers can be read; ``name`` is that of the tensor."""
    with torch._C.DisableTorchFunctionSubclass():
        reason = _reason(value)
    if reason is not None:
        where, instead = reason
        raise RefusedError(f"no numbers can be read {where}, as {name} is: {instead}")


def _reason(value: Tensor) -> tuple[str, str] | None:
    """Where its numbers are, and what to do instead; None for numbers that can be read."""
    if value.is_nested or value.layout != torch.strided:
        to_do = "pad it, use torch.nn.utils.rnn.pack_sequence, or write .to_dense()"
        return "from a nested or sparse tensor", to_do
    if value.device.type == "meta":
        return "on the meta device", "give it numbers, as .to_empty and load_state_dict do"
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        return "inside torch.func.vmap or grad", "trace outside of the transformation"
    kind = type(value)
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        where = f"from a {kind.__name__}, which computes in its own way (__torch_dispatch__)"
        return where, "pass the plain tensor that it stands for"
    if value.is_quantized:
        return f"from a quantised tensor ({value.dtype})", "write .dequantize()"
    if value.is_complex():
        return f"from a complex tensor ({value.dtype})", "pass its .real or .imag"
    return None


def fresh(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory that nothing was written to yet."""
    # a large fresh tensor costs more in page faults than in arithmetic; NumPy asks the system
    # for huge pages, torch does not
    if like.device.type == "cpu" and dtype in (torch.float32, torch.float64):
        numpy_type = np.dtype(np.float32 if dtype == torch.float32 else np.float64)
        size = math.prod(shape) * numpy_type.itemsize
        if size < HUGE:
            return torch.from_numpy(np.empty(shape, numpy_type))
        # from the beginning of a huge page to the end of another: no small ones at the edges
        memory = np.empty(size + 2 * HUGE, np.uint8)
        start = -memory.ctypes.data % HUGE
        return torch.from_numpy(memory[start : start + size].view(numpy_type).reshape(shape))
    return torch.empty(shape, dtype=dtype, device=like.device)
