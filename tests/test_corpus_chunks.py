"""Arrays on disk: Zarr itself describes and reads them in the same way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnscope._corpus.disk import chunks
from rnnscope._corpus.disk.chunks import ArrayForm, ArrayWriter

zarr = pytest.importorskip("zarr")

DIMS = ("step", "layer", "direction", "unit")
TYPES = ["float32", "float16", "float64", "int32", "int64", "uint8"]


def by_zarr(folder: Path, form: ArrayForm) -> Any:
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

    compressors: list[Any] = [Crc32cCodec()]
    if form.compress:
        compressors.insert(0, BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"))
    return zarr.create_array(
        zarr.storage.LocalStore(folder),
        name="array",
        shape=form.shape,
        dtype=form.dtype,
        chunks=form.chunk,
        serializer=BytesCodec(),
        filters=None,
        compressors=compressors,
        fill_value=0,
        dimension_names=form.dims,
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 7, 50, 51])
def test_zarr_reads_what_is_written(
    dtype: str, compress: bool, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 10 * 12 * np.dtype(dtype).itemsize)
    shape = (rows, 2, 2, 3)
    drawn = np.random.default_rng(0).normal(0, 9, shape)
    values = drawn.astype(dtype) if dtype != "uint8" else np.abs(drawn).astype(dtype)
    form = ArrayForm(shape, np.dtype(dtype), DIMS, compress)
    writer = ArrayWriter(tmp_path / "ours", form)
    given = np.empty_like(values)
    ends = [0, 0, 1, 3, 30, rows]
    for start, end in itertools.pairwise(ends):
        given[:] = values  # what was given may change
        writer.add(given[start:end])
        given[:] = 0
    writer.close()
    theirs = by_zarr(tmp_path, form)
    theirs[:] = values
    read = zarr.open_array(tmp_path / "ours", mode="r")
    assert read.dtype == values.dtype
    assert np.array_equal(read[:], values)
    described = [json.loads((tmp_path / f / "zarr.json").read_text()) for f in ("ours", "array")]
    assert described[0].pop("attributes").keys() == {"crc32"}
    assert described[1].pop("attributes") == {}
    assert described[0] == described[1]
    names = [sorted(path.name for path in (tmp_path / f).iterdir()) for f in ("ours", "array")]
    assert names[0] == names[1]
    if not compress:
        for name in names[0]:
            ours, other = ((tmp_path / f / name).read_bytes() for f in ("ours", "array"))
            assert name == "zarr.json" or ours == other


def test_chunks_are_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last is filled up, so an array a little larger than a chunk is two halves."""
    monkeypatch.setattr(chunks, "CHUNK", 100 * 4)
    for rows, expected in ((1, 1), (100, 100), (101, 51), (200, 100), (201, 67)):
        assert ArrayForm((rows, 1), np.dtype("f4"), DIMS[:2], False).chunk == (expected, 1)


def test_a_damaged_chunk_is_told(tmp_path: Path) -> None:
    form = ArrayForm((5, 3), np.dtype("f4"), DIMS[:2], False)
    writer = ArrayWriter(tmp_path / "ours", form)
    writer.add(np.ones((5, 3), np.float32))
    writer.close()
    chunk = tmp_path / "ours" / "c.0.0"
    content = bytearray(chunk.read_bytes())
    content[9] ^= 4
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(tmp_path / "ours", mode="r")[:]
