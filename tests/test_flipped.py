"""A byte of a file is another: an error that names the file, or the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rnnscope as rs


def saved(name: str, path: Path) -> Callable[[Path], str]:
    """Write a file; what reads it, as all that it says."""
    torch.manual_seed(0)
    layer = torch.nn.LSTM(1, 2)
    tr = rs.trace(layer, torch.randn(2, 1, 1))
    if name == "trace":
        tr.save(path)
        return lambda file: told_of_trace(rs.load_trace(file))
    record: Any = tr.memory() if name == "memory" else tr.gradients(h_n=torch.ones_like(tr.h_n))
    record.save(path)
    return lambda file: told_of_record(rs.load_record(file))


def told_of_trace(tr: rs.Trace) -> str:
    numbers = {name: tr[name].tolist() for name in tr}
    weights = [
        [(n, t.tolist()) for n, t in part.named().items()] for row in tr.weights for part in row
    ]
    ends = [t.tolist() for t in (tr.output, tr.h_n, tr.c_n)]
    return repr(
        (numbers, weights, ends, tr.call, tr.structure, tr.deviation, tr.tolerance, str(tr))
    )


def told_of_record(record: Any) -> str:
    numbers = {name: record[name].tolist() for name in record}
    groups = {g: {n: t.tolist() for n, t in of.items()} for g, of in record.groups.items()}
    return repr((numbers, groups, record.lengths.tolist(), record.dims, record.kind, record.text))


@pytest.mark.parametrize("bits", [1, 4, 0x20, 0xFF])
@pytest.mark.parametrize("name", ["trace", "gradients", "memory"])
def test_every_byte_of_a_small_file(name: str, bits: int, tmp_path: Path) -> None:
    path = tmp_path / "small"
    read = saved(name, path)
    content, right = path.read_bytes(), read(path)
    assert len(content) < 20_000
    silent = []
    for place, byte in enumerate(content):
        path.write_bytes(content[:place] + bytes([byte ^ bits]) + content[place + 1 :])
        try:
            if read(path) != right:
                silent.append(place)
        except rs.FileError as error:
            assert str(path) in str(error)
    assert not silent
