"""Files of ``numpy.savez``: a .zip with one array in NumPy's format for each name."""

from __future__ import annotations

import io
import math
import warnings
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from torch import Tensor

from rnnscope._files.cell_marks import KEY, marks_in
from rnnscope._files.content import FileContent
from rnnscope._files.disk import (
    ARRAY,
    Allowance,
    Archive,
    LazyArray,
    as_tensor,
    begins,
    first_sentence,
)
from rnnscope.errors import DtypeError, FileError

__all__ = ["read_npz"]

_HEADER = 10_000  # characters, NumPy's own limit: a longer header may take minutes to parse
_PARSED = 96  # a header takes so many times its characters while it is parsed


def read_npz(path: Path) -> FileContent:
    """A .npz file; arrays of anything but numbers are refused when they are asked for."""
    if begins(path, b"\x93NUMPY"):
        raise FileError(f"{path}: one array, of numpy.save; expected several under names, of savez")
    archive = Archive(path)
    arrays = {}
    for entry in archive.names:
        if entry.endswith(".npy"):
            archive.allowance.take(ARRAY + len(entry), "the names of its arrays")
            arrays[entry.removesuffix(".npy")] = _array(path, archive, entry)
    mark, before = archive.comment, KEY.encode()
    cells = marks_in(path, mark.removeprefix(before)) if mark.startswith(before) else {}
    return FileContent(path, "npz", archive.allowance, arrays, cells=cells)


def _array(path: Path, archive: Archive, entry: str) -> LazyArray:
    with archive.opened(entry) as file:
        header = _header(file, archive.allowance)
        start = file.tell()
    if header is None:
        return LazyArray(None, False, partial(_long_header, path, entry))
    shape, dtype = header
    if dtype.kind not in "biufc":
        return LazyArray(shape, False, partial(_no_number, path, entry, dtype))
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + size != archive.size(entry):
        raise FileError(
            f"{path}, {entry}: damaged: shape {shape} of {dtype} does not take "
            f"{archive.size(entry) - start} bytes"
        )

    def read() -> Tensor:
        archive.allowance.take(size, entry)
        with archive.opened(entry) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # at its end the checksum is compared
        try:
            return as_tensor(array)
        except DtypeError as error:
            raise DtypeError(f"{path}, {entry}: {error}") from error

    return LazyArray(shape, dtype.kind == "f" and dtype.itemsize <= 8, read)


def _header(file: IO[bytes], allowance: Allowance) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """(shape, type) of an array in NumPy's format, read by NumPy; None where it is too long."""
    version = np.lib.format.read_magic(file)
    length = int.from_bytes(head := file.read(2 if version == (1, 0) else 4), "little")
    if length > _HEADER:
        return None
    allowance.take(_PARSED * length, "its headers")
    text = io.BytesIO(head + file.read(length))
    if version == (3, 0):  # like 2.0, with names of fields in UTF-8
        version = (2, 0)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, which parses the header
            shape, _, dtype = read(text)
    except Exception as error:  # NumPy and Python's parser raise many kinds for a damaged one
        raise ValueError(f"its header cannot be read ({first_sentence(error)})") from error
    return tuple(shape), dtype


def _long_header(path: Path, entry: str) -> NoReturn:
    raise FileError(
        f"{path}, {entry}: its header has more than {_HEADER} characters; expected numbers"
    )


def _no_number(path: Path, entry: str, dtype: np.dtype[Any]) -> NoReturn:
    if dtype.hasobject:
        raise FileError(
            f"{path}, {entry}: holds Python objects, which could run code when read; "
            f"expected numbers"
        )
    raise DtypeError(f"{path}, {entry}: expected numbers; got an array of {dtype}")
