"""All weights are 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, part, sigmoid, zeros

THREAD = "https://github.com/uxlfoundation/oneDNN/issues/617"
SAW = "With inputs of 1 the GRU equals PyTorch's, with inputs of 0 it does not."
WRONG = (
    "With all parameters 1 no order of gates or rows can be told from another: such a "
    "test can tell nothing about them."
)
NAMED = ()
SAYS = ("these data can tell nothing", "all weights of the reference are equal")
AGREES = True

LAYER = nn.GRU(3, 4).double()
for parameter in LAYER.parameters():
    nn.init.ones_(parameter)


def port(x: Any) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = zeros(x, 4), []
    for x_t in x:
        x_z, x_r, x_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=-1)
        h_z, h_r, h_n = np.split(h @ W_hh.T + b_hh, 3, axis=-1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = z * h + (1 - z) * np.tanh(x_n + r * h_n)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER, np.ones((2, 1, 3)))
