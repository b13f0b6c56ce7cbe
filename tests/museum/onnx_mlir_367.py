"""The state is updated while the step still reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, trained

THREAD = "https://github.com/onnx/onnx-mlir/pull/367"
SAW = "RNN, GRU and LSTM give wrong results after two loops were fused."
WRONG = (
    "The loop over units writes the new h into the array that the products of the later units read."
)
NAMED = ("in_place",)
SAYS = ("the state is overwritten while the step still reads it",)

LAYER = trained(nn.RNN(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = first(initial, x, 4).copy(), []
    for x_t in x:
        for unit in range(4):
            a = x_t @ W_ih[unit] + b_ih[unit] + h @ W_hh[unit] + b_hh[unit]
            h[:, unit] = np.tanh(a)
        outputs.append(h.copy())
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
