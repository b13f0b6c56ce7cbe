"""How much memory a file may take when it is read: no more than bears a relation to its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rnnscope.errors import FileError

__all__ = ["ARRAY", "FLOOR", "Allowance"]

FLOOR = 2**28
"""Every file may take so many bytes, and beside them ten times its size."""

ARRAY = 1024
"""Bytes for the name, the shape and the reader of an array that is not read yet."""


class Allowance:
    """The memory that one file may take, all its arrays and the copies of them together.

    What is about to be allocated is counted first. The size of the file is not counted where its
    bytes are mapped: the system drops such pages when memory is short.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.spent = 0

    @classmethod
    def of(cls, path: Path) -> Allowance:
        """What a file on disk may take."""
        return cls(path, path.stat().st_size)

    @property
    def limit(self) -> int:
        """In bytes."""
        return FLOOR + 10 * self.size

    def take(self, count: int, place: str = "") -> None:
        """Count so many bytes. Raises ``FileError`` where they are too many for the file."""
        self.spent += count
        if self.spent > self.limit:
            where = ", ".join(filter(None, [str(self.path), place]))
            raise FileError(
                f"{where}: to read it would take {_mega(self.spent)} or more, far more than the "
                f"{_mega(self.size)} of its file (allowed are ten times these and {_mega(FLOOR)}). "
                f"If you trust it, read it with the library that wrote it, and load what "
                f"torch.save(state_dict, 'weights.pt') writes of the layers"
            )

    @contextmanager
    def attempt(self, count: int, place: str) -> Iterator[None]:
        """Count so many bytes that are free again if what is attempted fails."""
        self.take(count, place)
        try:
            yield
        except Exception:
            self.spent -= count
            raise


def _mega(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
