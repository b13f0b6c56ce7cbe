"""Trained layers that other people published, and other people's numbers for ONNX's nodes.

The packages are installed with --no-deps, for their files; onnx and onnxruntime are judges. What
is not installed is skipped, with the reason.
"""

from __future__ import annotations

import itertools
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rnnscope as rs
from rnnscope.cells import DECLARED


def published(package: str, file: str) -> Path:
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package}")
    if not path.is_file():
        pytest.skip(f"this version of {package} has no {file}")
    return path


def test_g2p_en() -> None:
    path = published("g2p-en", "g2p_en/checkpoint20.npz")
    layers: Any = rs.load(path)
    assert list(layers) == ["enc", "dec"]
    assert layers.assumed["enc"][0] == "layout pytorch_cell: the gates lie in PyTorch's order"
    stored = np.load(path)
    for name in layers:
        assert type(layers[name]) is nn.GRU
        np.testing.assert_array_equal(
            layers[name].weight_hh_l0.detach().numpy(), stored[f"{name}_w_hh"]
        )


def test_reactionrnn() -> None:
    layers: Any = rs.load(published("reactionrnn", "reactionrnn/reactionrnn_weights.hdf5"))
    rnn = layers["rnn"]
    assert layers.assumed["rnn"] == (
        "activation='tanh', recurrent_activation='hard_sigmoid', the default of Keras 2.0.6",
    )
    h5py = pytest.importorskip("h5py", reason="h5py gives the numbers for NumPy's loop")
    with h5py.File(published("reactionrnn", "reactionrnn/reactionrnn_weights.hdf5")) as file:
        kernel, recurrent, bias = (
            file[f"rnn/rnn/{part}"][()].astype(float)
            for part in ("kernel", "recurrent_kernel", "bias")
        )
    x = np.random.default_rng(0).normal(size=(1, 6, 100))
    h = np.zeros((1, 256))
    steps = []
    for t in range(6):  # keras 2.0.6, recurrent.py: GRU.step
        xz, xr, xh = np.split(x[:, t] @ kernel + bias, 3, axis=1)
        uz, ur, uh = np.split(recurrent, 3, axis=1)
        z = np.clip(0.2 * (xz + h @ uz) + 0.5, 0, 1)
        r = np.clip(0.2 * (xr + h @ ur) + 0.5, 0, 1)
        h = z * h + (1 - z) * np.tanh(xh + (r * h) @ uh)
        steps.append(h)
    got = rnn.double()(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(got, np.stack(steps, 1), atol=1e-12)


SILERO = "silero_vad/data/silero_vad_16k"


def test_silero_vad_is_the_same_in_three_files() -> None:
    """As a node of ONNX, as nodes in branches, and under PyTorch's names in a graph without one:
    gates in ONNX's order and in PyTorch's."""
    (node,) = rs.load(published("silero-vad", f"{SILERO}_sequence.onnx")).values()
    branches = rs.load(published("silero-vad", f"{SILERO}_op15.onnx"))
    apart = rs.load(published("silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx"))
    for layer in (*branches.values(), apart["model.decoder.rnn"]):
        assert type(layer) is nn.LSTM
        for name, value in node.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[name], value, rtol=0, atol=0)


def test_silero_vad_in_safetensors() -> None:
    """The .safetensors of 6.2.2 and 6.2.3 holds another training of the same network: all its
    arrays differ from those of the .onnx, convolutions too. Each gate is nearest to itself."""
    layers: Any = rs.load(published("silero-vad", f"{SILERO}.safetensors"))
    (node,) = rs.load(published("silero-vad", f"{SILERO}_sequence.onnx")).values()
    for name, value in node.state_dict().items():
        gates = layers["lstm_cell"].state_dict()[name].reshape(4, 1, -1)
        distance = (gates - value.reshape(1, 4, -1)).norm(dim=-1)
        assert distance.argmin(1).tolist() == [0, 1, 2, 3]


def test_silero_vad_gives_the_numbers_of_onnxruntime(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime judges")
    onnx = pytest.importorskip("onnx", reason="onnx makes the node a model of its own")
    path = published("silero-vad", f"{SILERO}_sequence.onnx")
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "LSTM")
    onnx.utils.extract_model(
        str(path), str(tmp_path / "m.onnx"), [node.input[0], "h", "c"], [node.output[0]]
    )
    x = np.random.default_rng(0).normal(size=(7, 1, 128)).astype(np.float32)
    zero = np.zeros((1, 1, 128), np.float32)
    session = ort.InferenceSession(tmp_path / "m.onnx")
    expected = session.run(None, {node.input[0]: x, "h": zero, "c": zero})[0]
    (lstm,) = rs.load(path).values()
    got = lstm(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(got, expected[:, 0], atol=1e-6)


# ONNX's own tests of its nodes ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # NumPy's, of the other operations' tests
def test_the_node_tests_of_onnx(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx defines the tests")
    from onnx.backend.test.case.node import collect_testcases

    passed = []
    for case in collect_testcases(None):
        node = case.model.graph.node[0]
        if len(case.model.graph.node) != 1 or node.op_type not in ("LSTM", "GRU", "RNN"):
            continue
        inputs, outputs = case.data_sets[0]
        given = dict(zip([name for name in node.input if name], inputs, strict=True))
        expected = dict(zip([name for name in node.output if name], outputs, strict=True))
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for k, name in enumerate(node.input):
            if name and k in (1, 2, 3, 7):  # W, R, B, P: what a file of a model holds
                value = onnx.numpy_helper.from_array(given[name], name)
                model.graph.initializer.append(value)
        onnx.save(model, tmp_path / "m.onnx")
        (layer,) = rs.load(tmp_path / "m.onnx").values()
        states = [torch.from_numpy(given[n]) for n in node.input[5:7] if n]
        hx: Any = None if not states else states[0] if len(states) == 1 else tuple(states)
        output, final = layer(torch.from_numpy(given["X"]), hx)
        h_n = final[0] if isinstance(final, tuple) else final
        first = any(each.name == "layout" and each.i for each in node.attribute)
        y = output.unflatten(-1, (len(h_n), -1))
        found = {"Y": y if first else y.transpose(1, 2), "Y_h": h_n}
        if first:
            found["Y_h"] = h_n.transpose(0, 1)
        for name, value in zip(("Y", "Y_h"), node.output, strict=False):
            if value:
                np.testing.assert_allclose(
                    found[name].detach().numpy(), expected[value], atol=1e-6, err_msg=case.name
                )
        passed.append(case.name)
    assert len(passed) == 18


ACTIVATIONS: dict[str, tuple[float, ...]] = {
    "Sigmoid": (),
    "Tanh": (),
    "Relu": (),
    "Softsign": (),
    "Softplus": (),
    "Affine": (0.7, 0.1),
    "LeakyRelu": (0.2,),
    "ThresholdedRelu": (0.3,),
    "ScaledTanh": (0.9, 0.8),
    "Elu": (0.6,),
    "HardSigmoid": (0.3, 0.4),
}
NODES = [
    *itertools.product(["LSTM"], ["forward", "reverse", "bidirectional"], ["", "P"], [0, 1], [1]),
    *itertools.product(["GRU"], ["forward", "reverse", "bidirectional"], [""], [0], [0, 1]),
    *itertools.product(["RNN"], ["forward", "reverse", "bidirectional"], [""], [0], [1]),
]


@pytest.mark.parametrize(("op", "direction", "peephole", "coupled", "after"), NODES)
def test_nodes_give_the_numbers_of_onnxruntime(
    tmp_path: Path, op: str, direction: str, peephole: str, coupled: int, after: int
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx writes the model")
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime judges")
    rng = np.random.default_rng(0)
    two = 1 + (direction == "bidirectional")
    rows = {"LSTM": 16, "GRU": 12, "RNN": 4}[op]
    shapes = {"W": (two, rows, 3), "R": (two, rows, 4), "B": (two, 2 * rows), "P": (two, 12)}
    for k in range(4):
        held = {n: (rng.normal(size=s) / 2).astype("f4") for n, s in shapes.items()}
        held = held if peephole else {n: a for n, a in held.items() if n != "P"}
        facts: dict[str, Any] = {"hidden_size": 4, "direction": direction}
        if k:
            count = {"LSTM": 3, "GRU": 2, "RNN": 1}[op]
            chosen = [str(name) for name in rng.choice(list(ACTIVATIONS), count)]
            facts["activations"] = chosen * two
            for place, which in enumerate(("alpha", "beta")):
                values = [ACTIVATIONS[c][place] for c in chosen if len(ACTIVATIONS[c]) > place]
                if values:
                    facts[f"activation_{which}"] = values * two
        if coupled:
            facts["input_forget"] = 1
        if op == "GRU":
            facts["linear_before_reset"] = after
        names = ["X", "W", "R", "B", *(["", "", "", "P"] if peephole else [])]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node(op, names, ["Y"], **facts)],
            "g",
            [onnx.helper.make_tensor_value_info("X", 1, [5, 2, 3])],
            [onnx.helper.make_tensor_value_info("Y", 1, None)],
            [onnx.numpy_helper.from_array(value, name) for name, value in held.items()],
        )
        opset = onnx.helper.make_opsetid("", 17)
        made = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
        onnx.save(made, tmp_path / "m.onnx")
        x = rng.normal(size=(5, 2, 3)).astype("f4")
        expected = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"X": x})[0]
        (layer,) = rs.load(tmp_path / "m.onnx").values()
        output = layer(torch.from_numpy(x))[0].unflatten(-1, (two, -1)).transpose(1, 2)
        # without a bound on the activations values grow, and with them the rounding
        np.testing.assert_allclose(output.detach().numpy(), expected, atol=5e-6, rtol=1e-5)


WRITTEN = ["gru_reset_before", "lstm_peephole", "lstm_coupled", "lstm_coupled_peephole"]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM, *WRITTEN])
@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("two", [False, True])
def test_what_is_written_runs_in_onnxruntime(
    tmp_path: Path, kind: Any, stack: int, two: bool
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx checks the file")
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime judges")
    options: Any = {"num_layers": stack, "bidirectional": two}
    torch.manual_seed(0)
    layer = (
        rs.Recurrent(DECLARED[kind], 3, 5, **options)
        if isinstance(kind, str)
        else kind(3, 5, **options)
    )
    rs.save({"enc": layer}, tmp_path / "m.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    x = torch.randn(4, 2, 3)
    got = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"enc.input": x.numpy()})[0]
    np.testing.assert_allclose(got, layer(x)[0].detach().numpy(), atol=1e-6)
    loaded = rs.load(tmp_path / "m.onnx")
    assert len(loaded) == stack
    assert all(type(each) is type(layer) for each in loaded.values())
