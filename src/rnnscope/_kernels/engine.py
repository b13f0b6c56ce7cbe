"""Which engine computes a call: kernels compiled by LLVM, or torch's operations. The one home of
the rules, each measured.

``RNNSCOPE_ENGINE`` in the environment chooses: "torch", "llvm" (compile at once, whatever it
costs), or "auto". Both give the same numbers but for rounding, within the same bounds.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from rnnscope._kernels.equations import obstacle
from rnnscope._kernels.forward import ForwardKernel, forward_kernel
from rnnscope._kernels.machine import available
from rnnscope.cells import Cell
from rnnscope.cells.cells import CELLS
from rnnscope.errors import MissingExtraError

__all__ = ["ELEMENTS", "PIECE", "chosen", "opening", "pieces", "warm_up"]

VARIABLE = "RNNSCOPE_ENGINE"
CHOICES = ("auto", "llvm", "torch")

SAVED = 2.0e-9
"""Seconds that a kernel saves for each number of a quantity, beside torch: the least that was
measured over cells and shapes (2 to 10)."""
COST = 0.4
"""Seconds that it takes to load LLVM and compile a kernel. A kernel is compiled when those before
it would have saved as much, so a process never takes more than twice the time of the better way."""

PIECE = 1 << 14
"""Numbers of a piece of work, at least: what takes some ten microseconds, as long as threads need
to begin."""

ELEMENTS = {torch.float32: "float", torch.float64: "double"}

_lock = threading.Lock()
_spent: Counter[tuple[Any, ...]] = Counter()
_ready: set[tuple[Any, ...]] = set()


def chosen() -> str:
    """What the environment says: "auto", "llvm" or "torch".

    Raises ``ValueError`` for any other word.
    """
    choice = os.environ.get(VARIABLE) or "auto"
    if choice not in CHOICES:
        raise ValueError(f"{VARIABLE} is {choice!r}; it may be {', '.join(CHOICES)}")
    return choice


def _pays(key: tuple[Any, ...], numbers: int) -> bool:
    """Whether a kernel is compiled, or worth it now; ``numbers`` that this call computes."""
    choice = chosen()
    if choice != "auto":
        return choice == "llvm"
    with _lock:
        if key in _ready:
            return True
        _spent[key] += numbers
        return _spent[key] * SAVED >= COST


@cache
def _reason() -> str | None:
    """Why nothing can be compiled here; None where it can. Told once, where LLVM is installed."""
    if not available():
        return "llvmlite is not installed"
    from rnnscope._kernels.machine import trial

    try:
        trial()
    except Exception as error:  # whatever LLVM, the system or an old version says
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"rnnscope computes by torch, as nothing could be compiled: {reason}", stacklevel=2
        )
        return reason
    return None


def _kernel(
    key: tuple[Any, ...], numbers: int, make: Callable[[], ForwardKernel]
) -> ForwardKernel | None:
    if not available() or not _pays(key, numbers) or _reason() is not None:
        return None
    kernel = make()
    if key not in _ready:
        kernel.compile()
        with _lock:
            _ready.add(key)
    return kernel


def opening(
    cell: Cell, dtype: torch.dtype, device: torch.device, parts: bool, numbers: int
) -> ForwardKernel | None:
    """The kernel by which a layer is opened; None where torch does it. ``parts``: those of gates
    are recorded; ``numbers``: how many a quantity has, times the quantities."""
    return None if cell.stepwise else _forward(cell, dtype, device, (parts, True), numbers)


def running(
    cell: Cell, dtype: torch.dtype, device: torch.device, parts: bool, numbers: int
) -> ForwardKernel | None:
    """The kernel by which a layer is run step by step; as ``opening``."""
    return _forward(cell, dtype, device, (parts, False), numbers)


def _forward(
    cell: Cell, dtype: torch.dtype, device: torch.device, kind: tuple[bool, bool], numbers: int
) -> ForwardKernel | None:
    element = ELEMENTS.get(dtype)
    if element is None or device.type != "cpu" or obstacle(cell) is not None:
        return None
    key = (cell, element, *kind)
    return _kernel(key, numbers, lambda: forward_kernel(cell, element, *kind))


def pieces(numbers: int, most: int) -> int:
    """Into how many pieces work is cut: at most one for each of torch's threads."""
    return max(1, min(torch.get_num_threads(), most, numbers // PIECE))


def warm_up(*cells: Cell, dtype: torch.dtype = torch.float32) -> None:
    """Compile the kernels of cells ahead, those of ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` where
    none is named; calls of any size are computed by them from then on.

    Without it a kernel is compiled when calls were so large that it pays. It takes about a second.

    Raises ``MissingExtraError`` without the extra ``fast``.
    """
    if not available():
        raise MissingExtraError(
            "kernels are compiled by llvmlite, which is not installed: pip install 'rnnscope[fast]'"
        )
    element = ELEMENTS.get(dtype)
    if element is None:
        raise ValueError(f"kernels compute in float32 or float64; got {dtype}")
    if _reason() is not None:
        return
    for cell in cells or CELLS.values():
        if obstacle(cell) is None:
            for opens in (True, False)[cell.stepwise :]:
                forward_kernel(cell, element, False, opens).compile()
                with _lock:
                    _ready.add((cell, element, False, opens))
