"""nn.GRU of MLX skips b_hn at the first step."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, part, sigmoid, trained

THREAD = "https://github.com/ml-explore/mlx/issues/3249"
SAW = "gru(x) and gru(x, hidden=zeros) give different numbers for the same weights."
WRONG = (
    "Without a hidden state the whole hidden part of the new gate is left out at the "
    "first step, with it r b_hn."
)
NAMED = ("first_bias",)
SAYS = ("b_hn is skipped at the first step",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    b_r, b_z, _ = np.split(b_ih + b_hh, 3)
    b_n, b_hn = np.split(b_ih, 3)[2], np.split(b_hh, 3)[2]
    h, outputs = None, []
    for x_t in x:
        r, z, n = np.split(x_t @ W_ih.T, 3, axis=-1)
        r, z, n = r + b_r, z + b_z, n + b_n
        if h is not None:
            h_r, h_z, h_n = np.split(h @ W_hh.T, 3, axis=-1)
            r, z = r + h_r, z + h_z
            n = n + sigmoid(r) * (h_n + b_hn)
        z = sigmoid(z)
        h = (1 - z) * np.tanh(n) + (z * h if h is not None else 0)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
