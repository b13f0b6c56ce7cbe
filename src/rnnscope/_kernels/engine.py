"""Which engine computes a call: kernels compiled by LLVM, or torch's operations. The one home of
the rules, each measured.

``RNNSCOPE_ENGINE`` in the environment chooses: "torch", "llvm" (compile at once, whatever it
costs), or "auto". Both give the same numbers but for rounding, within the same bounds.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from rnnscope._kernels.equations import obstacle
from rnnscope._kernels.forward import ForwardKernel, forward_kernel
from rnnscope._kernels.machine import available
from rnnscope.cells import Cell

__all__ = ["ELEMENTS", "PIECE", "chosen", "opening", "pieces", "ready", "running"]

VARIABLE = "RNNSCOPE_ENGINE"
CHOICES = ("auto", "llvm", "torch")

SAVED = 4e-9
SAVED_BY_CALL = 5e-4
"""Seconds that a kernel saves for each number of a quantity, and in each call, beside torch: the
least that was measured over cells and shapes."""
COST = 0.6
"""Seconds that it takes to load LLVM and compile a kernel. A kernel is compiled when it would have
saved as much in the calls before, so no process takes much more than twice the time of the better
way. What was computed is counted, not timed."""

PIECE = 1 << 14
"""Numbers of a piece of work, at least: what takes some ten microseconds, as long as threads need
to begin."""

ELEMENTS = {torch.float32: "float", torch.float64: "double"}

_lock = threading.Lock()
_spent: defaultdict[tuple[Any, ...], float] = defaultdict(float)
_ready: set[tuple[Any, ...]] = set()
_reason: str | None = None  # why nothing is compiled any more


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
        _spent[key] += numbers * SAVED + SAVED_BY_CALL
        return _spent[key] >= COST


def _told(error: Exception) -> None:
    """From now on torch computes; said once."""
    global _reason
    with _lock:
        first, _reason = _reason is None, f"{type(error).__name__}: {error}"
    if first:
        warnings.warn(
            f"rnnscope computes by torch, as no kernel could be compiled: {_reason}", stacklevel=2
        )


def ready(key: tuple[Any, ...], compile_now: Callable[[], None]) -> bool:
    """Whether a kernel is compiled, now at the latest. Where it cannot be, whatever LLVM or the
    system say, that is told once, and torch computes from then on."""
    if key in _ready:
        return True
    if _reason is not None or not available():
        return False
    try:
        compile_now()
    except Exception as error:
        _told(error)
        return False
    with _lock:
        _ready.add(key)
    return True


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
    key = ("forward", cell, element, *kind)
    if not available() or not _pays(key, numbers):
        return None
    kernel = forward_kernel(cell, element, *kind)
    return kernel if ready(key, kernel.compile) else None


def pieces(numbers: int, most: int) -> int:
    """Into how many pieces work is cut: at most one for each of torch's threads."""
    return max(1, min(torch.get_num_threads(), most, numbers // PIECE))
