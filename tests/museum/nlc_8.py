"""The backward RNN reads the sequence forward."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/stanfordmlgroup/nlc/issues/8"
SAW = "Should the input to the backward RNN not be reversed?"
WRONG = "Both directions were given the same input after a rewrite."
NAMED = ("reverse_forward",)
SAYS = ("the reverse direction runs forward in time",)

LAYER = trained(nn.LSTM(3, 4, bidirectional=True))


def port(x: Any) -> Any:
    weights = arrays(LAYER)
    forward = lstm_run(part(weights), x, zeros(x, 4), zeros(x, 4))[0]
    reverse = lstm_run(part(weights, "_l0_reverse"), x, zeros(x, 4), zeros(x, 4))[0]
    return np.concatenate([forward, reverse], -1)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
