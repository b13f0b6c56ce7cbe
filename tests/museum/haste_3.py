"""haste keeps its LSTM kernels in the order i, g, f, o."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, part, sigmoid, start, trained

THREAD = "https://github.com/lmnt-com/haste/issues/3"
SAW = "The numbers of a file of haste are those of a layer of PyTorch, and yet do not fit."
WRONG = "The kernels lie as i, g, f, o, PyTorch's as i, f, g, o."
NAMED = ("gate_order",)
SAYS = ("you split the rows as i, g, f, o",)

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    (h, c), outputs = start(initial, x, 4), []
    for x_t in x:
        a = x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh
        i, g, f, o = np.split(a, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
