"""A GRU of TensorFlow 2 in TensorFlow.js, its bias cut to one row."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/tensorflow/tfjs/issues/2442"
SAW = (
    "The model loads only once the bias of shape [2, 384] is cut to [384]; predictions "
    "are other ones."
)
WRONG = (
    "The second row is the recurrent bias, which is lost; and the cell has the reset "
    "before the product."
)
NAMED = ("bias_missing", "reset_before")
SAYS = ("b_hh is missing", "the reset comes before the product")

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, _ = part(arrays(LAYER))
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        W_hr, W_hz, W_hn = np.split(W_hh, 3)
        x_r, x_z, x_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=-1)
        r, z = sigmoid(x_r + h @ W_hr.T), sigmoid(x_z + h @ W_hz.T)
        h = (1 - z) * np.tanh(x_n + (r * h) @ W_hn.T) + z * h
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
