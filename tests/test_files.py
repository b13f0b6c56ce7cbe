"""Layers from files: found, loaded, saved; and what is said of those that hold none."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import struct
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

import rnnscope as rs
from rnnscope._files.arrays import read_hdf5
from rnnscope._files.disk import Window
from rnnscope._files.onnx.protobuf import encode_field
from rnnscope._layouts import LAYOUTS, Array, Layout, Stored, from_torch
from rnnscope._layouts.kinds import cell_of
from rnnscope.cells import (
    DECLARED,
    GRU,
    GRU_RESET_BEFORE,
    LSTM,
    LSTM_COUPLED,
    LSTM_COUPLED_PEEPHOLE,
    LSTM_PEEPHOLE,
    RNN_RELU,
    RNN_TANH,
    Cell,
    from_h,
    from_x,
    previous,
    quantity,
    sigmoid,
    tanh,
    vector,
)

LAYERS = {
    "rnn": nn.RNN(3, 5),
    "relu": nn.RNN(3, 5, nonlinearity="relu"),
    "gru": nn.GRU(3, 5, num_layers=2, bidirectional=True),
    "lstm": nn.LSTM(3, 5, num_layers=2, bias=False),
    "projected": nn.LSTM(3, 5, proj_size=2, bidirectional=True),
}


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return type(one) is type(other) and all(
        torch.equal(value, theirs[name]) for name, value in one.state_dict().items()
    )


# round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors", ".npz", ".h5"])
@pytest.mark.parametrize("kind", LAYERS)
def test_saved_is_loaded(tmp_path: Path, kind: str, ending: str) -> None:
    if ending == ".h5":
        pytest.importorskip("h5py", reason="h5py, of the extra files, writes .h5")
    layer = LAYERS[kind]
    path = tmp_path / f"m{ending}"
    rs.save({"a.b": layer, "c": layer}, path)
    found = rs.load(path, nonlinearity="relu" if kind == "relu" else None)
    assert sorted(found) == ["a.b", "c"]
    assert same(layer, found["a.b"])
    assert same(layer, found["c"])
    assert os.listdir(tmp_path) == [path.name]  # nothing is left beside it


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "onnx"])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_every_layout_is_found_again(tmp_path: Path, kind: type[nn.RNNBase], layout: str) -> None:
    layer: Any = kind(3, 5, bidirectional=True)  # type: ignore[call-arg]
    path = tmp_path / "m.npz"
    try:
        rs.save({"enc": layer}, path, layout=layout)
    except rs.RefusedError:  # its biases, or its cell; the layouts' own tests tell which
        assert not path.exists()
        return
    asked = {"layout": layout} if layout == "rnnscope" else {}
    found: Any = rs.load(path, **asked)["enc"]
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(found(x)[0], layer(x)[0], atol=1e-6, rtol=1e-6)


def test_loading_draws_nothing() -> None:
    path = Path(__file__).parent / "nothing"
    state = torch.get_rng_state()
    with pytest.raises(rs.FileError, match="expected a file ending in"):
        rs.load(path)
    assert torch.equal(state, torch.get_rng_state())


def test_loading_keeps_the_random_state_and_shares_nothing(tmp_path: Path) -> None:
    rs.save(nn.GRU(2, 3), tmp_path / "m.pt")
    state = torch.get_rng_state()
    one, other = rs.load(tmp_path / "m.pt")[""], rs.load(tmp_path / "m.pt")[""]
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        one.weight_ih_l0.fill_(7)  # type: ignore[union-attr, operator]
    assert same(other, rs.load(tmp_path / "m.pt")[""])
    assert not one.training


def test_what_a_state_dict_does_not_tell_is_an_argument(tmp_path: Path) -> None:
    torch.save({"a": nn.RNN(2, 3, num_layers=2).state_dict()}, tmp_path / "m.pt")
    found = rs.load(tmp_path / "m.pt")
    assert found.assumed["a"] == (
        "nonlinearity='tanh'",
        "batch_first=False",
        "dropout=0.0",
    )
    told = rs.load(tmp_path / "m.pt", nonlinearity="relu", batch_first=True, dropout=0.5)
    assert told.assumed["a"] == ()
    layer: Any = told["a"]
    assert (layer.nonlinearity, layer.batch_first, layer.dropout) == ("relu", True, 0.5)


@pytest.mark.parametrize(
    ("layout", "expected", "said"),
    [
        ("haiku", "relu", ()),
        ("mxnet", "relu", ("nonlinearity='relu', the default of mxnet",)),
        ("mxnet_cell", "tanh", ("nonlinearity='tanh', the default of mxnet_cell",)),
        ("flax", "tanh", ("nonlinearity='tanh', the default of flax",)),
    ],
)
def test_an_rnn_has_the_nonlinearity_of_its_framework(
    tmp_path: Path, layout: str, expected: str, said: tuple[str, ...]
) -> None:
    state = nn.RNN(2, 3).state_dict()
    cell = RNN_RELU if expected == "relu" else RNN_TANH
    np.savez(tmp_path / "m.npz", **from_torch(layout, cell, state))  # type: ignore[arg-type]
    found = rs.load(tmp_path / "m.npz", layout=layout)
    layer: Any = found[""]
    assert layer.nonlinearity == expected
    assert found.assumed[""] == (*said, "batch_first=False")


def test_what_a_framework_may_be_told_is_an_argument(tmp_path: Path) -> None:
    arrays = from_torch("mxnet", RNN_RELU, nn.RNN(2, 3).state_dict())
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]
    for given in ({"nonlinearity": "tanh"}, {"cell": "rnn_tanh"}):
        found = rs.load(tmp_path / "m.npz", layout="mxnet", **given)  # type: ignore[arg-type]
        layer: Any = found[""]
        assert layer.nonlinearity == "tanh"
        assert found.assumed[""] == ("batch_first=False",)
    arrays = from_torch("haiku", RNN_RELU, nn.RNN(2, 3).state_dict())
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(rs.DeclarationError, match="haiku has relu alone; got nonlinearity='tanh'"):
        rs.load(tmp_path / "m.npz", nonlinearity="tanh")


@pytest.mark.parametrize(
    ("layer", "given", "held"),
    [
        (nn.GRU(2, 3), "relu", "gru"),
        (nn.LSTM(2, 3), "tanh", "lstm"),
    ],
)
def test_a_nonlinearity_for_no_rnn_is_not_ignored(
    tmp_path: Path, layer: nn.Module, given: str, held: str
) -> None:
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    with pytest.raises(rs.DeclarationError, match=f"nonlinearity is of nn.RNN; .* holds {held}"):
        rs.load(tmp_path / "m.pt", nonlinearity=given)
    with pytest.raises(rs.DeclarationError, match="nonlinearity must be tanh or relu; got 'gelu'"):
        rs.load(tmp_path / "m.pt", nonlinearity="gelu")


def test_a_nonlinearity_that_the_file_contradicts(tmp_path: Path) -> None:
    rs.save({"a": nn.RNN(2, 3)}, tmp_path / "m.onnx")
    assert isinstance(rs.load(tmp_path / "m.onnx", nonlinearity="tanh")["a"], nn.RNN)
    with pytest.raises(rs.FileError, match="a: the file says tanh; got nonlinearity='relu'"):
        rs.load(tmp_path / "m.onnx", nonlinearity="relu")


# what arrays do not tell ---------------------------------------------------------------------

ALIKE = {
    "gru": nn.GRU(2, 3),
    "gru_reset_before": rs.Recurrent(GRU_RESET_BEFORE, 2, 3, num_layers=2),
    "lstm_coupled": rs.Recurrent(LSTM_COUPLED, 2, 3),
    "lstm_coupled_peephole": rs.Recurrent(LSTM_COUPLED_PEEPHOLE, 2, 3, bidirectional=True),
    "rnn_relu": nn.RNN(2, 3, nonlinearity="relu"),
    "rnn_tanh": nn.RNN(2, 3),
}


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors", ".npz", ".h5", ".hdf5"])
def test_cells_whose_arrays_look_alike_come_back(tmp_path: Path, ending: str) -> None:
    """A GRU of either form, an LSTM of coupled gates: three blocks of rows, PyTorch's names."""
    pytest.importorskip("h5py", reason="h5py writes .h5")
    path = tmp_path / f"m{ending}"
    rs.save(ALIKE, path, layout="rnnscope")
    x = torch.randn(5, 4, 2)
    for found in (rs.load(path), rs.load(path, layout="rnnscope")):
        assert list(found) == list(ALIKE)
        for name, layer in ALIKE.items():
            assert found.assumed[name][0] == "batch_first=False"
            assert torch.equal(found[name](x)[0], layer(x)[0]), name


def test_others_read_a_marked_file_as_before(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py judges")
    layer = ALIKE["gru"]
    state = layer.state_dict()
    for ending in (".pt", ".safetensors", ".npz", ".h5"):
        rs.save(layer, tmp_path / f"m{ending}")
    plain = torch.load(tmp_path / "m.pt", weights_only=True)
    nn.GRU(2, 3).load_state_dict(plain)  # strict: no key more or less
    assert list(plain) == list(state)
    assert load_file(tmp_path / "m.safetensors").keys() == state.keys()
    with np.load(tmp_path / "m.npz") as arrays, h5py.File(tmp_path / "m.h5") as file:
        assert sorted(arrays.files) == sorted(file) == sorted(state)


def test_a_state_dict_of_recurrent_says_its_cell(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc = rs.Recurrent(GRU_RESET_BEFORE, 2, 3)

    model = Model()
    for held in (model.state_dict(), {"epoch": 3, "model": model.state_dict()}):
        torch.save(held, tmp_path / "m.pt")
        (layer,) = rs.load(tmp_path / "m.pt").values()
        assert isinstance(layer, rs.Recurrent)
        assert layer.cell is GRU_RESET_BEFORE
    leaky = Cell("leaky", "n", {"n": tanh(from_x("n") + from_h("n")), "h": quantity("n")})
    torch.save(rs.Recurrent(leaky, 2, 3).state_dict(), tmp_path / "m.pt")
    with pytest.raises(rs.RefusedError, match=r"cell 'own: leaky'.*rnnscope\.Recurrent\(cell, "):
        rs.load(tmp_path / "m.pt")


def test_a_gru_of_which_nothing_is_said(tmp_path: Path) -> None:
    torch.save(nn.GRU(2, 3).state_dict(), tmp_path / "m.pt")
    said = rs.load(tmp_path / "m.pt").assumed[""]
    assert said[0].startswith("cell='gru', which resets after the product, as nn.GRU does: three")
    assert rs.load(tmp_path / "m.pt", cell="gru").assumed[""] == ("batch_first=False",)
    before: Any = rs.load(tmp_path / "m.pt", cell="gru_reset_before")[""]
    assert before.cell is GRU_RESET_BEFORE
    coupled: Any = rs.load(tmp_path / "m.pt", cell="lstm_coupled")[""]
    assert coupled.cell is LSTM_COUPLED


def test_what_a_file_says_of_its_cells_is_not_overruled(tmp_path: Path) -> None:
    rs.save({"g": ALIKE["gru_reset_before"]}, tmp_path / "m.npz", layout="rnnscope")
    with pytest.raises(rs.FileError, match="g: the file says gru_reset_before; got cell='gru'"):
        rs.load(tmp_path / "m.npz", cell="gru")
    with pytest.raises(rs.FileError, match="not gru_reset_before; layout pytorch stores"):
        rs.load(tmp_path / "m.npz", layout="pytorch")
    rs.save({"r": ALIKE["rnn_tanh"]}, tmp_path / "m.npz")
    with pytest.raises(rs.FileError, match="r: the file says tanh; got nonlinearity='relu'"):
        rs.load(tmp_path / "m.npz", nonlinearity="relu")


def test_a_mark_that_is_damaged(tmp_path: Path) -> None:
    state = nn.GRU(2, 3).state_dict()
    for text in ("[1]", "{", '{"": 3}', "[" * 99_999):
        save_file(state, tmp_path / "m.safetensors", {"rnnscope.cells": text})
        with pytest.raises(rs.FileError, match=r"m.safetensors: damaged: rnnscope.cells"):
            rs.load(tmp_path / "m.safetensors")


def test_a_mark_that_the_format_has_no_room_for(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5")
    layers = {f"{k:03}" + "n" * 400: ALIKE["gru"] for k in range(160)}
    for ending in (".npz", ".h5"):
        with pytest.raises(rs.RefusedError, match=r"160 layers.*write \.safetensors or \.pt"):
            rs.save(layers, tmp_path / f"m{ending}")
    rs.save(layers, tmp_path / "m.safetensors")
    assert len(rs.load(tmp_path / "m.safetensors")) == 160


EVERY = [(layout.name, kind) for layout in LAYOUTS.values() for kind in layout.cells]


@pytest.mark.parametrize(("layout", "kind"), EVERY)
def test_every_row_of_the_table_is_saved_and_loaded(tmp_path: Path, layout: str, kind: str) -> None:
    """What docs/layouts.md lists, save writes, and load reads it back without being told more."""
    stored = LAYOUTS[layout].cells[kind]
    cell = cell_of(kind, nonlinearity=stored.nonlinearity)
    layer = rs.Recurrent(cell, 3, 5)
    if kind == "gru" and "n" not in stored.holders("b_hh"):
        torch.nn.init.zeros_(layer.bias_hh_l0)  # type: ignore[arg-type]
    path = tmp_path / ("m.onnx" if layout == "onnx" else "m.safetensors")
    rs.save({"enc": layer}, path, layout=layout)
    asked = {} if layout == "onnx" else {"layout": layout}
    found: Any = rs.load(path, **asked)["enc"]  # type: ignore[arg-type]
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(found(x)[0], layer(x)[0], atol=1e-6, rtol=1e-6)
    again: Any = rs.load(path, cell=kind, **asked)["enc"]  # type: ignore[arg-type]
    assert str(again) == str(found)


@pytest.mark.parametrize("kind", ["gru", "gru_reset_before"])
def test_layers_of_a_stack_that_come_apart_keep_their_cell(tmp_path: Path, kind: str) -> None:
    layer = rs.Recurrent(DECLARED[kind], 3, 5, num_layers=2, bidirectional=True)
    rs.save({"enc": layer}, tmp_path / "m.npz", layout="burn")
    found = rs.load(tmp_path / "m.npz")
    assert list(found) == ["enc.0", "enc.1"]
    x = torch.randn(4, 2, 3)
    got = x
    for each in found.values():
        got = each(got)[0]
    torch.testing.assert_close(got, layer(x)[0], atol=1e-6, rtol=1e-6)


def test_the_layout_that_explains_more_of_a_name_is_taken(tmp_path: Path) -> None:
    """MXNet's l0_i2h_weight is of its layer, which is relu, not of a cell called l0: tanh."""
    arrays = from_torch("mxnet", RNN_RELU, nn.RNN(2, 3).state_dict())
    np.savez(tmp_path / "m.npz", **{f"enc.{name}": value for name, value in arrays.items()})
    found = rs.load(tmp_path / "m.npz")
    assert found.assumed["enc"][0] == "nonlinearity='relu', the default of mxnet"


# cells of one's own ---------------------------------------------------------------------------


def peephole_of_ones_own() -> Cell:
    """The equations of LSTM_PEEPHOLE, in other words and in another order."""
    c_prev, c, i, f, g, o = previous("c"), *map(quantity, "cifgo")
    return Cell(
        "mine",
        "ifgo",
        {
            "f": sigmoid(from_x("f") + from_h("f") + vector("peephole_f") * c_prev),
            "i": sigmoid(from_x("i") + from_h("i") + c_prev * vector("peephole_i")),
            "g": tanh(from_h("g") + from_x("g")),
            "c": i * g + f * c_prev,
            "o": sigmoid(from_x("o") + from_h("o") + vector("peephole_o") * c),
            "h": tanh(c) * o,
        },
    )


@pytest.mark.parametrize(("ending", "layout"), [(".onnx", None), (".pt", "rnnscope")])
def test_a_cell_is_known_by_its_equations(tmp_path: Path, ending: str, layout: str | None) -> None:
    layer = rs.Recurrent(peephole_of_ones_own(), 3, 5)
    rs.save({"p": layer}, tmp_path / f"m{ending}", layout=layout)
    found: Any = rs.load(tmp_path / f"m{ending}")["p"]
    assert found.cell is LSTM_PEEPHOLE
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(found(x)[0], layer(x)[0])
    plain = Cell("mine", "h", {"h": tanh(from_h("h") + from_x("h"))})
    rs.save({"p": rs.Recurrent(plain, 3, 5)}, tmp_path / f"m{ending}")
    assert type(rs.load(tmp_path / f"m{ending}")["p"]) is nn.RNN


@pytest.mark.parametrize(("ending", "layout"), [(".onnx", None), (".pt", None), (".npz", "keras")])
def test_a_cell_that_no_file_holds(tmp_path: Path, ending: str, layout: str | None) -> None:
    leaky = Cell("leaky", "n", {"n": tanh(from_x("n") + from_h("n")), "h": 0.5 * quantity("n")})
    with pytest.raises(rs.RefusedError) as caught:
        rs.save({"a": rs.Recurrent(leaky, 2, 3)}, tmp_path / f"m{ending}", layout=layout)
    said = str(caught.value)
    assert said.startswith("layer a: no layout stores leaky, a cell of your own: ")
    assert "torch.save(layer.state_dict(), path)" in said
    assert "onnx" not in said.lower()
    assert not list(tmp_path.iterdir())


def test_names_of_ones_own(tmp_path: Path) -> None:
    layer = nn.GRU(2, 3)
    ours = {name: f"p{k}" for k, name in enumerate(layer.state_dict())}
    arrays = {ours[name]: value.numpy() for name, value in layer.state_dict().items()}
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(rs.FileError, match=r"no weights of a recurrent layer.*p0, p1.*names="):
        rs.load(tmp_path / "m.npz")
    assert same(layer, rs.load(tmp_path / "m.npz", names=ours)[""])
    with pytest.raises(rs.FileError, match="no array 'q', named for weight_ih_l0"):
        rs.load(tmp_path / "m.npz", names=ours | {"weight_ih_l0": "q"})


def test_a_layout_of_ones_own(tmp_path: Path) -> None:
    arrays = (Array("Wx", "W_ih"), Array("Wh", "W_hh"), Array("b", "b_ih"))
    mine = Layout("mine", cells={"lstm": Stored("fiog", arrays, orientation="columns")})
    lstm = nn.LSTM(2, 3)
    rs.save({"enc": lstm}, tmp_path / "m.npz", layout=mine)
    assert np.load(tmp_path / "m.npz")["enc.Wx"].shape == (2, 12)
    found: Any = rs.load(tmp_path / "m.npz", layout=mine)["enc"]
    torch.testing.assert_close(found.weight_hh_l0, lstm.weight_hh_l0)


def test_ambiguous_names_are_told(tmp_path: Path) -> None:
    arrays = from_torch("burn", GRU, nn.GRU(2, 3).state_dict())
    np.savez(tmp_path / "m.npz", **{f"g.{name}": value for name, value in arrays.items()})
    with pytest.raises(
        rs.FileError,
        match=r"give one of these pairs: cell='gru', layout='burn'; or cell='gru_reset_before', ",
    ):
        rs.load(tmp_path / "m.npz")
    assert isinstance(rs.load(tmp_path / "m.npz", cell="gru")["g"], nn.GRU)
    before: Any = rs.load(tmp_path / "m.npz", cell="gru_reset_before")["g"]
    assert before.cell is GRU_RESET_BEFORE
    with pytest.raises(rs.DeclarationError, match="unknown cell 'gruu'"):
        rs.load(tmp_path / "m.npz", cell="gruu")


@pytest.mark.parametrize(
    ("layer", "ending", "layout", "reason"),
    [
        (nn.LSTM(2, 3, proj_size=2), ".onnx", None, "no projection"),
        (nn.GRU(2, 3), ".keras", None, "load_weights"),
        (nn.GRU(2, 3), ".onnx", "pytorch", "layout='onnx'"),
        (nn.GRU(2, 3), ".pt", "onnx", "write a .onnx file"),
        (rs.Recurrent(GRU_RESET_BEFORE, 2, 3), ".pt", None, "resets"),
        (rs.Recurrent(LSTM_PEEPHOLE, 2, 3), ".npz", "keras", "peepholes"),
        (rs.Recurrent(LSTM, 2, 3, reverse=True), ".pt", None, "from the end only"),
        (
            rs.Recurrent(LSTM.with_functions({"g": "softsign"}), 2, 3),
            ".pt",
            None,
            "holds no activations",
        ),
        (nn.GRU(2, 3).bfloat16(), ".npz", None, "bfloat16"),
    ],
)
def test_what_cannot_be_held_is_refused(
    tmp_path: Path, layer: nn.Module, ending: str, layout: str | None, reason: str
) -> None:
    path = tmp_path / f"m{ending}"
    path.write_bytes(b"before")
    with pytest.raises(rs.RefusedError, match=reason):
        rs.save({"a": layer}, path, layout=layout)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == [path.name]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(rs.FileError, match="cannot write"):
        rs.save(nn.GRU(2, 3), tmp_path / "none" / "m.pt")
    with pytest.raises(rs.NotRecurrentError):
        rs.save(nn.Linear(2, 3), tmp_path / "m.pt")


def test_a_saved_trace_says_what_opens_it(tmp_path: Path) -> None:
    rs.trace(nn.GRU(2, 3), torch.zeros(4, 1, 2)).save(tmp_path / "t.safetensors")
    with pytest.raises(rs.FileError, match=r"rnnscope\.load_trace"):
        rs.load(tmp_path / "t.safetensors")


def test_half_precisions_are_kept(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        rs.save({"a": nn.LSTM(2, 3).to(dtype)}, tmp_path / "m.safetensors")
        layer: Any = rs.load(tmp_path / "m.safetensors")["a"]
        assert layer.weight_ih_l0.dtype is dtype


# what other kinds of files hold ---------------------------------------------------------------


def test_a_torchscript_archive_says_what_to_do(tmp_path: Path) -> None:
    layer = nn.GRU(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(layer).save(str(tmp_path / "s.pt"))
        with pytest.raises(rs.FileError, match="a TorchScript archive") as caught:
            rs.load(tmp_path / "s.pt")
        said = str(caught.value)
        advice = "torch.save(torch.jit.load('s.pt').state_dict(), 'weights.pt')"
        assert advice in said
        assert "damaged" not in said
        weights = torch.jit.load(str(tmp_path / "s.pt")).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    assert same(layer, rs.load(tmp_path / "weights.pt")[""])


def remade() -> dict[str, tuple[nn.Module, str]]:
    """A layer whose weight_hh_l0 torch computes of other arrays, and what undoes it."""
    utils = nn.utils
    pruned, normed, spectral, new, plane = (nn.GRU(2, 3) for _ in range(5))
    prune.l1_unstructured(pruned, "weight_hh_l0", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old functions are deprecated
        utils.weight_norm(normed, "weight_hh_l0")
        utils.spectral_norm(spectral, "weight_hh_l0")
    utils.parametrizations.weight_norm(new, "weight_hh_l0")
    utils.parametrizations.orthogonal(plane, "weight_hh_l0")
    parametrized = "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight_hh_l0')"
    return {
        "pruned": (pruned, "torch.nn.utils.prune.remove(layer, 'weight_hh_l0')"),
        "weight norm": (normed, "torch.nn.utils.remove_weight_norm(layer, 'weight_hh_l0')"),
        "spectral norm": (spectral, "torch.nn.utils.remove_spectral_norm(layer, 'weight_hh_l0')"),
        "parametrized": (new, parametrized),
        "orthogonal": (plane, parametrized),
    }


@pytest.mark.parametrize(
    "how", ["pruned", "weight norm", "spectral norm", "parametrized", "orthogonal"]
)
def test_weights_that_are_computed_say_how_to_undo_it(tmp_path: Path, how: str) -> None:
    layer, undo = remade()[how]
    torch.save({f"enc.{k}": v for k, v in layer.state_dict().items()}, tmp_path / "m.pt")
    with pytest.raises(rs.FileError, match="enc: weight_hh_l0 is ") as caught:
        rs.load(tmp_path / "m.pt")
    assert undo in str(caught.value)
    eval(undo, {"torch": torch, "layer": layer})
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    assert isinstance(rs.load(tmp_path / "m.pt")[""], nn.GRU)


def test_arrays_of_onnx_without_its_nodes(tmp_path: Path) -> None:
    arrays = from_torch("onnx", LSTM, nn.LSTM(2, 3).state_dict())
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(rs.FileError) as caught:
        rs.load(tmp_path / "m.npz")
    assert "(weight_ih_l0, kernel, ...): it holds 3 arrays: W, R, B" in str(caught.value)
    assert "W and R are names of ONNX: layout='onnx'" in str(caught.value)
    assert isinstance(rs.load(tmp_path / "m.npz", layout="onnx", cell="lstm")[""], nn.LSTM)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are POSIX")
def test_a_pipe_or_a_device_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.pt")
    (tmp_path / "d.npz").symlink_to("/dev/zero")
    (tmp_path / "gone.npz").symlink_to(tmp_path / "nowhere")
    for name, reason in {"p.pt": "no regular file", "d.npz": "no regular file"}.items():
        with pytest.raises(rs.FileError, match=f"{name}: {reason}"):
            rs.load(tmp_path / name)
        with pytest.raises(rs.FileError, match=rf"^cannot write \S+: it is {reason}; name a file$"):
            rs.save(nn.GRU(2, 3), tmp_path / name)
    with pytest.raises(rs.FileError, match=r"gone.npz: no such file"):
        rs.load(tmp_path / "gone.npz")


# bad input ----------------------------------------------------------------------------------


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def broken(folder: Path) -> dict[str, str]:
    """Files that hold no layer, and what is said of each."""
    good = nn.GRU(2, 3).state_dict()
    arrays = {name: value.numpy() for name, value in good.items()}
    torch.save({"weight_ih_l0": Harm()}, folder / "harm.pt")
    np.savez(folder / "objects.npz", **(arrays | {"weight_ih_l0": np.full((9, 2), Harm(), object)}))
    np.savez(folder / "linear.npz", weight=np.zeros((3, 2)))
    (folder / "one.npz").write_bytes(b"\x93NUMPY\x01\x00")
    save_file(good, folder / "kind.onnx")
    save_file(good, folder / "kind.h5")
    save_file(good, folder / "kind.keras")
    save_file(good, folder / "kind.npz")
    np.savez(folder / "npz.npz", **arrays)
    (folder / "npz.npz").rename(folder / "kind.safetensors")
    for ending in ("pt", "safetensors", "npz", "h5", "keras", "onnx"):
        (folder / f"empty.{ending}").write_bytes(b"")
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        head = np.lib.format.magic(1, 0) + struct.pack("<H", 118)
        text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9486, 3162), }"
        for name in ("weight_ih_l0", "weight_hh_l0"):
            data = head + text.ljust(117) + b"\n" + bytes(9486 * 3162 * 4)
            archive.writestr(f"{name}.npy", data)
    with zipfile.ZipFile(folder / "lie.npz", "w") as archive:
        text = text.replace(b"9486", b"999999999999")
        archive.writestr("weight_ih_l0.npy", head + text.ljust(117) + b"\n" + bytes(48))
    with zipfile.ZipFile(folder / "no_weights.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with zipfile.ZipFile(folder / "no_json.keras", "w") as archive:
        archive.writestr("config.json", "[" * 100_000)
        archive.writestr("model.weights.h5", b"")
    (folder / "outside.onnx").write_bytes(model(external="../secret.bin"))
    (folder / "absolute.onnx").write_bytes(model(external="/etc/passwd"))
    (folder / "missing.onnx").write_bytes(model(external="weights.bin"))
    (folder / "huge.onnx").write_bytes(model(sizes=(2**40, 2**20)))
    (folder / "negative.onnx").write_bytes(model(sizes=(1, -1)))
    (folder / "computed.onnx").write_bytes(model(names="X V R"))
    (folder / "clip.onnx").write_bytes(model(extra=encode_field(1, "clip") + encode_field(2, 1.0)))
    return {
        "harm.pt": "refused: it holds posix.system",
        "objects.npz": "Python objects",
        "linear.npz": "no weights of a recurrent layer",
        "one.npz": "one array",
        "kind.onnx": "damaged",
        "kind.h5": "no HDF5 file",
        "kind.keras": "damaged",
        "kind.npz": "damaged",
        "kind.safetensors": "damaged",
        "empty.pt": "damaged",
        "empty.safetensors": "damaged",
        "empty.npz": "damaged",
        "empty.h5": "empty",
        "empty.keras": "damaged",
        "empty.onnx": "empty",
        "bomb.npz": "far more than",
        "lie.npz": "does not take",
        "no_weights.keras": "model.weights.h5 is missing",
        "no_json.keras": "no JSON",
        "outside.onnx": "outside of the model's own folder",
        "absolute.onnx": "outside of the model's own folder",
        "missing.onnx": "no such file",
        "huge.onnx": "bytes of numbers",
        "negative.onnx": "has shape",
        "computed.onnx": "computed when the model runs",
        "clip.onnx": "clip",
    }


def model(
    names: str = "X W R",
    sizes: tuple[int, ...] = (1, 3, 2),
    external: str | None = None,
    extra: bytes = b"",
) -> bytes:
    """A model of one RNN with 3 units, its W of these sizes or kept elsewhere."""
    node = b"".join(encode_field(1, name) for name in names.split()) + encode_field(2, "Y")
    node += encode_field(4, "RNN") + (encode_field(5, extra) if extra else b"")
    w = (
        b"".join(encode_field(1, size) for size in sizes)
        + encode_field(2, 1)
        + encode_field(8, "W")
    )
    if external is None:
        w += encode_field(9, bytes(24))
    else:
        w += encode_field(
            13, encode_field(1, "location") + encode_field(2, external)
        ) + encode_field(14, 1)
    r = (
        b"".join(encode_field(1, size) for size in (1, 3, 3))
        + encode_field(2, 1)
        + encode_field(8, "R")
    )
    r += encode_field(9, bytes(36))
    return encode_field(7, encode_field(1, node) + encode_field(5, w) + encode_field(5, r))


def test_bad_files_are_named_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    monkeypatch.chdir(inside)
    for name, reason in broken(inside).items():
        with pytest.raises((rs.FileError, rs.RefusedError)) as caught:
            rs.load(inside / name)
        assert reason in str(caught.value), name
        assert name in str(caught.value)
    assert not (inside / "harmed").exists()


def test_the_model_that_the_broken_ones_come_of_loads(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model())
    (tmp_path / "e.onnx").write_bytes(model(external="w.bin"))
    (tmp_path / "w.bin").write_bytes(bytes(24))
    for name in ("m", "e"):
        (layer,) = rs.load(tmp_path / f"{name}.onnx").values()
        assert isinstance(layer, nn.RNN)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(24))
    (inside / "w.bin").symlink_to(tmp_path / "w.bin")
    (inside / "e.onnx").write_bytes(model(external="w.bin"))
    with pytest.raises(rs.FileError, match="outside of the model's own folder"):
        rs.load(inside / "e.onnx")


def test_a_tensor_larger_than_its_storage_is_not_made(tmp_path: Path) -> None:
    wide = torch.zeros(1).expand(3_000_000, 1_000_000)
    torch.save({"weight_ih_l0": wide, "weight_hh_l0": wide}, tmp_path / "m.pt")
    with pytest.raises(rs.FileError, match=r"weight_.h_l0 of shape \(3000000, 1000000\) takes"):
        rs.load(tmp_path / "m.pt")


def test_old_pickles(tmp_path: Path) -> None:
    layer = nn.LSTM(2, 3)
    torch.save(layer.state_dict(), tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert same(layer, rs.load(tmp_path / "m.pt")[""])
    (tmp_path / "h.pt").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(rs.FileError, match="could run code"):
        rs.load(tmp_path / "h.pt")


def test_writing_hdf5_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(rs.MissingExtraError, match=r"rnnscope\[files\]"):
        rs.save(nn.GRU(2, 3), tmp_path / "m.h5")
    assert os.listdir(tmp_path) == []


# HDF5 and Keras -----------------------------------------------------------------------------


def test_hdf5_is_read_as_h5py_reads_it(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py judges")
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b"] = rng.normal(size=(30, 7))
        chunked = {"chunks": (16, 8), "compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("packed", data=rng.normal(size=(100, 33)).astype("f4"), **chunked)
        file.create_dataset("sparse", (50, 3), "f4", chunks=(10, 3))[20:25] = 1
        file["big_endian"] = np.arange(5, dtype=">f4")
        file["scalar"] = 3.5
        for k in range(300):  # a tree of several levels
            file[f"many/{k}"] = np.float16(k)
        file["a"].attrs["text"] = "h\u00e4llo"
        file["a"].attrs["texts"] = [b"x", b"yz"]
        file["a"].attrs["numbers"] = [1, 2, 3]
    group = read_hdf5(Window.of(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(group.arrays) == 305
        for name, held in group.arrays.items():
            np.testing.assert_array_equal(held.read().numpy(), file[name][()])
    assert group.attributes["a"] == {
        "text": "h\u00e4llo",
        "texts": ["x", "yz"],
        "numbers": [1, 2, 3],
    }


def keras_file(path: Path, layer: dict[str, Any], version: str, bias: bool = True) -> None:
    """A file as Keras writes it, of one layer with 4 units and random weights."""
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    rng = np.random.default_rng(1)
    gates = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[layer["class_name"]]
    two = layer["config"].get("reset_after")
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": [layer]})
        group = file.create_group("model_weights/a/a")
        group["kernel:0"] = rng.normal(size=(3, gates * 4)).astype("f4")
        group["recurrent_kernel:0"] = rng.normal(size=(4, gates * 4)).astype("f4")
        if bias:
            shape = (2, gates * 4) if two else (gates * 4,)
            group["bias:0"] = rng.normal(size=shape).astype("f4")


@pytest.mark.parametrize(
    ("kind", "facts", "version", "expected"),
    [
        ("LSTM", {}, "3.0.0", "LSTM(3, 4, batch_first=True)"),
        ("GRU", {"reset_after": True}, "2.15.0", "GRU(3, 4, batch_first=True)"),
        (
            "GRU",
            {"reset_after": False},
            "2.15.0",
            "Recurrent(GRU with the reset before the product, 3, 4, batch_first=True)",
        ),
        ("LSTM", {"go_backwards": True}, "3.0.0", "reverse=True"),
        ("SimpleRNN", {"activation": "relu"}, "3.0.0", "RNN(3, 4, batch_first=True)"),
    ],
)
def test_what_a_keras_file_says_is_followed(
    tmp_path: Path, kind: str, facts: dict[str, Any], version: str, expected: str
) -> None:
    config = {"class_name": kind, "config": {"name": "a", "units": 4, **facts}}
    keras_file(tmp_path / "m.h5", config, version)
    assert expected in str(rs.load(tmp_path / "m.h5")["a"])


def test_the_hard_sigmoid_of_keras_changed_with_its_version(tmp_path: Path) -> None:
    facts = {"name": "a", "units": 4, "recurrent_activation": "hard_sigmoid"}
    for version, name in (("2.15.0", "hard_sigmoid(0.2, 0.5)"), ("3.0.0", "hard_sigmoid")):
        keras_file(tmp_path / "m.h5", {"class_name": "LSTM", "config": facts}, version)
        layer: Any = rs.load(tmp_path / "m.h5")["a"]
        assert layer.cell.equations["f"].name == name


def test_a_keras_file_that_contradicts_itself(tmp_path: Path) -> None:
    config = {"class_name": "LSTM", "config": {"name": "a", "units": 7}}
    keras_file(tmp_path / "m.h5", config, "3.0.0")
    with pytest.raises(rs.FileError, match="units=7 in the configuration, 4 in the arrays"):
        rs.load(tmp_path / "m.h5")
    config = {"class_name": "LSTM", "config": {"name": "a", "activation": "mish"}}
    keras_file(tmp_path / "m.h5", config, "3.0.0")
    with pytest.raises(rs.RefusedError, match="activation 'mish' is not known"):
        rs.load(tmp_path / "m.h5")


# the fuzz target ----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory")
def test_damaged_files_give_an_error_of_ours_or_load(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py writes the files that are damaged")
    from fuzz_files import fuzz

    came, failed = fuzz(400, seed=1, folder=tmp_path)
    assert not failed, failed[:5]
    assert sum(came.values()) == 400
    assert {"m.h5 loaded", "m.h5 refused", "m.onnx refused", "mold.pt loaded"} <= set(came)


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".npz"])
def test_peepholes_come_back_without_being_asked_for(ending: str, tmp_path: Path) -> None:
    layer = rs.Recurrent(LSTM_PEEPHOLE, 3, 5)
    path = tmp_path / f"p{ending}"
    rs.save({"p": layer, "q": nn.LSTM(3, 4)}, path, layout="rnnscope")
    found = rs.load(path)
    x = torch.randn(6, 2, 3)
    assert torch.equal(found["p"](x)[0], layer(x)[0])
    assert isinstance(found["q"], nn.LSTM)


@pytest.mark.parametrize(
    ("names", "unread"),
    [
        ({"weight_ih": (15, 3), "weight_hh": (15, 5), "bias": (15,)}, "bias"),
        ({"weight_ih_l0": (20, 3), "weight_hh_l0": (20, 5), "bias_l0": (20,)}, "bias_l0"),
    ],
)
def test_numbers_that_no_layout_reads_are_not_lost(
    names: dict[str, tuple[int, ...]], unread: str, tmp_path: Path
) -> None:
    arrays = {name: np.ones(shape, dtype=np.float32) for name, shape in names.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(rs.FileError, match=f"{unread} lies beside .*names="):
        rs.load(tmp_path / "a.npz")


PLACES: list[tuple[str, str | None]] = [
    (".pt", None),
    (".safetensors", None),
    (".npz", None),
    (".npz", "flax"),
    (".h5", None),
    (".h5", "keras"),
    (".onnx", None),
]
NAMES: list[Any] = ["a", "_rnn", "rnn_", "a.b", "a/b", "a/../b", "a//b", "a/./b", "a\0b", "\ud800"]
NAMES += ["../../x", "/a", "a.", ":a", "é", "a b\nc", "0", "forward", None, 3, ""]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back_or_is_refused(tmp_path: Path, name: Any) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5")
    layer = nn.GRU(2, 3)
    nn.init.zeros_(layer.bias_hh_l0)
    held = []
    for ending, layout in PLACES:
        path = tmp_path / f"m{ending}"
        with contextlib.suppress(rs.RefusedError):
            rs.save({name: layer}, path, layout=layout)
            held.append((ending, layout))
        if path.exists():
            assert list(rs.load(path)) == [name]
            path.unlink()
        else:
            with pytest.raises(rs.RefusedError, match=re.escape(f"cannot be called {name!r}")):
                rs.save({name: layer}, path, layout=layout)
    if name in ("a", "_rnn", "rnn_", "a.b", "é", "a b\nc", "0", "forward"):
        assert held == PLACES
    elif name in (None, 3, "../../x", "/a", "a.", ":a", "a\0b", "\ud800"):
        assert not held
    elif name == "":
        assert held == [each for each in PLACES if each not in ((".h5", "keras"), (".onnx", None))]
    else:
        assert (".h5", "keras") not in held


def test_a_layer_without_a_name_is_given_one_where_there_must_be(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5")
    rs.save(nn.GRU(2, 3), tmp_path / "m.onnx")
    rs.save(nn.GRU(2, 3), tmp_path / "m.h5", layout="keras")
    assert [*rs.load(tmp_path / "m.onnx"), *rs.load(tmp_path / "m.h5")] == ["layer", "layer"]


def test_layers_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Where a format keeps one; .safetensors and HDF5 sort names, and there 2 stands before 10."""
    pytest.importorskip("h5py", reason="h5py writes .h5")
    layers = {name: nn.GRU(2, 3) for name in ("b", "layer10", "layer2", "a")}
    places = [*PLACES, (".pth", None)]
    for ending, layout in places:
        for layer in layers.values():
            nn.init.zeros_(layer.bias_hh_l0)  # type: ignore[arg-type]
        rs.save(layers, tmp_path / f"m{ending}", layout=layout)
        sorts = (ending, layout) in ((".safetensors", None), (".h5", None))
        expected = ["a", "b", "layer2", "layer10"] if sorts else list(layers)
        assert list(rs.load(tmp_path / f"m{ending}")) == expected, (ending, layout)
    torch.save({"x": {n: each.state_dict() for n, each in layers.items()}}, tmp_path / "n.pt")
    assert list(rs.load(tmp_path / "n.pt")) == [f"x.{name}" for name in layers]


@pytest.mark.parametrize(("ending", "layout"), [*PLACES, (".pt", "keras")])
def test_bfloat16_is_kept_or_refused(tmp_path: Path, ending: str, layout: str | None) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5")
    layer = nn.GRU(2, 3).bfloat16()
    if ending in (".pt", ".safetensors") and layout is None:
        for each in (layer, rs.Recurrent(GRU_RESET_BEFORE, 2, 3).bfloat16()):
            rs.save({"a": each}, tmp_path / f"m{ending}", layout="rnnscope")
            found: Any = rs.load(tmp_path / f"m{ending}")["a"]
            assert torch.equal(found.weight_ih_l0, each.weight_ih_l0)  # type: ignore[arg-type]
    else:
        with pytest.raises(rs.RefusedError, match=r"layer a: bfloat16 .*layer\.float\(\)"):
            rs.save({"a": layer}, tmp_path / f"m{ending}", layout=layout)
        assert not list(tmp_path.iterdir())


def test_a_layer_without_numbers_is_refused(tmp_path: Path) -> None:
    for ending in (".pt", ".onnx"):
        with pytest.raises(rs.RefusedError, match="layer a: its parameters are on the meta device"):
            rs.save({"a": nn.GRU(2, 3, device="meta")}, tmp_path / f"m{ending}")
    assert not list(tmp_path.iterdir())


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py writes .h5")
    both = {"a": nn.LSTM(3, 5, 2), "a_l0": nn.LSTM(3, 7)}
    for ending, layout in ((".onnx", None), (".h5", "keras")):
        with pytest.raises(rs.RefusedError, match="two layers would be called 'a_l0'"):
            rs.save(both, tmp_path / f"a{ending}", layout=layout)
    layers = {"a": nn.LSTM(3, 5, 2), "a.0": nn.LSTM(3, 7)}
    with pytest.raises(rs.RefusedError, match="two layers would write"):
        rs.save(layers, tmp_path / "a.npz", layout="keras")
    assert not list(tmp_path.iterdir())


def test_coupled_gates_are_refused_where_a_layout_has_none(tmp_path: Path) -> None:
    for layout in ("pytorch", "keras"):
        with pytest.raises(rs.RefusedError, match=r"here f is 1 - i.*layout='rnnscope' holds it"):
            rs.save(rs.Recurrent(LSTM_COUPLED, 3, 5), tmp_path / "c.pt", layout=layout)
