"""One layer in one direction, opened by a compiled kernel in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rnnscope._kernels.forward import EXTREME, ForwardKernel
from rnnscope._layers.compiled import Frames, Packed
from rnnscope._layers.sequences import framed_before
from rnnscope._layers.structure import Weights
from rnnscope._opening.bounds import norms
from rnnscope.cells.algebra import Expr

__all__ = ["Measured", "open_by_kernel"]


@dataclass(frozen=True)
class Measured:
    """What is measured beside the record, (time, batch): the norms of x and of h before each step,
    the largest deviation, and the largest magnitudes of expressions."""

    x_norm: Tensor
    h_norm: Tensor
    off: Tensor
    sizes: dict[Expr, Tensor]


def open_by_kernel(
    kernel: ForwardKernel,
    weights: Weights,
    store: Mapping[str, Tensor],
    lengths: Tensor,
    reverse: bool,
    x: Tensor,
) -> Measured | None:
    """Fill a record, whose states' frames hold the layer's own h and the initial states; None where
    a number of the comparison is not finite, which torch's way judges."""
    h = store["h"]
    shape = (len(h) - 2, h.shape[1])
    new = h.new_empty
    sizes = {expr: new(shape) for expr in kernel.sizes}
    measured = Measured(new(shape), new(shape), new(shape), sizes)
    arrays = (measured.x_norm, measured.h_norm, measured.off, *measured.sizes.values())
    frames = Frames(store, arrays, lengths, reverse)
    frames.fill(kernel, Packed.of(kernel, weights), x.to(h.dtype))
    if not measured.off.numpy().max() < math.inf:  # NaN is not
        return None
    if measured.x_norm.numpy().min() == EXTREME:
        measured.x_norm.copy_(norms(x.to(h.dtype)))
    if measured.h_norm.numpy().min() == EXTREME:
        measured.h_norm.copy_(norms(framed_before(h, reverse)))
    return measured
