"""How much memory a file may take while it is read: a limit that grows with its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rnnscope.errors import FileError

__all__ = ["ARRAY", "Allowance", "LargeError"]

_FLOOR, _TIMES = 200_000_000, 8
"""Every file may take so many bytes, and beside them so many times its size. What is counted is
what is asked for; the process grows by up to a quarter more, as memory is not given out gapless:
by 256 MB and ten times the size at most."""

_LAYERS, _ROOM = 4000, 4096
"""Of every file so many layers are read, and one more for so many bytes: a module of PyTorch takes
about a millisecond and 20 KB, however few numbers it has."""

ARRAY = 1024
"""Bytes for the name, the shape and the reader of an array that is not read yet."""


class LargeError(FileError):
    """A file takes more memory than it may: no other reading of it is tried."""


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
        """The allowance of a file on the disk."""
        return cls(path, path.stat().st_size)

    @property
    def limit(self) -> int:
        """The bytes that the file may take."""
        return _FLOOR + _TIMES * self.size

    def take(self, count: int, place: str = "") -> None:
        """Count so many bytes. Raises ``LargeError`` where they are too many for the file."""
        self.spent += count
        if self.spent > self.limit:
            where = ", ".join(filter(None, [str(self.path), place]))
            allowed = f"allowed are {_TIMES} times these and {_mega(_FLOOR)}"
            raise LargeError(
                f"{where}: to read it would take {_mega(self.spent)} or more, far more than the "
                f"{_mega(self.size)} of its file ({allowed}). If you trust it, read it with the "
                f"library that wrote it, and load what torch.save(state_dict, 'weights.pt') writes "
                f"of the layers"
            )

    def check_layers(self, count: int) -> None:
        """Raises ``FileError`` where so many layers are too many for the file."""
        most = _LAYERS + self.size // _ROOM
        if count > most:
            raise FileError(
                f"{self.path}: holds {count} recurrent layers, far more than weights of its "
                f"{_mega(self.size)} make sense of (allowed are {most}); save those that you need "
                f"in a file of their own"
            )

    @contextmanager
    def attempt(self, count: int, place: str) -> Iterator[None]:
        """Count so many bytes; they are free again where the body of the ``with`` fails."""
        self.take(count, place)
        try:
            yield
        except Exception:
            self.spent -= count
            raise


def _mega(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
