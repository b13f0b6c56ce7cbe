"""An RNN whose input goes through W_hh too."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, part, trained, zeros

THREAD = "https://github.com/fastai/fastbook/pull/469"
SAW = "A layer built by hand is not nn.RNN, though it has the same parameters."
WRONG = "h = relu(W_hh (h + W_ih x + b_ih) + b_hh): the input is added before W_hh."
NAMED = ("rewritten",)
SAYS = ("the equation of h is another one",)

LAYER = trained(nn.RNN(3, 4, nonlinearity="relu"))


def port(x: Any) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = zeros(x, 4), []
    for x_t in x:
        h = h + x_t @ W_ih.T + b_ih
        h = np.maximum(h @ W_hh.T + b_hh, 0)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
