"""Files inside a .zip, checked before they are unpacked."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rnnscope.errors import FileError
from rnnscope.files.window import expanded

__all__ = ["Archive", "opened"]


class Archive:
    """A .zip that is open for reading."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self._size = path.stat().st_size

    @property
    def names(self) -> list[str]:
        """What it holds."""
        return self._file.namelist()

    @property
    def comment(self) -> bytes:
        """What stands behind its entries."""
        return self._file.comment

    def size(self, name: str) -> int:
        """The declared size of an entry, unpacked."""
        return self._entry(name).file_size

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of an entry."""
        entry = self._entry(name)
        with _judged(self.path, name), self._file.open(entry) as file:
            return file.read(count)

    def read(self, name: str) -> bytes:
        """An entry, whole; raises ``FileError`` where it is far larger than the archive."""
        entry = self._entry(name)
        if not expanded(entry.file_size, self._size):
            raise FileError(
                f"{self.path}, {name}: would take {entry.file_size} bytes, far more than the "
                f"{self._size} of its file"
            )
        with _judged(self.path, name), self._file.open(entry) as file:
            data = file.read(entry.file_size + 1)
        if len(data) != entry.file_size:
            raise FileError(
                f"{self.path}, {name}: damaged: {len(data)} bytes, {entry.file_size} declared"
            )
        return data

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            entry = self._file.getinfo(name)
        except KeyError:
            raise FileError(f"{self.path}: damaged: {name} is missing") from None
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileError(f"{self.path}, {name}: packed in a way that is not read here")
        if entry.flag_bits & 1:
            raise FileError(f"{self.path}, {name}: encrypted")
        return entry


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """A .zip, for reading. Nothing of it is written anywhere: names are only names."""
    with _judged(path, "the archive"), zipfile.ZipFile(path) as file:
        yield Archive(path, file)


@contextmanager
def _judged(path: Path, place: str) -> Iterator[None]:
    """What the readers of zip and deflate raise of a damaged file, said of the file."""
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
        reason = str(error) or type(error).__name__
        raise FileError(f"{path}, {place}: damaged: {reason}") from error
