"""deeplearning4j's LSTM leaves out what reaches the last cell state, backward."""

from __future__ import annotations

from typing import Any

from torch import nn

import rnnscope as rs
from museum.plain import lstm_backward, trained

THREAD = "https://github.com/deeplearning4j/deeplearning4j/issues/8838"
SAW = "The gradient check fails as soon as the loss uses cLast; multiplied by 0, it passes."
WRONG = "What reaches the last cell state from the loss is not added to the last step's dc."
NAMED = ("final_ignored",)
SAYS = ("the gradient of c_n is not used", "dc_next = grad_c_n")

LAYER = trained(nn.LSTM(3, 4))


def backward(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Any:
    return lstm_backward(x, initial, weights, grad_output, (grad_final[0], 0 * grad_final[1]))


def compared() -> rs.Verdict:
    return rs.compare(LAYER, LAYER, backward=backward)
