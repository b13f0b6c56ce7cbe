"""Where batch and steps are many, the bias is never added."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/ROCm/rocm-libraries/issues/10551"
SAW = "An LSTM is silently wrong on one backend once batch times steps is larger than 65,536."
WRONG = (
    "The kernel that adds the bias does not run beyond what one launch holds: rows behind "
    "it have no bias."
)
NAMED = ("bias_missing",)
SAYS = ("rows 0 to 3, not rows 4 to 6", "in rows 4 to 6 alone, both biases are missing")

LAYER = trained(nn.LSTM(3, 4))
HELD = 4  # rows that one launch holds


def port(x: Any) -> Any:
    W_ih, W_hh, b_ih, b_hh = part(arrays(LAYER))
    first = lstm_run((W_ih, W_hh, b_ih, b_hh), x[:, :HELD], *[zeros(x[:, :HELD], 4)] * 2)[0]
    others = lstm_run((W_ih, W_hh, 0 * b_ih, 0 * b_hh), x[:, HELD:], *[zeros(x[:, HELD:], 4)] * 2)
    return np.concatenate([first, others[0]], 1)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER, np.random.default_rng(0).normal(size=(5, 7, 3)))
