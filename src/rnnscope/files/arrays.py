"""Files of named arrays: .pt and .pth, .safetensors, .npz."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn
from zipfile import ZIP_STORED

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from rnnscope.errors import DtypeError, FileError
from rnnscope.files.allowance import ARRAY, Allowance
from rnnscope.files.marking import KEY, marks_in, marks_of_state
from rnnscope.files.raw import Raw, by_number
from rnnscope.files.window import Held, as_tensor
from rnnscope.files.zipped import Archive

__all__ = ["read_npz", "read_safetensors", "read_torch"]

_STATE_DICT = "expected a state dict, torch.save(model.state_dict(), ...)"
_FOLDER = 16  # the attribute in a .zip of what has no bytes; torch then reads none
_HEADER = 10_000  # characters, NumPy's own limit: a longer header may take minutes to parse
_JSON = 30  # the header of .safetensors takes so many times its bytes, what it says of cells too
_PARSED = 96  # a header takes so many times its characters while it is parsed


# .pt ----------------------------------------------------------------------------------------


def read_torch(path: Path) -> Raw:
    """A file of ``torch.save``: tensors in dicts, however deep. Nothing in it is run.

    Raises ``FileError`` where it is damaged, holds more than tensors, or takes more memory than
    its size allows.
    """
    zipped = _begins(path, b"PK\x03\x04")
    storages = _Storages.zipped(path) if zipped else _Storages.old(path)
    allowance = storages.allowance
    arrays = {}
    loaded = _loaded(path, storages.source, mapped=zipped and storages.source is path)
    for name, tensor in _tensors(loaded, allowance):
        allowance.take(ARRAY, "the names of its tensors")
        if _plain(tensor) and not tensor.is_meta:
            storages.check(name, tensor)
            arrays[name] = Held.of(tensor)
        else:
            arrays[name] = Held(None, False, partial(_no_numbers, path, name))
    cells: dict[str, str] = {}
    for before, held in _states(loaded, allowance):
        cells |= marks_of_state(held, before)
    return Raw(path, "torch", allowance, arrays, cells=cells)


class _Storages:
    """What a file of ``torch.save`` holds beside its pickle.

    ``source`` is what torch reads: the file, which it maps, or its records in memory. ``sizes``
    are those of the records, None in the old format.
    """

    def __init__(
        self, path: Path, allowance: Allowance, source: Path | io.BytesIO, sizes: set[int] | None
    ) -> None:
        self.path, self.allowance = path, allowance
        self.source, self.sizes = source, sizes

    @classmethod
    def zipped(cls, path: Path) -> _Storages:
        """Those of a .zip: each a record of its own.

        Where torch would read numbers in place that do not lie there as they are needed, and
        where it would take what it can unpack of a damaged record for the whole, it is given the
        records in memory, unpacked and checked.
        """
        archive = Archive(path, sums=False)  # torch.save may leave the checksums out
        plain = True
        for name in archive.names:
            if name.endswith("/constants.pkl"):
                raise FileError(
                    f"{path}: a TorchScript archive, which holds code beside its tensors, and is "
                    f"not opened here. In a program of yours that trusts it, torch.save("
                    f"torch.jit.load({path.name!r}).state_dict(), 'weights.pt'), and load that"
                )
            if name.endswith("/byteorder"):
                plain &= archive.read(name) == sys.byteorder.encode()
            if name.endswith(".pkl"):
                _check_pickles(path, io.BytesIO(archive.read(name)), 1, archive.allowance)
        for entry in archive.entries:
            plain &= entry.compress_type == ZIP_STORED and not entry.external_attr & _FOLDER
            if plain and "/data/" not in entry.filename:
                archive.allowance.take(entry.file_size, entry.filename)
        sizes = {entry.file_size for entry in archive.entries}
        return cls(path, archive.allowance, path if plain else archive.again(), sizes)

    @classmethod
    def old(cls, path: Path) -> _Storages:
        """Those of the format before PyTorch 1.6: one behind the other, after several pickles."""
        allowance = Allowance.of(path)
        allowance.take(allowance.size, "its tensors")
        with path.open("rb") as file:
            # a number, a version, the machine, the tensors, the names of their storages
            _check_pickles(path, file, 5, allowance)
        return cls(path, allowance, path, None)

    def check(self, name: str, tensor: Tensor) -> None:
        """A storage must be a whole record, or, in the old format, have room in the file; what a
        tensor spans must lie in it, and fit in the file even when copied."""
        if 0 in tensor.shape:
            return
        held = tensor.untyped_storage().nbytes()
        if held > self.allowance.size if self.sizes is None else held not in self.sizes:
            raise FileError(
                f"{self.path}: damaged: {name} lies in {held} bytes; no record has this size"
            )
        spans = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        needed = (tensor.storage_offset() + spans) * tensor.element_size()
        if needed > held or tensor.nbytes > max(self.allowance.size, held):
            raise FileError(
                f"{self.path}: {name} of shape {tuple(tensor.shape)} takes "
                f"{max(needed, tensor.nbytes)} bytes; the file holds {held} for it"
            )


def _plain(tensor: Tensor) -> bool:
    ours = type(tensor) in (Tensor, nn.Parameter)
    return ours and not tensor.is_nested and tensor.layout == torch.strided


# bytes of memory that the operations of a pickle take, names and numbers apart
_COSTS = {"EMPTY_SET": 256, "REDUCE": 1024, "NEWOBJ": 1024}
_LEAST = 64


def _check_pickles(path: Path, file: IO[bytes], count: int, allowance: Allowance) -> None:
    """What the pickles in a file make must fit in its memory; they are read, and nothing is made.

    Source: Lib/pickletools.py, torch/_weights_only_unpickler.py
    """
    for _ in range(count):
        size, room = 0, allowance.limit - allowance.spent
        with suppress(Exception):  # of many kinds where one is damaged; torch says so, later
            for operation, argument, _ in pickletools.genops(file):
                size += _COSTS.get(operation.name, _LEAST)
                if isinstance(argument, str | bytes):
                    size += len(argument)
                # torch lets a pickle call it, and it fills memory of any size
                if operation.name == "GLOBAL" and str(argument).endswith(" bytearray"):
                    size += allowance.limit
                if size > room:
                    break
        allowance.take(size, "its pickle")


def _loaded(path: Path, source: Path | io.BytesIO, *, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how the file should have been written
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)|(?:class|type) '?([\w.]+)", str(error))
        if name is None:
            raise FileError(
                f"{path}: damaged, or it holds more than tensors, which could run code when "
                f"read; {_STATE_DICT}"
            ) from error
        raise FileError(
            f"{path}: refused: it holds {name[1] or name[2]}, and unpickling more than tensors "
            f"could run code; {_STATE_DICT}"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise FileError(f"{path}: damaged, or no file of torch.save: {_line(error)}") from error


def _no_numbers(path: Path, name: str) -> NoReturn:
    raise FileError(f"{path}: {name} is sparse or holds no numbers; expected a plain tensor")


def _tensors(loaded: Any, allowance: Allowance) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts, under its names joined by dots."""
    for before, held in _states(loaded, allowance):
        for key, value in held.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                allowance.take(len(before) + len(key), "the names of its tensors")
                yield before + key, value


def _states(loaded: Any, allowance: Allowance) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dict in nested dicts, with the names before its own; in the order of the file.

    A dict that lies under several names comes once for each.
    """
    waiting: list[tuple[str | None, Any]] = [("", loaded)]
    around: set[int] = set()
    while waiting:
        before, held = waiting.pop()
        if before is None:
            around.discard(id(held))
        elif isinstance(held, Mapping) and id(held) not in around:  # a dict may hold itself
            allowance.take(512 + len(before), "the names of its dicts")
            yield before, held
            around.add(id(held))
            waiting.append((None, held))
            inside = [(key, value) for key, value in held.items() if isinstance(key, str)]
            waiting += [(f"{before}{key}.", value) for key, value in reversed(inside)]


# .safetensors -------------------------------------------------------------------------------


def read_safetensors(path: Path) -> Raw:
    """A .safetensors file; its arrays are read when they are asked for."""
    allowance = Allowance.of(path)
    with path.open("rb") as start:
        length = int.from_bytes(start.read(8), "little")
    allowance.take(_JSON * min(length, allowance.size), "its header")
    arrays = {}
    with _safetensors(path):
        file: Any = safe_open(path, framework="pt")  # open as long as its arrays may be read
        metadata = dict(file.metadata() or {})
        for name in sorted(file.keys(), key=by_number):  # the file sorts them, 10 before 2
            allowance.take(ARRAY + len(name), "the names of its arrays")
            part = file.get_slice(name)
            kind, shape = part.get_dtype(), tuple(part.get_shape())
            arrays[name] = Held(shape, kind in _FLOATS, partial(_tensor, path, file, name))
    cells = marks_in(path, metadata[KEY]) if KEY in metadata else {}
    return Raw(path, "safetensors", allowance, arrays, metadata=metadata, cells=cells)


_FLOATS = ("F64", "F32", "F16", "BF16")


def _tensor(path: Path, file: Any, name: str) -> Tensor:
    with _safetensors(path):
        found: Tensor = file.get_tensor(name)
        return found


@contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    """What the library raises of a damaged file, said of the file."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # its own kind, and those of types that PyTorch lacks
        raise FileError(f"{path}: damaged, or no safetensors file: {_line(error)}") from error


# .npz ---------------------------------------------------------------------------------------


def read_npz(path: Path) -> Raw:
    """A .npz file; arrays of anything but numbers are refused when they are asked for."""
    if _begins(path, b"\x93NUMPY"):
        raise FileError(f"{path}: one array, of numpy.save; expected several under names, of savez")
    archive = Archive(path)
    arrays = {}
    for entry in archive.names:
        if entry.endswith(".npy"):
            archive.allowance.take(ARRAY + len(entry), "the names of its arrays")
            arrays[entry.removesuffix(".npy")] = _array(path, archive, entry)
    mark, before = archive.comment, KEY.encode()
    cells = marks_in(path, mark.removeprefix(before)) if mark.startswith(before) else {}
    return Raw(path, "npz", archive.allowance, arrays, cells=cells)


def _array(path: Path, archive: Archive, entry: str) -> Held:
    with archive.opened(entry) as file:
        header = _header(file, archive.allowance)
        start = file.tell()
    if header is None:
        return Held(None, False, partial(_long_header, path, entry))
    shape, dtype = header
    if dtype.kind not in "biufc":
        return Held(shape, False, partial(_no_number, path, entry, dtype))
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

    return Held(shape, dtype.kind == "f" and dtype.itemsize <= 8, read)


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
        raise ValueError(f"its header cannot be read ({_line(error)})") from error
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


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def _line(error: Exception) -> str:
    """The first sentence of a message; the rest is advice of whoever raised it."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return first.split(". ")[0][:200]
