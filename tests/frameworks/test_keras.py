"""Keras's own numbers: SimpleRNN, GRU in both forms, LSTM, Bidirectional, stacked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from against import (
    HIDDEN,
    Floats,
    agree,
    framework,
    in_torch,
    numbers,
    outputs,
    same_again,
    x_and_states,
)

import rnnscope as rs

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = framework("keras")
pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = {
    "rnn_tanh": lambda **o: keras.layers.SimpleRNN(HIDDEN, **o),
    "rnn_relu": lambda **o: keras.layers.SimpleRNN(HIDDEN, activation="relu", **o),
    "gru": lambda **o: keras.layers.GRU(HIDDEN, reset_after=True, **o),
    "gru_reset_before": lambda **o: keras.layers.GRU(HIDDEN, reset_after=False, **o),
    "lstm": lambda **o: keras.layers.LSTM(HIDDEN, **o),
}


def build(kind: str, **options: Any) -> Any:
    return LAYERS[kind](return_sequences=True, return_state=True, **options)


def fill(weights: list[Any], before: str = "", seed: int = 0) -> dict[str, Floats]:
    """Random numbers for a layer's weights, under Keras's own names."""
    arrays = {}
    for weight in weights:
        arrays[before + weight.name] = numbers(*weight.shape, seed=seed)
        weight.assign(arrays[before + weight.name])
    return arrays


def array(tensor: Any) -> Floats:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_one_direction(kind: str, use_bias: bool) -> None:
    x, h, c = x_and_states()
    layer = build(kind, use_bias=use_bias)
    states = [h[0], c[0]] if kind == "lstm" else [h[0]]
    layer.build((None, *x.swapaxes(0, 1).shape[1:]))
    arrays = fill(layer.weights)
    output, *last = layer(x.swapaxes(0, 1), initial_state=states)
    converted = same_again("keras", arrays, kind)
    expected = (array(output).swapaxes(0, 1), *(array(state)[None] for state in last))
    agree(outputs(in_torch(converted), x, h, c), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_from_the_end(kind: str) -> None:
    """go_backwards=True: one direction, and the output in the order of the steps run."""
    x, h, c = x_and_states()
    layer = build(kind, go_backwards=True)
    states = [h[0], c[0]] if kind == "lstm" else [h[0]]
    layer.build((None, *x.swapaxes(0, 1).shape[1:]))
    arrays = fill(layer.weights)
    output, *last = layer(x.swapaxes(0, 1), initial_state=states)
    module = in_torch(same_again("keras", arrays, kind, reverse=True))
    expected = (array(output).swapaxes(0, 1)[::-1], *(array(state)[None] for state in last))
    agree(outputs(module, x, h, c), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_bidirectional(kind: str) -> None:
    x, h, c = x_and_states(2)
    layer = keras.layers.Bidirectional(build(kind))
    layer.build((None, *x.swapaxes(0, 1).shape[1:]))
    arrays = fill(layer.forward_layer.weights, "forward_layer/", 1)
    arrays |= fill(layer.backward_layer.weights, "backward_layer/", 2)
    states = [h[0], c[0], h[1], c[1]] if kind == "lstm" else [h[0], h[1]]
    output, *last = layer(x.swapaxes(0, 1), initial_state=states)
    last = [array(state) for state in last]
    finals = (np.stack(last[::2]), np.stack(last[1::2])) if kind == "lstm" else (np.stack(last),)
    converted = same_again("keras", arrays, kind)
    agree(outputs(in_torch(converted), x, h, c), (array(output).swapaxes(0, 1), *finals))


@pytest.mark.parametrize("kind", LAYERS)
def test_stacked(kind: str) -> None:
    x, *_ = x_and_states()
    layers = [LAYERS[kind](return_sequences=True) for _ in range(2)]
    model = keras.Sequential([keras.Input((None, x.shape[-1])), *layers])
    arrays: dict[str, Floats] = {}
    for number, layer in enumerate(layers):
        arrays |= fill(layer.weights, f"layers/{number}/", number)
    output = array(model(x.swapaxes(0, 1))).swapaxes(0, 1)
    module = in_torch(same_again("keras", arrays, kind))
    zeros = np.zeros((2, x.shape[1], HIDDEN), np.float32)
    agree(outputs(module, x, zeros, zeros)[:1], (output,))


# files of cells that are not Keras's own ---------------------------------------------------------


@keras.saving.register_keras_serializable()
class NormalizedCell(keras.layers.Layer):  # type: ignore[misc, name-defined]
    """An LSTM whose output is normalised at every step."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.state_size = [units, units]
        self.inner = keras.layers.LSTMCell(units)
        self.ln = keras.layers.LayerNormalization()

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.ln.build((None, self.state_size[0]))
        self.built = True

    def call(self, x: Any, states: Any) -> Any:
        output, states = self.inner(x, states)
        return self.ln(output), states


@keras.saving.register_keras_serializable()
class PeepholeCell(keras.layers.LSTMCell):  # type: ignore[misc, name-defined]
    """An LSTMCell with one more vector."""

    def build(self, shape: Any) -> None:
        super().build(shape)
        self.peephole = self.add_weight(shape=(self.units,), name="peephole")


@keras.saving.register_keras_serializable()
class OwnLSTM(keras.layers.LSTM):  # type: ignore[misc, name-defined]
    """A class of another name."""


ENDINGS = [".keras", ".weights.h5", ".h5"]


def saved(path: Path, layer: Any) -> Path:
    x = keras.Input((4, 3))
    output = keras.layers.Dense(2)(keras.layers.LayerNormalization()(layer(x)))
    model = keras.Model(x, output)
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("cell", "reason"),
    [(NormalizedCell, "normalisation"), (PeepholeCell, "peephole|parameter of its cell")],
)
def test_a_cell_of_ones_own_is_refused(tmp_path: Path, cell: Any, reason: str, ending: str) -> None:
    path = saved(tmp_path / f"m{ending}", keras.layers.RNN(cell(5)))
    with pytest.raises(rs.FileError, match=reason):
        rs.load(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_class_of_ones_own_is_said(tmp_path: Path, ending: str) -> None:
    layers = rs.load(saved(tmp_path / f"m{ending}", OwnLSTM(5)))
    (assumed,), (ignored,) = layers.assumed.values(), layers.ignored.values()
    assert ignored == ()
    if ending != ".weights.h5":  # which holds no classes
        assert "class OwnLSTM, which is not Keras's own, is read as lstm" in assumed


@pytest.mark.parametrize("ending", ENDINGS)
def test_cells_of_a_stack_are_all_there(tmp_path: Path, ending: str) -> None:
    stack = keras.layers.RNN([keras.layers.LSTMCell(5), keras.layers.LSTMCell(6)])
    layers = rs.load(saved(tmp_path / f"m{ending}", stack))
    assert [(a.input_size, a.hidden_size) for a in layers.values()] == [(3, 5), (5, 6)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_layers_around_are_not_beside(tmp_path: Path, ending: str) -> None:
    gru = keras.layers.GRU(5, dropout=0.1, recurrent_dropout=0.2)
    layers = rs.load(saved(tmp_path / f"m{ending}", keras.layers.Bidirectional(gru)))
    assert list(layers.ignored.values()) == [()]
