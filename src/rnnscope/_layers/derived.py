"""What is computed from weights alone, kept beside small ones as long as they are: a layer that is
traced again and again with the same weights packs and measures them once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from weakref import ReferenceType, ref

from rnnscope._layers.structure import Weights

__all__ = ["MOST_KEPT", "derived"]

MOST_KEPT = 1 << 16
"""Numbers of weights up to which something is kept: of larger ones computing it anew costs little
beside the call, and keeping it much memory."""

_Value = TypeVar("_Value")


@dataclass(eq=False)
class _Entry:
    """What is kept of some weights, in these versions of their tensors."""

    weights: ReferenceType[Weights]
    versions: list[int]
    values: dict[Hashable, Any] = field(default_factory=dict)


_entries: dict[int, _Entry] = {}  # by the weights' id


def derived(weights: Weights, key: Hashable, compute: Callable[[], _Value]) -> _Value:
    """What ``compute`` returns of these weights, which ``key`` names; it is not to be changed.

    ``weights`` hold copies, or are made for one call: of what is written past the versions of
    tensors (``p.data``) nothing is seen here.
    """
    if weights.ih.numel() + weights.hh.numel() > MOST_KEPT or weights.ih.is_inference():
        return compute()
    versions = [tensor._version for tensor in weights.tensors()]
    entry = _entries.get(id(weights))
    if entry is None or entry.weights() is not weights or entry.versions != versions:
        gone = partial(_forget, id(weights))
        entry = _entries[id(weights)] = _Entry(ref(weights, gone), versions)
    if key not in entry.values:
        entry.values[key] = compute()
    value: _Value = entry.values[key]
    return value


def _forget(place: int, gone: ReferenceType[Weights]) -> None:
    entry = _entries.get(place)
    if entry is not None and entry.weights is gone:
        del _entries[place]
