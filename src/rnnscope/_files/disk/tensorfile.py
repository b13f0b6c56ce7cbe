"""What all files of tensors and JSON have in common: their checksum, and which names they may not
have."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rnnscope.errors import FileError

__all__ = ["checksum", "refuse_foreign"]

FOREIGN = re.compile(
    r"\.(pth?|ckpt|bin|jit|ptl|np[yz]|h5|hdf5|keras|onnx|nam|json|pkl|pickle|joblib|mat|nc|zarr|zip"
    r"|csv|tsv|txt|html?|parquet|feather|arrow|png|svg|pdf)",
    re.IGNORECASE,
)
"""Endings of other kinds of files, whose programs could not read such a file."""


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """Of all names and numbers, so that a changed bit is told."""
    total = 0
    for name in sorted(tensors):
        numbers = tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        total = zlib.crc32(numbers, zlib.crc32(name.encode(), total))
    return total


def refuse_foreign(place: Path, what: str, line: str) -> None:
    """Raise ``FileError`` for the ending of another kind of file; ``what`` is written, ``line``
    says how."""
    if FOREIGN.fullmatch(place.suffix):
        raise FileError(
            f"cannot write {place}: {what} is a file of its own kind, which nothing that opens "
            f"{place.suffix} files can read. {line}"
        )
