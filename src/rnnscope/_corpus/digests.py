"""Digests: whether weights and batches are those that were recorded before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.tensors import plain
from rnnscope._record.extras import package_of_extra

__all__ = ["changed_weights", "digest_of_batch", "digests_of_weights", "versions_of_weights"]

_SIZE = 16
BLOCK = 1 << 16
"""Bytes of a batch's numbers for which one checksum stands."""


def digests_of_weights(model: nn.Module) -> dict[str, str]:
    """Of each parameter and buffer that a state dict holds, by name."""
    digests = {}
    for name, value in model.state_dict().items():
        digest = hashlib.blake2b(digest_size=_SIZE)
        for part in _parts(value):
            digest.update(part)
        digests[name] = digest.hexdigest()
    return digests


def versions_of_weights(model: nn.Module) -> dict[str, tuple[int, int]]:
    """What changes when somebody writes to a parameter or buffer, by name; cheap, within one
    process, and blind to what is written past torch's count (``p.data``)."""
    return {
        name: (value.data_ptr(), value._version)
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and not value.is_inference()
    }


def changed_weights(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The names of those that differ, three at most; "" where none does."""
    names = dict.fromkeys((*before, *now))
    changed = [name for name in names if before.get(name) != now.get(name)]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return ", ".join(changed[:3]) + more


def digest_of_batch(batch: Any) -> str:
    """Of all numbers and texts in a batch, however nested; of other things only their kind.

    Large parts go in as the checksums of their blocks, which take a tenth of the time.
    """
    extend = package_of_extra("google_crc32c", "record").extend
    digest = hashlib.blake2b(digest_size=_SIZE)
    for part in _parts(batch):
        if len(part) <= BLOCK:
            digest.update(part)
            continue
        numbers = np.frombuffer(part, np.uint8)
        starts = range(0, len(numbers), BLOCK)
        checksums = [int(extend(0, numbers[start : start + BLOCK])) for start in starts]
        digest.update(np.asarray(checksums, "<u4").tobytes())
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        flat = plain(value).detach().cpu().contiguous()
        yield f"{flat.dtype} {tuple(flat.shape)}".encode()
        yield flat.reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, PackedSequence):
        yield from _parts(tuple(value))
    elif isinstance(value, Mapping):
        for key, member in value.items():
            yield str(key).encode()
            yield from _parts(member)
    elif isinstance(value, list | tuple):
        yield f"{len(value)}".encode()
        for member in value:
            yield from _parts(member)
    elif isinstance(value, str | int | float | bool | None):
        yield repr(value).encode()
    elif hasattr(value, "__array__"):
        array = np.ascontiguousarray(value)
        yield f"{array.dtype} {array.shape}".encode()
        # objects would be told by where they lie in memory
        yield repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    else:
        yield type(value).__qualname__.encode()
