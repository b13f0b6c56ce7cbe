"""The state begins anew where an episode starts."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_step, part, trained, zeros

THREAD = "https://github.com/Stable-Baselines-Team/stable-baselines3-contrib/issues/169"
SAW = (
    "Recorded rollouts cannot be redone with the policy's LSTM: they agree up to some "
    "step of each row."
)
WRONG = (
    "RecurrentPPO sets the state of a row to zeros where its episode starts, inside the sequence."
)
NAMED = ("begins_anew",)
SAYS = ("the state is set to zero inside the sequence",)

LAYER = trained(nn.LSTM(3, 4))
EPISODES = {(3, 1), (5, 2)}  # step and row at which an episode starts


def port(x: Any) -> Any:
    h, c = zeros(x, 4), zeros(x, 4)
    outputs = []
    for t, x_t in enumerate(x):
        goes_on = np.array([[(t, row) not in EPISODES] for row in range(x.shape[1])])
        h, c = lstm_step(part(arrays(LAYER)), x_t, h * goes_on, c * goes_on)
        outputs.append(h)
    return np.stack(outputs)


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER, np.random.default_rng(0).normal(size=(8, 3, 3)))
