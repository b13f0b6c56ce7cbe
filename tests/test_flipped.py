"""A byte of a file is another: an error that names the file, or the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rnnscope as rs
from rnnscope._corpus.reading.corpus import Corpus


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


def answer(read: Callable[[], str], path: Path) -> str:
    """What is read, or that an error named the file."""
    try:
        return read()
    except rs.FileError as error:
        return "told" if str(path) in str(error) else f"{error} does not name the file"


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
        if answer(lambda: read(path), path) not in (right, "told"):
            silent.append(place)
    assert not silent


DESCRIPTIONS = (
    "zarr.json",
    "complete.json",
    "skipped/00000001.json",
    "z/zarr.json",
    "time/zarr.json",
)


@pytest.mark.parametrize("stride", [11, 1])
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_byte_of_what_a_store_says(name: str, stride: int, tmp_path: Path) -> None:
    """What Zarr says of an array is the worst: of a chunk that it does not find it gives zeros."""
    torch.manual_seed(0)
    x, store = torch.randn(2, 3, 1), tmp_path / "store"
    layer = torch.nn.GRU(1, 2, batch_first=True)
    bad = torch.randn(2, 3, 7)
    rs.record(layer, [x, bad], store, names="z", on_error="skip", compress=False, progress=False)

    def read() -> str:
        corpus = Corpus(store)
        ds = rs.open_record(store, partial=bool(corpus.damaged))
        told = "" if not corpus.damaged else f"{store}: {corpus.damaged}"
        if told:
            raise rs.FileError(told)
        return f"{corpus} {corpus.data()} {ds[''].compute().to_dict()}"

    shard = store / "batches-00000000-00000000"
    paths = {n: shard / "(model)" / n for n in DESCRIPTIONS if "/zarr" in n}
    for path in (paths.get(name, store / name), *([shard / name] if name == "zarr.json" else [])):
        content, right = path.read_bytes(), read()
        wrong = []
        for place in range(0, len(content), stride):
            byte, bits = content[place], 1 << place % 8
            path.write_bytes(content[:place] + bytes([byte ^ bits]) + content[place + 1 :])
            if (outcome := answer(read, store)) not in (right, "told"):
                wrong.append((place, content[place - 20 : place + 5], outcome[:90]))
        path.write_bytes(content)
        assert not wrong
