"""Reading a store: each layer as a dataset of xarray, its numbers read when they are asked for."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from rnnscope._corpus.disk.chunks import most_rows
from rnnscope._corpus.disk.description import LayerForm
from rnnscope._corpus.disk.folder import Folder, place_of
from rnnscope._corpus.disk.shard import Shard, group_of
from rnnscope._corpus.disk.store import Store
from rnnscope._corpus.reading.columns import (
    BatchColumn,
    Column,
    LabelColumn,
    Piece,
    pieces_of,
)
from rnnscope._corpus.reading.lazily import computed
from rnnscope._corpus.reading.parts import lazy_column, with_steps
from rnnscope._record.extras import package_of_extra
from rnnscope.errors import AddressError, FileError

__all__ = ["numbers", "open_record", "sequence"]


def numbers(count: int, noun: str) -> str:
    """A count with its noun: 1 batch, 2,000 batches."""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def open_record(path: str | os.PathLike[str], *, partial: bool = False) -> dict[str, Any]:
    """What ``record`` wrote: for each layer, by its name, an ``xarray.Dataset``, read lazily.

    A variable for each quantity, (step, layer, direction, unit), of an LSTM with a projection ``h``
    (step, layer, direction, projected). Coordinates of the steps are ``batch`` (its number),
    ``sequence`` (counted over the data set: over the recorded batches, of which one that did not
    reach the layer counts with as many sequences as its other layers have), ``time`` (the position
    in its sequence, in the input's order), ``label`` where steps are labelled, and ``call`` where
    the model called the layer more than once with a batch. With ``steps="last"`` each direction of
    a bidirectional layer has its own ``time``, (step, direction), and the reverse one no labels.
    The layer of a model that is itself one has the name "". Of a recording
    that was cut short it holds the shards that are there; what is in the journal, the next call of
    ``record`` makes a shard of.

    >>> import tempfile, torch
    >>> from rnnscope import record
    >>> path = f"{tempfile.mkdtemp()}/gates.zarr"
    >>> model = torch.nn.GRU(3, 4, batch_first=True)
    >>> store = record(model, [torch.randn(2, 5, 3)], path, labels=lambda batch: "abcde")
    >>> ds = open_record(path)[""]
    >>> ds["z"].sel(layer=0, direction="forward").to_pandas().shape       # by step
    (10, 4)
    >>> [str(text) for text in ds["label"].values[:6]]
    ['a', 'b', 'c', 'd', 'e', 'a']

    Raises ``FileError`` where there is no store, and where shards are damaged or batches in the
    middle are missing, with their names; ``partial=True`` opens what is whole all the same, the
    sequences counted over that.
    """
    package_of_extra("dask.array", "record")
    xarray = package_of_extra("xarray", "record")
    place = place_of(path)
    store = Store.find(place)
    if store is None:
        raise FileError(f"{place.text}: there is no store of rs.record here")
    store.look()
    if not partial:
        _check_whole(store)
    return {module: _dataset(xarray, store, module, form) for module, form in store.forms.items()}


def _check_whole(store: Store) -> None:
    advice = "rs.open_record(path, partial=True) opens the rest"
    if store.damaged:
        raise FileError(f"{'; '.join(store.damaged.values())}. {advice}")
    there = [batch.number for batch in store.batches]
    # of a recording that was complete the last ones too
    end = max(there[-1] if there else 0, store.expected or 0)
    inside = [number for number in store.missing() if there and number < end]
    if inside:
        named = ", ".join(map(str, inside[:5])) + (" and more" if len(inside) > 5 else "")
        raise FileError(
            f"{store.place.text} lacks batch {named}: the recording is not finished, so the "
            f"sequences cannot be counted. Run rs.record again to go on; {advice}"
        )
    if not there:
        raise FileError(f"{store.place.text} holds no shard yet: run rs.record again to go on")


def _dataset(xarray: Any, store: Store, module: str, form: LayerForm) -> Any:
    place, shards = store.place, store.shards
    pieces = [piece for piece in pieces_of(shards, module) if piece.rows]
    variables = {}
    for name, quantity in form.quantities.items():
        row_bytes = int(np.prod(quantity.shape)) * np.dtype(quantity.dtype).itemsize
        column = Column(place, pieces, (module, name), quantity.shape, quantity.dtype)
        notes = {"stored_as": quantity.stored_as} if quantity.stored_as else {}
        if quantity.range is not None:
            notes["range"] = list(quantity.range)  # type: ignore[assignment]
        dims = ("step", "layer", "direction", quantity.unit)
        variables[name] = (dims, column.lazy(most_rows(row_bytes)), notes)
    steps = store.origin.settings.get("steps", "all")
    sizes = {quantity.unit: quantity.shape[2] for quantity in form.quantities.values()}
    sizes["layer"] = max((quantity.shape[0] for quantity in form.quantities.values()), default=0)
    coordinates: dict[str, Any] = {axis: np.arange(size) for axis, size in sizes.items()}
    coordinates["direction"] = list(form.directions)
    coordinates |= _coordinates(place, shards, pieces, module)
    if steps == "last" and "reverse" in form.directions:
        coordinates |= _last_places(coordinates, form.directions)
    facts = {"structure": form.structure, "cell": form.cell, "module": module, "steps": steps}
    return xarray.Dataset(variables, coords=coordinates, attrs=facts)


def _coordinates(
    place: Folder, shards: list[Shard], pieces: list[Piece], module: str
) -> dict[str, Any]:
    """The columns that say of each row which step it is."""
    rows = most_rows(np.dtype(np.int32).itemsize)
    columns: dict[str, Column] = {
        "batch": BatchColumn(place, shards, module),
        "sequence": Column(place, pieces, (module, "sequence"), (), np.int64, add=True),
        "time": Column(place, pieces, (module, "time"), (), np.int32),
    }
    group = group_of(module)
    holders = {s.name for s in shards if f"{group}/label_end/zarr.json" in s.files}
    if holders:
        columns["label"] = LabelColumn(place, pieces, module, holders)
    callers = {s.name for s in shards if f"{group}/call/zarr.json" in s.files}
    if callers:
        columns["call"] = OptionalColumn(place, pieces, (module, "call"), callers)
    return {name: ("step", column.lazy(rows)) for name, column in columns.items()}


def _last_places(
    coordinates: dict[str, Any], directions: tuple[str, ...]
) -> dict[str, tuple[tuple[str, ...], Any]]:
    """The last step of each direction: the reverse one's is at time 0, whose label is no row's."""
    array = package_of_extra("dask.array", "record")
    places: dict[str, tuple[tuple[str, ...], Any]] = {}
    for name, nothing in (("time", 0), ("label", "")):
        if name not in coordinates:
            continue
        _, forward = coordinates[name]
        first = array.full(forward.shape, nothing, dtype=forward.dtype, chunks=forward.chunks)
        if len(directions) > 1:
            columns = [first if direction == "reverse" else forward for direction in directions]
            places[name] = (("step", "direction"), array.stack(columns, axis=1))
        elif name == "time":
            places[name] = (("step",), first)
    return places


class OptionalColumn(Column):
    """A column that some shards lack, whose rows are 0 there."""

    def __init__(
        self, place: Folder, pieces: list[Piece], address: tuple[str, str], holders: set[str]
    ) -> None:
        super().__init__(place, pieces, address, (), np.int32)
        self.holders = frozenset(holders)

    def _read(self, piece: Piece, first: int, last: int) -> Any:
        if piece.shard not in self.holders:
            return np.zeros(last - first, self.dtype)
        return super()._read(piece, first, last)


def sequence(dataset: Any, number: int, *, call: int = 0) -> Any:
    """One sequence of a dataset that ``open_record`` gave, as a dataset with dims (time, layer,
    direction, unit); ``call`` chooses among several calls of the layer with one batch. Of a store
    of last steps of both directions it is one row with the dim ``step``.

    >>> import tempfile, torch
    >>> from rnnscope import record, open_record
    >>> path = f"{tempfile.mkdtemp()}/gates.zarr"
    >>> store = record(torch.nn.GRU(3, 4, batch_first=True), [torch.randn(2, 5, 3)], path)
    >>> sequence(open_record(path)[""], 1)["h"].shape
    (5, 1, 1, 4)

    Raises ``AddressError`` for a sequence that is not there.
    """
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise AddressError(f"a sequence is addressed by its number; got {number!r}")
    dataset = with_steps(dataset)
    sequences = lazy_column(dataset, "sequence")
    rows = sequences == number.__index__()
    if "call" in dataset.coords:
        rows = rows & (dataset["call"].data == call)
    elif call != 0:
        raise AddressError(f"no call {call}: the layer was called once with each batch")
    (inside,) = computed([rows])
    (at,) = np.nonzero(inside)
    if not len(at):
        (numbered,) = computed([sequences])
        steps = str(dataset.attrs.get("steps", ""))
        mask = " (steps= chose none of its steps, or it is not there)" if "mask" in steps else ""
        raise AddressError(
            f"no sequence {number}{f' of call {call}' if call else ''} has rows here{mask}; those "
            f"that have are {_runs(np.unique(numbered).tolist())}"
        )
    # rows of a sequence follow each other, unless somebody put them in another order
    span = slice(int(at[0]), int(at[-1]) + 1)
    (chosen,) = computed([dataset.isel(step=span if span.stop - span.start == len(at) else at)])
    return chosen.swap_dims(step="time") if chosen["time"].ndim == 1 else chosen


def _runs(numbers: list[int]) -> str:
    """Numbers in words, those without a gap as one."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    words = [" to ".join(map(str, run)) for run in runs]
    if not words:
        return "none"
    more = f" and more, up to {numbers[-1]}" if len(words) > 6 else ""
    return f"numbered {', '.join(words[:6])}{more}"
