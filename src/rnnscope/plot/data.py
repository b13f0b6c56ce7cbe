"""What the pictures show, as arrays: computed here, drawn elsewhere.

>>> import torch, rnnscope as rs
>>> tr = rs.trace(torch.nn.GRU(3, 4), torch.randn(6, 3))
>>> rs.plot.data.quantity(tr, "z").limits
(0.0, 1.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rnnscope._gradients.gradients import Gradients
from rnnscope._layers.sequences import last_steps
from rnnscope._layers.structure import Structure
from rnnscope._record.labels import step_labels
from rnnscope._record.record import Record
from rnnscope._trace.verbs import Trace
from rnnscope.errors import AddressError, ShapeError

__all__ = [
    "Diagram",
    "Eigenvalues",
    "Flow",
    "Lines",
    "Map",
    "Norms",
    "Saturation",
    "eigenvalues",
    "flow",
    "gradient_norm",
    "memory",
    "quantity",
    "saturation",
    "similar",
    "units",
    "unrolled",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Map:
    """A quantity over time: ``values`` (unit, time), NaN on padding; ``units`` in the order of the
    rows, ``limits`` of the colours, ``signed`` whether these are centred at zero, ``valid`` (time)
    False on padding, ``labels`` (time) or empty, ``title`` what it is."""

    values: Array
    units: tuple[int, ...]
    limits: tuple[float, float]
    signed: bool
    valid: Array
    labels: tuple[str, ...]
    title: str


@dataclass(frozen=True)
class Lines:
    """Chosen units over time: ``values`` (unit, time), ``inputs`` (time, feature) of the layer,
    both without padding; ``limits`` of the values where the cell tells them, else None."""

    values: Array
    units: tuple[int, ...]
    inputs: Array
    labels: tuple[str, ...]
    limits: tuple[float, float] | None
    title: str


@dataclass(frozen=True)
class Saturation:
    """How often a gate is nearly shut (``left``) or open (``right``): the share of steps, padding
    not counted, (layer, direction, gate, unit) of these ``layers`` and ``directions``. ``low`` and
    ``high`` are the bounds."""

    left: Array
    right: Array
    gates: tuple[str, ...]
    layers: tuple[int, ...]
    directions: tuple[str, ...]
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Norms:
    """The size of a gradient through time: ``values`` (layer, direction, time) of these ``layers``
    and ``directions``, the norm over units, its mean over the sequences that have that step."""

    values: Array
    layers: tuple[int, ...]
    directions: tuple[str, ...]
    labels: tuple[str, ...]
    title: str


@dataclass(frozen=True)
class Flow:
    """How much of a change at each step arrives at ``time``: ``values`` (time), zero behind it."""

    values: Array
    time: int
    labels: tuple[str, ...]
    title: str


@dataclass(frozen=True)
class Eigenvalues:
    """The eigenvalues of each gate's square block of W_hh: ``values`` (gate, unit), complex."""

    values: Array
    gates: tuple[str, ...]
    title: str


@dataclass(frozen=True)
class Box:
    """A box of a diagram at a column (time) and a row (from below), with its texts."""

    column: int
    row: int
    text: str
    kind: Literal["layer", "input", "joined", "output", "dots"]


@dataclass(frozen=True)
class Arrow:
    """An arrow between two boxes, as places (column, row); ``text`` stands beside it."""

    start: tuple[float, float]
    end: tuple[float, float]
    text: str = ""


@dataclass(frozen=True)
class Diagram:
    """A layer unrolled: boxes, arrows, and notes on shapes below."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    notes: tuple[str, ...]
    title: str


# over time and units -------------------------------------------------------------------------


def quantity(
    trace: Record,
    name: str,
    *,
    layer: int = 0,
    direction: str | None = None,
    batch: int = 0,
    order: Literal["similar"] | Sequence[int] | None = None,
    labels: Any = None,
) -> Map:
    """A quantity of one sequence over time and units.

    ``trace`` is a trace, or any record of its kind, such as ``tr.gradients(loss)`` or
    ``edited.difference(tr)``. ``order``: "similar" puts units next to each other that behave alike
    (``similar``), a list names them. Raises ``AddressError`` for a place that is not there.

    >>> from rnnscope import trace
    >>> tr = trace(torch.nn.LSTM(3, 4), torch.randn(6, 1, 3))
    >>> drawn = quantity(tr, "f")
    >>> drawn.values.shape, drawn.limits, drawn.signed
    ((4, 6), (0.0, 1.0), False)
    """
    layer, direction, batch = _at(trace, layer, direction, batch)
    plane = _plane(trace, name, layer, direction, batch)
    length = int(trace.lengths[batch])
    values = np.full((plane.shape[1], plane.shape[0]), np.nan)
    values[:, :length] = plane[:length].T
    chosen = tuple(range(len(values)))
    if order == "similar":
        chosen = similar(values[:, :length])
    elif isinstance(order, str):
        raise AddressError(f'order is "similar" or a list of units; got {order!r}')
    elif order is not None:
        chosen = _units(trace, np.atleast_1d(np.asarray(order)).tolist(), len(values))
    valid = trace.valid[batch].cpu().numpy()
    limits, signed = _limits(trace, name, values)
    texts = _labels(trace, labels, batch)
    title = _title(trace, name, layer, direction, batch)
    return Map(values[list(chosen)], chosen, limits, signed, valid, texts, title)


def similar(values: Array) -> tuple[int, ...]:
    """An order of rows in which those that rise and fall together are neighbours.

    Spectral seriation (Atkins, Boman and Hendrickson 1998): sorted by the second eigenvector of
    the Laplacian of (1 + correlation) / 2. Rows that do not change come last.

    >>> similar(np.array([[0.0, 1, 2], [2, 1, 0], [0, 1, 2.1], [1, 1, 1]]))
    (0, 2, 1, 3)
    """
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    moving = [k for k, row in enumerate(finite) if row.size and np.ptp(row) > 0]
    still = [k for k in range(len(finite)) if k not in moving]
    if len(moving) > 2:
        alike = (1 + np.corrcoef(finite[moving])) / 2
        laplacian = np.diag(alike.sum(1)) - alike
        fiedler = np.linalg.eigh(laplacian)[1][:, 1]
        moving = [moving[k] for k in np.argsort(np.round(fiedler, 9), kind="stable")]
        if moving.index(min(moving)) > len(moving) / 2:  # its sign means nothing
            moving.reverse()
    return (*moving, *still)


def units(
    trace: Trace,
    name: str = "h",
    chosen: int | Sequence[int] | None = None,
    *,
    layer: int = 0,
    direction: str | None = None,
    batch: int = 0,
    labels: Any = None,
) -> Lines:
    """Chosen units of a quantity over time, with the layer's input; the first four if none are
    named. Raises ``AddressError`` for a place or a unit that is not there."""
    _opened(trace)
    layer, direction, batch = _at(trace, layer, direction, batch)
    plane = _plane(trace, name, layer, direction, batch)
    length, count = int(trace.lengths[batch]), plane.shape[1]
    indices = range(min(4, count)) if chosen is None else np.atleast_1d(np.asarray(chosen)).tolist()
    names = _units(trace, indices, count)
    inputs = _numbers(trace.layer_input(layer)[batch, :length])
    limits = trace.cell.range(name) if name in trace.cell.equations else None
    texts = _labels(trace, labels, batch)
    title = _title(trace, name, layer, direction, batch)
    return Lines(plane[:length, list(names)].T, names, inputs, texts, limits, title)


def saturation(
    trace: Trace,
    *,
    low: float = 0.1,
    high: float = 0.9,
    layer: int | None = None,
    direction: str | None = None,
    batch: int | None = None,
) -> Saturation:
    """How often each unit of each gate is below ``low`` or above ``high`` (Karpathy, Johnson and
    Fei-Fei 2016, section 4.3), over all sequences and steps, or those of one sequence; of every
    layer and direction, or one.

    Gates are the quantities whose function gives numbers from 0 to 1. Raises ``AddressError``
    where the cell has none, ``ValueError`` for bounds that are none.

    >>> from rnnscope import trace
    >>> found = saturation(trace(torch.nn.GRU(3, 4), torch.zeros(5, 2, 3)))
    >>> found.gates, found.left.shape
    (('r', 'z'), (1, 1, 2, 4))
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"expected 0 <= low < high <= 1; got {low} and {high}")
    _opened(trace)
    gates = tuple(n for n in trace.cell.quantities if trace.cell.range(n) == (0.0, 1.0))
    gates = tuple(name for name in gates if name in trace)
    if not gates:
        raise AddressError(f"{trace.cell.name} has no gates: no quantity from 0 to 1 is recorded")
    layers, directions = _lanes(trace, layer, direction)
    rows = _rows(trace, batch)
    valid = trace.valid[rows]
    chosen = [_lane_values(trace[name], trace, layers, directions)[:, :, rows] for name in gates]
    kept = torch.stack(chosen, 2)[:, :, :, valid].double()
    kept[~torch.isfinite(kept)] = torch.nan  # (…, step, unit); such steps do not count
    nothing = kept.isnan()
    shut, open_ = (
        torch.where(nothing, torch.nan, beyond.double()).nanmean(3)
        for beyond in (kept < low, kept > high)
    )
    title = f"Saturation of the gates, a point a unit: {trace.structure.kind}"
    if batch is not None:
        title += f", sequence {rows[0]}"
    title += _steps_counted(valid)
    shares = _numbers(shut), _numbers(open_)
    return Saturation(*shares, gates, layers, directions, low, high, title)


# gradients, memory ---------------------------------------------------------------------------


def gradient_norm(
    gradients: Gradients,
    name: str = "h",
    *,
    layer: int | None = None,
    direction: str | None = None,
    batch: int | None = None,
    labels: Any = None,
) -> Norms:
    """The norm over units of dL/d(name) at every step of every layer and direction, or of one; of
    one sequence, or the mean over those that have the step. Raises ``AddressError`` for an unknown
    name and for a place that is not there."""
    if not isinstance(gradients, Gradients):
        raise TypeError(
            f"expected gradients, as tr.gradients(loss) gives them; got {type(gradients).__name__}"
        )
    layers, directions = _lanes(gradients, layer, direction)
    values = _lane_values(gradients[name], gradients, layers, directions)
    sizes = values.double().norm(dim=-1)  # layer, direction, batch, time
    rows = _rows(gradients, batch)
    valid_rows = gradients.valid[rows]
    total = (sizes[:, :, rows] * valid_rows).sum(2)
    count = valid_rows.sum(0)
    mean = torch.where(count > 0, total / count.clamp_min(1), torch.nan)
    texts = _labels(gradients, labels, rows[0]) if len(rows) == 1 else ()
    which = f"sequence {batch}" if batch is not None else f"mean over {len(rows)} sequences"
    title = f"|dL/d{name}_t|, {which}{_steps_counted(valid_rows)}"
    return Norms(_numbers(mean), layers, directions, texts, title)


def flow(
    trace: Trace,
    *,
    of: str = "h",
    to: str = "h",
    layer: int = 0,
    direction: str | None = None,
    batch: int = 0,
    time: int | Literal["last"] = "last",
    labels: Any = None,
) -> Flow:
    """The norm of ∂of_time/∂to_s for every step s: see ``Trace.flow``."""
    _opened(trace)
    layer, direction, batch = _at(trace, layer, direction, batch)
    values = trace.flow(of, to, layer=layer, direction=direction, batch=batch, time=time)
    length = int(trace.lengths[batch])
    last = last_steps(length, direction == "reverse")
    at = last if time == "last" else int(time) % int(trace.sizes["time"])
    texts = _labels(trace, labels, batch)
    title = f"|∂{of}_{at + 1}/∂{to}_s|, layer {layer}, {direction}, sequence {batch}"
    return Flow(_numbers(values)[:length], at, texts, title)


def memory(
    trace: Trace,
    state: str | None = None,
    *,
    layer: int = 0,
    direction: str | None = None,
    batch: int = 0,
    order: Literal["similar"] | Sequence[int] | None = None,
    labels: Any = None,
) -> Map:
    """What the last state holds of each step, over units: see ``Trace.memory``. Raises
    ``AddressError`` for a state that is no sum over the past."""
    _opened(trace)
    sums = trace.memory(state)
    where = {"layer": layer, "direction": direction, "batch": batch}
    if labels is None and trace.labels:
        labels = trace.labels
    drawn = quantity(sums, "written", order=order, labels=labels, **where)  # type: ignore[arg-type]
    title = f"written into the last {sums.state}: " + drawn.title.partition(", ")[2]
    layer, direction, batch = _at(trace, layer, direction, batch)
    remainder = float(sums.initial[layer, trace.directions.index(direction), batch].abs().max())
    if remainder > 0:
        title += f"\nnot shown: up to {remainder:.2g} that is left of the initial state"
    return Map(**{**vars(drawn), "title": title})


def eigenvalues(trace: Trace, *, layer: int = 0, direction: str | None = None) -> Eigenvalues:
    """The eigenvalues of each gate's block of W_hh. Raises ``ShapeError`` where a projection makes
    the blocks oblong."""
    _opened(trace)
    layer, direction, _ = _at(trace, layer, direction, 0)
    weights = trace.weights[layer][trace.directions.index(direction)]
    if weights.hh.shape[1] != weights.hidden_size:
        raise ShapeError(
            f"the blocks of W_hh are {weights.hidden_size} × {weights.hh.shape[1]} here (a "
            f"projection feeds back fewer numbers): only square ones have eigenvalues"
        )
    if not bool(torch.isfinite(weights.hh).all()):
        raise ValueError("W_hh holds NaN or infinite numbers: it has no eigenvalues")
    blocks = _numbers(weights.hh).reshape(-1, weights.hidden_size, weights.hidden_size)
    title = f"W_hh of {trace.structure.kind}, layer {layer}, {direction}"
    values = np.linalg.eigvals(blocks.astype(complex))
    return Eigenvalues(values, tuple(trace.cell.gates), title)


# the layer unrolled --------------------------------------------------------------------------


def unrolled(trace: Trace, *, steps: int = 3, labels: Any = None, batch: int = 0) -> Diagram:
    """The layer as a diagram over its first steps and its last one, with the names of the weights
    and the shapes of what goes in and comes out."""
    _opened(trace)
    batch = _at(trace, 0, None, batch)[2]
    if not hasattr(steps, "__index__") or steps < 1:
        raise ValueError(f"steps must be a whole number from 1 on; got {steps!r}")
    structure, total = trace.structure, int(trace.lengths[batch])
    shown = list(range(total)) if total <= steps + 1 else [*range(steps), None, total - 1]
    texts = _labels(trace, labels, batch)
    directions = structure.directions
    both = len(directions) > 1
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    # from below: x, and for each layer its directions and, where there are two, both joined
    high = 3 if both else 1
    top = structure.num_layers * high + (not both)
    for column, time in enumerate(shown):
        if time is None:
            boxes += [Box(column, row, "…", "dots") for row in range(top + 1)]
            continue
        label = f"\n{short(texts[time])}" if texts else ""
        boxes.append(Box(column, 0, f"$x_{{{time + 1}}}${label}", "input"))
        for layer in range(structure.num_layers):
            below = layer * high
            for d in range(len(directions)):
                row = below + 1 + d
                boxes.append(Box(column, row, structure.kind.removeprefix("nn."), "layer"))
                named = f"weight_ih{structure.suffixes(layer)[d]}" if column == 0 else ""
                arrows.append(Arrow((column, below), (column, row), "" if both else named))
                if both:
                    arrows.append(Arrow((column, row), (column, below + 3)))
            if both and layer < structure.num_layers - 1:
                boxes.append(Box(column, below + 3, "both, joined", "joined"))
        boxes.append(Box(column, top, _output_at(trace, time), "output"))
        if not both:
            arrows.append(Arrow((column, top - 1), (column, top)))
    for layer in range(structure.num_layers):
        for d, direction in enumerate(directions):
            row = layer * high + 1 + d
            for column in range(len(shown) - 1):
                ends = (column, row), (column + 1, row)
                text = f"weight_hh{structure.suffixes(layer)[d]}" if column == 0 else ""
                arrows.append(Arrow(*(ends if direction == "forward" else ends[::-1]), text))
    returned = trace.output
    notes = [_shape("x", _given(trace), structure, trace)]
    if isinstance(returned, Tensor) and not structure.single_step:
        notes.append(_shape("output", returned, structure, trace))
    for state in structure.cell.states:
        final = trace.h_n if state == "h" else getattr(trace, f"{state}_n")
        axes = [] if structure.single_step else ["layer × direction"]
        axes += ["batch", "unit"] if trace.call.batched else ["unit"]
        shown_as = state if structure.single_step else f"{state}_n"
        notes.append(f"{shown_as} ({', '.join(axes)}) = {tuple(final.shape)}")
    title = str(structure)
    if total < trace.sizes["time"]:
        title += f"\nsequence {batch}, {total} of {trace.sizes['time']} steps"
    return Diagram(tuple(boxes), tuple(arrows), tuple(notes), title)


def _given(trace: Trace) -> Tensor:
    x = trace.layer_input(0)
    x = x if trace.call.batched else x[0]
    return x.select(-2, 0) if trace.structure.single_step else x


def _output_at(trace: Trace, time: int) -> str:
    """How a person writes the output of a step."""
    if trace.structure.single_step:
        return "$h_{1}$"
    if not isinstance(trace.output, Tensor):
        return f"output,\nstep {time + 1}"  # packed: no index gives it
    first = trace.call.batched and trace.structure.batch_first
    return f"output[:, {time}]" if first else f"output[{time}]"


def short(text: str) -> str:
    # a dollar is no formula here
    return (text if len(text) <= 14 else f"{text[:13]}…").replace("$", r"\$")


def _shape(name: str, value: Tensor, structure: Structure, trace: Trace) -> str:
    axes = ["batch", "time", "feature" if name == "x" else "unit"]
    if structure.single_step:
        axes.remove("time")
    if not trace.call.batched:
        axes = axes[1:]
    elif structure.single_step:
        pass
    elif not structure.batch_first:
        axes = ["time", "batch", axes[2]]
        value = value.transpose(0, 1) if name == "x" else value
    return f"{name} ({', '.join(axes)}) = {tuple(value.shape)}"


# what they share -----------------------------------------------------------------------------


def _opened(trace: Any) -> None:
    if not isinstance(trace, Trace):
        raise TypeError(
            f"expected a trace, as rs.trace(layer, x) gives it; got {type(trace).__name__}"
        )


def _at(trace: Record, layer: int, direction: str | None, batch: int) -> tuple[int, str, int]:
    """A layer, a direction (the first where none is told) and a sequence that are there."""
    if not isinstance(trace, Record):
        _opened(trace)
    places = []
    for axis, index in (("layer", layer), ("batch", batch)):
        place = trace.position(axis, index)
        if isinstance(place, slice):
            raise AddressError(f"{axis} must be one whole number here; got {index!r}")
        places.append(place)
    if direction is None:
        direction = trace.directions[0]
    if direction not in trace.directions:
        names = " and ".join(map(repr, trace.directions))
        raise AddressError(f"no direction {direction!r}; there is {names}")
    return places[0], direction, places[1]


def _lanes(
    record: Record, layer: int | None, direction: str | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The layers and directions that are asked for; all where none is named."""
    place, direction_name, _ = _at(record, 0 if layer is None else layer, direction, 0)
    layers = tuple(range(record.sizes["layer"])) if layer is None else (place,)
    return layers, record.directions if direction is None else (direction_name,)


def _lane_values(
    values: Tensor, record: Record, layers: Sequence[int], directions: Sequence[str]
) -> Tensor:
    """(layer, direction, …) of these layers and directions."""
    places = [record.directions.index(direction) for direction in directions]
    return values[list(layers)][:, places]


def _rows(record: Record, batch: int | None) -> list[int]:
    """The sequences that are asked for; all where none is named."""
    count = record.sizes["batch"]
    return list(range(count)) if batch is None else [_at(record, 0, None, batch)[2]]


def _steps_counted(valid: Tensor) -> str:
    """How many steps a mean is over, where some are padding."""
    count, places = int(valid.sum()), valid.numel()
    return "" if count == places else f",\n{count} valid steps (of {places} with padding)"


def _numbers(value: Tensor) -> Array:
    array: Array = value.detach().to("cpu", torch.float64).numpy()
    return array


def _plane(trace: Record, name: str, layer: int, direction: str, batch: int) -> Array:
    """(time, unit) of one sequence in one layer and direction."""
    if name == "x":
        return _numbers(trace.layer_input(layer)[batch])
    return _numbers(trace.sel(name, layer=layer, direction=direction, batch=batch))


def _units(trace: Record, chosen: Sequence[int], count: int) -> tuple[int, ...]:
    places = [trace.position("unit", k, count) for k in chosen]
    if not places:
        raise AddressError(f"no unit is named; there are {count}, numbered 0 to {count - 1}")
    return tuple(k for k in places if isinstance(k, int))


def _limits(trace: Record, name: str, values: Array) -> tuple[tuple[float, float], bool]:
    """Where the colours begin and end, and whether they are centred at zero."""
    interval = None
    if isinstance(trace, Trace) and name in trace.cell.equations:
        interval = trace.cell.range(name)
        if interval is not None and interval[0] >= 0:
            return interval, False
    finite = np.abs(values[np.isfinite(values)])
    most = max(map(abs, interval)) if interval else float(finite.max()) if finite.size else 1.0
    return (-(most or 1.0), most or 1.0), True


def _labels(trace: Record, labels: Any, batch: int) -> tuple[str, ...]:
    rows = step_labels(labels, trace.lengths.tolist()) or getattr(trace, "labels", ())
    return tuple(rows[batch]) if rows else ()


def _title(trace: Record, name: str, layer: int, direction: str, batch: int) -> str:
    word = trace.cell.words.get(name, "") if isinstance(trace, Trace) else ""
    named = f"{name} ({word})" if word else name
    return f"{named}, layer {layer}, {direction}, sequence {batch}"
