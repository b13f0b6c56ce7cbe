"""[cell] * n is one cell."""

from __future__ import annotations

from typing import Any

from torch import nn

import rnnscope as rs
from museum.plain import arrays, lstm_run, part, trained, zeros

THREAD = "https://github.com/macanv/BERT-BiLSTM-CRF-NER/issues/252"
SAW = "Layers of a stack share their parameters."
WRONG = "[cell_fw] * num_layers holds the same object several times."
NAMED = ("layers_repeated",)
SAYS = ("layer 1 uses the weights of layer 0",)

LAYER = trained(nn.LSTM(4, 4, 2))


def port(x: Any) -> Any:
    for _ in range(2):
        x = lstm_run(part(arrays(LAYER), "_l0"), x, zeros(x, 4), zeros(x, 4))[0]
    return x


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
