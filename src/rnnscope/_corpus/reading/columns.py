"""Columns: one array of a layer over all shards, read where it is asked for.

Dask slices a column into blocks that lie within one shard; each block is read when it is computed,
in whichever thread, process or machine that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from rnnscope._corpus.disk.folder import Folder
from rnnscope._corpus.disk.journal import Array
from rnnscope._corpus.disk.shard import CHUNK, Shard, read_array
from rnnscope._record.extras import package_of_extra

__all__ = ["Column", "LabelColumn", "Piece", "pieces_of"]


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of a shard; ``shift`` makes its sequences those of the store."""

    shard: str
    start: int
    stop: int
    shift: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


def pieces_of(shards: Sequence[Shard], module: str) -> list[Piece]:
    """The rows of a layer in the order of the batches, as few pieces as that takes."""
    placed = []
    for shard in shards:
        row = sequence = 0
        for batch in shard.batches:
            layer = batch.layers.get(module)
            if layer is not None:
                placed.append((batch.number, shard.name, row, layer, sequence))
                row += layer.rows
                sequence += layer.sequences
    pieces: list[Piece] = []
    before = 0
    for _, shard_name, row, layer, sequence in sorted(placed, key=lambda entry: entry[0]):
        piece = Piece(shard_name, row, row + layer.rows, before - sequence)
        before += layer.sequences
        last = pieces[-1] if pieces else None
        if last and (last.shard, last.stop, last.shift) == (shard_name, row, piece.shift):
            pieces[-1] = Piece(shard_name, last.start, piece.stop, piece.shift)
        else:
            pieces.append(piece)
    return pieces


class Column:
    """An array (step, ...) of a layer over all pieces; ``add`` says whether the pieces' shifts are
    added, as to ``sequence``."""

    def __init__(
        self,
        place: Folder,
        pieces: Sequence[Piece],
        address: tuple[str, str],
        row: tuple[int, ...],
        dtype: Any,
        add: bool = False,
    ) -> None:
        self.place, self.pieces, self.address, self.add = place, tuple(pieces), address, add
        self.shape = (sum(piece.rows for piece in pieces), *row)
        self.dtype, self.ndim = np.dtype(dtype), 1 + len(row)

    def __getitem__(self, key: Any) -> Array:
        key = key if isinstance(key, tuple) else (key,)
        start, stop, step = key[0].indices(self.shape[0])
        parts, before = [], 0
        for piece in self.pieces:
            first = max(start - before, 0)
            last = min(stop - before, piece.rows)
            if first < last:
                parts.append(self._read(piece, first, last))
            before += piece.rows
        if not parts:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole[(slice(None, None, step), *key[1:])]

    def _read(self, piece: Piece, first: int, last: int) -> Array:
        rows = slice(piece.start + first, piece.start + last)
        values = read_array(self.place, piece.shard, self.address, rows)
        if self.add:
            return values.astype(self.dtype) + piece.shift
        return values.astype(self.dtype, copy=False)

    def lazy(self, rows: int) -> Any:
        """As an array of Dask, in blocks of about so many rows."""
        array = package_of_extra("dask.array", "record")
        blocks = tuple(
            min(rows, piece.rows - start)
            for piece in self.pieces
            for start in range(0, piece.rows, rows)
        )
        if not blocks:
            return array.zeros(self.shape, dtype=self.dtype)
        chunks = (blocks, *((size,) for size in self.shape[1:]))
        return array.from_array(self, chunks=chunks, asarray=False, meta=np.zeros(0, self.dtype))


class LabelColumn(Column):
    """The labels of the steps as texts; empty where a shard has none."""

    def __init__(
        self, place: Folder, pieces: Sequence[Piece], module: str, holders: set[str]
    ) -> None:
        super().__init__(place, pieces, (module, "label_end"), (), object)
        self.holders = frozenset(holders)

    def _read(self, piece: Piece, first: int, last: int) -> Array:
        texts = np.full(last - first, "", dtype=object)
        if piece.shard not in self.holders:
            return texts
        module, _ = self.address
        start = max(piece.start + first - 1, 0)
        rows = slice(start, piece.start + last)
        ends = read_array(self.place, piece.shard, (module, "label_end"), rows)
        if piece.start + first == 0:
            ends = np.concatenate([[0], ends])
        span = slice(int(ends[0]), int(ends[-1]))
        text = read_array(self.place, piece.shard, (module, "label_text"), span).tobytes()
        for k, (begin, end) in enumerate(pairwise(ends.tolist())):
            word = text[begin - span.start : end - span.start]
            texts[k] = word.decode("utf-8", "surrogatepass")
        return texts


def block_rows(row_bytes: int) -> int:
    """Rows of a block: those of a chunk on disk."""
    return max(1, CHUNK // max(row_bytes, 1))
