"""ONNX order of gates read as PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/CrispStrobe/CrispASR/pull/106"
SAW = "Every segment of a recording is given to one speaker."
WRONG = "The weights come from ONNX, which has i, o, f, c; the runtime read them as i, f, g, o."
NAMED = ("gate_order",)
SAYS = ("the rows",)

LAYER = trained(nn.LSTM(3, 4, bidirectional=True))


def onnx(rows: Any) -> Any:
    i, f, g, o = np.split(rows, 4)
    return np.concatenate([i, o, f, g])


def port(x: Any) -> Any:
    stored = {name: onnx(rows) for name, rows in arrays(LAYER).items()}
    forward = lstm_run(part(stored), x, zeros(x, 4), zeros(x, 4))[0]
    reverse = lstm_run(part(stored, "_l0_reverse"), x[::-1], zeros(x, 4), zeros(x, 4))[0]
    return np.concatenate([forward, reverse[::-1]], -1)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
