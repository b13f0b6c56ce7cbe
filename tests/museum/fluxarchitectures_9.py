"""A skip connection in time that was left on."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import arrays, gru_step, part, trained, zeros

THREAD = "https://github.com/sdobber/FluxArchitectures.jl/issues/9"
SAW = "The recurrent part of a model is not the GRU that it should be."
WRONG = "Each step read the hidden state of two steps before."
NAMED = ("lagged",)
SAYS = ("each step reads the state of 2 steps before",)

LAYER = trained(nn.GRU(3, 4))


def port(x: Any) -> Any:
    weights = part(arrays(LAYER))
    states = [zeros(x, 4), zeros(x, 4)]
    for x_t in x:
        states.append(gru_step(weights, x_t, states[-2]))
    return np.stack(states[2:])


def compared() -> rs.Verdict:
    return rs.compare(port, LAYER)
