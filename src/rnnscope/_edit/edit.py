"""Edits: a call run once more with some of its numbers changed, and what follows from that.

Where an edit comes first the run begins, from the trace's own states; all before it is the
trace's own, bit for bit, and so are the sequences and layers that no edit reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope._explain.address import Traced
from rnnscope._layers.call import Call
from rnnscope._layers.run import Change, run_direction
from rnnscope._layers.sequences import last_steps, state_before, without_padding
from rnnscope._layers.structure import Weights
from rnnscope._layers.tensors import plain, require_numbers
from rnnscope._opening.opening import Opened, batch_first
from rnnscope._record.record import Index, Record
from rnnscope.cells import quantity_names
from rnnscope.errors import AddressError, DtypeError, ShapeError

__all__ = ["Edit", "Editable", "Found", "Site", "difference", "rerun", "scaled"]

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
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"Edit({self.name!r}) needs one of to=, add=, scale= and by=; "
                f"got {' and '.join(given) or 'none'}"
            )

    @property
    def kind(self) -> str:
        """Which of the four is given."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def __str__(self) -> str:
        axes = ("layer", "direction", "batch", "time", "unit")
        at = ", ".join(f"{a}={getattr(self, a)!r}" for a in axes if getattr(self, a) is not None)
        return f"{self.name}{f' at {at}' if at else ''}"


class Editable(Traced, Protocol):
    """What a rerun needs of a trace."""

    @property
    def valid(self) -> Tensor:
        """(batch, time), False on padding."""

    @property
    def masks(self) -> tuple[Tensor | None, ...]:
        """What dropout let pass of each layer's input."""

    @property
    def final(self) -> dict[str, Tensor]:
        """The last states as returned, (layer, direction, batch, unit)."""

    def items(self) -> Iterable[tuple[str, Tensor]]:
        """The quantities by name."""


# where an edit is ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """The part of an edit in one layer and direction: which numbers it reaches.

    ``rows`` and ``times`` (places) are the sequence and step of each place, ``units`` the units
    at each; ``given`` (places, units) what is set, added or multiplied with, None for ``by``.
    """

    edit: Edit
    rows: Tensor
    times: Tensor
    units: Tensor
    given: Tensor | None

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last step."""
        return int(self.times.min()), int(self.times.max())

    def changed(self, values: Tensor, chosen: Tensor | None = None) -> Tensor:
        """``values`` (places, units), the numbers at all places or at those chosen, changed."""
        if self.given is None:
            assert self.edit.by is not None, "one of the four is given"
            found: Any = self.edit.by(values)
            if not isinstance(found, Tensor) or found.shape != values.shape:
                got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ShapeError(
                    f"by of the edit of {self.edit} must return (sequences, units) = "
                    f"{tuple(values.shape)}, as it is given; got {got}"
                )
            changed: Tensor = found
            return changed
        given = self.given if chosen is None else self.given[chosen]
        match self.edit.kind:
            case "to":
                return given.expand_as(values)
            case "add":
                return values + given
            case _:
                return values * given

    def apply(self, value: Tensor) -> Tensor:
        """A quantity (time, batch, units), all of whose numbers are known, changed."""
        place = (self.times[:, None], self.rows[:, None], self.units[None, :])
        return value.index_put(place, self.changed(value[place]))

    def marked(self, like: Tensor) -> Tensor:
        """True where the edit reaches, (time, batch, units)."""
        found = torch.zeros_like(like, dtype=torch.bool)
        found[self.times[:, None], self.rows[:, None], self.units[None, :]] = True
        return found


Key = tuple[str, int, int]
"""A quantity's name, layer and direction; x has one for both directions, 0."""


def sites(trace: Editable, edits: Sequence[Edit]) -> dict[Key, list[Site]]:
    """The edits by quantity, layer and direction.

    Raises ``AddressError`` where one reaches nothing, padding, or what another reaches too.
    """
    found: dict[Key, list[Site]] = {}
    for edit in edits:
        if not isinstance(edit, Edit):
            raise TypeError(f"rerun takes rs.Edit(...), and weights=; got {type(edit).__name__}")
        for key, site in _Placing(trace, edit).sites():
            for other in found.get(key, []):
                _refuse_overlap(trace, key, other, site)
            found.setdefault(key, []).append(site)
    return found


def _refuse_overlap(trace: Editable, key: Key, one: Site, other: Site) -> None:
    units = int(max(one.units.max(), other.units.max())) + 1
    like = one.rows.new_empty(trace.sizes["time"], trace.sizes["batch"], units)
    both = one.marked(like) & other.marked(like)
    if both.any():
        time, batch, unit = (int(k) for k in both.nonzero()[0])
        name, layer, d = key
        way = "" if name == "x" else f", {trace.directions[d]}"
        step = "" if name.endswith("_0") else f", time={time}"
        raise AddressError(
            f"two edits of the same place: {name} at layer {layer}{way}, batch {batch}{step}, "
            f"unit {unit} is edited by ({one.edit}) and by ({other.edit}); make them one edit"
        )


class _Placing:
    """Finds the places of one edit in a trace."""

    def __init__(self, trace: Editable, edit: Edit) -> None:
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
        """The state of which this is the initial one; None for a quantity of the steps."""
        name, cell = self.edit.name, self.trace.cell
        if not isinstance(name, str):
            raise AddressError(f"a quantity is addressed by its name; got {name!r}")
        known = (*quantity_names(cell), "x")
        if name in known:
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
                f"no quantity {name!r} to edit; there are {', '.join((*known, *initial))}"
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
        found = list(range(size))[position]
        if not found:
            raise AddressError(
                f"the edit of {self.edit} addresses nothing: {axis}={index} selects none of {size}"
            )
        return found, False

    def _directions(self) -> tuple[list[int], bool]:
        have = self.trace.directions
        if self.edit.direction is None:
            return list(range(len(have))), False
        if self.edit.direction not in have:
            raise AddressError(
                f"no direction {self.edit.direction!r}; there is {' and '.join(map(repr, have))}"
            )
        return [have.index(self.edit.direction)], True

    # the numbers that are given

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

    def _given(self) -> Tensor | None:
        """(layer, direction, batch, time, unit), one position of a dim for a dropped one."""
        edit = self.edit
        if edit.kind == "by":
            if not callable(edit.by):
                raise TypeError(f"by of the edit of {edit} must be a function; got {edit.by!r}")
            return None
        value = getattr(edit, edit.kind)
        own = self.trace["h"]
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
        value = torch.as_tensor(value, device=own.device, dtype=own.dtype)
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
        """One for each layer and direction; raises where only padding is reached."""
        given = self._given()
        device = self.trace["h"].device
        units = torch.tensor(self.unit, dtype=torch.long, device=device)
        for a, layer in enumerate(self.layers):
            for b, d in enumerate([0] if self.edit.name == "x" else self.directions):
                places = list(self._places(d))
                if not places:
                    raise AddressError(f"the edit of {self.edit} reaches padding only")
                i, j, rows, times = (
                    torch.tensor(each, dtype=torch.long, device=device)
                    for each in zip(*places, strict=True)
                )
                mine = None if given is None else given[a, b][i, j]
                yield (self.edit.name, layer, d), Site(self.edit, rows, times, units, mine)

    def _places(self, d: int) -> Iterable[tuple[int, int, int, int]]:
        """(which sequence and which time of those addressed, sequence, time) of every place."""
        lengths = self.trace.lengths.tolist()
        for i, row in enumerate(self.batches):
            length = lengths[row]
            if self.state is not None:
                yield i, 0, row, 0
            elif self.last:
                yield i, 0, row, last_steps(length, self.trace.directions[d] == "reverse")
            else:
                for j, time in enumerate(self.times):
                    if time < length:
                        yield i, j, row, time
                    elif self.one_time:
                        raise AddressError(
                            f"the edit of {self.edit} is on padding: batch {row} has length "
                            f"{length}, so its steps are time=0 to {length - 1}; name the batch, "
                            f'or write time="last", or a slice, which leaves padding out'
                        )


# the run ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a rerun gives: all that a trace is made of."""

    call: Call
    weights: tuple[tuple[Weights, ...], ...]
    opened: Opened
    output: Any
    sites: Mapping[Key, Sequence[Site]]


def rerun(
    trace: Editable, edits: Sequence[Edit], weights: Mapping[str, Tensor] | None = None
) -> Found:
    """A trace's call with edits and other weights; see ``Trace.rerun``."""
    if not edits and not weights:
        raise ValueError("nothing to change: give rs.Edit(...), or weights={name: tensor}")
    graph = torch.is_grad_enabled()
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(graph),
        torch.autocast(trace.call.x.device.type, enabled=False),
    ):
        return _Rerun(trace, sites(trace, edits), _replaced(trace, weights or {})).run()


def _replaced(
    trace: Editable, changes: Mapping[str, Tensor]
) -> tuple[tuple[Weights | None, ...], ...]:
    """The weights with changes, by layer and direction; None where nothing changes."""
    known = trace.parameters
    for name, value in changes.items():
        if name not in known:
            raise AddressError(f"weights: no parameter {name!r}; there are {', '.join(known)}")
        own = known[name]
        if not isinstance(value, Tensor):
            raise DtypeError(f"weights: {name} must be a tensor; got {type(value).__name__}")
        require_numbers(f"weights: {name}", value)
        if value.shape != own.shape:
            raise ShapeError(
                f"weights: {name} must be {tuple(own.shape)}; got {tuple(value.shape)}"
            )
        if value.dtype != own.dtype:
            raise DtypeError(f"weights: {name} must be {own.dtype}; got {value.dtype}")

    def one(weights: Weights) -> Weights | None:
        mine = {name: plain(changes[name]) for name in weights.named() if name in changes}
        return weights.replaced(mine) if mine else None

    return tuple(tuple(map(one, row)) for row in trace.weights)


def scaled(mask: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplied with, from where it let numbers pass."""
    found = mask.to(dtype)
    return found if p == 1 else found.div_(1 - p)


class _Rerun:
    """Layer by layer from below; each begins where something first reaches it."""

    def __init__(
        self,
        trace: Editable,
        edited: dict[Key, list[Site]],
        weights: tuple[tuple[Weights | None, ...], ...],
    ) -> None:
        self.trace, self.edited, self.new = trace, edited, weights
        self.structure, self.call = trace.structure, trace.call
        self.rows = self._rows()
        batch = self.call.batch
        self.local = torch.zeros(batch, dtype=torch.long, device=self.call.x.device)
        self.local[self.rows] = torch.arange(len(self.rows), device=self.local.device)
        self.whole = len(self.rows) == batch
        self.names = frozenset(name for name, _ in trace.items())
        # what was run, by layer and direction: its first step, and (time, sequences, unit) by name
        self.ran: dict[tuple[int, int], tuple[int, dict[str, Tensor]]] = {}
        self.final = {name: [list(row) for row in value] for name, value in trace.final.items()}
        self.initial = {name: [list(row) for row in v] for name, v in self.call.initial.items()}
        self.inputs: list[Tensor | None] = []

    def _rows(self) -> Tensor:
        """The sequences that are reached; they know nothing of each other."""
        device = self.call.x.device
        if any(one is not None for row in self.new for one in row):
            return torch.arange(self.call.batch, device=device)
        every = [site.rows for sites in self.edited.values() for site in sites]
        found: Tensor = torch.unique(torch.cat(every))
        return found

    def run(self) -> Found:
        """All layers, and the record of what came out."""
        reached: tuple[int, int] | None = None  # the steps at which a layer's input is another
        for layer, row in enumerate(self.trace.weights):
            x, reached = self._input(layer, reached)
            spans = []
            for d, own in enumerate(row):
                span = self._span(layer, d, reached)
                if span is not None:
                    self._run(layer, d, self.new[layer][d] or own, x, span)
                    spans.append(span)
            reached = (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None
        return self._found()

    def _input(
        self, layer: int, reached: tuple[int, int] | None
    ) -> tuple[Tensor, tuple[int, int] | None]:
        """A layer's input (time, batch, feature), and the steps at which it is another."""
        x = self.trace.layer_input(layer).transpose(0, 1)
        mask = self.trace.masks[layer]
        if reached is not None:
            below = [self._merged("h", layer - 1, d) for d in range(len(self.trace.directions))]
            x = below[0] if len(below) == 1 else torch.cat(below, dim=-1)
            if mask is not None:
                x = x * scaled(mask, self.structure.dropout, x.dtype).transpose(0, 1)
        for site in self.edited.get(("x", layer, 0), ()):
            x = site.apply(x)
            low, high = int(site.times.min()), int(site.times.max())
            reached = (
                (low, high) if reached is None else (min(low, reached[0]), max(high, reached[1]))
            )
        own = layer == 0 or mask is not None or ("x", layer, 0) in self.edited
        self.inputs.append(x if own else None)
        return x, reached

    def _span(self, layer: int, d: int, reached: tuple[int, int] | None) -> tuple[int, int] | None:
        """The first and the last step that may become others; None where none does."""
        last = self.call.steps - 1
        reverse = self.structure.directions[d] == "reverse"
        times = [] if reached is None else list(reached)
        if self.new[layer][d] is not None:
            times += [0, last]
        for (name, at_layer, at_d), sites in self.edited.items():
            if (at_layer, at_d) == (layer, d) and name != "x":
                for site in sites:
                    initial = name.endswith("_0") and name not in quantity_names(self.trace.cell)
                    times += (
                        [0, last] if initial else [int(site.times.min()), int(site.times.max())]
                    )
        if not times:
            return None
        return (0, max(times)) if reverse else (min(times), last)

    def _run(self, layer: int, d: int, weights: Weights, x: Tensor, span: tuple[int, int]) -> None:
        start, stop = span[0], span[1] + 1
        reverse = self.structure.directions[d] == "reverse"
        valid = None if self.call.valid is None else self._of(self.call.valid)[start:stop]
        passage = run_direction(
            weights,
            self._of(x)[start:stop],
            {state: self._before(state, layer, d, span) for state in self.trace.cell.states},
            valid,
            reverse,
            self.names,
            self._changes(layer, d, start),
        )
        found = {name: without_padding(value, valid) for name, value in passage.found.items()}
        self.ran[layer, d] = start, found
        for name, value in passage.final.items():
            own = self.final[name][layer][d]
            self.final[name][layer][d] = own.index_copy(0, self.rows, value.to(own.dtype))

    def _merged(self, name: str, layer: int, d: int) -> Tensor:
        """A quantity (time, batch, unit): what was run, in what the trace has."""
        own = self.trace[name][layer, d].transpose(0, 1)
        if (layer, d) not in self.ran:
            return own
        fresh = own.clone()
        self._write(fresh, name, layer, d)
        return fresh

    def _write(self, into: Tensor, name: str, layer: int, d: int) -> None:
        start, found = self.ran[layer, d]
        value = found[name]
        stop = start + len(value)
        if self.whole:
            into[start:stop] = value
        else:
            into[start:stop, self.rows] = value

    def _of(self, value: Tensor) -> Tensor:
        """(time, batch, ...) of the sequences that are reached."""
        return value if self.whole else value[:, self.rows]

    def _before(self, state: str, layer: int, d: int, span: tuple[int, int]) -> Tensor:
        """A state before the first step that is run; of a sequence that ended before, its last."""
        initial = self.initial[state][layer][d]
        for site in self.edited.get((f"{state}_0", layer, d), ()):
            initial = site.apply(initial.unsqueeze(0))[0]
        self.initial[state][layer][d] = initial
        value = self.trace[state][layer, d].transpose(0, 1)
        reverse = self.structure.directions[d] == "reverse"
        start = state_before(value, initial, self.trace.lengths, span[int(reverse)], reverse)
        return start if self.whole else start[self.rows]

    def _changes(self, layer: int, d: int, start: int) -> dict[str, Change]:
        """The edits of the quantities of one layer and direction, for a run that begins at
        ``start``."""
        found: dict[str, Change] = {}
        for (name, at_layer, at_d), sites in self.edited.items():
            if (at_layer, at_d) == (layer, d) and name in quantity_names(self.trace.cell):
                found[name] = self._change(sites, start)
        return found

    def _change(self, sites: list[Site], start: int) -> Change:
        at: dict[int, list[tuple[Site, Tensor]]] = {}
        for site in sites:
            for time in torch.unique(site.times).tolist():
                chosen = (site.times == time).nonzero()[:, 0]
                at.setdefault(time - start, []).append((site, chosen))

        def change(t: int, value: Tensor) -> Tensor:
            for site, chosen in at.get(t, ()):
                place = (self.local[site.rows[chosen]][:, None], site.units[None, :])
                value = value.index_put(place, site.changed(value[place], chosen))
            return value

        return change

    def _found(self) -> Found:
        trace, call, structure = self.trace, self.call, self.structure
        values = {}
        for name, own in trace.items():
            values[name] = own.clone()
            for layer, d in self.ran:
                self._write(values[name][layer, d].transpose(0, 1), name, layer, d)
        final = {n: torch.stack([torch.stack(row) for row in v]) for n, v in self.final.items()}
        initial = {n: torch.stack([torch.stack(row) for row in v]) for n, v in self.initial.items()}
        x = self.inputs[0]
        assert x is not None, "the first layer's input is nobody's output"
        packed = call.packed
        if packed is not None and ("x", 0, 0) in self.edited:
            packed = PackedSequence(call.pack(x).detach(), *packed[1:])
        changed = any(name.endswith("_0") for name, _, _ in self.edited)
        fresh = replace(
            call,
            x=x.detach(),
            packed=packed,
            initial={n: v.detach() for n, v in initial.items()} if changed else call.initial,
            given=call.given or changed,
        )
        top = [each.transpose(0, 1) for each in values["h"][-1]]
        hidden = top[0] if len(top) == 1 else torch.cat(top, dim=-1)
        output = structure.returning(None if structure.single_step else hidden, final, call)
        weights = tuple(
            tuple(
                own if new is None else new.map(lambda t: t.detach().clone())
                for own, new in zip(owns, news, strict=True)
            )
            for owns, news in zip(trace.weights, self.new, strict=True)
        )
        opened = Opened(values, batch_first(self.inputs), {}, masks=trace.masks)
        return Found(fresh, weights, opened, output, self.edited)


def difference(one: Record, other: Record) -> Record:
    """The numbers of ``one`` less those of ``other``, as a record; see ``Trace.difference``."""
    if one.sizes != other.sizes or one.directions != other.directions:
        raise ShapeError(
            f"the difference of two records of unequal sizes: {one.sizes} of "
            f"{' and '.join(one.directions)}, {other.sizes} of {' and '.join(other.directions)}"
        )
    if not torch.equal(one.lengths, other.lengths):
        raise ShapeError(
            f"the difference of two records of unequal lengths: {one.lengths.tolist()}, "
            f"{other.lengths.tolist()}"
        )
    values = {}
    for name in one:
        if name in other:
            if one[name].shape != other[name].shape:
                raise ShapeError(
                    f"{name} is {tuple(one[name].shape)} in one, {tuple(other[name].shape)} in the "
                    f"other"
                )
            values[name] = one[name] - other[name]
    inputs = tuple(one.layer_input(k) - other.layer_input(k) for k in range(one.sizes["layer"]))
    absent = {
        name: f"{name} is recorded in one of the two only"
        for name in set(one).symmetric_difference(other)
    }
    projected = {name: dims[-1] for name, dims in one.dims.items() if dims[-1] == "projected"}
    return Record(values, inputs, one.lengths, one.directions, projected, absent)
