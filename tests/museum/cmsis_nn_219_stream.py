"""The state is wiped at every chunk of a stream."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/ARM-software/CMSIS-NN/pull/219"
SAW = "The first steps agree with the reference, all after the first chunk of 4 do not."
WRONG = "As above: the stream is cut into calls of 4 steps, each of which starts from zeros."
NAMED = ("begins_anew",)
SAYS = ("the state is set to zero inside the sequence", "every 4 steps")

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any) -> Any:
    chunks = [x[t : t + 4] for t in range(0, len(x), 4)]
    weights = part(arrays(LAYER))
    return np.concatenate([lstm_run(weights, c, zeros(c, 4), zeros(c, 4))[0] for c in chunks])


def compared() -> rs.Verdict:
    x = np.random.default_rng(0).normal(size=(14, 2, 3))
    return rs.compare(port, LAYER, x)
