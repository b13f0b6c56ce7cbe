"""Edits: a change of a quantity at an address, and the places that it reaches in a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rnnscope._layers.sequences import last_steps
from rnnscope._layers.tensors import plain, require_numbers
from rnnscope._record.record import Index
from rnnscope._record.traced import RecordedCall
from rnnscope.cells import quantity_names
from rnnscope.errors import AddressError, DtypeError, ShapeError

__all__ = ["Edit", "Key", "Site", "place_edits"]

KINDS = ("to", "add", "scale", "by")


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of a quantity at an address, for ``tr.rerun``.

    ``name`` is any quantity of the trace or part of one (``i_pre``, ``f_from_x``), ``x``, or an
    initial state (``h_0``, which has no time). The address is that of ``tr.sel``: what is left out
    means all. One of four says what becomes of the numbers there:

    - ``to``: these numbers instead, or one number; ``to=other["c", 0]`` takes those of another
      trace;
    - ``add``: this is added;
    - ``scale``: they are multiplied by this;
    - ``by``: a function of the numbers (sequences, units) that a step computes, which returns as
      many; it is called at each step that the edit addresses.

    Numbers broadcast to the shape that ``tr.sel`` gives at this address.

    >>> import torch
    >>> from rnnscope import trace
    >>> tr = trace(torch.nn.LSTM(3, 4), torch.randn(6, 2, 3))
    >>> silenced = tr.rerun(Edit("h", unit=1, to=0.0))          # a unit ablated, over all time
    >>> float(silenced["h"][..., 1].abs().max())
    0.0
    >>> open_gate = tr.rerun(Edit("f", time=slice(2, 4), to=1.0))
    >>> torch.equal(open_gate["c"][..., :2, :], tr["c"][..., :2, :])
    True

    Raises ``ValueError`` where none or several of the four are given.
    """

    name: str
    _: KW_ONLY
    layer: Index = None
    direction: str | None = None
    batch: Index = None
    time: Index | Literal["last"] = None
    unit: Index = None
    to: Tensor | float | None = None
    add: Tensor | float | None = None
    scale: Tensor | float | None = None
    by: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"Edit({self.name!r}) needs one of to=, add=, scale= and by=; "
                f"got {' and '.join(kinds) or 'none'}"
            )

    @property
    def kind(self) -> str:
        """Which of the four is given."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def __str__(self) -> str:
        axes = ("layer", "direction", "batch", "time", "unit")
        at = ", ".join(f"{a}={getattr(self, a)!r}" for a in axes if getattr(self, a) is not None)
        return f"{self.name}{f' at {at}' if at else ''}"


# where an edit is ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """The part of an edit in one layer and direction: which numbers it reaches.

    ``rows`` and ``times`` (places) are the sequence and step of each place, ``units`` the units
    at each; ``operand`` (places, units) what is set, added or multiplied with, None for ``by``.
    """

    edit: Edit
    rows: Tensor
    times: Tensor
    units: Tensor
    operand: Tensor | None

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last step."""
        return int(self.times.min()), int(self.times.max())

    def changed(self, values: Tensor, chosen: Tensor | None = None) -> Tensor:
        """``values`` (places, units) after the edit, of all places or of those chosen."""
        if self.operand is None:
            assert self.edit.by is not None, "one of the four is given"
            returned: Any = self.edit.by(values)
            if not isinstance(returned, Tensor) or returned.shape != values.shape:
                got = (
                    tuple(returned.shape)
                    if isinstance(returned, Tensor)
                    else type(returned).__name__
                )
                raise ShapeError(
                    f"by of the edit of {self.edit} must return (sequences, units) = "
                    f"{tuple(values.shape)}, as it is given; got {got}"
                )
            changed: Tensor = returned
            return changed
        operand = self.operand if chosen is None else self.operand[chosen]
        match self.edit.kind:
            case "to":
                return operand.expand_as(values)
            case "add":
                return values + operand
            case _:
                return values * operand

    def apply(self, value: Tensor) -> Tensor:
        """A whole quantity (time, batch, units) after the edit."""
        place = (self.times[:, None], self.rows[:, None], self.units[None, :])
        return value.index_put(place, self.changed(value[place]))

    def marked(self, like: Tensor) -> Tensor:
        """True where the edit reaches, (time, batch, units)."""
        mask = torch.zeros_like(like, dtype=torch.bool)
        mask[self.times[:, None], self.rows[:, None], self.units[None, :]] = True
        return mask


Key = tuple[str, int, int]
"""A quantity's name, layer and direction; x has one for both directions, 0."""


def place_edits(trace: RecordedCall, edits: Sequence[Edit]) -> dict[Key, list[Site]]:
    """The edits by quantity, layer and direction.

    Raises ``AddressError`` where an edit reaches nothing, padding, or what another edit reaches.
    """
    by_key: dict[Key, list[Site]] = {}
    for edit in edits:
        if not isinstance(edit, Edit):
            raise TypeError(f"rerun takes rs.Edit(...), and weights=; got {type(edit).__name__}")
        for key, site in _Placement(trace, edit).sites():
            for earlier in by_key.get(key, []):
                _refuse_overlap(trace, key, earlier, site)
            by_key.setdefault(key, []).append(site)
    return by_key


def _refuse_overlap(trace: RecordedCall, key: Key, first: Site, second: Site) -> None:
    units = int(max(first.units.max(), second.units.max())) + 1
    like = first.rows.new_empty(trace.sizes["time"], trace.sizes["batch"], units)
    both = first.marked(like) & second.marked(like)
    if both.any():
        time, batch, unit = (int(k) for k in both.nonzero()[0])
        name, layer, d = key
        way = "" if name == "x" else f", {trace.directions[d]}"
        step = "" if name.endswith("_0") else f", time={time}"
        raise AddressError(
            f"two edits of the same place: {name} at layer {layer}{way}, batch {batch}{step}, "
            f"unit {unit} is edited by ({first.edit}) and by ({second.edit}); make them one edit"
        )


class _Placement:
    """Finds the places of one edit in a trace."""

    def __init__(self, trace: RecordedCall, edit: Edit) -> None:
        self.trace, self.edit = trace, edit
        self.state = self._initial_state()
        self.units = self._width()
        sizes = trace.sizes
        self.layers, self.one_layer = self._positions("layer", edit.layer, sizes["layer"])
        self.directions, self.one_direction = self._directions()
        self.batches, self.one_batch = self._positions("batch", edit.batch, sizes["batch"])
        self.unit, self.one_unit = self._positions("unit", edit.unit, self.units)
        self.last = edit.time == "last"
        self.times, self.one_time = [0], True
        if self.state is not None:
            if edit.time is not None:
                raise AddressError(
                    f"{edit.name} is the state before the first step: it has no time"
                )
        elif self.last:
            pass
        elif isinstance(edit.time, str):
            raise AddressError(f'time must be a whole number, a slice or "last"; got {edit.time!r}')
        else:
            self.times, self.one_time = self._positions("time", edit.time, sizes["time"])

    def _initial_state(self) -> str | None:
        """The state whose initial value the edit changes; None for a quantity of the steps."""
        name, cell = self.edit.name, self.trace.cell
        if not isinstance(name, str):
            raise AddressError(f"a quantity is addressed by its name; got {name!r}")
        names = (*quantity_names(cell), "x")
        if name in names:
            return None
        initial = {f"{state}_0": state for state in cell.states}
        returned = {"output": "h"} | {f"{state}_n": state for state in cell.states}
        if name in returned:
            raise AddressError(
                f"{name} is only returned, nothing is computed from it: edit "
                f'{returned[name]!r}, as in Edit("{returned[name]}", layer=-1, time="last", ...)'
            )
        if name not in initial:
            raise AddressError(
                f"no quantity {name!r} to edit; there are {', '.join((*names, *initial))}"
            )
        return initial[name]

    def _width(self) -> int:
        name, structure = self.edit.name, self.trace.structure
        if name == "x":
            layers, _ = self._positions("layer", self.edit.layer, self.trace.sizes["layer"])
            if len(layers) > 1:
                raise AddressError(
                    f"x differs in size from layer to layer: an edit of x needs one layer, as in "
                    f'Edit("x", layer=0, ...); there are {len(layers)}'
                )
            if self.edit.direction is not None and len(self.trace.directions) > 1:
                raise AddressError("x is read by both directions: an edit of x has no direction")
            return structure.feature_size(layers[0])
        return structure.state_size(self.state or name)

    def _positions(self, axis: str, index: Index, size: int) -> tuple[list[int], bool]:
        position = self.trace.position(axis, index, size)
        if isinstance(position, int):
            return [position], True
        positions = list(range(size))[position]
        if not positions:
            raise AddressError(
                f"the edit of {self.edit} addresses nothing: {axis}={index} selects none of {size}"
            )
        return positions, False

    def _directions(self) -> tuple[list[int], bool]:
        have = self.trace.directions
        if self.edit.direction is None:
            return list(range(len(have))), False
        if self.edit.direction not in have:
            raise AddressError(
                f"no direction {self.edit.direction!r}; there is {' and '.join(map(repr, have))}"
            )
        return [have.index(self.edit.direction)], True

    # the operand

    @property
    def shape(self) -> list[tuple[str, int, bool]]:
        """The dims at this address: name, length, and whether one position drops it."""
        dims = [("layer", len(self.layers), self.one_layer)]
        if self.edit.name != "x":
            dims.append(("direction", len(self.directions), self.one_direction))
        dims.append(("batch", len(self.batches), self.one_batch))
        dims.append(("time", len(self.times), self.one_time))
        dims.append(("unit", len(self.unit), self.one_unit))
        return dims

    def _operand(self) -> Tensor | None:
        """The edit's numbers (layer, direction, batch, time, unit); a dropped dim has length 1."""
        edit = self.edit
        if edit.kind == "by":
            if not callable(edit.by):
                raise TypeError(f"by of the edit of {edit} must be a function; got {edit.by!r}")
            return None
        value = getattr(edit, edit.kind)
        h = self.trace["h"]
        if not isinstance(value, Tensor | float | int):
            raise DtypeError(
                f"{edit.kind} of the edit of {edit} must be a number or a tensor; "
                f"got {type(value).__name__}"
            )
        if isinstance(value, Tensor):
            if value.is_complex():
                raise DtypeError(
                    f"{edit.kind} of the edit of {edit} must hold real numbers; got {value.dtype}"
                )
            require_numbers(f"{edit.kind} of the edit of {edit}", value)
            value = plain(value)
        # a Python number in the trace's own type at once: torch's own choice is float32
        value = torch.as_tensor(value, device=h.device, dtype=h.dtype)
        kept = [(name, length) for name, length, dropped in self.shape if not dropped]
        wanted = tuple(length for _, length in kept)
        try:
            value = value.broadcast_to(wanted)
        except RuntimeError:
            names = ", ".join(f"{name} {length}" for name, length in kept)
            raise ShapeError(
                f"{edit.kind} of the edit of {edit} must be one number or broadcast to "
                f"({names}), the shape of the numbers there; got {tuple(value.shape)}"
            ) from None
        full = [1 if dropped else length for _, length, dropped in self.shape]
        value = value.reshape(full)
        return value.unsqueeze(1) if edit.name == "x" else value

    def sites(self) -> Iterable[tuple[Key, Site]]:
        """A site for each layer and direction; raises where only padding is reached."""
        operand = self._operand()
        device = self.trace["h"].device
        units = torch.tensor(self.unit, dtype=torch.long, device=device)
        for a, layer in enumerate(self.layers):
            for b, d in enumerate([0] if self.edit.name == "x" else self.directions):
                i, j, rows, times = (column.to(device) for column in self._places(d))
                if not len(rows):
                    raise AddressError(f"the edit of {self.edit} reaches padding only")
                site_operand = None if operand is None else operand[a, b][i, j]
                yield (self.edit.name, layer, d), Site(self.edit, rows, times, units, site_operand)

    def _places(self, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every place: its indices in the address (sequence, time), the sequence, the time."""
        lengths = self.trace.lengths
        rows = torch.tensor(self.batches, dtype=torch.long, device=lengths.device)
        times = torch.tensor([self.times], dtype=torch.long, device=lengths.device)
        lengths = lengths[rows]
        if self.last:
            ends = last_steps(lengths, self.trace.directions[d] == "reverse")
            times = ends[:, None]
        times = times.expand(len(rows), -1)
        own = times < lengths[:, None]  # the state before the first step is everyone's
        if self.one_time and not own.all():
            first = int((~own[:, 0]).nonzero()[0])
            length = int(lengths[first])
            raise AddressError(
                f"the edit of {self.edit} is on padding: batch {self.batches[first]} has length "
                f"{length}, so its steps are time=0 to {length - 1}; name the batch, "
                f'or write time="last", or a slice, which leaves padding out'
            )
        i, j = own.nonzero(as_tuple=True)
        return i, j, rows[i], times[i, j]
