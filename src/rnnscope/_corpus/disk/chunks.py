"""Arrays of Zarr 3 as files, written as the rows come: a description, and one file for each chunk.

A chunk is some rows, as bytes, compressed where that is wanted, with a checksum (CRC-32C) behind.
Zarr's own way copies a chunk several times; here rows go from where they are made to the file.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from rnnscope._corpus.disk.folder import DESCRIPTION
from rnnscope._corpus.disk.sealed import sealed_array
from rnnscope._record.extras import package_of_extra

__all__ = ["Array", "ArrayForm", "ArrayWriter", "chunk_rows", "most_rows"]

Array = np.ndarray[Any, Any]

CHUNK = 8 * 2**20
"""Bytes of a chunk before it is compressed."""

BLOSC = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "blocksize": 0}


def chunk_rows(rows: int, most: int) -> int:
    """How many of ``rows`` make a chunk of at most so many: about the same in each, for the last
    one is filled up."""
    chunks = max(1, -(-rows // most))
    return max(1, -(-rows // chunks))


def most_rows(row_bytes: int) -> int:
    """How many rows a chunk has at most."""
    return max(1, CHUNK // max(row_bytes, 1))


@dataclass(frozen=True)
class ArrayForm:
    """What an array is: its shape, of which the first dim is that of the rows, its type, the names
    of its dims, and whether its chunks are compressed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    compress: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @cached_property
    def chunk(self) -> tuple[int, ...]:
        """The shape of a chunk."""
        return (chunk_rows(self.shape[0], most_rows(self.row_bytes)), *self.shape[1:])

    @property
    def description(self) -> dict[str, Any]:
        """As Zarr 3 describes an array."""
        of_bytes: dict[str, Any] = {"name": "bytes"}
        if self.dtype.itemsize > 1:
            of_bytes["configuration"] = {"endian": "little"}
        codecs = [of_bytes]
        if self.compress:
            options = {"typesize": self.dtype.itemsize, **BLOSC}
            codecs.append({"name": "blosc", "configuration": options})
        codecs.append({"name": "crc32c"})
        grid = {"name": "regular", "configuration": {"chunk_shape": list(self.chunk)}}
        return {
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": grid,
            # files, not folders in folders
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0.0 if self.dtype.kind == "f" else 0,
            "codecs": codecs,
            "attributes": {},
            "dimension_names": list(self.dims),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }


class ArrayWriter:
    """Writes an array into a new folder; ``add`` takes rows in their order, and ``close`` is called
    when all are there. ``files`` are the bytes of each file, by its name."""

    def __init__(self, folder: str | os.PathLike[str], form: ArrayForm) -> None:
        self.folder, self.form = os.fspath(folder), form
        self.files: dict[str, int] = {}
        self.rows = form.chunk[0]
        self.crc = package_of_extra("google_crc32c", "record")
        self.number = self.count = 0  # of the chunk, and of its rows so far
        self.file: BinaryIO | None = None
        self.checksum = 0
        # only what is compressed must be there as a whole
        self.whole = np.zeros(form.chunk, self._stored) if form.compress else None
        os.mkdir(self.folder)
        content = json.dumps(sealed_array(form.description)).encode()
        with open(os.path.join(self.folder, DESCRIPTION), "wb") as file:
            self.files[DESCRIPTION] = file.write(content)

    @property
    def _stored(self) -> np.dtype[Any]:
        return self.form.dtype.newbyteorder("<")

    def add(self, rows: Array) -> None:
        """More rows, which may change afterwards."""
        rows = np.ascontiguousarray(rows, self._stored)
        while len(rows):
            part, rows = rows[: self.rows - self.count], rows[self.rows - self.count :]
            if self.whole is None:
                self._write(part.reshape(-1).view(np.uint8))
            else:
                self.whole[self.count : self.count + len(part)] = part
            self.count += len(part)
            if self.count == self.rows:
                self._finish_chunk()

    def close(self) -> None:
        """Finish the last chunk, which is filled up with zeros."""
        if self.count:
            left = np.zeros((self.rows - self.count, *self.form.shape[1:]), self._stored)
            self.add(left)

    def abandon(self) -> None:
        """Leave what was written as it is."""
        if self.file is not None:
            self.file.close()

    def _finish_chunk(self) -> None:
        if self.whole is not None:
            blosc = package_of_extra("numcodecs", "record").Blosc
            codec = blosc(BLOSC["cname"], BLOSC["clevel"], blosc.SHUFFLE)
            self._write(np.frombuffer(codec.encode(self.whole), np.uint8))
        assert self.file is not None, "a chunk has rows"
        self.file.write(int(self.checksum).to_bytes(4, "little"))
        self.files[self._key] = self.file.tell()
        self.file.close()
        self.file, self.checksum = None, 0
        self.number, self.count = self.number + 1, 0

    @property
    def _key(self) -> str:
        """The name of the chunk's file."""
        return ".".join(["c", str(self.number), *("0" for _ in self.form.shape[1:])])

    def _write(self, content: Array) -> None:
        if self.file is None:
            self.file = open(os.path.join(self.folder, self._key), "wb")  # noqa: SIM115
        self.checksum = self.crc.extend(self.checksum, content)
        self.file.write(content.data)
