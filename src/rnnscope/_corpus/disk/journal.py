"""The journal: the rows of one batch as one file, until enough of them make a shard.

A file is eight bytes that tell the length of a description in JSON, the description, and the
arrays one behind the other. It is written whole and renamed; one that is shorter than it says was
cut by the machine's end, and its batch counts as not recorded.
"""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from rnnscope._corpus.disk.chunks import Array
from rnnscope._corpus.disk.description import BatchFacts, LayerForm

__all__ = ["BatchRows", "JournalFile", "write_journal"]

_LENGTH = struct.Struct("<Q")

BLOCK = 1 << 20
"""Bytes that are read at once."""


class BatchRows(Protocol):
    """The rows of a batch: ``pieces(module, name)`` are (row, ...), one behind the other, of a
    quantity, or of ``time``, ``sequence``, ``call``, ``label_end`` and ``label_text``."""

    @property
    def facts(self) -> BatchFacts:
        """What is known of it."""

    @property
    def forms(self) -> Mapping[str, LayerForm]:
        """What the layers are."""

    def names(self, module: str) -> tuple[str, ...]:
        """The arrays of a layer."""

    def pieces(self, module: str, name: str) -> Iterator[Array]:
        """One of them, at least one piece; a piece is read before the next is asked for."""


def write_journal(path: Path, rows: BatchRows) -> None:
    """Write the rows of a batch, one array after the other."""
    with path.open("wb") as file:
        arrays = []
        file.write(_LENGTH.pack(0))
        for module in rows.facts.layers:
            for name in rows.names(module):
                place = {"module": module, "name": name, "offset": file.tell()}
                length = 0
                for piece in rows.pieces(module, name):
                    file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
                    length += len(piece)
                shape = (length, *piece.shape[1:])
                arrays.append({**place, "dtype": piece.dtype.str, "shape": shape})
        start = file.tell()
        forms = {module: form.json() for module, form in rows.forms.items()}
        description = {"facts": rows.facts.json(), "forms": forms, "arrays": arrays}
        file.write(json.dumps(description).encode())
        file.seek(0)
        file.write(_LENGTH.pack(start))


class JournalFile:
    """The rows of a batch in a file of the journal; raises ``ValueError`` of one that was cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            head = file.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                raise ValueError("cut")
            (start,) = _LENGTH.unpack(head)
            file.seek(start)
            description = json.loads(file.read()) if start else None
        if description is None:
            raise ValueError("cut")
        self.facts = BatchFacts.of_json(description["facts"])
        self.forms: Mapping[str, LayerForm] = {
            module: LayerForm.of_json(form) for module, form in description["forms"].items()
        }
        self._arrays = {(a["module"], a["name"]): a for a in description["arrays"]}
        self.nbytes = start

    def names(self, module: str) -> tuple[str, ...]:
        """See ``BatchRows``."""
        return tuple(name for owner, name in self._arrays if owner == module)

    def pieces(self, module: str, name: str) -> Iterator[Array]:
        """See ``BatchRows``."""
        entry = self._arrays[module, name]
        length, *row = entry["shape"]
        dtype = np.dtype(entry["dtype"])
        numbers = int(np.prod(row, dtype=np.int64))
        rows = max(1, BLOCK // max(1, numbers * dtype.itemsize))
        block = np.empty((min(rows, length), *row), dtype)
        with self.path.open("rb") as file:
            file.seek(entry["offset"])
            for start in range(0, max(length, 1), rows):
                piece = block[: length - start]
                if file.readinto(piece.reshape(-1).view(np.uint8).data) < piece.nbytes:
                    raise OSError(errno.EIO, "it is shorter than it says", str(self.path))
                yield piece
