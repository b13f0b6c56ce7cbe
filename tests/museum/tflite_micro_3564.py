"""The stride over the batch is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, start, trained

THREAD = "https://github.com/tensorflow/tflite-micro/pull/3564"
SAW = "With one row all is well; with more only the first row is right."
WRONG = (
    "The hidden state of row b is read at a multiple of the number of steps, where "
    "another row's numbers, or none, lie."
)
NAMED = ("begins_anew",)
SAYS = ("row 0, not rows 1 and 2", "in row 1 before time 0")

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    h, c = start(initial, x, 4)
    buffer = np.concatenate([h.ravel(), np.zeros(h.size * len(x))])
    h = np.stack([buffer[b * len(x) * 4 :][:4] for b in range(len(h))])
    return lstm_run(part(arrays(LAYER)), x, h, c)[0]


def compared() -> rs.Verdict:
    rng = np.random.default_rng(0)
    initial = (rng.normal(size=(1, 3, 4)), rng.normal(size=(1, 3, 4)))
    return rs.compare(port, LAYER, rng.normal(size=(6, 3, 3)), initial)
