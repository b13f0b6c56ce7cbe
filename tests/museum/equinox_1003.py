"""equinox.nn.GRUCell has one bias, and one of the new gate alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/patrick-kidger/equinox/issues/1003"
SAW = "PyTorch has bias_hh of 9 numbers, Equinox bias_n of 3: which go where?"
WRONG = (
    "A port that copies bias_ih and the last third of bias_hh loses b_hr and b_hz, which "
    "must be added to b_ir and b_iz."
)
NAMED = ("bias_missing",)
SAYS = ("b_hr and b_hz are missing",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        bias, bias_n = b_ih, np.split(b_hh, 3)[2]
        x_r, x_z, x_n = np.split(x_t @ W_ih.T + bias, 3, axis=-1)
        h_r, h_z, h_n = np.split(h @ W_hh.T, 3, axis=-1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = np.tanh(x_n + r * (h_n + bias_n))
        h = n + z * (h - n)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
