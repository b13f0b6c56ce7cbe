"""Files inside a .zip, checked before they are unpacked."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import IO

from rnnscope._files.disk.allowance import Allowance
from rnnscope._files.disk.reason import first_line
from rnnscope.errors import FileError

__all__ = ["Archive"]

_ENTRY = 20
"""An entry of the directory takes so many times its bytes once it is parsed."""


class Archive:
    """A .zip that stays open for reading: its directory is read once, however many its entries.

    Nothing of it is written anywhere: names are only names. Raises ``FileError`` where it is
    damaged, and where an entry takes more than the allowance. Checksums are compared when an entry
    is read to its end; those of entries that are not packed only where there are ``sums``, for
    torch.save may leave them out.
    """

    def __init__(self, path: Path, *, sums: bool = True) -> None:
        self.path = path
        self._sums = sums
        self.allowance = Allowance.of(path)
        with naming_damage(path, "the archive"), path.open("rb") as file:
            start, size = _directory(path, file, self.allowance.size)
        self.allowance.take(_ENTRY * size, "the names in the archive")
        with naming_damage(path, "the archive"):
            self._file = zipfile.ZipFile(path)
        if self._file.start_dir != start:  # another reader would find other entries
            raise FileError(f"{path}: damaged: the directory of the archive is not where it says")

    @property
    def names(self) -> list[str]:
        """The names of its entries."""
        return self._file.namelist()

    @property
    def comment(self) -> bytes:
        """The comment at its end."""
        return self._file.comment

    @property
    def entries(self) -> list[zipfile.ZipInfo]:
        """Every entry; several may have the same name."""
        return self._file.infolist()

    def size(self, name: str) -> int:
        """The declared size of an entry, unpacked."""
        return self._entry(name).file_size

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """An entry as a stream; errors of whoever reads it name the entry."""
        entry = self._entry(name)
        with naming_damage(self.path, name), self._file.open(entry) as file:
            yield file

    def read(self, name: str) -> bytes:
        """An entry, whole."""
        size = self.size(name)
        self.allowance.take(size, name)
        with self.opened(name) as file:
            data = file.read(size + 1)
        if len(data) != size:
            raise FileError(f"{self.path}, {name}: damaged: {len(data)} bytes, {size} declared")
        return data

    def again(self, replaced: Mapping[str, bytes] | None = None) -> io.BytesIO:
        """All entries in an archive in memory, not packed: each has its size and its checksum.
        Those in ``replaced`` hold these bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name in dict.fromkeys(self.names):
                self.allowance.take(self.size(name), name)
                data = (replaced or {}).get(name)
                file.writestr(name, self.read(name) if data is None else data)
        buffer.seek(0)
        return buffer

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            entry = self._file.getinfo(name)
        except KeyError:
            raise FileError(f"{self.path}: damaged: {name} is missing") from None
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(f"{self.path}, {name}: packed in a way that is not read here")
        if entry.flag_bits & 1:
            raise FileError(f"{self.path}, {name}: encrypted")
        if entry.compress_type == zipfile.ZIP_STORED and not self._sums:
            entry = copy(entry)
            del entry.CRC
        return entry


def _directory(path: Path, file: IO[bytes], size: int) -> tuple[int, int]:
    """(place, bytes) of the directory of a .zip, as its end declares them.

    Source: APPNOTE.TXT of PKWARE, 4.3.14 to 4.3.16
    """
    back = min(size, 2**16 + 98)  # the longest comment, and the ends of both forms
    file.seek(size - back)
    tail = file.read(back)
    at = tail.rfind(b"PK\5\6")
    if at < 0:
        raise FileError(f"{path}: damaged, or no archive: it has no directory")
    first, width = at + 12, 4
    if at >= 76 and (tail[at - 20 :][:4], tail[at - 76 :][:4]) == (b"PK\6\7", b"PK\6\6"):
        first, width = at - 36, 8  # zip64
    count, place = (int.from_bytes(tail[k : k + width], "little") for k in (first, first + width))
    return place, count


@contextmanager
def naming_damage(path: Path, place: str) -> Iterator[None]:
    """Raise ``FileError``, with the file and the place, for what zip, deflate and NumPy raise."""
    try:
        yield
    except FileError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,  # of texts and numbers, too
        NotImplementedError,
        RuntimeError,
        OverflowError,
        IndexError,
        KeyError,
    ) as error:
        reason = first_line(error)
        raise FileError(f"{path}, {place}: damaged: {reason}") from error
