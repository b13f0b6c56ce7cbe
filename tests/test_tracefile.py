"""A trace on disk: what comes back is what was written, and a bad file is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from configurations import SOME, Configuration, build, name_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import rnnscope as rs


def same(a: object, b: object) -> bool:
    if isinstance(a, PackedSequence):
        return isinstance(b, PackedSequence) and all(
            (p is None and q is None) or torch.equal(p, q) for p, q in zip(a, b, strict=True)
        )
    return torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_what_is_written_comes_back(configuration: Configuration, tmp_path) -> None:
    case = build(configuration, seed=3)
    tr = rs.trace(case.layer, *case.args, record="all", **case.kwargs)
    tr.save(tmp_path / "t.safetensors")
    back = rs.load_trace(tmp_path / "t.safetensors")
    assert list(back) == list(tr)
    assert all(torch.equal(back[name], tr[name]) for name in tr)
    for layer in range(tr.sizes["layer"]):
        assert torch.equal(back.layer_input(layer), tr.layer_input(layer))
    assert same(tr.output, back.output)
    for name in ("n", "0"):
        for state in tr.cell.states:
            assert torch.equal(getattr(back, f"{state}_{name}"), getattr(tr, f"{state}_{name}"))
    assert back.parameters.keys() == tr.parameters.keys()
    assert all(torch.equal(back.parameters[n], t) for n, t in tr.parameters.items())
    assert torch.equal(back.valid, tr.valid)
    assert (back.deviation, back.tolerance) == (tr.deviation, tr.tolerance)
    assert repr(back) == repr(tr)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_cell_module_comes_back(cell, shape, tmp_path) -> None:
    tr = rs.trace(cell(3, 4), torch.randn(shape))
    tr.save(tmp_path / "t.safetensors")
    back = rs.load_trace(tmp_path / "t.safetensors")
    assert torch.equal(back.h_n, tr.h_n)
    assert repr(back) == repr(tr)


def test_bfloat16_and_unverified_traces_come_back(tmp_path) -> None:
    layer = nn.GRU(3, 4).to(torch.bfloat16)
    x = torch.randn(5, 2, 3, dtype=torch.bfloat16)
    for check in (True, False):
        tr = rs.trace(layer, x, check=check)
        tr.save(tmp_path / "t.safetensors")
        back = rs.load_trace(tmp_path / "t.safetensors")
        assert back["z"].dtype == torch.bfloat16
        assert torch.equal(back["z"], tr["z"])
        assert back.proof == tr.proof


def a_file(tmp_path):
    path = tmp_path / "t.safetensors"
    rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3)).save(path)
    return path


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(rs.FileError, match=r"no such file.*nothing\.safetensors"):
        rs.load_trace(tmp_path / "nothing.safetensors")


def test_another_safetensors_file_is_refused(tmp_path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(rs.FileError, match="holds no trace"):
        rs.load_trace(tmp_path / "w.safetensors")


def test_a_cut_file_is_refused(tmp_path) -> None:
    path = a_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(rs.FileError, match=r"t\.safetensors is damaged"):
        rs.load_trace(path)


def test_text_is_refused(tmp_path) -> None:
    (tmp_path / "t.safetensors").write_text("not a file of tensors at all")
    with pytest.raises(rs.FileError, match="damaged"):
        rs.load_trace(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.pop("structure"),
        lambda facts: facts.update(format="rnnscope trace 99"),
        lambda facts: facts["structure"].update(num_layers=3),
        lambda facts: facts["structure"].update(cell="transformer"),
        lambda facts: facts.update(proofs=7),
    ],
    ids=["no structure", "newer format", "other layers", "unknown cell", "no proofs"],
)
def test_metadata_that_does_not_fit_is_refused(change, tmp_path) -> None:
    path = a_file(tmp_path)
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["rnnscope"])
    change(facts)
    save_file(load_file(path), path, {"rnnscope": json.dumps(facts)})
    with pytest.raises(rs.FileError, match="do not fit together"):
        rs.load_trace(path)


def test_a_tensor_of_another_shape_is_refused(tmp_path) -> None:
    path = a_file(tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["value/f"] = tensors["value/f"][:, :, :1].contiguous()
    save_file(tensors, path, metadata)
    with pytest.raises(rs.FileError, match="header is not the one that was written"):
        rs.load_trace(path)


def test_one_changed_bit_is_told(tmp_path) -> None:
    path = a_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(rs.FileError, match="checksum differs"):
        rs.load_trace(path)


def test_a_link_is_followed_and_a_mode_is_kept(tmp_path) -> None:
    tr = rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    real, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to(real)
    tr.save(link)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert torch.equal(rs.load_trace(real)["f"], tr["f"])


def test_a_pipe_is_left_a_pipe(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(rs.FileError, match="no regular file"):
        rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3)).save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path) -> None:
    tr = rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    with pytest.raises(rs.FileError, match="cannot write"):
        tr.save(tmp_path / "no folder" / "t.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(rs.FileError, match="cannot write"):
        tr.save(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("ending", [".pt", ".PT", ".npz", ".h5", ".onnx", ".csv", ".pkl", ".ckpt"])
def test_the_ending_of_another_kind_of_file_is_refused(tmp_path: Path, ending: str) -> None:
    """torch.load, numpy.load and others could not read it."""
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))
    with pytest.raises(rs.FileError, match=r"Write tr\.save\('.*run\.trace'\)"):
        tr.save(tmp_path / f"run{ending}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run.trace", "run.safetensors", "run", "run.2026-11-29"])
def test_other_names_are_taken(tmp_path: Path, name: str) -> None:
    tr = rs.trace(nn.GRU(3, 4), torch.randn(5, 2, 3))
    tr.save(tmp_path / name)
    assert torch.equal(rs.load_trace(tmp_path / name)["h"], tr["h"])


def test_load_points_to_load_trace(tmp_path: Path) -> None:
    path = tmp_path / "x.trace"
    rs.trace(torch.nn.GRU(3, 4), torch.randn(5, 2, 3)).save(path)
    for change in (lambda: None, lambda: path.write_bytes(path.read_bytes()[:300]), path.unlink):
        change()
        with pytest.raises(rs.FileError, match=r"rnnscope\.load_trace\(path\)"):
            rs.load(path)
