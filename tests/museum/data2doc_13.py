"""One state for all layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_step, part, trained, zeros

THREAD = "Data2Doc 13"
SAW = "A stack of LSTM cells, written by hand, is not what nn.LSTM with two layers is."
WRONG = "Every cell of the stack reads and writes the same h and c."
NAMED = ("state_shared",)
SAYS = ("one state for all layers",)

LAYER = trained(nn.LSTM(4, 4, 2))


def port(x: Any) -> Any:
    weights = arrays(LAYER)
    h, c, outputs = zeros(x, 4), zeros(x, 4), []
    for x_t in x:
        h_below = x_t
        for layer in range(2):
            h, c = lstm_step(part(weights, f"_l{layer}"), h_below, h, c)
            h_below = h
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
