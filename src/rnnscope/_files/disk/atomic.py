"""Files are written beside their place and renamed: no reader sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rnnscope.errors import FileError

__all__ = ["no_file", "replacing"]


def no_file(path: Path) -> str:
    """What stands in the place of a regular file: nothing, a folder, a pipe, a device."""
    if path.is_dir():
        return "this is a folder"
    return "no regular file, but a pipe or a device" if path.exists() else "no such file"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, that takes the place of ``path`` at the end, or is removed.

    Behind a link, what it points to is replaced; the mode of an existing file is kept. Raises
    ``FileError`` where the place cannot be written, or holds anything but a regular file.
    """
    try:
        path = path.resolve()
        occupied = path.exists() and not path.is_file()
        kind = "a folder" if path.is_dir() else "no regular file"
    except (OSError, ValueError, RuntimeError) as error:
        raise FileError(f"cannot write {path}: {_reason(error)}") from error
    if occupied:
        raise FileError(f"cannot write {path}: it is {kind}; name a file")
    try:
        mode = path.stat().st_mode if path.exists() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except (OSError, ValueError) as error:
        raise FileError(f"cannot write {path}: {_reason(error)}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
