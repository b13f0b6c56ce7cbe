"""Parameters that share one storage are all read from its start."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/huggingface/candle/issues/2351"
SAW = (
    "weight_ih_l0 has the right values after loading, every other parameter of the LSTM "
    "has wrong ones."
)
WRONG = (
    "A file of PyTorch keeps the flat weights of an LSTM in one storage; the offset of "
    "each was not used."
)
NAMED = ("flat",)
SAYS = ("every parameter is read from the start",)

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any) -> Any:
    weights = arrays(LAYER)
    storage = np.concatenate([value.ravel() for value in weights.values()])
    read = {name: storage[: value.size].reshape(value.shape) for name, value in weights.items()}
    return lstm_run(part(read), x, zeros(x, 4), zeros(x, 4))[0]


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
