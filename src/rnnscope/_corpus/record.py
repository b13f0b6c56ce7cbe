"""record: a data set through a model, onto disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rnnscope._corpus.cluster import record_with
from rnnscope._corpus.digests import digests_of_weights
from rnnscope._corpus.disk.folder import Folder, place_of
from rnnscope._corpus.disk.store import Origin, Store
from rnnscope._corpus.progress import Report, reporting
from rnnscope._corpus.reading.corpus import Corpus
from rnnscope._corpus.recording import OnError, Options, Recording, record_here
from rnnscope._corpus.settings import Call, Selected, autocast_now, selected
from rnnscope._corpus.sources import source_of
from rnnscope._layers.adapter import Cells
from rnnscope._record.extras import package_of_extra
from rnnscope._trace.trace import Check
from rnnscope._watch.watch import watch
from rnnscope.errors import AddressError, FileError, NotRecurrentError, RefusedError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["record"]


def record(
    model: nn.Module,
    batches: Any,
    path: str | os.PathLike[str],
    *,
    names: str | Iterable[str] = "gates",
    modules: str | Iterable[str] | None = None,
    call: Call | None = None,
    labels: Callable[[Any], Any] | None = None,
    steps: str | Callable[[Any], Any] = "all",
    dtype: torch.dtype | None = None,
    check: Check = True,
    cells: Cells | None = None,
    resume: bool = True,
    on_error: OnError = "raise",
    progress: bool | Report = True,
    shard_bytes: int = 64 * 2**20,
    compress: bool = True,
    client: Client | None = None,
) -> Corpus:
    """Run batches through a model and keep every step of every recurrent layer on disk.

    Each batch goes through the model once, without gradients; its layers are opened and proven as
    ``watch`` does, and the valid steps of each sequence become rows of a store at ``path`` (a
    folder, or a URL that fsspec knows), which ``open_record`` reads. What was recorded stays: after
    an end of any kind the same call goes on behind the last whole batch, as long as weights and
    settings are the same. Memory holds two batches' records, whatever the number of batches.

    ``batches`` are those of a list, a DataLoader or a generator, or functions that load one;
    ``names`` are the quantities, as trace's ``record``; ``modules`` the names or patterns of layers
    (all where left out); ``call(model, batch)`` runs the model where ``model(batch)``,
    ``model(*batch)`` of a tuple and ``model(**batch)`` of a mapping do not; ``labels(batch)`` gives
    a list of texts for each sequence, or one list for all (a single text is that of its letters),
    which belong to the layers that they fit in every batch; ``steps`` is "all", "last" (each
    sequence's own last step in each direction) or a function that gives a mask (batch, time); both
    functions may give a dict by the layer's name. ``dtype`` is the type of number on disk.
    ``check`` and ``cells`` are those of ``watch``. ``on_error="skip"`` notes a batch that the model
    refuses and goes on; ``progress`` shows a bar in a terminal, or is a function that is given a
    ``Progress`` after each batch; a shard has about ``shard_bytes``, compressed without loss unless
    ``compress=False``. With ``client``, a Dask client, its workers do the work, each batch exactly
    once.

    >>> import tempfile
    >>> from rnnscope import open_record
    >>> model, x = nn.GRU(3, 4, batch_first=True), torch.randn(8, 5, 3)
    >>> path = f"{tempfile.mkdtemp()}/gates.zarr"
    >>> store = record(model, x.split(2), path, progress=False)
    >>> open_record(path)[""]["z"].shape             # step, layer, direction, unit
    (40, 1, 1, 4)

    Raises ``NotRecurrentError`` and ``RefusedError`` for a model that cannot be recorded,
    ``FileError`` where the path is something else, is of other weights, settings or batches, or
    cannot be written, and ``MissingExtraError`` without the extra ``record``; with the number of
    the batch ``BatchError`` where the model or a function raises, ``RefusedError`` for an empty one
    or one that reaches no layer, ``ShapeError`` and ``AddressError`` for labels and masks that do
    not fit, and ``VerificationError`` where a deviation is beyond rounding.
    """
    for module in ("zarr", "dask.array", "xarray"):
        package_of_extra(module, "record")
    settings = selected(names, modules, (call, labels), steps, (dtype, check, cells))
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip"; got {on_error!r}')
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1; got {shard_bytes}")
    if client is not None and autocast_now():
        raise RefusedError(
            "the workers of client= do not run under this process's torch.autocast: leave it, and "
            "enter it in call="
        )
    layers = _layers_of(model, settings)
    source = source_of(batches, resume=resume, by_number=client is not None)
    place = place_of(path)
    _check_place(place)
    with place.locked(), reporting(progress) as report:
        store = _store_at(place, model, settings, layers, resume)
        recording = Recording(model, source, store, settings, Options(on_error, report, client))
        if client is None:
            record_here(recording, shard_bytes, compress)
        else:
            record_with(recording, compress)
    return Corpus(path)


def _layers_of(model: nn.Module, settings: Selected) -> tuple[str, ...]:
    """The layers that are watched; raises for a model that holds nothing to record, before
    anything is written."""
    if not isinstance(model, nn.Module):
        raise NotRecurrentError(f"record takes an nn.Module; got {type(model).__name__}")
    try:
        with watch(
            model,
            names=settings.modules,
            record=settings.names,
            check=settings.check,
            cells=settings.cells,
        ) as seen:
            skipped = dict(seen.skipped)
    except AddressError as error:
        text = str(error).replace("names: no", "modules: no")
        raise AddressError(text.replace("record must be", "names must be")) from None
    if skipped:
        reasons = "; ".join(f"{name or 'the model'}: {why}" for name, why in skipped.items())
        raise RefusedError(
            f"some layers cannot be recorded: {reasons}. modules=[...] names those that are wanted"
        )
    return seen.names


def _check_place(place: Folder) -> None:
    """Raise for a place that is something else, before a lock is left in it."""
    Store.find(place)


def _store_at(
    place: Folder, model: nn.Module, settings: Selected, layers: tuple[str, ...], resume: bool
) -> Store:
    """The store to write to, new or gone on with."""
    from importlib.metadata import version

    origin = Origin(
        f"{type(model).__module__}.{type(model).__qualname__}",
        model.training,
        digests_of_weights(model),
        settings.facts,
        layers,
    )
    store = Store.find(place)
    if store is None:
        return Store.create(place, origin, version("rnnscope"))
    if not resume:
        raise FileError(
            f"{place.text} holds a store already: resume=True goes on with it; for a new one name "
            f"another path, or remove that folder"
        )
    store.look()
    if store.damaged:
        raise FileError("; ".join(store.damaged.values()))
    difference = origin.difference(store.origin)
    if difference is not None and not (store.batches or store.journaled):
        return Store.create(place, origin, version("rnnscope"))  # nothing is in it yet
    if difference is not None:
        raise FileError(
            f"{place.text} cannot be gone on with: {difference}. Record into another path"
        )
    return store
