"""The exporter wrote nn.GRU with linear_before_reset=0."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/microsoft/onnxscript/issues/2852"
SAW = "An exported GRU is off by about 0.1 in onnxruntime, where 1e-7 is expected."
WRONG = (
    "The exporter left linear_before_reset at 0: the reset gate multiplies h before the product."
)
NAMED = ("reset_before",)
SAYS = ("the reset comes before the product",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        W_hr, W_hz, W_hn = np.split(W_hh, 3)
        b_hr, b_hz, b_hn = np.split(b_hh, 3)
        x_r, x_z, x_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=-1)
        r, z = sigmoid(x_r + h @ W_hr.T + b_hr), sigmoid(x_z + h @ W_hz.T + b_hz)
        n = np.tanh(x_n + (r * h) @ W_hn.T + b_hn)
        h = (1 - z) * n + z * h
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
