"""nnx.GRUCell has no b_hn."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/google/flax/issues/5594"
SAW = "A fresh cell agrees with linen and PyTorch; ported weights do not."
WRONG = (
    "The three hidden products are one layer without a bias, so b_hn has no place; biases "
    "start at zero, which hid it."
)
NAMED = ("bias_missing",)
SAYS = ("b_hn is missing",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        b_r, b_z, _ = np.split(b_ih + b_hh, 3)
        b_n = np.split(b_ih, 3)[2]
        x_r, x_z, x_n = np.split(x_t @ W_ih.T, 3, axis=-1)
        h_r, h_z, h_n = np.split(h @ W_hh.T, 3, axis=-1)
        r, z = sigmoid(x_r + h_r + b_r), sigmoid(x_z + h_z + b_z)
        n = np.tanh(x_n + b_n + r * h_n)
        h = (1 - z) * n + z * h
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
