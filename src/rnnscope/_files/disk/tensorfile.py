"""What all files of tensors and JSON have in common: their checksum, and which names they may not
have."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnscope.errors import FileError

__all__ = ["checksum", "description", "metadata_for", "refuse_foreign"]

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


DESCRIPTION, SUM = "rnnscope", "crc32"


def metadata_for(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What the header of a file of tensors says: the facts as JSON, and a checksum of these and of
    the names, types and shapes of the tensors."""
    text = json.dumps(facts)
    return {DESCRIPTION: text, SUM: str(_sum_of(text, tensors))}


def description(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str | None:
    """The facts in a header, as JSON; None where it holds none.

    Raises ``ValueError`` where they are not those that were written. An older version wrote no
    checksum.
    """
    text = metadata.get(DESCRIPTION)
    if text is None:
        return None
    strange = sorted(set(metadata) - {DESCRIPTION, SUM})
    if strange:
        raise ValueError(f"its header holds {strange[0][:40]!r}, which none that was written has")
    if metadata.get(SUM, str(_sum_of(text, tensors))) != str(_sum_of(text, tensors)):
        raise ValueError("its header is not the one that was written: the checksum differs")
    return text


def _sum_of(text: str, tensors: Mapping[str, Tensor]) -> int:
    forms = [[name, str(t.dtype), list(t.shape)] for name, t in sorted(tensors.items())]
    return zlib.crc32(json.dumps([text, forms]).encode())


def refuse_foreign(place: Path, what: str, line: str) -> None:
    """Raise ``FileError`` for the ending of another kind of file; ``what`` is written, ``line``
    says how."""
    if FOREIGN.fullmatch(place.suffix):
        raise FileError(
            f"cannot write {place}: {what} is a file of its own kind, which nothing that opens "
            f"{place.suffix} files can read. {line}"
        )
