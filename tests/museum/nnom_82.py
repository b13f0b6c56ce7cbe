"""Two biases whose array was transposed."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, gru_step, part, trained, zeros

THREAD = "https://github.com/majianjia/nnom/pull/82"
SAW = "The GRU of a microcontroller differs from Keras though all weights are right."
WRONG = "The bias, (2, 3H), was transposed as the matrices are, which mixes b_ih and b_hh."
NAMED = ("laid",)
SAYS = ("bias_ih and bias_hh are mixed up in memory", "was transposed before it was read")

LAYER = trained(nn.GRU(3, 4))


def port(x: Any) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    b_ih, b_hh = np.stack([b_ih, b_hh]).T.reshape(2, -1)
    h, outputs = zeros(x, 4), []
    for x_t in x:
        h = gru_step((W_ih, W_hh, b_ih, b_hh), x_t, h)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
