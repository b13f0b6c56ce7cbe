"""Files of safetensors: each array is read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from rnnscope._files.cell_marks import KEY, marks_in
from rnnscope._files.content import FileContent, by_number
from rnnscope._files.disk import ARRAY, Allowance, LazyArray, first_sentence
from rnnscope.errors import FileError

__all__ = ["read_safetensors"]


def read_safetensors(path: Path) -> FileContent:
    """A .safetensors file; its arrays are read when they are asked for."""
    allowance = Allowance.of(path)
    arrays = {}
    with _safetensors(path):
        file: Any = safe_open(path, framework="pt")  # open as long as its arrays may be read
        metadata = dict(file.metadata() or {})
        for name in sorted(file.keys(), key=by_number):  # the file sorts them, 10 before 2
            allowance.take(ARRAY + len(name), "the names of its arrays")
            part = file.get_slice(name)
            kind, shape = part.get_dtype(), tuple(part.get_shape())
            arrays[name] = LazyArray(shape, kind in _FLOATS, partial(_tensor, path, file, name))
    cells = marks_in(path, metadata[KEY]) if KEY in metadata else {}
    return FileContent(path, "safetensors", allowance, arrays, metadata=metadata, cells=cells)


_FLOATS = ("F64", "F32", "F16", "BF16")


def _tensor(path: Path, file: Any, name: str) -> Tensor:
    with _safetensors(path):
        tensor: Tensor = file.get_tensor(name)
        return tensor


@contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    """Raise ``FileError``, with the file, for what the library raises."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # its own kind, and those of types that PyTorch lacks
        raise FileError(
            f"{path}: damaged, or no safetensors file: {first_sentence(error)}"
        ) from error
