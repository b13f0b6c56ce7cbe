"""A forget bias of 1 that is added, or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, part, sigmoid, start, trained

THREAD = "https://github.com/apple/coremltools/issues/309"
SAW = "TensorFlow and Core ML agree on the first step of a sequence and differ after it."
WRONG = (
    "TensorFlow 1 adds 1 to the forget gate as it runs; the parameter that should do so "
    "did nothing."
)
NAMED = ("forget_bias",)
SAYS = ("an extra 1 is added to the forget gate",)

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    (h, c), outputs = start(initial, x, 4), []
    for x_t in x:
        a = x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh
        i, f, g, o = np.split(a, 4, axis=-1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
