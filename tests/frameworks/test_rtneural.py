"""RTNeural's .json as its exporter writes it: the weights of Keras's layers, as lists."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from against import HIDDEN, INPUT, framework, numbers, x_and_states

import rnnscope as rs

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = framework("keras")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_rtneural_has_the_weights_of_keras(tmp_path: Path, kind: str) -> None:
    layer = getattr(keras.layers, kind)(HIDDEN, return_sequences=True)
    layer.build((None, None, INPUT))
    for k, weight in enumerate(layer.weights):
        weight.assign(numbers(*weight.shape, seed=k))
    entry = {
        "type": kind.lower(),
        "activation": "tanh",
        "shape": [None, None, HIDDEN],
        "weights": [np.asarray(array).tolist() for array in layer.get_weights()],
    }
    model = {"in_shape": [None, None, INPUT], "layers": [entry]}
    (tmp_path / "m.json").write_text(json.dumps(model, indent=4))
    found: Any = rs.load(tmp_path / "m.json")[kind.lower()]
    x = x_and_states()[0].swapaxes(0, 1)
    output = np.asarray(keras.ops.convert_to_numpy(layer(x)))
    np.testing.assert_allclose(found(torch.tensor(x))[0].detach(), output, atol=1e-6, rtol=1e-6)
    rs.save(found, tmp_path / "again.json", layout="rtneural")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["layers"][0]["weights"] == entry["weights"]
