"""The GRU of burn: the reset before the product, and a state that is never carried."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/tracel-ai/burn/pull/2704"
SAW = "Numbers differ from PyTorch wherever a sequence has more than one step."
WRONG = "r multiplied h before the product, and every step started from the initial state."
NAMED = ("never_carried", "reset_before")
SAYS = ("the reset comes before the product", "the state is never carried on")

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    (W_hr, W_hz, W_hn), (b_hr, b_hz, b_hn) = np.split(W_hh, 3), np.split(b_hh, 3)
    hidden, outputs = first(initial, x, 4), []
    for x_t in x:
        x_r, x_z, x_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=-1)
        r, z = sigmoid(x_r + hidden @ W_hr.T + b_hr), sigmoid(x_z + hidden @ W_hz.T + b_hz)
        n = np.tanh(x_n + (r * hidden) @ W_hn.T + b_hn)
        outputs.append((1 - z) * n + z * hidden)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
