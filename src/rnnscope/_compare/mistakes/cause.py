"""A mistake, told apart from all others; and which can stand together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations

__all__ = ["OF", "Cause", "Causes", "compatible", "excludes", "in_order"]

OF = {
    "all": ("W_ih", "W_hh", "b_ih", "b_hh"),
    "W": ("W_ih", "W_hh"),
    "W_ih": ("W_ih",),
    "W_hh": ("W_hh",),
    "b": ("b_ih", "b_hh"),
    "ih": ("W_ih", "b_ih"),
    "hh": ("W_hh", "b_hh"),
    "b_ih": ("b_ih",),
    "b_hh": ("b_hh",),
    "W_hr": ("W_hr",),
}
"""The parameters that a name of several means."""

SEVERAL = ("activation", "unapplied")
"""Entries that may be chosen more than once in one place."""


@dataclass(frozen=True)
class Cause:
    """One mistake of the catalogue, in one place.

    ``name`` is the entry's, ``choice`` what it leaves open (a gate order, "b_ih"), ``tensors``
    the parameters it concerns; ``layer`` None means every layer, ``direction`` None ("forward",
    "reverse") every direction. ``docs/compare.md`` defines each.

    >>> import rnnscope as rs
    >>> str(rs.Cause("gate_order", "ifog", "hh", layer=0))
    'gate_order ifog of hh, layer 0'
    """

    name: str
    choice: str = ""
    tensors: str = ""
    layer: int | None = None
    direction: str | None = None

    def everywhere(self) -> Cause:
        """The same mistake in every layer and direction."""
        return replace(self, layer=None, direction=None)

    def __str__(self) -> str:
        """As in ``gate_order ifog of W_hh, layer 0, reverse``."""
        words = self.name + (f" {self.choice}" if self.choice else "")
        words += f" of {self.tensors}" if self.tensors else ""
        place = [f"layer {self.layer}"] if self.layer is not None else []
        place += [self.direction] if self.direction is not None else []
        return ", ".join([words, *place])


Causes = frozenset[Cause]
"""Mistakes that stand together."""


def in_order(together: Causes) -> list[Cause]:
    """Mistakes in an order that is the same in every process, which that of a set is not."""
    return sorted(together, key=str)


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
