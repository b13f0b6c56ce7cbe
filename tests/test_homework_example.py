"""A homework: an LSTM in NumPy, checked at several sizes. Copy this file and take out the function
between the lines: what is handed in stands there, or is imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rnnscope as rs

# what is handed in ---------------------------------------------------------------------------


def lstm(x: Any, initial: Any, weights: Any) -> Any:
    """x (time, batch, feature); h_0 and c_0 (1, batch, hidden); returns (time, batch, hidden)."""
    W_ih, W_hh = weights["weight_ih_l0"], weights["weight_hh_l0"]
    b_ih, b_hh = weights["bias_ih_l0"], weights["bias_hh_l0"]
    h, c = initial[0][0], initial[1][0]
    outputs = []
    for x_t in x:
        a = x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh
        i, f, g, o = np.split(a, 4, axis=-1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


# what checks it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "batch", "features", "hidden"),
    [(1, 1, 1, 1), (5, 1, 3, 2), (4, 3, 2, 2), (7, 2, 1, 5), (30, 4, 8, 16)],
)
def test_lstm(time: int, batch: int, features: int, hidden: int) -> None:
    torch.manual_seed(time)
    layer = torch.nn.LSTM(features, hidden)
    x = torch.randn(time, batch, features)
    initial = (torch.randn(1, batch, hidden), torch.randn(1, batch, hidden))
    rs.assert_agrees(lstm, layer, x, initial)
