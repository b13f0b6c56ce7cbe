"""Core ML has one bias for the new gate, outside of the reset."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/apple/coremltools/issues/1124"
SAW = "A speaker model converts without an error, and its GRU gives other numbers."
WRONG = (
    "Core ML computes tanh(W_in x + r (W_hn h) + b_n) with b_n = b_in + b_hn: b_hn is no "
    "longer scaled by r."
)
NAMED = ("bias_merged",)
SAYS = ("b_hn is outside of the reset",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        b_r, b_z, b_n = np.split(b_ih + b_hh, 3)
        x_r, x_z, x_n = np.split(x_t @ W_ih.T, 3, axis=-1)
        h_r, h_z, h_n = np.split(h @ W_hh.T, 3, axis=-1)
        r, z = sigmoid(x_r + h_r + b_r), sigmoid(x_z + h_z + b_z)
        n = np.tanh(x_n + r * h_n + b_n)
        h = (1 - z) * n + z * h
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
