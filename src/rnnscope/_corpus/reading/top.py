"""The steps of a data set at which a unit is largest, with what stands around them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnnscope._corpus.disk.chunks import Array
from rnnscope._corpus.reading.lazily import computed
from rnnscope._corpus.reading.parts import axis_labels, lazy_column, lazy_quantity, with_steps
from rnnscope._corpus.reading.top_text import page, rich_text, spans, text
from rnnscope._files.disk import replacing
from rnnscope._record.extras import package_of_extra
from rnnscope.errors import AddressError

__all__ = ["Hit", "Top", "top"]


@dataclass(frozen=True)
class Hit:
    """A step at which the unit is large: ``value`` at ``time`` of ``sequence``; around it the
    ``times``, ``values`` and ``labels`` of its sequence, in which it is number ``at``."""

    row: int
    sequence: int
    time: int
    value: float
    at: int
    times: tuple[int, ...]
    values: tuple[float, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Top:
    """Steps at which a unit is largest, the largest first; printed, the text around each, coloured
    by the unit's value where the terminal or notebook has colours."""

    title: str
    hits: tuple[Hit, ...]

    def __str__(self) -> str:
        return text(self)

    __repr__ = __str__

    def __rich__(self) -> Any:
        return rich_text(self)

    def _repr_html_(self) -> str:
        return spans(self)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The same as a page of HTML that needs nothing else; written to ``path`` where one is
        given. Raises ``FileError`` where it cannot be written."""
        html = page(self)
        if path is not None:
            with replacing(Path(path)) as temporary:
                temporary.write_text(html, encoding="utf-8")
        return html


def top(
    dataset: Any,
    name: str,
    *,
    unit: int,
    layer: int | None = None,
    direction: str | None = None,
    k: int = 20,
    lowest: bool = False,
    distinct: bool = False,
    around: int = 8,
) -> Top:
    """The ``k`` steps at which a unit of a quantity is largest, over a dataset of ``open_record``.

    ``layer`` and ``direction`` may be left out where there is one; ``lowest`` asks for the smallest
    values; ``distinct`` takes one step of a sequence only; ``around`` is how many steps before and
    behind are shown. The result prints as text and has ``hits``, and ``to_html()``. The data are
    read block by block, by the Dask client where there is one.

    >>> import tempfile, torch
    >>> from rnnscope import record, open_record
    >>> path = f"{tempfile.mkdtemp()}/gates.zarr"
    >>> model, x = torch.nn.GRU(1, 2, batch_first=True), torch.tensor([[[0.0], [9.0], [0.0]]])
    >>> store = record(model, [x], path, labels=lambda batch: "abc")
    >>> print(top(open_record(path)[""], "z", unit=0, k=1))     # doctest: +ELLIPSIS
    z of unit 0, layer 0, forward: the largest over 3 steps
      ...  sequence 0, time ...

    Raises ``AddressError`` for a name or place that is not there.
    """
    dataset = with_steps(dataset)
    quantity = lazy_quantity(dataset, name)
    for option, number, least in (("k", k, 1), ("around", around, 0)):
        if not hasattr(number, "__index__") or number < least:
            raise ValueError(f"{option} must be a whole number of at least {least}; got {number!r}")
    column, place, side = _column(quantity, layer, direction, unit)
    columns = {n: lazy_column(dataset, n) for n in ("sequence", "time")}
    columns |= {n: lazy_column(dataset, n) for n in ("label", "call") if n in dataset.coords}
    for axis, values in columns.items():
        if values.ndim > 1:  # of last steps each direction has its own
            columns[axis] = dataset[axis].transpose("step", "direction").data[:, side]
    rows = _largest(column, columns["sequence"], k, lowest, distinct)
    words = "smallest" if lowest else "largest"
    title = f"{name} of {place}: the {words} over {dataset.sizes['step']:,} steps"
    return Top(title, _hits(columns, column, rows, around))


def _column(
    quantity: Any, layer: int | None, direction: str | None, unit: int
) -> tuple[Any, str, int]:
    """A unit's values over the steps, the words for where it is, and the number of its
    direction."""
    layers, directions, units = (axis_labels(quantity, axis) for axis in quantity.dims[1:])
    number = _position("layer", layer, layers)
    if direction is None and len(directions) > 1:
        raise AddressError("choose a direction: direction='forward' or direction='reverse'")
    if direction is not None and direction not in directions:
        raise AddressError(f"no direction {direction!r}; there is {' and '.join(directions)}")
    chosen = direction or directions[0]
    at = _position("unit", unit, units)
    side = directions.index(chosen)
    values = quantity.data[:, number, side, at]
    return values, f"unit {units[at]}, layer {layers[number]}, {chosen}", side


def _position(axis: str, index: int | None, labels: list[int]) -> int:
    """Where the layer or unit of this number is, which is another place where a part was chosen;
    a number below 0 counts from the end."""
    if index is None:
        if len(labels) > 1:
            raise AddressError(f"choose a {axis}: {axis}={labels[0]} to {axis}={labels[-1]}")
        return 0
    if isinstance(index, bool) or not hasattr(index, "__index__"):
        raise AddressError(f"{axis} must be a whole number; got {index!r}")
    wanted = index.__index__()
    if wanted in labels:
        return labels.index(wanted)
    if -len(labels) <= wanted < 0:
        return wanted % len(labels)
    some = labels != list(range(len(labels)))
    numbered = ", ".join(map(str, labels)) if some else f"0 to {len(labels) - 1}"
    raise AddressError(f"no {axis} {index}: there are {len(labels)}, numbered {numbered}")


def _largest(column: Any, sequences: Any, k: int, lowest: bool, distinct: bool) -> list[int]:
    """The rows with the largest values, the largest first; of equal ones the first row."""
    delayed = package_of_extra("dask", "record").delayed
    blocks = column.to_delayed().tolist()
    sizes = column.chunks[0]
    numbers = (
        sequences.rechunk((sizes,)).to_delayed().tolist() if distinct else [None] * len(blocks)
    )
    parts, start = [], 0
    for block, number, size in zip(blocks, numbers, sizes, strict=True):
        parts.append(delayed(candidates)(block, number, start, k, lowest))
        start += size
    chosen = computed(parts)
    values = np.concatenate([part[0] for part in chosen])
    rows = np.concatenate([part[1] for part in chosen])
    of_sequence = np.concatenate([part[2] for part in chosen])
    return _chosen(values, rows, of_sequence, k, lowest, distinct)


def candidates(
    values: Array, sequences: Array | None, start: int, k: int, lowest: bool
) -> tuple[Array, Array, Array]:
    """The values, rows and sequences of a block among which the ``k`` largest of it are; of each
    sequence the largest, where sequences are told apart."""
    (rows,) = np.nonzero(~np.isnan(values))
    numbers = np.zeros(len(values), np.int64) if sequences is None else np.asarray(sequences)
    chosen = _chosen(values[rows], rows, numbers[rows], k, lowest, sequences is not None)
    at = np.asarray(chosen, np.int64)
    return values[at], at + start, numbers[at]


def _chosen(
    values: Array, rows: Array, sequences: Array, k: int, lowest: bool, distinct: bool
) -> list[int]:
    order = np.lexsort((rows, values if lowest else -values))
    if distinct:
        _, first = np.unique(sequences[order], return_index=True)
        order = order[np.sort(first)]
    chosen: list[int] = rows[order[:k]].tolist()
    return chosen


def _hits(columns: Mapping[str, Any], column: Any, rows: list[int], around: int) -> tuple[Hit, ...]:
    """Each row with the steps of its sequence around it."""
    steps = len(column)
    names = list(columns)
    wanted: list[Any] = []
    for row in rows:
        span = slice(max(row - around, 0), min(row + around + 1, steps))
        wanted += [column[span], *(values[span] for values in columns.values())]
    values = computed(wanted)
    hits = []
    width = 1 + len(names)
    for k, row in enumerate(rows):
        column_values, *coordinates = values[k * width : (k + 1) * width]
        places = dict(zip(names, coordinates, strict=True))
        at = row - max(row - around, 0)
        same = places["sequence"] == places["sequence"][at]
        if "call" in places:
            same &= places["call"] == places["call"][at]
        inside = np.nonzero(same)[0]
        hits.append(
            Hit(
                row,
                int(places["sequence"][at]),
                int(places["time"][at]),
                float(column_values[at]),
                int(at - inside[0]),
                tuple(places["time"][inside].tolist()),
                tuple(column_values[inside].astype(float).tolist()),
                tuple(map(str, places["label"][inside])) if "label" in places else (),
            )
        )
    return tuple(hits)
