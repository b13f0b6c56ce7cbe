"""Gradients, memories and what a watch saw, saved and read again: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from verbs import plain
from watched import Decoder, Two

import rnnscope as rs


@pytest.fixture
def tr() -> rs.Trace:
    layer = nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    x = pack_sequence([torch.randn(n, 3) for n in (4, 2, 3)], enforce_sorted=False)
    return rs.trace(layer, x, labels=[list("abcd"), list("ef"), list("ghi")])


@pytest.mark.parametrize("kind", ["gradients", "memory"])
def test_what_is_read_is_what_was_saved(tr: rs.Trace, kind: str, tmp_path: Path) -> None:
    record: Any = tr.gradients(tr.h_n.square().sum()) if kind == "gradients" else tr.memory()
    record.save(tmp_path / "run.record")
    read = rs.load_record(tmp_path / "run.record")
    assert read.kind == kind
    assert list(read) == list(record)
    assert plain(dict(read)) == plain(dict(record))
    assert read.dims == record.dims
    assert read.labels == record.labels == tr.labels
    assert plain(read.sel(next(iter(read)), layer=1, direction="reverse", time="last")) == plain(
        record.sel(next(iter(read)), layer=1, direction="reverse", time="last")
    )
    assert str(read) == str(record)
    if kind == "gradients":
        assert plain(read.groups["parameters"]) == plain(record.parameters)
        assert plain(read.groups["direct"]) == plain(dict(record.direct))
        assert plain(read.groups["initial"]) == plain(record.initial)
    else:
        assert plain(read.groups["initial"]) == plain({"c": record.initial})


def test_files_that_hold_something_else_are_told(tr: rs.Trace, tmp_path: Path) -> None:
    tr.save(tmp_path / "a.trace")
    with pytest.raises(rs.FileError, match=r"holds a trace: rs\.load_trace reads it"):
        rs.load_record(tmp_path / "a.trace")
    tr.memory().save(tmp_path / "m.record")
    with pytest.raises(rs.FileError, match=r"rs\.load_record reads it"):
        rs.load_trace(tmp_path / "m.record")
    with pytest.raises(rs.FileError, match="no such file"):
        rs.load_record(tmp_path / "nothing")
    (tmp_path / "text").write_text("mine")
    with pytest.raises(rs.FileError, match=r"damaged, or no \.safetensors file"):
        rs.load_record(tmp_path / "text")
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(rs.FileError, match="holds no record"):
        rs.load_record(tmp_path / "w.safetensors")
    with pytest.raises(rs.FileError, match=r"memory is a file of its own kind.*m\.record"):
        tr.memory().save(tmp_path / "m.pt")


@pytest.mark.parametrize("part", ["lengths", "value/kept", "input/0"])
def test_a_damaged_file_is_told(tr: rs.Trace, part: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    tr.memory().save(tmp_path / "m.record")
    with safe_open(tmp_path / "m.record", "pt") as file:
        facts = file.metadata()
    tensors = load_file(tmp_path / "m.record")
    save_file({n: t for n, t in tensors.items() if n != part}, tmp_path / "lacks", facts)
    save_file(tensors | {part: tensors[part] + 1}, tmp_path / "changed", facts)
    for name in ("lacks", "changed"):
        with pytest.raises(rs.FileError, match=r"damaged: .*checksum differs"):
            rs.load_record(tmp_path / name)


def test_every_call_that_was_seen_is_a_trace(tmp_path: Path) -> None:
    model, decoder = Two(), Decoder()
    with rs.watch(model) as seen:
        model(torch.randn(5, 2, 3))
    seen.save(tmp_path / "seen")
    names = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert names == ["decoder.cell.0.trace", "decoder.rnn.0.trace", "encoder.rnn.0.trace"]
    read = rs.load_trace(tmp_path / "seen" / "decoder.rnn.0.trace")
    assert plain(dict(read)) == plain(dict(seen["decoder.rnn"]))
    with rs.watch(decoder) as steps:
        decoder(torch.randn(3, 2, 3))
    steps.save(tmp_path / "steps")
    assert len(list((tmp_path / "steps").iterdir())) == 3
    last = rs.load_trace(tmp_path / "steps" / "gru.2.trace")
    assert plain(dict(last)) == plain(dict(steps.calls("gru")[2]))
    with rs.watch(decoder.gru) as alone:
        decoder(torch.randn(1, 2, 3))
    alone.save(tmp_path / "alone")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["0.trace"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    model = Two()
    with rs.watch(model) as seen:
        model(torch.randn(5, 2, 3))
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(rs.FileError, match="it holds something already"):
        seen.save(tmp_path)
    with pytest.raises(rs.FileError, match="cannot write"):
        seen.save(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
