"""Files of named arrays: .pt and .pth, .safetensors, .npz."""

from __future__ import annotations

import math
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from rnnscope.errors import FileError
from rnnscope.files.marking import KEY, marks_in, marks_of_state
from rnnscope.files.raw import Raw, by_number
from rnnscope.files.window import Held, as_tensor
from rnnscope.files.zipped import Archive, opened

__all__ = ["read_npz", "read_safetensors", "read_torch"]

_STATE_DICT = "expected a state dict, torch.save(model.state_dict(), ...)"
_HEADER = 4096  # bytes in which the header of an array lies


# .pt ----------------------------------------------------------------------------------------


def read_torch(path: Path) -> Raw:
    """A file of ``torch.save``: tensors in dicts, however deep. Nothing in it is run.

    Raises ``FileError`` where it is damaged, or holds more than tensors.
    """
    mapped = _begins(path, b"PK\x03\x04")
    if mapped:
        # twice: without numbers first, so that no tensor is made that its storage cannot hold
        for name, tensor in _tensors(_loaded(path, "meta", mapped)):
            _check_extent(path, name, tensor)
    arrays = {}
    loaded = _loaded(path, "cpu", mapped)
    for name, tensor in _tensors(loaded):
        if tensor.is_meta or tensor.layout != torch.strided:
            arrays[name] = Held(tuple(tensor.shape), False, partial(_unreadable, path, name))
        else:
            _check_extent(path, name, tensor)
            arrays[name] = Held.of(tensor)
    cells: dict[str, str] = {}
    for before, held in _states(loaded):
        cells |= marks_of_state(held, before)
    return Raw(path, "torch", arrays, cells=cells)


def _loaded(path: Path, device: str, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how the file should have been written
            return torch.load(path, map_location=device, weights_only=True, mmap=mapped)
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
        if mapped and _is_script(path):
            raise FileError(
                f"{path}: a TorchScript archive, which holds code beside its tensors, and is not "
                f"opened here. In a program of yours that trusts it, torch.save(torch.jit.load("
                f"{path.name!r}).state_dict(), 'weights.pt'), and load that"
            ) from error
        raise FileError(f"{path}: damaged, or no file of torch.save: {_line(error)}") from error


def _is_script(path: Path) -> bool:
    try:
        with opened(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.names)
    except FileError:
        return False


def _check_extent(path: Path, name: str, tensor: Tensor) -> None:
    """What a tensor spans must lie in its storage, and fit in the file even when copied."""
    if tensor.layout != torch.strided or 0 in tensor.shape:
        return
    spans = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    held = tensor.untyped_storage().nbytes()
    needed = (tensor.storage_offset() + spans) * tensor.element_size()
    if needed > held or tensor.nbytes > max(path.stat().st_size, held):
        raise FileError(
            f"{path}: {name} of shape {tuple(tensor.shape)} takes {max(needed, tensor.nbytes)} "
            f"bytes; the file holds {held} for it"
        )


def _unreadable(path: Path, name: str) -> Tensor:
    raise FileError(f"{path}: {name} is sparse or holds no numbers; expected a plain tensor")


def _tensors(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts, under its names joined by dots."""
    for before, held in _states(loaded):
        for key, value in held.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                yield before + key, value


def _states(loaded: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dict in nested dicts, with the names before its own; in the order of the file."""
    waiting, seen = [("", loaded)], set()
    while waiting:
        before, held = waiting.pop()
        if not isinstance(held, Mapping) or id(held) in seen:  # a dict may hold itself
            continue
        seen.add(id(held))
        yield before, held
        inside = [(key, value) for key, value in held.items() if isinstance(key, str)]
        waiting += [(f"{before}{key}.", value) for key, value in reversed(inside)]


# .safetensors -------------------------------------------------------------------------------


def read_safetensors(path: Path) -> Raw:
    """A .safetensors file; its arrays are read when they are asked for."""
    with _judged(path, "safetensors"), safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        arrays = {}
        for name in sorted(file.keys(), key=by_number):  # the file sorts them, 10 before 2
            part = file.get_slice(name)
            kind, shape = part.get_dtype(), tuple(part.get_shape())
            arrays[name] = Held(shape, kind in _FLOATS, partial(_from_safetensors, path, name))
    cells = marks_in(path, metadata[KEY]) if KEY in metadata else {}
    return Raw(path, "safetensors", arrays, metadata=metadata, cells=cells)


_FLOATS = ("F64", "F32", "F16", "BF16")


def _from_safetensors(path: Path, name: str) -> Tensor:
    with _judged(path, "safetensors"), safe_open(path, framework="pt") as file:
        found: Tensor = file.get_tensor(name)
        return found


class _judged:  # noqa: N801
    """What a library raises of a damaged file, said of the file."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind

    def __enter__(self) -> None: ...

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FileError):
            raise FileError(
                f"{self.path}: damaged, or no {self.kind} file: {_line(error)}"
            ) from error


# .npz ---------------------------------------------------------------------------------------


def read_npz(path: Path) -> Raw:
    """A .npz file; arrays of Python objects are refused when they are asked for."""
    if _begins(path, b"\x93NUMPY"):
        raise FileError(f"{path}: one array, of numpy.save; expected several under names, of savez")
    arrays = {}
    with opened(path) as archive:
        for entry in archive.names:
            if entry.endswith(".npy"):
                arrays[entry.removesuffix(".npy")] = _array(path, archive, entry)
        mark = archive.comment
    before = KEY.encode()
    cells = marks_in(path, mark.removeprefix(before)) if mark.startswith(before) else {}
    return Raw(path, "npz", arrays, cells=cells)


def _array(path: Path, archive: Archive, entry: str) -> Held:
    size = archive.size(entry)
    shape, order, dtype, start = _header(path, entry, archive.head(entry, _HEADER))
    if dtype.hasobject:
        return Held(shape, False, partial(_objects, path, entry))
    if start + math.prod(shape) * dtype.itemsize != size:
        raise FileError(
            f"{path}, {entry}: damaged: shape {shape} of {dtype} does not take {size - start} bytes"
        )

    def read() -> Tensor:
        with opened(path) as again:
            data = again.read(entry)
        numbers = np.frombuffer(data, dtype, math.prod(shape), start)
        return as_tensor(numbers.reshape(shape, order=order))

    return Held(shape, dtype.kind == "f" and dtype.itemsize <= 8, read)


def _header(path: Path, entry: str, head: bytes) -> tuple[tuple[int, ...], Any, np.dtype[Any], int]:
    """(shape, order, type, place of the numbers) of an array in NumPy's format."""
    match = re.fullmatch(rb"\x93NUMPY([\x01-\x03])\0(..)(.*)", head, re.DOTALL)
    if match is None:
        raise FileError(f"{path}, {entry}: damaged: it does not begin as NumPy's arrays do")
    if match[1] == b"\x01":
        start = 10
        length = int.from_bytes(head[8:10], "little")
    else:
        start = 12
        length = int.from_bytes(head[8:12], "little")
    text = head[start : start + length]
    words = re.fullmatch(
        rb"\{'descr': '([<>|=]?[a-zA-Z]\d{0,3})', 'fortran_order': (True|False), "
        rb"'shape': \(([\d, ]*)\), ?\}\s*",
        text,
    )
    if words is None or len(text) != length:
        if b"'descr': '|O'" in text or b"'descr': 'O'" in text:
            return (), "C", np.dtype(object), start
        if b"'descr': [" in text:  # a record of several fields
            return (), "C", np.dtype(object), start
        raise FileError(f"{path}, {entry}: damaged: its header cannot be read: {text[:80]!r}")
    try:
        dtype = np.dtype(words[1].decode())
        shape = tuple(int(size) for size in words[3].decode().split(",") if size.strip())
    except (TypeError, ValueError) as error:
        raise FileError(f"{path}, {entry}: damaged: {error}") from error
    return shape, "F" if words[2] == b"True" else "C", dtype, start + length


def _objects(path: Path, entry: str) -> Tensor:
    raise FileError(
        f"{path}, {entry}: holds Python objects, which could run code when read; expected numbers"
    )


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def _line(error: Exception) -> str:
    """The first sentence of a message; the rest is advice of whoever raised it."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return first.split(". ")[0][:200]
