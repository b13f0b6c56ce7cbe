"""The second layer is never loaded."""

from __future__ import annotations

from typing import Any

from torch import nn

import rnnscope as rs
from museum.plain import trained

THREAD = "https://github.com/jatinchowdhury18/RTNeural/issues/148"
SAW = "A few hours in which all seemed to work, and the model sounded really bad."
WRONG = (
    "The loader reads names that end in 0 only: the second layer keeps its first, random weights."
)
NAMED = ()
SAYS = ("weight_ih_l1",)

LAYER = trained(nn.GRU(4, 4, 2))


def port(layer: nn.Module) -> Any:
    loaded = trained(nn.GRU(4, 4, 2), seed=1)
    state = layer.state_dict()
    loaded.load_state_dict({k: v for k, v in state.items() if k.endswith("_l0")}, strict=False)
    return loaded


def compared() -> rs.Verdict:
    return rs.compare(port(LAYER), LAYER)
