"""The bytes of a file, never read beyond their end, and arrays that are read when asked for.

Every reader here goes through these: no size that a file declares is believed before it was
compared with the bytes that are there.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnscope._files.disk.allowance import Allowance
from rnnscope.errors import DtypeError, FileError

__all__ = ["LazyArray", "Window", "as_tensor", "begins"]


class Window:
    """The bytes of a file, or of a file inside a zip; an access beyond them is an error.

    ``name`` is how errors call it: the path, and the place inside.
    """

    def __init__(self, name: str, data: bytes | mmap.mmap, allowance: Allowance) -> None:
        self.name = name
        self.data = data
        self.size = len(data)
        self.allowance = allowance

    @classmethod
    def of(cls, path: Path) -> Window:
        """A file's bytes, mapped: pages that nobody reads are never loaded."""
        try:
            with path.open("rb") as file:
                if path.stat().st_size == 0:
                    raise FileError(f"{path}: the file is empty")
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return cls(str(path), data, Allowance.of(path))
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}") from error

    def fail(self, at: int, reason: str) -> FileError:
        """The error that names the place."""
        return FileError(f"{self.name}, byte {at}: damaged: {reason}")

    def take(self, at: int, count: int) -> bytes:
        """``count`` bytes from ``at``."""
        self.check(at, count)
        return self.data[at : at + count]

    def check(self, at: int, count: int) -> None:
        """Raises ``FileError`` where ``count`` bytes from ``at`` are not all there."""
        if at < 0 or count < 0 or at + count > self.size:
            raise self.fail(at, f"{count} bytes are declared here, the file has {self.size} in all")

    def number(self, at: int, size: int) -> int:
        """An unsigned number, the lowest byte first."""
        return int.from_bytes(self.take(at, size), "little")

    def array(self, at: int, dtype: np.dtype[np.generic], shape: Sequence[int]) -> Tensor:
        """A copy of the numbers that lie here; rows one after the other."""
        count = math.prod(shape)
        self.check(at, count * dtype.itemsize)
        self.allowance.take(count * dtype.itemsize, f"byte {at}")
        numbers = np.frombuffer(self.data, dtype, count, at)
        return as_tensor(numbers.reshape(tuple(shape)))


_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class LazyArray:
    """An array in a file, not read yet: its shape, what it holds, and how to get it.

    ``floating`` is False for whole numbers, text and whatever else cannot be a weight. Without a
    shape it cannot be read: who asks for its shape or its numbers gets the reader's error. It is
    read once, however often it is asked for.
    """

    def __init__(
        self, shape: tuple[int, ...] | None, floating: bool, reader: Callable[[], Tensor]
    ) -> None:
        self._shape, self.floating = shape, floating
        self._reader = reader
        self._tensor: Tensor | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> LazyArray:
        """An array that is in memory already."""
        return cls(tuple(tensor.shape), tensor.dtype in _FLOATS, lambda: tensor)

    def read(self) -> Tensor:
        """Its numbers. Raises ``FileError`` and ``DtypeError``."""
        if self._tensor is None:
            self._tensor = self._reader()
        return self._tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the array."""
        return tuple(self.read().shape) if self._shape is None else self._shape

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def as_tensor(array: NDArray[np.generic]) -> Tensor:
    """As a tensor, whatever the byte order and the order of dims; memory of others is copied.

    Raises ``DtypeError`` for a type of number that PyTorch lacks.
    """
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=not array.flags.owndata)
    try:
        return torch.from_numpy(native)
    except TypeError as error:
        raise DtypeError(f"got an array of {array.dtype}, which PyTorch lacks") from error


def begins(path: Path, mark: bytes) -> bool:
    """Whether a file begins with these bytes."""
    with path.open("rb") as file:
        return file.read(len(mark)) == mark
