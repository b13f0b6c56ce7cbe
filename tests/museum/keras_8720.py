"""Input kernels of CuDNNGRU lie in another order of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, trained

THREAD = "https://github.com/keras-team/keras/issues/8720"
SAW = "Weights of a CuDNNGRU, in the right gate order, give other numbers in PyTorch."
WRONG = "The input kernels must be reshaped, not transposed; the recurrent ones transposed."
NAMED = ("reshaped",)
SAYS = ("reshape keeps the order of the numbers in memory",)

LAYER = trained(nn.RNN(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    kernel = W_ih.T
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        h = np.tanh(x_t @ kernel.reshape(W_ih.shape).T + b_ih + h @ W_hh.T + b_hh)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
