"""Kernels compiled ahead, so that no call waits for it."""

from __future__ import annotations

import torch

from rnnscope._kernels.engine import ELEMENTS, keep_warm, ready
from rnnscope._kernels.equations import obstacle
from rnnscope._kernels.forward import forward_kernel
from rnnscope._kernels.machine import available
from rnnscope._kernels.reverse import reverse_kernel
from rnnscope._opening.bounds import Rounding
from rnnscope._opening.compiled_bounds import bounds_kernel
from rnnscope._opening.compiled_units import has_kernel, units_kernel
from rnnscope.cells import Cell
from rnnscope.cells.cells import CELLS
from rnnscope.errors import DtypeError, MissingExtraError

__all__ = ["warm_up"]


def warm_up(*cells: Cell, dtype: torch.dtype = torch.float32) -> None:
    """Compile the kernels of cells now, those of ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` where none
    is named. Calls of any size are computed by them from then on.

    Without it only calls of 25 million numbers or more are, so that a small program compiles
    nothing. It takes a second or two, and a cell that no kernel computes is left out.

    Raises ``MissingExtraError`` without the extra ``fast``, and ``DtypeError`` for another type
    than float32 and float64.
    """
    if not available():
        raise MissingExtraError(
            "kernels are compiled by llvmlite, which is not installed: pip install 'rnnscope[fast]'"
        )
    element = ELEMENTS.get(dtype)
    if element is None:
        raise DtypeError(f"kernels compute in float32 or float64; got {dtype}")
    rounding = Rounding.of(dtype, torch.device("cpu"), dtype)
    for cell in cells or CELLS.values():
        if obstacle(cell) is not None:
            continue
        keep_warm(cell, element)
        for opens in (False,) if cell.stepwise else (False, True):
            kernel = forward_kernel(cell, element, False, opens)
            ready(("forward", cell, element, False, opens), kernel.compile)
        if obstacle(cell, slopes=True) is None:
            ready(("reverse", cell, element), reverse_kernel(cell, element).compile)
        if not (cell.stepwise or cell.vectors):
            bounds_kernel(cell, element, rounding, forward_kernel(cell, element, False, True).sizes)
            if has_kernel(cell):
                units_kernel(cell, element, rounding)
