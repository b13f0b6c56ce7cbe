"""Records: labelled tensors with one grammar of addresses, and their export to tables.

A record is pure data: it knows nothing of how its numbers came about.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, overload

import torch
from torch import Tensor

from rnnscope._layers.sequences import at_steps, last_steps, valid_steps
from rnnscope._layers.tensors import plain
from rnnscope._record.labels import Labels
from rnnscope._record.tables import AXES, Rows, data_frame, dataset, valid_rows
from rnnscope.errors import AddressError

__all__ = ["AXES", "Index", "Place", "Record"]

Index = int | slice | None
"""A coordinate: one position, a slice (its end excluded), or all."""


@dataclass(frozen=True)
class Place:
    """Where one number stands."""

    layer: int
    direction: str
    batch: int
    time: int
    unit: int | None = None

    def __str__(self) -> str:
        unit = "" if self.unit is None else f", unit {self.unit}"
        return f"layer {self.layer}, {self.direction}, batch {self.batch}, time={self.time}{unit}"


class Record(Mapping[str, Tensor]):
    """Quantities by name, each with dims (layer, direction, batch, time, unit).

    ``values`` maps names to such tensors, ``inputs`` holds each layer's input (batch, time,
    feature), or None where it is the h of the layer below, joined over directions; ``lengths``
    (batch) is the length of each sequence. Padding holds zeros; ``rows`` leaves it out.
    """

    labels: Labels = ()

    def __init__(
        self,
        values: Mapping[str, Tensor],
        inputs: tuple[Tensor | None, ...],
        lengths: Tensor,
        directions: tuple[str, ...],
        unit_names: Mapping[str, str] | None = None,
        absent: Mapping[str, str] | None = None,
    ) -> None:
        self._values = dict(values)
        self._inputs = inputs
        self._directions = directions
        self._unit_names = dict(unit_names or {})
        self._absent = dict(absent or {})
        self.lengths = lengths

    # as a mapping ----------------------------------------------------------------------

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: tuple[Any, ...]) -> Tensor: ...
    def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor:
        """``record["f"]`` (layer, direction, batch, time, unit), ``record["f", 1]`` without the
        layer, ``record["f", 1, "reverse"]`` without both.

        Raises ``AddressError`` for a name or coordinate that is not there.
        """
        if isinstance(key, tuple) and not 1 <= len(key) <= 3:
            raise AddressError(
                f"square brackets take name, layer, direction; got {len(key)} of them. "
                f"For other axes use sel(name, batch=..., time=..., unit=...)."
            )
        name, layer, direction = (
            (*key, None, None)[:3] if isinstance(key, tuple) else (key, None, None)
        )
        at = {"layer": layer, "direction": direction, "batch": None, "time": None, "unit": None}
        return self._select(name, at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __eq__(self, other: object) -> bool:
        """By identity: comparing tensors element by element is ``torch.equal``'s matter."""
        return self is other

    __hash__ = object.__hash__

    # copies ------------------------------------------------------------------------------

    def __copy__(self) -> Self:
        fresh = type(self).__new__(type(self))
        fresh.__dict__.update(self.__dict__)
        return fresh

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of all numbers. No graph leads out of it: what had one, as ``output`` may,
        requires gradients on its own, so a loss computed from the copy can still be followed
        back to the copy's outputs."""
        with torch.inference_mode(False):
            for tensor in _not_copied(self, set()):
                fresh = plain(tensor).detach().clone().requires_grad_(tensor.requires_grad)
                memo.setdefault(id(tensor), fresh)
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    # sizes -------------------------------------------------------------------------------

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each axis but the last: layer, direction, batch, time."""
        return {
            "layer": len(self._inputs),
            "direction": len(self._directions),
            "batch": int(self.lengths.shape[0]),
            "time": int(self.layer_input(0).shape[1]),
        }

    @property
    def directions(self) -> tuple[str, ...]:
        """("forward",), ("reverse",) or both."""
        return self._directions

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dims of each quantity, ``x`` included.

        The last is ``unit``, or ``projected`` where a projection gives h its own size.
        """
        by_name = {name: (*AXES[:4], self._unit_names.get(name, "unit")) for name in self._values}
        return by_name | {"x": ("layer", "batch", "time", "feature")}

    @property
    def valid(self) -> Tensor:
        """(batch, time), False on padding."""
        return valid_steps(self.lengths, self.sizes["time"], batch_first=True)

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded quantities; the copies of input and weights not counted."""
        return sum(t.numel() * t.element_size() for t in self._values.values())

    # addresses -----------------------------------------------------------------------------

    @overload
    def sel(
        self,
        name: str,
        *,
        layer: Index = None,
        direction: str | None = None,
        batch: Index = None,
        time: Index | Literal["last"] = None,
        unit: Index = None,
    ) -> Tensor: ...
    @overload
    def sel(
        self,
        name: None = None,
        *,
        layer: Index = None,
        direction: str | None = None,
        batch: Index = None,
        time: Index | Literal["last"] = None,
        unit: Index = None,
    ) -> dict[str, Tensor]: ...
    def sel(
        self,
        name: str | None = None,
        *,
        layer: Index = None,
        direction: str | None = None,
        batch: Index = None,
        time: Index | Literal["last"] = None,
        unit: Index = None,
    ) -> Tensor | dict[str, Tensor]:
        """A quantity at an address; without a name, all quantities there, by name.

        Positions may be negative, slices exclude their end, and what is left out means all. One
        position drops its dim. ``time="last"`` is each sequence's own last step in the order in
        which that direction runs: the last word for forward, the first for reverse.

        Raises ``AddressError`` for a name or coordinate that is not there.
        """
        at = {"layer": layer, "direction": direction, "batch": batch, "time": time, "unit": unit}
        if name is None:
            return {quantity: self._select(quantity, at) for quantity in self._values}
        return self._select(name, at)

    def _select(self, name: str, at: Mapping[str, Any]) -> Tensor:
        if name == "x":
            return self._select_input(at)
        value = self._named(name)
        index = [self.position("layer", at["layer"]), self._direction(at["direction"])]
        index.append(self.position("batch", at["batch"]))
        unit = self.position("unit", at["unit"], value.shape[-1])
        if isinstance(at["time"], str):
            value = self._last(value, at["time"])
            return value[(*index, unit)]
        return value[(*index, self.position("time", at["time"]), unit)]

    def _select_input(self, at: Mapping[str, Any]) -> Tensor:
        if at["direction"] is not None:
            self._direction(at["direction"])
        layer = self.position("layer", at["layer"])
        if isinstance(layer, slice):
            chosen = range(len(self._inputs))[layer]
            if len(chosen) != 1:
                raise AddressError(
                    "x differs in size from layer to layer: address it with one layer, "
                    f'as in sel("x", layer=0) or ["x", 0]; there are {len(self._inputs)}'
                )
            value = self.layer_input(chosen[0]).unsqueeze(0)
        else:
            value = self.layer_input(layer)
        lead = () if value.dim() == 3 else (slice(None),)
        batch = self.position("batch", at["batch"])
        feature = self.position("unit", at["unit"], value.shape[-1])
        if isinstance(at["time"], str):
            if len(self._directions) > 1 and at["direction"] is None:
                raise AddressError('x at time="last" needs a direction: each has its own last step')
            direction = at["direction"] or self._directions[0]
            steps, rows = self._last_steps(direction, at["time"])
            return value[(*lead, rows, steps)][(*lead, batch, feature)]
        return value[(*lead, batch, self.position("time", at["time"]), feature)]

    def layer_input(self, layer: int) -> Tensor:
        """A layer's input (batch, time, feature)."""
        layer_x = self._inputs[layer]
        if layer_x is not None:
            return layer_x
        below = self._values["h"][layer - 1]
        return below[0] if len(below) == 1 else torch.cat(tuple(below), dim=-1)

    def _named(self, name: str) -> Tensor:
        if not isinstance(name, str):
            raise AddressError(f"a quantity is addressed by its name; got {name!r}")
        if name in self._values:
            return self._values[name]
        if name in self._absent:
            raise AddressError(self._absent[name])
        near = difflib.get_close_matches(name, list(self._values), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise AddressError(f"no quantity {name!r}; recorded are {', '.join(self._values)}.{hint}")

    def position(self, axis: str, index: Index, size: int | None = None) -> int | slice:
        """An index along an axis, checked, made non-negative; all where it is None."""
        length = self.sizes[axis] if size is None else size
        if index is None:
            return slice(None)
        if isinstance(index, slice):
            if not all(
                end is None or hasattr(end, "__index__")
                for end in (index.start, index.stop, index.step)
            ):
                raise AddressError(f"{axis}={index}: a slice is of whole numbers")
            if index.step is not None and index.step <= 0:
                raise AddressError(f"{axis}={index}: slices run forward here; use a positive step")
            return index
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            extra = ' or "last"' if axis == "time" else ""
            raise AddressError(f"{axis} must be a whole number or a slice{extra}; got {index!r}")
        number = index.__index__()
        if not -length <= number < length:
            raise AddressError(
                f"no {axis} {number}: there {'is' if length == 1 else 'are'} {length}, "
                f"numbered 0 to {length - 1}"
            )
        return number % length

    def _direction(self, direction: str | None) -> int | slice:
        if direction is None:
            return slice(None)
        if direction not in self._directions:
            raise AddressError(
                f"no direction {direction!r}; there is {' and '.join(map(repr, self._directions))}"
            )
        return self._directions.index(direction)

    def _last_steps(self, direction: str, time: str) -> tuple[Tensor, Tensor]:
        """(batch): the last step of each sequence in a direction, and the sequence."""
        if time != "last":
            raise AddressError(f'time must be a whole number, a slice or "last"; got {time!r}')
        return at_steps(last_steps(self.lengths, direction == "reverse"))

    def _last(self, value: Tensor, time: str) -> Tensor:
        by_direction = []
        for d, direction in enumerate(self._directions):
            steps, rows = self._last_steps(direction, time)
            by_direction.append(value[:, d, rows, steps])
        return torch.stack(by_direction, dim=1)

    # export ------------------------------------------------------------------------------

    def rows(self, name: str, *, layer: int | None = None, direction: str | None = None) -> Rows:
        """A quantity of one layer and direction at its valid steps alone, (step, unit).

        Padding is left out, so means, probes and plots of ``rows.values`` are of the steps that
        were there; ``rows.index`` (step, 2) says of each row which sequence and which position it
        is, ``rows.labels`` its text. ``layer`` and ``direction`` may be left out where there is
        one. ``name`` may be "x", the layer's input.

        >>> import torch, rnnscope as rs
        >>> from torch.nn.utils.rnn import pack_sequence
        >>> packed = pack_sequence([torch.randn(5, 3), torch.randn(2, 3)])
        >>> tr = rs.trace(torch.nn.LSTM(3, 4), packed)
        >>> rows = tr.rows("f")
        >>> rows.values.shape, rows.index[-1].tolist()    # the last row: sequence 1, time 1
        (torch.Size([7, 4]), [1, 1])

        Raises ``AddressError`` for a name, layer or direction that is not there, and where there
        are several and none is named.
        """
        for axis, chosen, names in (
            ("layer", layer, [str(k) for k in range(self.sizes["layer"])]),
            ("direction", direction, [repr(text) for text in self._directions]),
        ):
            needed = not (axis == "direction" and name == "x")
            if chosen is None and len(names) > 1 and needed:
                raise AddressError(
                    f"rows are of one {axis}, and there are {len(names)}: choose one, "
                    f"{axis}={names[0]} or {axis}={names[-1]}"
                )
        if isinstance(layer, slice):
            raise AddressError(f"rows are of one layer: a whole number; got {layer}")
        value = self.sel(name, layer=layer or 0, direction=direction)
        return valid_rows(self, value if value.dim() == 3 else value[0])

    def to_xarray(self) -> Any:
        """An ``xarray.Dataset`` with a variable for each quantity and each layer's input.

        Padding is NaN, which xarray's means skip; coordinates are ``valid`` (batch, time),
        ``length`` (batch) and, where the steps are labelled, ``label`` (batch, time). bfloat16,
        which NumPy lacks, becomes float32, and the variable's attribute ``stored_as`` says so.
        Needs the extra ``xarray``; raises ``MissingExtraError`` without.
        """
        return dataset(self, self._attributes())

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` in long form: a row for each place, a column for each quantity.

        The index is (layer, direction, batch, time, unit); padding is left out; a column ``label``
        holds the steps' texts where they are labelled. Where a projection makes h smaller, its
        missing units are NaN. bfloat16 becomes float32, as ``frame.attrs`` says. Needs pandas, of
        the extra ``xarray``.
        """
        return data_frame(self, self._attributes())

    def _attributes(self) -> dict[str, Any]:
        return {}


def _not_copied(container: Any, visited: set[int]) -> Iterator[Tensor]:
    """The tensors inside that deepcopy refuses: parts of a graph, and classes of somebody's own."""
    if id(container) in visited:
        return
    visited.add(id(container))
    if isinstance(container, Tensor):
        if not container.is_leaf or plain(container) is not container:
            yield container
        return
    inside: Iterable[Any] = ()
    if isinstance(container, Mapping) and not isinstance(container, Record):
        inside = container.values()
    elif isinstance(container, tuple | list):
        inside = container
    elif type(container).__module__.partition(".")[0] == __name__.partition(".")[0]:
        inside = getattr(container, "__dict__", {}).values()
    for part in inside:
        yield from _not_copied(part, visited)
