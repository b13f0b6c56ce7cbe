"""The cells of TensorFlow 1, as tf_keras still has them, and Keras 2's own cuDNN conversion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from against import (
    HIDDEN,
    INPUT,
    agree,
    framework,
    in_torch,
    numbers,
    outputs,
    same_again,
    x_and_states,
)

from rnnscope._layouts import to_torch

tf_keras = framework("tf_keras")
pytestmark = pytest.mark.filterwarnings("ignore")

CELLS = [
    ("BasicRNNCell", "tensorflow1", "rnn_tanh", {}),
    ("GRUCell", "tensorflow1", "gru_reset_before", {}),
    ("BasicLSTMCell", "tensorflow1", "lstm", {}),
    ("LSTMCell", "tensorflow1_lstm", "lstm", {}),
    ("LSTMCell", "tensorflow1_lstm", "lstm", {"num_proj": 4}),
    ("LSTMCell", "tensorflow1_lstm", "lstm_peephole", {"use_peepholes": True}),
]


@pytest.mark.parametrize(("name", "layout", "kind", "options"), CELLS)
def test_a_cell(name: str, layout: str, kind: str, options: dict[str, Any]) -> None:
    from tf_keras.src.layers.rnn import legacy_cells

    tf_keras.backend.clear_session()  # the first cell of a name gets no number
    x, h, c = x_and_states()
    h = h[..., : options.get("num_proj", HIDDEN)]
    cell = getattr(legacy_cells, name)(HIDDEN, **options)
    cell.build((None, INPUT))
    arrays = {}
    for number, variable in enumerate(cell.weights):
        value = numbers(*variable.shape, seed=number)
        variable.assign(value)
        arrays[variable.name.removesuffix(":0")] = value
    state: Any = legacy_cells.LSTMStateTuple(c[0], h[0]) if "lstm" in kind else h[0]
    ys = []
    for x_t in x:
        y, state = cell(x_t, state)
        ys.append(np.asarray(y))
    last = (state.h[None], state.c[None]) if "lstm" in kind else (state[None],)
    converted = same_again(layout, arrays, kind, exact="lstm" not in kind)
    agree(outputs(in_torch(converted), x, h, c), (np.stack(ys), *map(np.asarray, last)))


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3)])
def test_cudnn_files_of_keras_2(kind: str, gates: int) -> None:
    """Keras's own conversion to its plain layers, and ours, are the same layer."""
    from tf_keras.src.saving.legacy import hdf5_format

    arrays = {
        "kernel": numbers(INPUT, gates * HIDDEN, seed=1),
        "recurrent_kernel": numbers(HIDDEN, gates * HIDDEN, seed=2),
        "bias": numbers(2 * gates * HIDDEN, seed=3),
    }
    target = type(kind.upper(), (), {"reset_after": True})()
    plain = hdf5_format._convert_rnn_weights(target, list(arrays.values()))
    theirs = to_torch("keras", dict(zip(arrays, plain, strict=True)), kind=kind)
    ours = same_again("keras_cudnn", arrays, kind)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert torch.equal(ours.state_dict[name], theirs.state_dict[name])
    x, h, c = x_and_states()
    agree(outputs(in_torch(ours), x, h, c), outputs(in_torch(theirs), x, h, c))
