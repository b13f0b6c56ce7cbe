"""A Python LSTM of MXNet overwrites dc where it should be added to."""

from __future__ import annotations

from typing import Any

from torch import nn

import rnnscope as rs
from museum.plain import lstm_backward, trained

THREAD = "https://github.com/apache/mxnet/issues/4057"
SAW = "The example's backward pass seems wrong where it computes dCt."
WRONG = "dCt = dht * ..., where += is meant: what the next step hands back to c is lost."
NAMED = ("through_state",)
SAYS = ("no gradient through c_(t-1)", "dc_prev = dc * f")

LAYER = trained(nn.LSTM(3, 4))


def backward(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Any:
    def back(dc: Any, f: Any) -> Any:
        return 0 * dc  # the next dc is assigned, not added to

    return lstm_backward(x, initial, weights, grad_output, grad_final, back=back)


def compared() -> rs.Verdict:
    return rs.compare(LAYER, LAYER, backward=backward)
