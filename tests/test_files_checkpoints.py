"""Checkpoints as people have them: of Lightning, in several files, with copies, pickled whole.

What is read has the numbers that torch.load gives; what is refused names a line, which is run here
and gives a file that loads.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import pickle
import re
import tarfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import rnnscope as rs


def under(prefix: str, layer: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in layer.state_dict().items()}


def assert_same(layer: Any, expected: nn.Module) -> None:
    state = expected.state_dict()
    assert sorted(layer.state_dict()) == sorted(state)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())


def of_lightning(state: dict[str, Tensor], hyper_parameters: Any) -> dict[str, Any]:
    """A checkpoint as lightning.pytorch.Trainer writes it."""
    moments = {k: {"step": torch.tensor(1.0), "exp_avg": v} for k, v in enumerate(state.values())}
    return {
        "epoch": 1,
        "global_step": 20,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.ones(())}},
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
    }


@pytest.mark.parametrize(
    "name", ["a.ckpt", "pytorch_model.bin", "best.pth.tar", "weights", "m.net"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_under_any_ending(tmp_path: Path, name: str, zipped: bool) -> None:
    lstm = nn.LSTM(3, 5, bidirectional=True)
    checkpoint = of_lightning(under("model.rnn.", lstm), {"hidden": 5})
    path = tmp_path / name
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    layers = rs.load(path)
    assert list(layers) == ["state_dict.model.rnn"]
    assert_same(layers["state_dict.model.rnn"], lstm)


def test_other_files_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    gru = nn.GRU(3, 5)
    save_file(gru.state_dict(), tmp_path / "a")
    np.savez(tmp_path / "b.npz", **{n: v.numpy() for n, v in gru.state_dict().items()})
    (tmp_path / "b.npz").rename(tmp_path / "b.weights")
    with h5py.File(tmp_path / "c.mat", "w") as file:
        for name, value in gru.state_dict().items():
            file[name] = value.numpy()
    for name in ("a", "b.weights", "c.mat"):
        assert_same(rs.load(tmp_path / name)[""], gru)
    (tmp_path / "notes.txt").write_text("weight_ih_l0")
    with pytest.raises(rs.FileError, match=r"expected a file ending in .*; got .txt"):
        rs.load(tmp_path / "notes.txt")


# what is refused, with the line to run --------------------------------------------------------


def line_in(error: pytest.ExceptionInfo[rs.FileError]) -> str:
    """The line that the message says to run."""
    text = str(error.value)
    start = text.rindex("torch.save(", 0, text.index("'weights.pt')"))
    return text[start : text.index("'weights.pt')", start) + len("'weights.pt')")]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 5)


def refused() -> dict[str, tuple[Any, str]]:
    lstm, encoder = nn.LSTM(3, 5), Encoder()
    state = under("rnn.", lstm)
    numbers = {name: value.numpy() for name, value in state.items()}
    return {
        "a module": (lstm, "torch.nn.modules.rnn.LSTM"),
        "a model": (encoder, "Encoder"),
        "hyperparameters": (of_lightning(state, argparse.Namespace(lr=0.1)), "argparse.Namespace"),
        "a path": (of_lightning(state, {"data": Path("x")}), "pathlib"),
        "a class among the weights": ({**state, "config": SimpleNamespace(a=1)}, "SimpleNamespace"),
        "a model's key": ({"model_state_dict": state, "args": argparse.Namespace()}, "Namespace"),
        "arrays of NumPy": (numbers, "numpy"),
    }


READ = {
    "hyperparameters": "hyper_parameters: an object of the class argparse.Namespace, which is not",
    "a path": "hyper_parameters.data: an object of the class pathlib.PosixPath, which is not read",
    "a class among the weights": "config: an object of the class types.SimpleNamespace, which is",
    "a model's key": "args: an object of the class argparse.Namespace, which is not read",
}


@pytest.mark.parametrize("what", READ)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_of_classes_beside_the_tensors(tmp_path: Path, what: str, protocol: int) -> None:
    value, _ = refused()[what]
    path = tmp_path / "m.ckpt"
    torch.save(value, path, pickle_protocol=protocol)
    layers = rs.load(path)
    [(name, layer)] = layers.items()
    assert any(text.startswith(READ[what]) for text in layers.ignored[name])
    assert READ[what] in str(layers)
    state = {key.rpartition(".")[2]: tensor for key, tensor in torch_tensors(value).items()}
    assert state.keys() == dict(layer.named_parameters()).keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in layer.state_dict().items())


def torch_tensors(value: Any) -> dict[str, Tensor]:
    """The tensors of nested dicts whose names end as those of a layer do."""
    members = value.items() if isinstance(value, dict) else ()
    tensors = {k: v for k, v in members if isinstance(v, Tensor) and "_l0" in k}
    for _, member in members:
        tensors |= torch_tensors(member)
    return tensors


@pytest.mark.parametrize(
    ("write", "what"),
    [("torch.save", what) for what in refused() if what not in READ]
    + [(write, what) for write in ("before 1.6", "pickle") for what in refused()],
)
def test_pickles_that_need_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, write: str
) -> None:
    value, class_name = refused()[what]
    path = tmp_path / ("m.pkl" if write == "pickle" else "m.ckpt")
    if write == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=write == "torch.save")
    with pytest.raises(rs.FileError) as caught:
        rs.load(path)
    assert str(path) in str(caught.value)
    assert "could run code" in str(caught.value)
    if write == "torch.save":
        assert class_name in str(caught.value)
    monkeypatch.chdir(tmp_path)
    exec(line_in(caught), {"torch": torch, "pickle": pickle, "pathlib": pathlib})
    (layer,) = rs.load(tmp_path / "weights.pt").values()
    assert isinstance(layer, nn.LSTM)


@pytest.mark.parametrize("ending", [".jit", ".ptl", ".torchscript", ".bin", ""])
def test_archives_with_code_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    lstm, path = nn.LSTM(3, 5), tmp_path / f"m{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(lstm).save(str(path))
        with pytest.raises(rs.FileError, match="a TorchScript archive") as caught:
            rs.load(path)
        monkeypatch.chdir(tmp_path)
        exec(line_in(caught), {"torch": torch})
    assert_same(rs.load(tmp_path / "weights.pt")[""], lstm)


@pytest.mark.slow
def test_an_archive_of_export_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(3, 5)

        def forward(self, x: Tensor) -> Any:
            return self.cell(x)

    model, path = Model(), tmp_path / "m.pt2"
    torch.export.save(torch.export.export(model, (torch.randn(2, 3),)), path)
    with pytest.raises(rs.FileError, match=r"an archive of torch\.export") as caught:
        rs.load(path)
    monkeypatch.chdir(tmp_path)
    exec(line_in(caught), {"torch": torch})
    found: Any = rs.load(tmp_path / "weights.pt")["cell"]
    assert torch.equal(found.weight_ih_l0, model.cell.weight_ih)


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell])
def test_dynamic_int8_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    float_layer = kind(3, 5)
    model = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(float_layer), {kind}, dtype=torch.qint8
    )
    torch.save(model.state_dict(), tmp_path / "m.pt")
    with pytest.raises(rs.FileError, match=r"torch\.ao quantised \(quantize_dynamic\): int8") as e:
        rs.load(tmp_path / "m.pt")
    monkeypatch.chdir(tmp_path)
    exec(line_in(e), {"torch": torch, "layer": model[0]})
    (found,) = rs.load(tmp_path / "weights.pt").values()
    for name, value in float_layer.state_dict().items():
        full_name = name if "_l0" in name else f"{name}_l0"
        assert (found.state_dict()[full_name] - value).abs().max() < 0.01  # a step of int8


def test_a_checkpoint_of_tensorflow_says_what_to_do(tmp_path: Path) -> None:
    for name in ("m.ckpt.index", "m.ckpt-20.data-00000-of-00001", "m.ckpt.meta"):
        (tmp_path / name).write_bytes(b"\0" * 50)
        stem = re.sub(r"\.(index|meta|data-.*)", "", name)
        with pytest.raises(rs.FileError, match=rf"tf\.train\.list_variables\('{stem}'\)"):
            rs.load(tmp_path / name)


# several files --------------------------------------------------------------------------------


def sharded(folder: Path, ending: str, state: dict[str, Tensor]) -> Path:
    """A checkpoint in two files as transformers and accelerate write it."""
    stem = "pytorch_model" if ending == ".bin" else "model"
    names = list(state)
    files = [f"{stem}-0000{k}-of-00002{ending}" for k in (1, 2)]
    for file, part in zip(files, (names[:2], names[2:]), strict=True):
        arrays = {name: state[name].clone() for name in part}
        (torch.save if ending == ".bin" else save_file)(arrays, folder / file)
    index = folder / f"{stem}{ending}.index.json"
    weight_map = {name: files[k > 1] for k, name in enumerate(names)}
    index.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_a_checkpoint_in_several_files(tmp_path: Path, ending: str) -> None:
    lstm = nn.LSTM(3, 5)
    index = sharded(tmp_path, ending, under("enc.", lstm))
    assert_same(rs.load(index)["enc"], lstm)
    for part in sorted(tmp_path.glob(f"*{ending}")):
        with pytest.raises(rs.FileError, match=rf"one of 2 files .*: load {re.escape(index.name)}"):
            rs.load(part)


def test_an_index_that_is_damaged(tmp_path: Path) -> None:
    index = sharded(tmp_path, ".safetensors", under("enc.", nn.LSTM(3, 5)))
    good = json.loads(index.read_text())
    for weight_map, reason in (
        ({"enc.weight_ih_l0": "../secret.safetensors"}, "outside of the index's folder"),
        ({"enc.weight_ih_l0": "none.safetensors"}, "no such file"),
        ({"enc.bias": next(iter(good["weight_map"].values()))}, "as the index says"),
        ({}, "names no file"),
        ([1], "expected the index of a checkpoint"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(rs.FileError, match=reason):
            rs.load(index)
    index.write_text("[" * 100_000)
    with pytest.raises(rs.FileError, match="expected the index of a checkpoint"):
        rs.load(index)
    next(iter(tmp_path.glob("*1-of*"))).unlink()
    index.unlink()
    with pytest.raises(rs.FileError, match=r"its index|their index, model.*, which is not here"):
        rs.load(next(iter(tmp_path.glob("*2-of*"))))


# copies, and weights that are computed --------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "module."])
def test_the_raw_weight_is_the_one_that_is_loaded(tmp_path: Path, inside: str) -> None:
    lstm = nn.LSTM(3, 5, 2)
    arrays = under(f"rnns.0.{inside}", lstm)
    for name in ("weight_hh_l0", "weight_hh_l1"):
        copy = nn.functional.dropout(arrays[f"rnns.0.{inside}{name}"], 0.5)
        arrays[f"rnns.0.{name}_raw"] = arrays[f"rnns.0.{inside}{name}"]
        arrays[f"rnns.0.{inside}{name}"] = copy
    torch.save(arrays, tmp_path / "m.pt")
    layers = rs.load(tmp_path / "m.pt")
    (name,) = layers
    assert_same(layers[name], lstm)
    assert "read from rnns.0.weight_hh_l1_raw, of which the file has a copy" in str(layers)
    del arrays[f"rnns.0.{inside}weight_hh_l0"]  # awd-lstm-lm deletes the copy
    torch.save(arrays, tmp_path / "m.pt")
    assert_same(rs.load(tmp_path / "m.pt")[name], lstm)


def test_copies_say_that_they_are(tmp_path: Path) -> None:
    lstm = nn.LSTM(3, 5)
    average = torch.optim.swa_utils.AveragedModel(lstm)
    checkpoint = {
        "model": under("_orig_mod.module.rnn.", lstm),
        "ema": under("", average),
        "optimizer": {"exp_avg": under("rnn.", lstm)},
    }
    torch.save(checkpoint, tmp_path / "m.pt")
    layers = rs.load(tmp_path / "m.pt")
    assert layers.assumed["model._orig_mod.module.rnn"] == ("batch_first=False",)
    assert "an average of weights" in layers.assumed["ema.module"][0]
    assert "they are no weights" in layers.assumed["optimizer.exp_avg.rnn"][0]
    assert "ema.n_averaged" not in str(layers.ignored)


def test_the_reverse_direction_alone(tmp_path: Path) -> None:
    both = nn.LSTM(3, 5, bidirectional=True)
    state = {name: v for name, v in both.state_dict().items() if name.endswith("_reverse")}
    torch.save(state, tmp_path / "m.pt")
    layers = rs.load(tmp_path / "m.pt")
    x = torch.randn(7, 2, 3)
    torch.testing.assert_close(layers[""](x)[0], both(x)[0][..., 5:])
    assert "the reverse direction alone is there" in str(layers)


def test_one_direction_of_two_layers_says_what_is_missing(tmp_path: Path) -> None:
    state = nn.LSTM(3, 5, 2, bidirectional=True).state_dict()
    forward = {name: v for name, v in state.items() if not name.endswith("_reverse")}
    torch.save(forward, tmp_path / "m.pt")
    with pytest.raises(rs.FileError, match=r"weight_ih_l1 must be .*the file lacks the reverse"):
        rs.load(tmp_path / "m.pt")


def test_several_models_in_lists_and_under_numbers(tmp_path: Path) -> None:
    gru, lstm = nn.GRU(3, 5), nn.LSTM(3, 5)
    folds = {0: under("rnn.", gru), 1: under("rnn.", lstm)}
    ensemble = [under("rnn.", lstm), {"rnn": gru.state_dict()}]
    history = {"losses": [0.5] * 1000, "shapes": [(1, 2), (3, 4)]}
    torch.save({"folds": folds, "ensemble": ensemble, **history}, tmp_path / "m.pt")
    layers = rs.load(tmp_path / "m.pt")
    assert list(layers) == ["folds.0.rnn", "folds.1.rnn", "ensemble.0.rnn", "ensemble.1.rnn"]
    assert_same(layers["folds.1.rnn"], lstm)
    assert_same(layers["ensemble.1.rnn"], gru)


def test_an_archive_of_tar(tmp_path: Path) -> None:
    torch.save(nn.GRU(3, 5).state_dict(), tmp_path / "model_weights.ckpt")
    for name in ("m.nemo", "m.tar", "m.pt"):
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(tmp_path / "model_weights.ckpt", "model_weights.ckpt")
        with pytest.raises(rs.FileError, match=rf"an archive of tar: unpack it \(tar xf {name}\)"):
            rs.load(tmp_path / name)


@pytest.mark.parametrize("beside", [True, False])
def test_a_quantised_node_of_onnx_is_not_missed(tmp_path: Path, beside: bool) -> None:
    """What onnxruntime's quantize_dynamic writes in the place of an LSTM."""
    onnx = pytest.importorskip("onnx", reason="onnx writes the model")
    path = tmp_path / "m.onnx"
    rs.save({"rnn": nn.LSTM(3, 5)}, path)
    model = onnx.load(path)
    node = onnx.helper.make_node(
        "DynamicQuantizeLSTM", ["X", "W8", "R8"], ["Y8"], name="enc", domain="com.microsoft"
    )
    if not beside:
        del model.graph.node[:]
    model.graph.node.append(node)
    onnx.save(model, path)
    if beside:
        assert "enc (DynamicQuantizeLSTM of com.microsoft)" in rs.load(path).ignored["rnn"][0]
    else:
        with pytest.raises(rs.FileError, match=r"but enc \(DynamicQuantizeLSTM .* before it was"):
            rs.load(path)
