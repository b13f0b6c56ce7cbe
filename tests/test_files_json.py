"""Models in JSON: .nam of Neural Amp Modeler, .json of RTNeural and GuitarML.

The judges are step-by-step loops in NumPy that read the lists themselves, written from what the
programs' sources say of their formats (NeuralAmpModelerCore/NAM/lstm.cpp, RTNeural/gru/gru.h and
lstm/lstm.h, CoreAudioML/networks.py); they know no layout of rnnscope. Weights are drawn here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typer.testing import CliRunner

import rnnscope as rs
from rnnscope._cli.commands import app

STEPS = 9
# float32 weights and states against float64 ones: rounding of sums of a few numbers below 1
CLOSE = {"atol": 2e-6, "rtol": 2e-6}
Lists = NDArray[np.float64]


# the formats, from their description ---------------------------------------------------------


def sigmoid(a: Lists) -> Lists:
    return 1 / (1 + np.exp(-a))


def drawn(seed: int, *shape: int) -> Any:
    """Nested lists of float32 numbers, as exporters write them."""
    numbers = np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)
    return numbers.tolist()


def nam_file(hidden: int, layers: int, feature: int = 1, seed: int = 0) -> dict[str, Any]:
    weights: list[float] = []
    for k in range(layers):
        width = (hidden if k else feature) + hidden
        weights += drawn(seed + k, 4 * hidden * width + 4 * hidden + 2 * hidden)
    weights += drawn(seed + 99, hidden + 1)
    return {
        "version": "0.5.4",
        "metadata": {"name": "ein Verstärker", "training": None},
        "architecture": "LSTM",
        "config": {"input_size": feature, "hidden_size": hidden, "num_layers": layers},
        "weights": weights,
        "sample_rate": 44100.0,
    }


def nam_forward(model: dict[str, Any], x: Lists) -> tuple[Lists, Lists]:
    """Output of the model, and h of its last layer: (time,) and (time, hidden)."""
    config, numbers = model["config"], iter(model["weights"])
    H, L = config["hidden_size"], config["num_layers"]
    cells = []
    for k in range(L):
        width = (H if k else config["input_size"]) + H
        w = np.array([[next(numbers) for _ in range(width)] for _ in range(4 * H)])
        b = np.array([next(numbers) for _ in range(4 * H)])
        h = np.array([next(numbers) for _ in range(H)])
        c = np.array([next(numbers) for _ in range(H)])
        cells.append([w, b, h, c])
    head = np.array([next(numbers) for _ in range(H)])
    bias = next(numbers)
    assert next(numbers, None) is None
    outputs, states = [], []
    for step in x:
        below = step
        for cell in cells:
            w, b, h, c = cell
            ifgo = w @ np.concatenate([below, h]) + b
            i, f, g, o = ifgo[:H], ifgo[H : 2 * H], ifgo[2 * H : 3 * H], ifgo[3 * H :]
            cell[3] = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            cell[2] = below = sigmoid(o) * np.tanh(cell[3])
        outputs.append(head @ below + bias)
        states.append(below)
    return np.array(outputs), np.array(states)


def rtneural_file(kinds: list[str], feature: int = 2, hidden: int = 3) -> dict[str, Any]:
    """Layers with a linear one last, as the exporter for Keras writes them."""
    layers: list[dict[str, Any]] = []
    width = feature
    for k, kind in enumerate(kinds):
        gates = 3 if kind == "gru" else 4
        bias = (2, gates * hidden) if kind == "gru" else (gates * hidden,)
        weights = [(width, gates * hidden), (hidden, gates * hidden), bias]
        layers.append(
            {
                "type": kind,
                "activation": "tanh",
                "shape": [None, None, hidden],
                "weights": [drawn(10 * k + n, *shape) for n, shape in enumerate(weights)],
            }
        )
        width = hidden
    dense = {"type": "dense", "activation": "", "shape": [None, None, 1]}
    layers.append({**dense, "weights": [drawn(77, width, 1), drawn(78, 1)]})
    return {"in_shape": [None, None, feature], "layers": layers}


def rtneural_layer(layer: dict[str, Any], x: Lists) -> Lists:
    arrays = [np.array(lists) for lists in layer["weights"]]
    if layer["type"] == "dense":
        return x @ arrays[0] + arrays[1]
    W, U, b = arrays
    H = layer["shape"][-1]
    h = c = np.zeros(H)
    states = []
    for step in x:
        if layer["type"] == "gru":
            zW, rW, cW = np.split(step @ W, 3)
            zU, rU, cU = np.split(h @ U, 3)
            (zb, rb, cb), (zd, rd, cd) = np.split(b[0], 3), np.split(b[1], 3)
            z, r = sigmoid(zW + zU + zb + zd), sigmoid(rW + rU + rb + rd)
            h = (1 - z) * np.tanh(cW + r * (cU + cd) + cb) + z * h
        else:
            i, f, g, o = np.split(step @ W + h @ U + b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


class SimpleRNN(nn.Module):
    """CoreAudioML's: one unit and one linear layer, by these names."""

    def __init__(self, unit: str, feature: int = 1, hidden: int = 4, layers: int = 1) -> None:
        super().__init__()
        self.rec = getattr(nn, unit)(feature, hidden, layers)
        self.lin = nn.Linear(hidden, 1)


def guitarml_file(net: SimpleRNN, skip: int = 1) -> dict[str, Any]:
    facts = {
        "model": "SimpleRNN",
        "input_size": net.rec.input_size,
        "skip": skip,
        "output_size": 1,
        "unit_type": net.rec._get_name(),
        "num_layers": net.rec.num_layers,
        "hidden_size": net.rec.hidden_size,
        "bias_fl": True,
    }
    return {
        "model_data": facts,
        "state_dict": {name: value.tolist() for name, value in net.state_dict().items()},
    }


def written(path: Path, model: Any, **options: Any) -> Path:
    path.write_text(json.dumps(model, **options), encoding="utf-8")
    return path


def called(layer: nn.Module, x: Lists, states: Any = None) -> Lists:
    """One sequence through a layer, (time, hidden)."""
    batch = torch.tensor(x, dtype=next(layer.parameters()).dtype).unsqueeze(1)
    if layer.batch_first:
        batch = batch.transpose(0, 1)
    output: Tensor = layer(batch, states)[0]
    return np.asarray(output.detach().double().squeeze(0 if layer.batch_first else 1))


def input_of(feature: int) -> Lists:
    return np.random.default_rng(5).normal(size=(STEPS, feature))


# loaded -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hidden", "layers", "feature"), [(3, 1, 1), (4, 3, 1), (1, 2, 4)])
@pytest.mark.parametrize("ending", [".nam", ".json"])
def test_a_nam_computes_what_its_lists_say(
    tmp_path: Path, hidden: int, layers: int, feature: int, ending: str
) -> None:
    model = nam_file(hidden, layers, feature)
    found = rs.load(written(tmp_path / f"m{ending}", model))
    assert list(found) == ["lstm"]
    layer, beside = found["lstm"], found.beside["lstm"]
    assert isinstance(layer, nn.LSTM)
    assert (layer.input_size, layer.hidden_size, layer.num_layers) == (feature, hidden, layers)
    x = input_of(feature)
    output, states = nam_forward(model, x)
    got = called(layer, x, (beside["h_0"], beside["c_0"]))
    np.testing.assert_allclose(got, states, **CLOSE)
    head = nn.functional.linear(
        torch.tensor(got).float(), beside["head.weight"], beside["head.bias"]
    )
    np.testing.assert_allclose(head[:, 0].detach(), output, **CLOSE)
    # from zero it is another model: the initial states matter, and the text says so
    assert np.abs(called(layer, x) - states).max() > 0.01
    told = " ".join(found.assumed["lstm"])
    assert "h_0 and c_0" in told
    assert "beside['head.weight']" in told


def test_a_nam_that_starts_at_zero_says_nothing_of_it(tmp_path: Path) -> None:
    model = nam_file(2, 1)
    model["weights"][4 * 2 * 3 + 8 : 4 * 2 * 3 + 8 + 4] = [0, 0, 0, 0]
    found = rs.load(written(tmp_path / "m.nam", model))
    assert not found.beside["lstm"]["h_0"].any()
    assert "h_0" not in " ".join(found.assumed["lstm"])


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("hidden", [2, 3])
@pytest.mark.parametrize("feature", [1, 2])
def test_an_rtneural_layer_computes_what_its_lists_say(
    tmp_path: Path, kind: str, hidden: int, feature: int
) -> None:
    """With two inputs and two units the three lists of a GRU are of one shape."""
    model = rtneural_file([kind], feature, hidden)
    found = rs.load(written(tmp_path / "m.json", model, indent=4))
    assert list(found) == [kind]
    assert type(found[kind]) is {"gru": nn.GRU, "lstm": nn.LSTM}[kind]
    x = input_of(feature)
    states = rtneural_layer(model["layers"][0], x)
    got = called(found[kind], x)
    np.testing.assert_allclose(got, states, **CLOSE)
    beside = found.beside[kind]
    head = nn.functional.linear(
        torch.tensor(got).float(), beside["head.weight"], beside["head.bias"]
    )
    np.testing.assert_allclose(head.detach(), rtneural_layer(model["layers"][1], states), **CLOSE)


def test_each_recurrent_layer_of_rtneural_is_a_layer(tmp_path: Path) -> None:
    model = rtneural_file(["gru", "lstm", "gru"])
    model["layers"].insert(
        0,
        {
            "type": "time-distributed-dense",
            "activation": "tanh",
            "shape": [None, None, 2],
            "weights": [drawn(50, 1, 2), drawn(51, 2)],
        },
    )
    model["layers"][2]["name"] = "middle"
    found = rs.load(written(tmp_path / "m.json", model))
    assert list(found) == ["gru", "middle", "gru_1"]
    x = input_of(2)
    for name, entry in zip(found, model["layers"][1:], strict=False):
        states = rtneural_layer(entry, x)
        np.testing.assert_allclose(called(found[name], x), states, **CLOSE)
        assert "layers[0] time-distributed-dense" in " ".join(found.assumed[name])
        x = states
    assert [bool(found.beside[name]) for name in found] == [False, False, True]


@pytest.mark.parametrize("unit", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_guitarml_model_is_its_state_dict(tmp_path: Path, unit: str, layers: int) -> None:
    torch.manual_seed(0)
    net = SimpleRNN(unit, 2, 4, layers)
    found = rs.load(written(tmp_path / "m.json", guitarml_file(net)))
    assert list(found) == ["rec"]
    x = torch.randn(STEPS, 3, 2)
    layer: Any = found["rec"]
    assert torch.equal(layer(x)[0], net.rec(x)[0])
    beside = found.beside["rec"]
    assert torch.equal(beside["head.weight"], net.lin.weight)
    assert torch.equal(beside["head.bias"], net.lin.bias)
    assert beside["skip"] == 1
    assert "skip=1" in " ".join(found.assumed["rec"])
    assert "batch_first=False" in found.assumed["rec"]


def test_a_whole_state_dict_is_read_too(tmp_path: Path) -> None:
    """RTNeural's examples for PyTorch: ``json.dump`` of a state dict, with nothing around it."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"gru": nn.GRU(1, 3), "gru2": nn.GRU(3, 2, 2), "dense": nn.Linear(2, 1)})
    state = {name: value.tolist() for name, value in net.state_dict().items()}
    found = rs.load(written(tmp_path / "m.json", state))
    assert list(found) == ["gru", "gru2"]
    x = torch.randn(STEPS, 1, 1)
    first, second = (found[name] for name in found)
    assert torch.equal(second(first(x)[0])[0], net["gru2"](net["gru"](x)[0])[0])
    assert "dense.weight, dense.bias" in " ".join(found.assumed["gru2"])


def test_names_say_which_lists_are_which(tmp_path: Path) -> None:
    layer = nn.LSTM(2, 3, bias=False)
    model = {"net": {"a": layer.weight_ih_l0.tolist(), "b": layer.weight_hh_l0.tolist()}}
    model |= {"state_dict": {}}
    path = written(tmp_path / "m.json", model)
    found: Any = rs.load(path, names={"weight_ih_l0": "net/a", "weight_hh_l0": "net/b"})[""]
    x = torch.randn(4, 2)
    assert torch.equal(found(x)[0], layer(x)[0])


# saved --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_a_nam_is_written_as_it_was_read(tmp_path: Path, layers: int) -> None:
    model = nam_file(4, layers)
    rs.save(rs.load(written(tmp_path / "m.nam", model)), tmp_path / "n.nam")
    again = json.loads((tmp_path / "n.nam").read_text())
    for key in ("architecture", "config", "weights", "sample_rate"):
        assert again[key] == model[key]
    assert set(again) == {"version", "architecture", "config", "weights", "sample_rate"}


@pytest.mark.parametrize("layout", ["nam", "rtneural", "guitarml"])
@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_written_computes_the_same(tmp_path: Path, layout: str, depth: int) -> None:
    torch.manual_seed(1)
    layer, head = nn.LSTM(2, 3, depth), nn.Linear(3, 1)
    beside = {"head.weight": head.weight.detach(), "head.bias": head.bias.detach()}
    path = tmp_path / ("m.nam" if layout == "nam" else "m.json")
    rs.save({"amp": layer}, path, layout=layout, beside={"amp": beside})
    model, x = json.loads(path.read_text()), input_of(2)
    expected = np.asarray(head(layer(torch.tensor(x).float())[0]).detach()[:, 0])
    if layout == "nam":
        output = nam_forward(model, x)[0]
    elif layout == "rtneural":
        states = x
        for entry in model["layers"]:
            states = rtneural_layer(entry, states)
        output = states[:, 0]
    else:
        net = SimpleRNN("LSTM", 2, 3, depth)
        state = {name: torch.tensor(lists) for name, lists in model["state_dict"].items()}
        net.load_state_dict(state)
        assert model["model_data"]["num_layers"] == depth
        output = np.asarray(net.lin(net.rec(torch.tensor(x).float())[0]).detach()[:, 0])
    np.testing.assert_allclose(output, expected, **CLOSE)
    names = ["amp_l0", "amp_l1"] if layout == "rtneural" and depth > 1 else ["amp"]
    again = rs.load(path)
    assert list(again) == names
    for name in names:
        x = called(again[name], x)
    np.testing.assert_allclose(x, called(layer, input_of(2)), **CLOSE)


def test_a_model_is_put_around_a_layer(tmp_path: Path) -> None:
    """A .nam ends in bias, h_0 and c_0 of its last layer, then the head's weight and bias."""
    numbers = {
        "h_0": torch.tensor([[[1.0, 2.0]]]),
        "c_0": torch.tensor([[[3.0, 4.0]]]),
        "head.weight": torch.tensor([[5.0, 6.0]]),
        "head.bias": torch.tensor([7.0]),
        "sample_rate": 48_000.0,
    }
    path = tmp_path / "m.nam"
    rs.save(nn.LSTM(1, 2), path, beside={"": numbers})
    model = json.loads(path.read_text())
    assert model["weights"][-7:] == [1, 2, 3, 4, 5, 6, 7]
    assert model["sample_rate"] == 48_000
    # what is given takes the place of what was read
    rs.save(rs.load(path), path, beside={"lstm": {**numbers, "head.bias": torch.tensor([8.0])}})
    assert json.loads(path.read_text())["weights"][-7:] == [1, 2, 3, 4, 5, 6, 8]


def test_a_model_without_a_place_or_a_layer_is_refused(tmp_path: Path) -> None:
    layers, numbers = {"amp": nn.LSTM(1, 2)}, {"head.bias": torch.zeros(1)}
    with pytest.raises(rs.RefusedError, match=r"a \.pt file holds layers alone"):
        rs.save(layers, tmp_path / "m.pt", beside={"amp": numbers})
    with pytest.raises(rs.AddressError, match="beside must name layers, 'amp'; got 'rig'"):
        rs.save(layers, tmp_path / "m.nam", beside={"rig": numbers})
    assert list(tmp_path.iterdir()) == []


def test_a_gru_is_written_in_the_order_of_keras(tmp_path: Path) -> None:
    torch.manual_seed(1)
    layer = nn.GRU(2, 3)
    rs.save(layer, tmp_path / "m.json", layout="rtneural")
    model = json.loads((tmp_path / "m.json").read_text())
    x = input_of(2)
    np.testing.assert_allclose(rtneural_layer(model["layers"][0], x), called(layer, x), **CLOSE)


def test_what_a_file_cannot_keep_is_said_in_it(tmp_path: Path) -> None:
    rs.save(nn.LSTM(1, 3), tmp_path / "bare.nam")
    found = rs.load(tmp_path / "bare.nam")
    assert not found.beside["lstm"]["head.weight"].any()
    assert "no head was given" in " ".join(found.assumed["lstm"])
    read = rs.load(written(tmp_path / "m.nam", nam_file(3, 1)))
    rs.save(read, tmp_path / "m.json", layout="guitarml")
    said = " ".join(rs.load(tmp_path / "m.json").assumed["lstm"])
    assert "h_0, c_0, sample_rate of the model that was read are not in this file" in said
    assert torch.equal(
        rs.load(tmp_path / "m.json").beside["lstm"]["head.weight"],
        read.beside["lstm"]["head.weight"],
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_type_of_numbers_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    layer = nn.GRU(2, 3, dtype=dtype)
    rs.save(layer, tmp_path / "m.json", layout="guitarml")
    found: Any = rs.load(tmp_path / "m.json")["rec"]
    assert all(
        torch.equal(value, found.state_dict()[name]) for name, value in layer.state_dict().items()
    )


@pytest.mark.parametrize(
    ("name", "layout", "layers", "why"),
    [
        ("m.nam", None, nn.GRU(1, 2), "layout nam cannot hold gru"),
        (
            "m.nam",
            None,
            nn.LSTM(1, 2, bidirectional=True),
            "holds one direction; the layer has two",
        ),
        ("m.nam", None, nn.LSTM(1, 3, proj_size=2), "has no projection"),
        (
            "m.nam",
            None,
            {"a": nn.LSTM(1, 2), "b": nn.LSTM(1, 2)},
            "holds one stack of layers; got a, b",
        ),
        ("m.nam", "keras", nn.LSTM(1, 2), "expected layout='nam'"),
        (
            "m.json",
            None,
            nn.LSTM(1, 2),
            "expected layout='nam' or layout='rtneural' or layout='gui",
        ),
        ("m.json", "rtneural", nn.RNN(1, 2), "cannot hold rnn"),
        ("m.json", "rtneural", {"a": nn.LSTM(1, 2), "b": nn.GRU(1, 2)}, "takes 1 numbers, the one"),
        ("m.json", "guitarml", nn.RNN(1, 2, nonlinearity="relu"), "has tanh alone"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path, name: str, layout: str | None, layers: Any, why: str
) -> None:
    with pytest.raises(rs.RefusedError, match=why):
        rs.save(layers, tmp_path / name, layout=layout)
    assert not (tmp_path / name).exists()


def test_json_has_no_nan_to_write(tmp_path: Path) -> None:
    layer = nn.LSTM(1, 2)
    nn.init.constant_(layer.bias_ih_l0, float("nan"))
    with pytest.raises(rs.RefusedError, match="bias holds NaN or infinity"):
        rs.save(layer, tmp_path / "m.nam")


# the command line ---------------------------------------------------------------------------


def test_show_and_convert(tmp_path: Path) -> None:
    path = written(tmp_path / "m.nam", nam_file(3, 2))
    shown = CliRunner().invoke(app, ["show", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "nam, gates in the order i f g o" in shown.output
    assert "input 1, hidden 3, 2 layers, forward" in shown.output
    for target, layout in (("n.nam", "nam"), ("n.json", "rtneural"), ("n.h5", "keras")):
        told = ["convert", str(path), str(tmp_path / target), "--layout", layout]
        converted = CliRunner().invoke(app, told)
        assert converted.exit_code == 0, converted.output
        assert "starts at its own h_0 and c_0" in converted.output
    assert json.loads((tmp_path / "n.nam").read_text())["weights"] == nam_file(3, 2)["weights"]
    rs.save(nn.LSTM(1, 2), tmp_path / "p.pt")
    told = ["convert", str(tmp_path / "p.pt"), str(tmp_path / "p.nam")]
    assert "no head was given" in CliRunner().invoke(app, told).output


# damaged ------------------------------------------------------------------------------------


def test_another_json_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for text, got in (
        ('{"a": [1, 2], "b": {}}', "an object with 'a', 'b'"),
        ("[1, 2]", "lists of numbers"),
        ('"weights"', "a text"),
        ("3", "3"),
        ("{}", "an empty object"),
    ):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(rs.FileError) as caught:
            rs.load(tmp_path / "m.json")
        assert "expected the JSON of a model" in str(caught.value)
        assert str(caught.value).endswith(f"got {got}")
        assert str(tmp_path / "m.json") in str(caught.value)


NAM, GRU = nam_file(2, 1), rtneural_file(["gru"])
REC = guitarml_file(SimpleRNN("GRU", 1, 2))


def with_change(model: dict[str, Any], keys: list[Any], value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(model))
    place = copy
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return dict(copy)


@pytest.mark.parametrize(
    ("model", "keys", "value", "why"),
    [
        (NAM, ["architecture"], "WaveNet", "expected architecture 'LSTM'.*got the text 'WaveNet'"),
        (NAM, ["config"], None, "config: expected an object; got null"),
        (NAM, ["config", "hidden_size"], None, "config: hidden_size must be .* got nothing"),
        (NAM, ["config", "hidden_size"], 2.0, "hidden_size must be a whole number from 1; got 2.0"),
        (NAM, ["config", "num_layers"], True, "num_layers must be a whole number from 1; got true"),
        (NAM, ["config", "num_layers"], 0, "num_layers must be a whole number from 1; got 0"),
        (
            NAM,
            ["config", "num_layers"],
            10**9,
            "num_layers=1000000000 need 43999999995 numbers; got 39",
        ),
        (NAM, ["weights"], [0.5, 0.5], "weights: .* need 39 numbers; got 2"),
        (NAM, ["weights"], "0.5", "weights: expected lists of numbers; got the text '0.5'"),
        (NAM, ["weights", 7], "0.5", r"weights\[7\]: expected a number; got the text '0.5'"),
        (NAM, ["weights", 7], 1e300, r"weights\[7\]: a number is beyond float32"),
        (NAM, ["weights"], [[0.5] * 39], r"expected a list of numbers; got .* \(1, 39\)"),
        (GRU, ["layers", 0, "weights", 1], None, "weights: expected three"),
        (
            GRU,
            ["layers", 0, "weights", 1, 2],
            [1.0],
            r"weights\[1\]\[2\]: expected .* \(9,\); got \(1,\)",
        ),
        (GRU, ["layers", 0, "weights", 1, 2], None, r"layers\[0\] gru: weights/1 must be"),
        (GRU, ["layers", 0, "weights", 2, 1], None, r"layers\[0\] gru: weights/2 must be"),
        (GRU, ["layers", 0, "shape", 2], 8, "shape: expected 3 units last; got 8"),
        (GRU, ["layers", 0, "type"], "conv1d", "type 'lstm' or 'gru'; got conv1d, dense"),
        (REC, ["state_dict", "rec.bias_hh_l0"], None, "bias_hh_l0 .* is missing"),
        (REC, ["state_dict", "rec.weight_hh_l0", 3], [1.0], r"weight_hh_l0\[3\]: expected a list"),
        (
            REC,
            ["state_dict", "rec.weight_hh_l0", 3, 1],
            "1",
            r"weight_hh_l0\[3\]\[1\]: expected a number",
        ),
        (REC, ["model_data", "hidden_size"], 20, "hidden_size is 20; the state_dict has 2"),
        (REC, ["model_data", "unit_type"], "LSTM", "unit_type is the text 'LSTM'; .* has GRU"),
        (REC, ["model_data", "skip"], 2, "skip must be a whole number from 0 to 1; got 2"),
        (REC, ["model_data", "skip"], 10**30, "skip must be a whole number from 0 to 1"),
        (REC, ["state_dict"], {"lin.bias": [1.0]}, "expected weight_ih_l0 and weight_hh_l0"),
    ],
)
def test_a_damaged_model_is_an_error_with_the_place(
    tmp_path: Path, model: dict[str, Any], keys: list[Any], value: Any, why: str
) -> None:
    path = written(tmp_path / "m.json", with_change(model, keys, value))
    with pytest.raises(rs.FileError, match=why) as caught:
        rs.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "the file is empty"),
        (b"   ", "byte 3: damaged: the file ends within its JSON, in line 1"),
        (b'{"a": [1, 2', "the file ends within its JSON"),
        (b'{"a": 1, "a": 2}', "byte 9: damaged: line 1: the key 'a' is there twice"),
        (b'{"a":\n [1, NaN]}', "byte 11: damaged: line 2: expected a number; JSON has no NaN"),
        (b'{"a": [-Infinity]}', "JSON has no NaN and no Infinity"),
        (b'{"a": [1, 2,]}', "byte 12: damaged: line 1: expected a value"),
        (b'{"a": [01]}', "expected , or ]; got '1"),
        (b'{"a": [1 2]}', "expected , or ]; got '2"),
        (b'{"a": .5}', "expected a value"),
        (b'{"a": 1} x', "expected the end of the file; got 'x'"),
        (b'{"a" 1}', "expected a colon"),
        (b"{a: 1}", "expected a key in quotation marks"),
        (b'{"a": "\\x"}', "wrong escape"),
        (b'{"a": "\\ud800"}', "wrong escape"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "b\n"}', "a byte that is not allowed"),
        (b"\xff\xfe{\x00}\x00", "expected a value"),
        (b'{"a": ' + b"1" * 5000 + b"}", "expected , or }"),
        (b"[" * 100_000, "more than 32 deep"),
        (b'{"a":' * 100_000, "more than 32 deep"),
        (b"[" + b'"",' * 30_000, "more than 20000 texts"),
        (b"[" + b"{}," * 30_000, "more than 20000 texts"),
        (b"[" + b"[1],[1,2]," * 30_000, "more than 20000 texts"),
        (b"{" + b",".join(b'"%d":1' % k for k in range(30_000)), "more than 20000 texts"),
    ],
)
@pytest.mark.parametrize("ending", [".json", ".nam"])
def test_damaged_json_is_an_error_with_the_place(
    tmp_path: Path, text: bytes, why: str, ending: str
) -> None:
    path = tmp_path / f"m{ending}"
    path.write_bytes(text)
    with pytest.raises(rs.FileError) as caught:
        rs.load(path)
    assert why in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    for model in (NAM, GRU, REC):
        text = json.dumps(model).encode()
        for size in range(0, len(text), 7):
            (tmp_path / "m.json").write_bytes(text[:size])
            with pytest.raises(rs.FileError, match=r"m\.json"):
                rs.load(tmp_path / "m.json")


def test_every_number_is_read_as_python_reads_it(tmp_path: Path) -> None:
    """Against ``json.loads``: exponents, negative zero, whole numbers, blanks, a mark of order."""
    written_numbers = "-0.0 ,1e-3,\n1E+2 , 7,-1.5e0,3.4028234e38, 1e-400,0.1,0.10000000149011612"
    hidden = 1
    count = 4 * 2 + 4 + 2 + 2
    numbers = f"{written_numbers},{','.join(['2'] * (count - 9))}"
    config = {"input_size": 1, "hidden_size": hidden, "num_layers": 1}
    text = f'{{"architecture":"LSTM","config":{json.dumps(config)},\r\n\t"weights":[ {numbers} ]}}'
    (tmp_path / "m.nam").write_text(f"\ufeff{text}", encoding="utf-8")
    layer: Any = rs.load(tmp_path / "m.nam")["lstm"]
    expected = np.float32(json.loads(text)["weights"])
    matrix = torch.cat([layer.weight_ih_l0, layer.weight_hh_l0], dim=1).flatten()
    got = torch.cat([matrix, layer.bias_ih_l0]).detach().numpy()
    assert got.tobytes() == expected[:12].tobytes()


# a process of its own tells how much memory it took at most, beyond what it had after its imports
_MEASURE = """
import re, sys
from pathlib import Path
import rnnscope as rs
from rnnscope._files.load import load

def most():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

load  # torch is imported
before = most()
try:
    load(sys.argv[1])
    print("loaded", end=" ")
except rs.FileError:
    print("refused", end=" ")
print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it")
@pytest.mark.parametrize(
    "text", ["[],", "{},", '"",', "0,", "[0],", "[[[0]]],", "[0],[0,0],", "null,", "1e1,"]
)
def test_memory_stays_below_ten_times_the_file(tmp_path: Path, text: str) -> None:
    size = 4_000_000
    body = text * (size // len(text))
    lists = f"[{body.rstrip(',')}]"
    (tmp_path / "m.json").write_text(f'{{"state_dict": {{"weight_hh_l0": {lists}}}}}')
    told = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "m.json")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert told[0] == "refused"
    assert int(told[1]) <= max(2**24, 10 * size)


@pytest.mark.slow
def test_memory_of_a_model_stays_below_ten_times_the_file(tmp_path: Path) -> None:
    hidden = 400
    model = nam_file(hidden, 1)
    path = written(tmp_path / "m.nam", model)
    told = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert told[0] == "loaded"
    assert int(told[1]) <= max(2**24, 10 * path.stat().st_size)
