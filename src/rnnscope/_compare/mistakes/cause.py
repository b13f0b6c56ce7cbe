"""A mistake, told apart from all others."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Cause", "Causes", "in_order"]


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
