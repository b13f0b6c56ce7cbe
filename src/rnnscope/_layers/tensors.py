"""Tensors whose numbers can be read: what else a tensor may be is refused, with the reason.

A class of somebody's own that only adds names to ``torch.Tensor`` is harmless: its numbers are
taken as a plain tensor. One that computes in its own way (``__torch_dispatch__``) is not.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnscope.errors import RefusedError

__all__ = ["fresh", "plain", "require_numbers", "reused_memory"]

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


SPARE = 4
"""So many times what is needed, memory that is used again may have."""

_EXAMPLE = [np.empty(0)]
_UNUSED = sys.getrefcount(_EXAMPLE[0])
"""References to what a list alone holds, as they are counted here."""


class _Pool:
    """Memory that is used again once every tensor in it is gone."""

    def __init__(self) -> None:
        self.blocks: list[np.ndarray[Any, Any]] = []
        self.lock = threading.Lock()

    def take(self, size: int) -> np.ndarray[Any, Any]:
        """A block of at least so many bytes: of those that nobody uses the smallest that fits;
        where none does they are let go, and it is a new one. So there are never more blocks than
        were in use at once."""
        with self.lock:
            return self._take(size)

    def _take(self, size: int) -> np.ndarray[Any, Any]:
        free = [k for k in range(len(self.blocks)) if sys.getrefcount(self.blocks[k]) == _UNUSED]
        fitting = [k for k in free if size <= self.blocks[k].nbytes <= SPARE * size]
        if fitting:
            return self.blocks[min(fitting, key=lambda k: self.blocks[k].nbytes)]
        self.blocks = [block for k, block in enumerate(self.blocks) if k not in free]
        self.blocks.append(np.empty(size, np.uint8))
        return self.blocks[-1]


_pool: ContextVar[_Pool | None] = ContextVar("pool", default=None)


@contextmanager
def reused_memory() -> Iterator[None]:
    """Within it large memory whose tensors are gone is used again: for what computes the same over
    and over, as the system takes its time to clear new memory."""
    token = _pool.set(_Pool())
    try:
        yield
    finally:
        _pool.reset(token)


def fresh(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory whose numbers are yet to be written."""
    # a large fresh tensor costs more in page faults than in arithmetic; NumPy asks the system
    # for huge pages, torch does not
    if like.device.type == "cpu" and dtype in (torch.float32, torch.float64):
        numpy_type = np.dtype(np.float32 if dtype == torch.float32 else np.float64)
        size = math.prod(shape) * numpy_type.itemsize
        if size < HUGE:
            return torch.from_numpy(np.empty(shape, numpy_type))
        # from the beginning of a huge page to the end of another: no small ones at the edges
        pool, whole = _pool.get(), size + 2 * HUGE
        memory = np.empty(whole, np.uint8) if pool is None else pool.take(whole)
        start = -memory.ctypes.data % HUGE
        return torch.from_numpy(memory[start : start + size].view(numpy_type).reshape(shape))
    return torch.empty(shape, dtype=dtype, device=like.device)
