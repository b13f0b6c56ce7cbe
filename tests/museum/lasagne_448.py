"""A peephole that is added after the sigmoid."""

from __future__ import annotations

from typing import Any

import numpy as np

import rnnscope as rs
from museum.plain import arrays, part, sigmoid, trained, zeros

THREAD = "https://github.com/Lasagne/Lasagne/issues/448"
SAW = "An output gate that is larger than 1, or negative."
WRONG = "The cell state seen through the peephole was added to the gate, not to its argument."
NAMED = ("peepholes",)
SAYS = ("the peepholes are added after the sigmoid",)

LAYER = trained(rs.Recurrent(rs.cells.LSTM_PEEPHOLE, 3, 4))


def port(x: Any) -> Any:
    weights = arrays(LAYER)
    W_ih, W_hh, b_ih, b_hh = part(weights)
    p_i, p_f, p_o = (weights[f"peephole_{gate}_l0"] for gate in "ifo")
    h, c, outputs = zeros(x, 4), zeros(x, 4), []
    for x_t in x:
        i, f, g, o = np.split(x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh, 4, axis=-1)
        i, f = sigmoid(i) + p_i * c, sigmoid(f) + p_f * c
        c = f * c + i * np.tanh(g)
        h = (sigmoid(o) + p_o * c) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
