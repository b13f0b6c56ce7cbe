"""One layer in one direction, opened by a compiled kernel in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
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
    shape = h.shape[0] - 2, h.shape[1]
    together = h.new_empty(3 + len(kernel.sizes), *shape)
    arrays = together.unbind()
    packed = Packed.of(kernel, weights)
    Frames(store, arrays, lengths, reverse).fill(kernel, packed, x.to(h.dtype))
    x_norm, h_norm, off, *sizes = arrays
    if not np.maximum.reduce(off.numpy(), axis=None) < math.inf:  # NaN is not
        return None
    if np.fmin.reduce(together[:2].numpy(), axis=None) == EXTREME:
        for norm, values in ((x_norm, x.to(h.dtype)), (h_norm, framed_before(h, reverse))):
            if np.fmin.reduce(norm.numpy(), axis=None) == EXTREME:
                norm.copy_(norms(values))
    return Measured(x_norm, h_norm, off, dict(zip(kernel.sizes, sizes, strict=True)))
