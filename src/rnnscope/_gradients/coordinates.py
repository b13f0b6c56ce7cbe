"""The coordinates that a caller gives of a state or of what it depends on, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rnnscope._gradients.differentiable import Differentiable
from rnnscope._layers.sequences import last_steps
from rnnscope._record.places import unchosen
from rnnscope._record.record import Index
from rnnscope.cells import quantity_names
from rnnscope.errors import AddressError

__all__ = ["Coordinates", "Resolver", "Time"]

Time = Index | Literal["last"]


@dataclass(frozen=True)
class Coordinates:
    """A quantity by name, and where it stands, as a caller gives it; None where it is left out."""

    name: str
    layer: int | None = None
    direction: str | None = None
    batch: Index = None
    time: Time = None


class Resolver:
    """Turns the coordinates that a caller gives into positions in a trace, checked."""

    def __init__(self, trace: Differentiable) -> None:
        self.trace = trace

    def position(self, axis: str, index: Index) -> int:
        """A position on an axis; where it is left out, the only position."""
        length = self.trace.sizes[axis]
        if index is None:
            if length != 1:
                raise unchosen(axis, length)
            return 0
        number = self.trace.position(axis, index)
        if isinstance(number, slice):
            raise AddressError(f"{axis} must be one position here; got {index}")
        return number

    def direction(self, direction: str | None) -> int:
        """A direction's index; where it is left out, the only direction."""
        have = self.trace.directions
        if direction is None:
            if len(have) > 1:
                raise unchosen("direction", len(have))
            return 0
        if direction not in have:
            raise AddressError(
                f"direction is {direction!r}; there is {' and '.join(map(repr, have))}"
            )
        return have.index(direction)

    def rows(self, batch: Index) -> tuple[Tensor, bool]:
        """The sequences, and whether the address drops their dim."""
        number = self.trace.position("batch", batch)
        all_rows = torch.arange(self.trace.sizes["batch"], device=self.trace.lengths.device)
        rows = all_rows[number].reshape(-1)
        if not len(rows):
            raise AddressError(f"batch={batch} selects no sequence of {len(all_rows)}")
        return rows, isinstance(number, int)

    def times(self, time: Time, d: int, rows: Tensor) -> Tensor:
        """The step of each sequence."""
        lengths = self.trace.lengths[rows]
        if isinstance(time, str):
            if time != "last":
                raise AddressError(f'time must be a whole number or "last"; got {time!r}')
            return last_steps(lengths, self.trace.directions[d] == "reverse")
        at = self.position("time", time)
        short = (lengths <= at).nonzero()
        if len(short):
            row = int(rows[short[0, 0]])
            raise AddressError(
                f"time={at} of batch {row} is padding: that sequence has length "
                f"{int(self.trace.lengths[row])}"
            )
        return torch.full_like(lengths, at)

    def state(self, of: str) -> str:
        """The name, which must be that of a state."""
        states = self.trace.cell.states
        if of not in states:
            raise AddressError(
                f"a Jacobian is of a state, which is carried over time: {' or '.join(states)}; "
                f"got {of!r}"
            )
        return of

    def target(self, to: str) -> str:
        """The name, which must be that of a quantity, x or an initial state."""
        cell = self.trace.cell
        names = (*quantity_names(cell), "x", *(f"{state}_0" for state in cell.states))
        if to not in names:
            raise AddressError(f"no quantity {to!r}; there are {', '.join(names)}")
        return to
