"""Both halves are the forward direction's."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/ematvey/tensorflow-seq2seq-tutorials/issues/10"
SAW = "A tutorial joins encoder outputs that should come from two directions."
WRONG = "The forward outputs were joined with themselves."
NAMED = ("halves",)
SAYS = ("both halves of the output",)

LAYER = trained(nn.LSTM(3, 4, bidirectional=True))


def port(x: Any) -> Any:
    weights = arrays(LAYER)
    forward = lstm_run(part(weights), x, zeros(x, 4), zeros(x, 4))[0]
    reverse = forward
    return np.concatenate([forward, reverse], -1)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
