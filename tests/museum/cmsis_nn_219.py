"""The state is wiped between calls."""

from __future__ import annotations

from typing import Any

from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/ARM-software/CMSIS-NN/pull/219"
SAW = "A streaming model, called once for every few steps, forgets all that came before."
WRONG = (
    "The kernel sets the hidden state to none and the cell state to zeros at the start of "
    "every call."
)
NAMED = ("initial_ignored",)
SAYS = ("h_0 and c_0 not used",)

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    return lstm_run(part(arrays(LAYER)), x, zeros(x, 4), zeros(x, 4))[0]


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
