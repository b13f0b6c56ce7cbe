"""The reverse direction loops over features, not steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/kraiskil/onnx2c/issues/95"
SAW = "The forward half of a bidirectional LSTM is right, the other is not."
WRONG = "The generated code counts the input features down where it should count the steps down."
NAMED = ("turned_wrongly",)
SAYS = ("reverses the features, not the steps",)

LAYER = trained(nn.LSTM(3, 4, bidirectional=True))


def port(x: Any) -> Any:
    weights = arrays(LAYER)
    forward = lstm_run(part(weights), x, zeros(x, 4), zeros(x, 4))[0]
    turned = x[:, :, ::-1]  # it should be x[::-1], and the outputs turned back
    reverse = lstm_run(part(weights, "_l0_reverse"), turned, zeros(x, 4), zeros(x, 4))[0]
    return np.concatenate([forward, reverse], -1)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
