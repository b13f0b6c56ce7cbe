"""An LSTM from scratch takes derivatives of values that are activations already."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import rnnscope as rs
from museum.plain import Array, lstm_backward, sigmoid, trained

THREAD = "https://github.com/nicklashansen/rnn_lstm_from_scratch/issues/1"
SAW = "The LSTM of a tutorial does not pass the gradient check."
WRONG = "sigmoid(o, derivative=True) applies sigmoid again, to a gate that is σ(a) already."
NAMED = ("slope",)
SAYS = ("the derivative of every function is taken of the output", "the function is applied twice")

LAYER = trained(nn.LSTM(3, 4))


def sigmoid_slope(y: Array) -> Array:
    slope: Array = sigmoid(y) * (1 - sigmoid(y))
    return slope


def tanh_slope(y: Array) -> Array:
    slope: Array = 1 - np.tanh(y) ** 2
    return slope


def backward(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Any:
    slopes = (sigmoid_slope, tanh_slope)
    return lstm_backward(x, initial, weights, grad_output, grad_final, slopes=slopes)


def compared() -> rs.Verdict:
    return rs.compare(LAYER, LAYER, backward=backward)
