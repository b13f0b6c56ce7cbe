"""The bytes of a file, read only as far as they go, and the arrays that lie in them unread.

Every reader here goes through these: no size that a file declares is believed before it was
compared with the bytes that are there.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnscope.errors import FileError

__all__ = ["FLOOR", "Held", "Window", "as_tensor", "expanded"]

FLOOR = 2**24
"""Compressed data may always grow to so many bytes, beyond it to ten times the file."""


class Window:
    """The bytes of a file, or of a file inside a zip; an access beyond them is an error.

    ``name`` is how errors call it: the path, and the place inside.
    """

    def __init__(self, name: str, data: bytes | mmap.mmap) -> None:
        self.name = name
        self.data = data
        self.size = len(data)

    @classmethod
    def of(cls, path: Path) -> Window:
        """A file's bytes, mapped: pages that nobody reads are never loaded."""
        try:
            with path.open("rb") as file:
                if path.stat().st_size == 0:
                    raise FileError(f"{path}: the file is empty")
                return cls(str(path), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
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
        found = np.frombuffer(self.data, dtype, count, at)
        return as_tensor(found.reshape(tuple(shape)))


@dataclass(frozen=True)
class Held:
    """An array in a file, not read yet: its shape, what it holds, and how to get it.

    ``floating`` is False for whole numbers, text and whatever else cannot be a weight.
    """

    shape: tuple[int, ...]
    floating: bool
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Held:
        """An array that is in memory already."""
        return cls(tuple(tensor.shape), tensor.is_floating_point(), lambda: tensor)

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


def as_tensor(array: NDArray[np.generic]) -> Tensor:
    """A copy as a tensor, whatever the byte order and the type of number."""
    native = array.astype(array.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(array.shape))


def expanded(size: int, file: int) -> bool:
    """Whether so many bytes may come of a compressed file of that size."""
    return size <= max(FLOOR, 10 * file)
