"""The state is never carried from step to step."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_step, part, start, trained

THREAD = "voice 8 (2026)"
SAW = "Speech recognition finds 0 of 7 phrases; after the repair 7."
WRONG = "Every step started from zeros: the state that a step returned was thrown away."
NAMED = ("never_carried",)
SAYS = ("the state is never carried on",)

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    h, c = start(initial, x, 4)
    return np.stack([lstm_step(part(arrays(LAYER)), x_t, h, c)[0] for x_t in x])


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
