"""One parameter in place of another."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, first, part, sigmoid, trained

THREAD = "https://github.com/mravanelli/pytorch-kaldi/issues/240"
SAW = "A recurrent layer that is written by hand uses one parameter in place of another."
WRONG = (
    "A slip of copying: here the update gate's recurrent matrix stands in the place of "
    "the reset gate's, too."
)
NAMED = ("rows_repeated",)
SAYS = ("W_hz is used in place of W_hr",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    h, outputs = first(initial, x, 4), []
    for x_t in x:
        _, W_hz, W_hn = np.split(W_hh, 3)
        b_hr, b_hz, b_hn = np.split(b_hh, 3)
        x_r, x_z, x_n = np.split(x_t @ W_ih.T + b_ih, 3, axis=-1)
        r, z = sigmoid(x_r + h @ W_hz.T + b_hr), sigmoid(x_z + h @ W_hz.T + b_hz)
        n = np.tanh(x_n + r * (h @ W_hn.T + b_hn))
        h = (1 - z) * n + z * h
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
