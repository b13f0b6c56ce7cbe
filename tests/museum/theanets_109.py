"""A GRU whose tanh covers the input's part alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, part, sigmoid, trained, zeros

THREAD = "https://github.com/lmjohns3/theanets/issues/109"
SAW = "The candidate state is not what the paper has, and is larger than 1."
WRONG = "tanh was applied to W_in x + b_in alone; r * (W_hn h + b_hn) was added outside."
NAMED = ("rewritten",)
SAYS = ("the equation of n is another one",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = zeros(x, 4), []
    for x_t in x:
        x_r, x_z, x_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=-1)
        h_r, h_z, h_n = np.split(h @ W_hh.T + b_hh, 3, axis=-1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        h = (1 - z) * (np.tanh(x_n) + r * h_n) + z * h
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
