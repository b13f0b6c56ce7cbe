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

from rnnscope._corpus.disk.chunks import Array, chunk_rows
from rnnscope._corpus.disk.folder import Folder
from rnnscope._corpus.disk.shard import Shard, read_array
from rnnscope._record.extras import package_of_extra

__all__ = ["BatchColumn", "Column", "LabelColumn", "Piece", "pieces_of"]


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
    """The rows of a layer in the order of the batches, as few pieces as that takes.

    Sequences are counted over the data set: a batch that did not reach the layer counts with as
    many as its other layers have."""
    placed = []
    for shard in shards:
        row = sequence = 0
        for batch in shard.batches:
            layer = batch.layers.get(module)
            placed.append((batch, shard.name, row, layer, sequence))
            if layer is not None:
                row += layer.rows
                sequence += layer.sequences
    pieces: list[Piece] = []
    before = 0
    for batch, shard_name, row, layer, sequence in sorted(placed, key=lambda p: p[0].number):
        if layer is None:
            before += max((other.sequences for other in batch.layers.values()), default=0)
            continue
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
        first, *others = key if isinstance(key, tuple) else (key,)
        rows = range(self.shape[0])[first]
        if isinstance(rows, int):
            values: Array = self._rows(rows, rows + 1)[(0, *others)]
            return values
        if not rows:
            return np.zeros((0, *self.shape[1:]), self.dtype)[(slice(None), *others)]
        start, stop = min(rows[0], rows[-1]), max(rows[0], rows[-1]) + 1
        chosen = np.arange(rows.start - start, rows.stop - start, rows.step)
        whole = self._rows(start, stop)
        return (whole if rows.step == 1 else whole[chosen])[(slice(None), *others)]

    def _rows(self, start: int, stop: int) -> Array:
        """Rows without a gap, at least one."""
        parts, before = [], 0
        for piece in self.pieces:
            first = max(start - before, 0)
            last = min(stop - before, piece.rows)
            if first < last:
                parts.append(self._read(piece, first, last))
            before += piece.rows
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read(self, piece: Piece, first: int, last: int) -> Array:
        rows = slice(piece.start + first, piece.start + last)
        values = read_array(self.place, piece.shard, self.address, rows)
        if self.add:
            return values.astype(self.dtype) + piece.shift
        return values.astype(self.dtype, copy=False)

    def lazy(self, rows: int) -> Any:
        """As an array of Dask, in blocks of at most so many rows: those of the chunks on disk,
        where these have as many."""
        array = package_of_extra("dask.array", "record")
        blocks = tuple(
            min(size, piece.rows - start)
            for piece in self.pieces
            for size in [chunk_rows(piece.rows, rows)]
            for start in range(0, piece.rows, size)
        )
        if not blocks:
            return array.zeros(self.shape, dtype=self.dtype)
        chunks = (blocks, *((size,) for size in self.shape[1:]))
        meta = np.zeros((0,) * self.ndim, self.dtype)
        return array.from_array(self, chunks=chunks, asarray=False, fancy=False, meta=meta)


class BatchColumn(Column):
    """The number of the batch that each row is of; nothing is read for it."""

    def __init__(self, place: Folder, shards: Sequence[Shard], module: str) -> None:
        super().__init__(place, pieces_of(shards, module), (module, "batch"), (), np.int32)
        rows = {
            batch.number: batch.layers[module].rows
            for shard in shards
            for batch in shard.batches
            if module in batch.layers
        }
        self.numbers = np.array(sorted(rows), np.int32)
        self.ends = np.cumsum([rows[number] for number in sorted(rows)])

    def _rows(self, start: int, stop: int) -> Array:
        at = np.searchsorted(self.ends, np.arange(start, stop), side="right")
        numbers: Array = self.numbers[at]
        return numbers


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
