"""go_backwards turns the input, and leaves the outputs turned."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/qjadud1994/CRNN-Keras/issues/26"
SAW = "A text recogniser adds outputs of step t to outputs of step T - t."
WRONG = (
    "go_backwards=True reverses the input only; the outputs must be reversed before they "
    "are joined."
)
NAMED = ("reverse_not_turned",)
SAYS = ("outputs are not turned back",)

LAYER = trained(nn.LSTM(3, 4, bidirectional=True))


def port(x: Any) -> Any:
    weights = arrays(LAYER)
    forward = lstm_run(part(weights), x, zeros(x, 4), zeros(x, 4))[0]
    reverse = lstm_run(part(weights, "_l0_reverse"), x[::-1], zeros(x, 4), zeros(x, 4))[0]
    return np.concatenate([forward, reverse], -1)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
