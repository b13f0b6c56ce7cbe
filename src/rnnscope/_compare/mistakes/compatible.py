"""Which mistakes can stand together, and which hide each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.equations import NEGATED
from rnnscope._compare.mistakes.weights import OF

__all__ = ["compatible", "excludes", "scrambles", "scrambling_alone"]

SCRAMBLES = ("gate_order", "interleaved", "transposed", "reshaped", "matrices_exchanged")
"""Entries after which no number of a matrix is where it was: two of them, or one and a mistake in
the equations, may come no closer one by one, so all pairs are tried."""

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


def scrambling_alone(cause: Cause) -> bool:
    """Whether with it nothing else comes closer: it scrambles matrices, or turns every gate."""
    return cause.name in SCRAMBLES or cause.choice == f"sigmoid:{NEGATED}"


def scrambles(every: Sequence[Cause]) -> Iterator[tuple[Cause, Cause]]:
    """Pairs of mistakes of different kinds that scramble matrices."""
    scrambling = [c for c in every if scrambling_alone(c)]
    for one, other in combinations(scrambling, 2):
        if one.name != other.name:
            yield one, other
