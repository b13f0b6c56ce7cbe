"""StackedLSTMCell hands on the cell state."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, part, sigmoid, start, trained

THREAD = "https://github.com/microsoft/nni/issues/2839"
SAW = "Is this an intention or a wrong implementation?"
WRONG = "LSTMCell returns h, then c; the two were taken in the other order, so c is the output."
NAMED = ("emitted",)
SAYS = ("c is returned in place of h",)

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    (h, c), outputs = start(initial, x, 4), []
    for x_t in x:
        a = x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh
        i, f, g, o = np.split(a, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(c)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
