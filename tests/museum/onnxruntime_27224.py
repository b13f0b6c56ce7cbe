"""Arguments of the gates that are clipped."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, part, sigmoid, trained, zeros

THREAD = "https://github.com/microsoft/onnxruntime/issues/27224"
SAW = "An exported LSTM gives other numbers as soon as its inputs are large."
WRONG = "The attribute clip=1.0 of ONNX cuts what goes into every activation."
NAMED = ("rewritten",)
SAYS = ("the equations of i, f, g and o are other ones", "clip[1]")

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, c, outputs = zeros(x, 4), zeros(x, 4), []
    for x_t in x:
        a = np.clip(x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh, -1, 1)
        i, f, g, o = np.split(a, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
