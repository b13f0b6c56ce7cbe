"""Files of Keras 1: an array for each gate. The judge is a loop by the equations of its source.

Source: github.com/keras-team/keras/blob/1.2.2/keras/layers/recurrent.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rnnscope as rs

h5py = pytest.importorskip("h5py", reason="h5py writes the files")

D, H = 3, 5
GATES = {"LSTM": ("_i", "_c", "_f", "_o"), "GRU": ("_z", "_r", "_h"), "SimpleRNN": ("",)}
Arrays = dict[str, np.ndarray[Any, Any]]


def arrays_of(kind: str, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {"W": (D, H), "U": (H, H), "b": (H,)}
    return {f"{p}{g}": rng.normal(size=shapes[p]).astype("f4") for g in GATES[kind] for p in "WUb"}


def keras1_file(
    path: Path,
    kind: str,
    layers: dict[str, Arrays],
    facts: dict[str, Any] | None = None,
    end: str = "",
) -> None:
    """As Keras 1 writes weights; with ``facts`` the model's configuration, too."""
    name = f"{kind.lower()}_1"
    with h5py.File(path, "w") as file:
        root = file if facts is None else file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode(), b"dense_1"]
        group = root.create_group(name)
        for before, arrays in layers.items():
            for key, value in arrays.items():
                group[f"{before}{name}_{key}{end}"] = value
        group.attrs["weight_names"] = [key.encode() for key in group]
        root.create_group("dense_1")["dense_1_W"] = np.zeros((H, 2), "f4")
        root["dense_1"]["dense_1_b"] = np.zeros(2, "f4")
        if facts is not None:
            layer = {"class_name": kind, "config": {"name": name, "output_dim": H, **facts}}
            model = {"class_name": "Sequential", "config": [layer]}
            file.attrs["model_config"] = json.dumps(model).encode()
            file.attrs["keras_version"] = b"1.2.2"


def hard_sigmoid(a: Any) -> Any:
    return np.clip(0.2 * a + 0.5, 0, 1)


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def outputs(kind: str, arrays: Arrays, x: Any, inner: Any = hard_sigmoid) -> Any:
    """The states at every step; x is (batch, time, input)."""
    a = {name: value.astype("f8") for name, value in arrays.items()}
    h = c = np.zeros((x.shape[0], H))
    states = []

    def of(step: Any, gate: str, h: Any) -> Any:
        return step @ a[f"W{gate}"] + a[f"b{gate}"] + h @ a[f"U{gate}"]

    for step in x.swapaxes(0, 1):
        if kind == "SimpleRNN":
            h = np.tanh(of(step, "", h))
        elif kind == "GRU":
            z, r = inner(of(step, "_z", h)), inner(of(step, "_r", h))
            h = z * h + (1 - z) * np.tanh(of(step, "_h", r * h))
        else:
            i, f, o = inner(of(step, "_i", h)), inner(of(step, "_f", h)), inner(of(step, "_o", h))
            c = f * c + i * np.tanh(of(step, "_c", h))
            h = o * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


@pytest.mark.parametrize("end", ["", ":0"])
@pytest.mark.parametrize("kind", GATES)
def test_weights_alone(tmp_path: Path, kind: str, end: str) -> None:
    arrays = arrays_of(kind)
    keras1_file(tmp_path / "w.h5", kind, {"": arrays}, end=end)
    layers = rs.load(tmp_path / "w.h5")
    name = f"{kind.lower()}_1"
    assert list(layers) == [name]
    x = np.random.default_rng(1).normal(size=(2, 6, D)).astype("f4")
    found = layers[name](torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(found, outputs(kind, arrays, x), atol=2e-6)
    if kind != "SimpleRNN":
        assert "recurrent_activation='hard_sigmoid', the default of Keras 1" in str(layers)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_what_the_configuration_says_is_followed(tmp_path: Path, kind: str) -> None:
    arrays = arrays_of(kind)
    facts = {"inner_activation": "sigmoid", "activation": "tanh", "dropout_W": 0.5}
    keras1_file(tmp_path / "m.h5", kind, {"": arrays}, facts)
    layers = rs.load(tmp_path / "m.h5")
    x = np.random.default_rng(1).normal(size=(2, 6, D)).astype("f4")
    (layer,) = layers.values()
    found = layer(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(found, outputs(kind, arrays, x, sigmoid), atol=2e-6)
    assert "dropout_W=0.5 of training is left out" in str(layers)
    keras1_file(tmp_path / "m.h5", kind, {"": arrays}, {"output_dim": 7})
    with pytest.raises(rs.FileError, match="units=7 in the configuration, 5 in the arrays"):
        rs.load(tmp_path / "m.h5")


def test_two_directions(tmp_path: Path) -> None:
    arrays, backwards = arrays_of("LSTM"), arrays_of("LSTM", seed=3)
    keras1_file(tmp_path / "w.h5", "LSTM", {"forward_": arrays, "backward_": backwards})
    (layer,) = rs.load(tmp_path / "w.h5").values()
    x = np.random.default_rng(1).normal(size=(2, 6, D)).astype("f4")
    reverse = outputs("LSTM", backwards, x[:, ::-1])[:, ::-1]
    expected = np.concatenate([outputs("LSTM", arrays, x), reverse], 2)
    found = layer(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_missing_array_and_one_too_many(tmp_path: Path) -> None:
    arrays = arrays_of("LSTM")
    del arrays["b_f"]
    keras1_file(tmp_path / "w.h5", "LSTM", {"": arrays})
    with pytest.raises(rs.FileError, match="bias b_f is missing"):
        rs.load(tmp_path / "w.h5")
    keras1_file(tmp_path / "w.h5", "LSTM", {"": arrays_of("LSTM")})
    with h5py.File(tmp_path / "w.h5", "a") as file:
        file["lstm_1/lstm_1_gamma"] = np.zeros(H, "f4")
    with pytest.raises(rs.FileError, match="normalisation"):
        rs.load(tmp_path / "w.h5")


def test_outside_of_keras_the_gates_are_plain(tmp_path: Path) -> None:
    """Arrays of these names in another file: an LSTM by its equations, and it is said."""
    arrays = arrays_of("LSTM")
    np.savez(tmp_path / "m.npz", **{f"enc.{name}": value for name, value in arrays.items()})  # type: ignore[arg-type]
    layers = rs.load(tmp_path / "m.npz", batch_first=True)
    assert "the gates of Keras 1 were hard_sigmoid by default" in layers.assumed["enc"][0]
    x = np.random.default_rng(1).normal(size=(2, 6, D)).astype("f4")
    found = layers["enc"](torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(found, outputs("LSTM", arrays, x, sigmoid), atol=2e-6)


# files of later versions -------------------------------------------------------------------------


def keras2_file(path: Path, arrays: Arrays, more: Arrays) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.12.0"
        for name, value in {**arrays, **more}.items():
            file[name] = value


def test_moments_under_the_names_of_weights(tmp_path: Path) -> None:
    """Keras 2.11 to 2.15 keep Adam's moments in groups with the very names of the weights."""
    rng = np.random.default_rng(0)
    shapes = {"kernel:0": (D, 4 * H), "recurrent_kernel:0": (H, 4 * H), "bias:0": (4 * H,)}
    weights = {
        f"model_weights/lstm/lstm/lstm_cell/{n}": rng.normal(size=s) for n, s in shapes.items()
    }
    moments = {
        f"optimizer_weights/Adam/{m}/lstm/lstm_cell/{n}": rng.normal(size=s)
        for m in "mv"
        for n, s in shapes.items()
    }
    keras2_file(tmp_path / "m.h5", weights, moments)
    layers: Any = rs.load(tmp_path / "m.h5")
    assert list(layers) == ["lstm"]
    kernel = weights["model_weights/lstm/lstm/lstm_cell/kernel:0"]
    np.testing.assert_array_equal(layers["lstm"].weight_ih_l0.detach().numpy(), kernel.T)


def test_a_convolutional_layer_is_not_missed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lstm = {"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)}
    conv = {"kernel": (3, 3, D, 4 * H), "recurrent_kernel": (3, 3, H, 4 * H), "bias": (4 * H,)}
    arrays = {f"lstm/lstm/{n}:0": rng.normal(size=s) for n, s in lstm.items()}
    more = {f"conv/conv/{n}:0": rng.normal(size=s) for n, s in conv.items()}
    keras2_file(tmp_path / "m.h5", arrays, more)
    with pytest.raises(rs.FileError, match=r"conv: recurrent_kernel .*ignore='NAME/\*'"):
        rs.load(tmp_path / "m.h5")
    assert list(rs.load(tmp_path / "m.h5", ignore="conv/*")) == ["lstm"]
