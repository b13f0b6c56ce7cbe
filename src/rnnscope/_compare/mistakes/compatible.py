"""Which mistakes can stand together."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.weights import OF

__all__ = ["compatible", "excludes"]

SEVERAL = ("activation", "unapplied")
"""Entries that may be chosen more than once in one place."""


def excludes(one: Cause, other: Cause) -> bool:
    """Whether only one of the two can be wrong in one cell."""
    if one.name in SEVERAL:
        return one == other
    return one.name == other.name and _share(one.tensors, other.tensors)


def compatible(together: Iterable[Cause]) -> bool:
    """Whether mistakes can all be wrong in one cell."""
    return not any(excludes(*pair) for pair in combinations(together, 2))


def _share(one: str, other: str) -> bool:
    """Whether two choices of tensors concern the same parameters."""
    return bool(set(OF.get(one, (one,))) & set(OF.get(other, (other,))))
