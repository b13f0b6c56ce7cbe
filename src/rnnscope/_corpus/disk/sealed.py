"""Descriptions in JSON that carry a checksum of themselves, so that a changed byte is told.

Of arrays every chunk has one, by Zarr; what Zarr says of them has none, and a changed letter there
would let chunks count as missing, which Zarr reads as zeros.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

__all__ = ["sealed", "sealed_array", "unsealed", "unsealed_array"]

SUM = "crc32"


def _sum_of(data: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Data with their checksum."""
    return {**data, SUM: _sum_of(data)}


def unsealed(data: Any, *names: str) -> dict[str, Any]:
    """What was sealed, which holds these names; an older version did not seal.

    Raises ``ValueError`` where it is not what was written.
    """
    if not isinstance(data, dict) or set(data) - {SUM} != set(names):
        raise ValueError(f"it must hold {', '.join(names)} alone")
    plain = {name: value for name, value in data.items() if name != SUM}
    if data.get(SUM, _sum_of(plain)) != _sum_of(plain):
        raise ValueError("it is not what was written: the checksum differs")
    return plain


def sealed_array(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description of an array of Zarr, with its checksum as the only attribute."""
    plain = {**description, "attributes": {}}
    return {**plain, "attributes": {SUM: _sum_of(plain)}}


def unsealed_array(content: bytes | None) -> None:
    """Raise ``ValueError`` where the description of an array is not what was written."""
    if content is None:
        raise ValueError("it lacks its description")
    description = json.loads(content)
    plain = isinstance(description, dict) and {**description, "attributes": {}}
    attributes = plain and description.get("attributes")
    if attributes != {} and (not plain or attributes != {SUM: _sum_of(plain)}):
        raise ValueError("its description is not what was written: the checksum differs")
