"""The one place that an explanation is about, checked, and what goes into it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from rnnscope._explain.digits import MOST_PLACES, PLACES, Ruler
from rnnscope._explain.unit_step import Operands, UnitStep, expressions, needed
from rnnscope._layers.sequences import running_order
from rnnscope._layers.structure import Weights
from rnnscope._record.places import unchosen
from rnnscope._record.record import Place
from rnnscope._record.traced import Traced
from rnnscope.errors import AddressError

__all__ = ["Address", "faithful"]


class Address:
    """One layer, direction and sequence of a trace; its methods take the step and the unit.

    Raises ``AddressError`` where an axis is left out that is longer than 1.
    """

    def __init__(
        self,
        trace: Traced,
        layer: int | None,
        direction: str | None,
        batch: int | None,
    ) -> None:
        self.trace = trace
        self.layer = self._index("layer", layer, trace.sizes["layer"])
        self.direction = self._direction(direction)
        self.batch = self._index("batch", batch, trace.sizes["batch"])
        self.length = int(trace.lengths[self.batch])

    @property
    def reverse(self) -> bool:
        """Whether the direction runs from the end."""
        return self.direction == "reverse"

    @property
    def weights(self) -> Weights:
        """The weights of the layer in the direction."""
        return self.trace.weights[self.layer][self.trace.directions.index(self.direction)]

    @property
    def times(self) -> list[int]:
        """The steps in the order in which they run."""
        return list(running_order(range(self.length), self.reverse))

    def units(self, name: str) -> int:
        """Units of a quantity."""
        structure = self.trace.structure
        return structure.output_size if name == "h" else structure.hidden_size

    def unit(self, name: str | None, unit: int | None) -> int:
        """The unit's position; without a name, among the units of the cell's first quantity."""
        return self._index("unit", unit, self.units(name or self.trace.cell.quantities[0]))

    def time(self, time: int | str | None) -> int:
        """The step's position, which must not be padding; "last" is the last step that runs."""
        if isinstance(time, str):
            if time != "last":
                raise AddressError(f'time must be a whole number or "last"; got {time!r}')
            return self.times[-1]
        if time is None and self.length == 1:
            return 0
        position = self._index("time", time, self.trace.sizes["time"])
        if position >= self.length:
            raise AddressError(
                f"time={position} of batch {self.batch} is padding: that sequence has length "
                f"{self.length}, so its steps are time=0 to {self.length - 1}; "
                f'time="last" is its last'
            )
        return position

    def names(self, name: str | None, unit: int) -> list[str]:
        """What is worked by hand for a name: its quantity, and all of the same unit before it."""
        cell = self.trace.cell
        if name is None:
            return [quantity for quantity in cell.quantities if unit < self.units(quantity)]
        if name not in expressions(cell):
            computed = list(expressions(cell))
            near = difflib.get_close_matches(name, computed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            reason = " x is given, not computed." if name == "x" else ""
            raise AddressError(
                f"no equation for {name!r}; "
                f"{cell.name} computes {', '.join(computed)}.{hint}{reason}"
            )
        return needed(cell, name)

    def place(self, time: int, unit: int) -> Place:
        """One number's place."""
        return Place(self.layer, self.direction, self.batch, time, unit)

    def operands(self, time: int, unit: int) -> Operands:
        """All that goes into one unit at one step, in float64."""
        trace = self.trace
        before = {
            state: trace.before(state, self.layer, self.direction)[self.batch, time]
            for state in trace.cell.states
        }
        weights = self.weights.map(_precise)
        return Operands(
            weights,
            _precise(trace.layer_input(self.layer)[self.batch, time]),
            {state: _precise(value) for state, value in before.items()},
            unit,
            time + 1,
            self.reverse,
            weights.vectors,
            stacked=self.layer > 0,
        )

    def trace_value(self, name: str, time: int, unit: int) -> float | None:
        """The trace's own value; None where it is not recorded."""
        if name not in self.trace:
            return None
        d = self.trace.directions.index(self.direction)
        return float(self.trace[name].detach()[self.layer, d, self.batch, time, unit])

    def trace_values(self, names: Iterable[str], time: int, unit: int) -> dict[str, float]:
        """The trace's own values of several names."""
        values = {name: self.trace_value(name, time, unit) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def starts(self, time: int) -> bool:
        """Whether no step came before."""
        return time == self.times[0]

    def start(self, state: str, numbers: str = "") -> str:
        """Where a state comes from at the first step that runs, with its ``numbers`` where they
        are written: h_0 = 0, no step came before."""
        symbol = f"{state}_{self.length + 1 if self.reverse else 0}"
        why = "the reverse direction starts here" if self.reverse else "no step came before"
        if not bool(self.initial(state).any()):
            return f"{symbol} = 0: {why}"
        source = f"the initial state {state}_0, " if self.reverse else ""
        verb = f"= {numbers}," if numbers else "is"
        return f"{symbol} {verb} {source}as it was given to the layer: {why}"

    def initial(self, state: str) -> Tensor:
        """A state before the first step that runs, of every unit."""
        d = self.trace.directions.index(self.direction)
        value: Tensor = self.trace.call.initial[state][self.layer, d, self.batch]
        return value

    def header(self, time: int, name: str | None, unit: int) -> str:
        """Where one number stands: layer, direction, batch, time and step, unit."""
        units = self.units(name or self.trace.cell.quantities[0])
        order = f"step {self.times.index(time) + 1} of {self.length}"
        if self.reverse:
            order += ", from the end"
        return (
            f"layer {self.layer}, {self.direction}, batch {self.batch}, "
            f"time={time} ({order}), unit {unit} of {units}"
        )

    def _direction(self, direction: str | None) -> str:
        have = self.trace.directions
        if direction is None:
            if len(have) > 1:
                raise unchosen("direction", len(have))
            return have[0]
        if direction not in have:
            raise AddressError(
                f"no direction {direction!r}; there is {' and '.join(map(repr, have))}"
            )
        return direction

    def _index(self, axis: str, index: int | None, length: int) -> int:
        if index is None:
            if length != 1:
                raise unchosen(axis, length)
            return 0
        number = self.trace.position(axis, index, length)
        if isinstance(number, slice):
            raise AddressError(
                f"an explanation is about one number: {axis} must be one; got {index}"
            )
        return number


def _precise(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def faithful(work: Work, results: Iterable[str]) -> list[UnitStep]:
    """The steps of ``work``, with the fewest digits in which every result is its true value
    rounded and every line is exactly what the printed numbers give; where no few digits do that,
    the results alone may be one unit of their last digit off, and then every line."""
    wanted = list(results)
    rulers = [
        Ruler(places + guard, exact=True, exact_states=exact_states, guard=guard)
        for exact_states in (True, False)
        for places, guard in ((PLACES, 0), (PLACES, 1), (PLACES + 1, 0), (PLACES + 1, 1))
    ]
    carry = True
    for k, ruler in enumerate(rulers):
        unit_steps = list(work(ruler))
        if k == 0:
            # numbers of half precision are too coarse to go on from what was printed
            carry = all(unit_step.printed.carried for unit_step in unit_steps)
        if all(unit_step.faithful(wanted, carry) for unit_step in unit_steps):
            return unit_steps
    # a digit or two more for an exact rounding; beyond, a last digit that is one off will do
    for strict, most in ((wanted, PLACES + 2), ([], MOST_PLACES)):
        for places in range(PLACES, most + 1):
            unit_steps = list(work(Ruler(places)))
            if all(unit_step.faithful(strict, carry) for unit_step in unit_steps):
                return unit_steps
    return list(work(Ruler(PLACES)))


class Work(Protocol):
    """A function that works steps by hand with the digits of a ruler."""

    def __call__(self, ruler: Ruler, /) -> Iterable[UnitStep]:
        """The steps, in the order in which they run."""
