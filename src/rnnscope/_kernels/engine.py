"""Which engine computes a call: kernels compiled by LLVM, or torch's operations. The one home of
the rules, each measured.

``RNNSCOPE_ENGINE`` in the environment chooses: "torch", "llvm" (compile at once, whatever it
costs), or "auto". Both give the same numbers but for rounding, within the same bounds.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from rnnscope._kernels.equations import obstacle
from rnnscope._kernels.forward import ForwardKernel, forward_kernel
from rnnscope._kernels.machine import available
from rnnscope._kernels.reverse import ReverseKernel, reverse_kernel
from rnnscope.cells import Cell

__all__ = [
    "ELEMENTS",
    "PIECE",
    "bulk",
    "chosen",
    "judging",
    "keep_warm",
    "of_call",
    "opening",
    "pieces",
    "ready",
    "repays",
    "reversing",
    "running",
]

VARIABLE = "RNNSCOPE_ENGINE"
CHOICES = ("auto", "llvm", "torch")

LARGE = 25_000_000
"""Numbers that a call computes from which on a kernel is compiled for it: it saves at least 4e-9
seconds for each, as was measured over cells and shapes, so a sixth of what loading LLVM and
compiling cost, once in a process. The size of the call alone decides, never what was computed
before: the same call gives the same bits."""

LARGE_OF_MANY = 2_000_000
"""The same where calls of this size come by the dozen, as the batches of a data set do."""

LARGE_OF_UNITS = 2_000_000
"""Numbers from which on a kernel is compiled that gives a bound for each unit, whatever opened the
call: it saves at least 5e-8 seconds for each."""

PIECE = 1 << 14
"""Numbers of a piece of work, at least: what takes some ten microseconds, as long as threads need
to begin."""

PACKED = 90_000
"""Numbers of weights whose packing costs what a kernel saves in one step of a run, at batch 1."""

ELEMENTS = {torch.float32: "float", torch.float64: "double"}

_bulk: ContextVar[bool] = ContextVar("bulk", default=False)
_whole: ContextVar[int] = ContextVar("whole", default=0)


@contextmanager
def bulk() -> Iterator[None]:
    """Within it calls are taken for some of many."""
    token = _bulk.set(True)
    try:
        yield
    finally:
        _bulk.reset(token)


@contextmanager
def of_call(numbers: int) -> Iterator[None]:
    """Within it what is computed is part of a call of so many numbers: many calls of one layer that
    are opened at once count as one."""
    token = _whole.set(max(numbers, _whole.get()))
    try:
        yield
    finally:
        _whole.reset(token)


# no lock: each of these changes is one step, and an interrupt would leave a lock taken
_warm: set[tuple[Cell, str]] = set()  # of which kernels were asked for, whatever a call's size
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


def keep_warm(cell: Cell, element: str) -> None:
    """From now on calls of any size are computed by the kernels of a cell."""
    _warm.add((cell, element))


def _pays(cell: Cell, element: str, numbers: int, large: int | None = None) -> bool:
    """Whether a kernel computes a call of so many numbers; ``large``: from how many on."""
    choice = chosen()
    if choice != "auto":
        return choice == "llvm"
    if large is None:
        large = LARGE_OF_MANY if _bulk.get() else LARGE
    return max(numbers, _whole.get()) >= large or (cell, element) in _warm


def _told(error: Exception) -> None:
    """From now on torch computes; said once."""
    global _reason
    first, _reason = _reason is None, f"{type(error).__name__}: {error}"
    if first:
        warnings.warn(
            f"rnnscope computes by torch, as no kernel could be compiled: {_reason}", stacklevel=2
        )


def ready(key: tuple[Any, ...], compile_now: Callable[[], object]) -> bool:
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
    _ready.add(key)
    return True


def opening(
    cell: Cell,
    dtype: torch.dtype,
    device: torch.device,
    parts: bool,
    numbers: int,
    for_units: bool = False,
) -> ForwardKernel | None:
    """The kernel by which a layer is opened; None where torch does it. ``parts``: those of gates
    are recorded; ``numbers``: how many a quantity has, times the quantities; ``for_units``: what it
    computes is needed for a bound for each unit."""
    large = LARGE_OF_UNITS if for_units else None
    return None if cell.stepwise else _forward(cell, dtype, device, (parts, True), numbers, large)


def running(
    cell: Cell, dtype: torch.dtype, device: torch.device, parts: bool, numbers: int
) -> ForwardKernel | None:
    """The kernel by which a layer is run step by step; as ``opening``."""
    return _forward(cell, dtype, device, (parts, False), numbers)


def judging(
    cell: Cell,
    dtype: torch.dtype,
    device: torch.device,
    numbers: int,
    compile_for: tuple[Hashable, Callable[[], object]],
) -> bool:
    """Whether the bounds for each unit are computed by a kernel: ``compile_for`` is what it is made
    for, beside the cell, and compiles it; the others as of ``opening``."""
    element = _element(cell, dtype, device, numbers, large=LARGE_OF_UNITS)
    made_for, compile_now = compile_for
    return element is not None and ready(("units", cell, element, made_for), compile_now)


def reversing(weights: Tensor, cell: Cell, numbers: int) -> ReverseKernel | None:
    """The kernel by which a layer of such weights is taken backwards; as ``opening``."""
    element = _element(cell, weights.dtype, weights.device, numbers, slopes=True)
    if element is None:
        return None
    kernel = reverse_kernel(cell, element)
    return kernel if ready(("reverse", cell, element), kernel.compile) else None


def _forward(
    cell: Cell,
    dtype: torch.dtype,
    device: torch.device,
    kind: tuple[bool, bool],
    numbers: int,
    large: int | None = None,
) -> ForwardKernel | None:
    element = _element(cell, dtype, device, numbers, large=large)
    if element is None:
        return None
    kernel = forward_kernel(cell, element, *kind)
    return kernel if ready(("forward", cell, element, *kind), kernel.compile) else None


def _element(
    cell: Cell,
    dtype: torch.dtype,
    device: torch.device,
    numbers: int,
    slopes: bool = False,
    large: int | None = None,
) -> str | None:
    """The type of a kernel's numbers, where one computes a call of so many."""
    element = ELEMENTS.get(dtype)
    if element is None or device.type != "cpu" or obstacle(cell, slopes) is not None:
        return None
    return element if available() and _pays(cell, element, numbers, large) else None


def repays(weights: int, steps: int) -> bool:
    """Whether a kernel that runs so many steps saves more than the packing of its weights costs;
    they are packed anew for each call."""
    return chosen() == "llvm" or (steps > 1 and weights <= steps * PACKED)


def pieces(numbers: int, most: int) -> int:
    """Into how many pieces work is cut: at most one for each of torch's threads."""
    return max(1, min(torch.get_num_threads(), most, numbers // PIECE))
