"""A fusion read a GRU bias in the order r, z as z, r."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/openvinotoolkit/openvino/pull/17651"
SAW = "A fused GRU cell is right for some models and wrong for others."
WRONG = "The biases were taken to be in the order z, r whatever the graph had."
NAMED = ("gate_order",)
SAYS = ("the rows of the biases are taken as z, r, n",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        b_z, b_r, b_n = np.split(b_ih, 3)
        c_z, c_r, c_n = np.split(b_hh, 3)
        x_r, x_z, x_n = np.split(x_t @ W_ih.T, 3, axis=-1)
        h_r, h_z, h_n = np.split(h @ W_hh.T, 3, axis=-1)
        z, r = sigmoid(x_z + b_z + h_z + c_z), sigmoid(x_r + b_r + h_r + c_r)
        h = (1 - z) * np.tanh(x_n + b_n + r * (h_n + c_n)) + z * h
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
