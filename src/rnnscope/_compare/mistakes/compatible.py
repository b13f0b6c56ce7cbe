"""Which mistakes can stand together."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.weights import OF

__all__ = ["compatible", "excludes"]

SEVERAL = ("activation", "unapplied")
"""Entries that may be chosen more than once in one place."""


def excludes(first: Cause, second: Cause) -> bool:
    """Whether only one of the two can be wrong in one cell."""
    if first.name in SEVERAL:
        return first == second
    return first.name == second.name and _share(first.tensors, second.tensors)


def compatible(together: Iterable[Cause]) -> bool:
    """Whether mistakes can all be wrong in one cell."""
    return not any(excludes(*pair) for pair in combinations(together, 2))


def _share(first: str, second: str) -> bool:
    """Whether two choices of tensors concern the same parameters."""
    return bool(set(OF.get(first, (first,))) & set(OF.get(second, (second,))))
