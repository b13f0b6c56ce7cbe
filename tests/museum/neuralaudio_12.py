"""h_0 and c_0 are exchanged."""

from __future__ import annotations

from typing import Any

from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, start, trained

THREAD = "https://github.com/mikeoliphant/NeuralAudio/issues/12"
SAW = "The outputs differ from those of the layer that was loaded, most at the first steps."
WRONG = "The stored initial states were read in the other order."
NAMED = ("initial_exchanged",)
SAYS = ("h_0 and c_0 exchanged",)

LAYER = trained(nn.LSTM(3, 4))


def port(x: Any, initial: Any = None) -> Any:
    h, c = start(initial, x, 4)
    return lstm_run(part(arrays(LAYER)), x, c, h)[0]


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
