"""Keras's own layers agree with what they become in torch: `rs.compare` raises no false alarm."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
import torch
from against import HIDDEN, INPUT, framework, in_torch, numbers

import rnnscope as rs
from rnnscope._layouts import to_torch

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = framework("keras")
pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = {
    "rnn_tanh": lambda **o: keras.layers.SimpleRNN(HIDDEN, **o),
    "rnn_relu": lambda **o: keras.layers.SimpleRNN(HIDDEN, activation="relu", **o),
    "gru": lambda **o: keras.layers.GRU(HIDDEN, reset_after=True, **o),
    "lstm": lambda **o: keras.layers.LSTM(HIDDEN, **o),
}


def filled(kind: str, dtype: str = "float32") -> tuple[Any, Any]:
    """A layer of Keras with random numbers, and the same in torch."""
    theirs = LAYERS[kind](return_sequences=True, dtype=dtype)
    theirs.build((None, None, INPUT))
    arrays = {}
    for weight in theirs.weights:
        arrays[weight.name] = numbers(*weight.shape).astype(dtype)
        weight.assign(arrays[weight.name])
    return theirs, in_torch(to_torch("keras", arrays, kind=kind)).to(getattr(torch, dtype))


def called(theirs: Any) -> Any:
    """A layer of Keras as a function of time-major arrays and initial states."""

    def f(x: Any, initial: Any = None) -> Any:
        states = {}
        if initial is not None:
            given = initial if isinstance(initial, tuple) else (initial,)
            states = {"initial_state": [state[0] for state in given]}
        return keras.ops.convert_to_numpy(theirs(x.swapaxes(0, 1), **states)).swapaxes(0, 1)

    return f


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*itertools.product(LAYERS, ["float32"]), ("gru", "float64"), ("lstm", "float64")],
)
def test_keras_agrees(kind: str, dtype: str) -> None:
    theirs, layer = filled(kind, dtype)
    verdict = rs.compare(called(theirs), layer, seconds=60)
    assert verdict.agrees, str(verdict)
    assert verdict.dtype == dtype
    for steps in (5, 100, 2000):
        x = numbers(steps, 2, INPUT).astype(dtype)
        output = keras.ops.convert_to_numpy(theirs(x.swapaxes(0, 1))).swapaxes(0, 1)
        assert output.dtype == dtype
        verdict = rs.compare(np.ascontiguousarray(output), layer, x, seconds=60)
        assert verdict.agrees, str(verdict)


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu"])
def test_keras_s_products_are_float32_also_in_float64(kind: str) -> None:
    """Which its SimpleRNN shows: keras.ops.matmul of float64 is rounded to float32."""
    theirs, layer = filled(kind, "float64")
    verdict = rs.compare(called(theirs), layer, seconds=1)
    assert not verdict
    assert verdict.difference < 1e-5
    assert "as large as float32's rounding" in " ".join(str(verdict).split())


def test_keras_s_gru_in_its_other_form_does_not() -> None:
    """reset_after=False, with weights read as if it were the one of torch."""
    theirs, layer = filled("gru")
    other = keras.layers.GRU(HIDDEN, reset_after=False, return_sequences=True)
    other.build((None, None, INPUT))
    kernel, recurrent, bias = (weight.numpy() for weight in theirs.weights)
    other.set_weights([kernel, recurrent, bias[0]])
    x = numbers(8, 4, INPUT)
    output = keras.ops.convert_to_numpy(other(x.swapaxes(0, 1))).swapaxes(0, 1)
    verdict = rs.compare(np.ascontiguousarray(output), layer, x, seconds=60)
    assert not verdict
    found = [{cause.name for cause in one.causes} for one in verdict.explanations]
    assert {"reset_before", "bias_missing"} in found, str(verdict)
