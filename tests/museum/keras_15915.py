"""Weights of torch.nn.GRU in a Keras GRU."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/keras-team/keras/issues/15915"
SAW = "LSTMs agree after the weights are copied; GRUs are not close."
WRONG = (
    "Keras has the gates in the order z, r, h; the rows were transposed and copied as they were."
)
NAMED = ("gate_order",)
SAYS = ("you split the rows as z, r, n",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        x_z, x_r, x_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=-1)
        h_z, h_r, h_n = np.split(h @ W_hh.T + b_hh, 3, axis=-1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = z * h + (1 - z) * np.tanh(x_n + r * h_n)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
