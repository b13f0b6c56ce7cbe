"""From what a watch saw of one batch to the rows that are to be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rnnscope._corpus.disk.description import LayerForm, StoredQuantity
from rnnscope._corpus.layer_labels import BatchLabels, check_layers, of_layer
from rnnscope._corpus.rows import CapturedBatch, CapturedCall, CapturedLayer
from rnnscope._corpus.settings import Selected, name_of_type
from rnnscope._record.labels import Labels
from rnnscope._trace.verbs import Trace
from rnnscope._watch.seen import Seen
from rnnscope._watch.watch import Watch
from rnnscope.cells import Cell, quantity_names
from rnnscope.errors import RefusedError, ShapeError

__all__ = ["WatchedBatch", "captured_batch", "refuse_skipped"]


@dataclass(frozen=True)
class WatchedBatch:
    """A batch that has gone through the model: the watch that saw it, which need not have opened
    the calls yet, and the labels and the mask that the user's functions gave."""

    seen: Watch
    digest: str
    labels: Any
    mask: Any


def refuse_skipped(seen: Seen) -> None:
    """Raise ``RefusedError`` where a layer was not recorded."""
    if seen.skipped:
        reasons = "; ".join(f"{name or 'the model'}: {why}" for name, why in seen.skipped.items())
        raise RefusedError(
            f"not recorded: {reasons.rstrip('.')}. modules=[...] names those that are "
            f"wanted; on_error='skip' goes on behind such a batch"
        )


def captured_batch(batch: WatchedBatch, number: int, settings: Selected) -> CapturedBatch:
    """What is to be written of a batch.

    Raises ``RefusedError`` where a layer was not recorded, ``ShapeError`` for labels and masks that
    do not fit.
    """
    seen, mask, labels = batch.seen, batch.mask, BatchLabels(batch.labels)
    refuse_skipped(seen)
    check_layers(labels.values, seen.names, "labels=")
    check_layers(mask, seen.names, "steps=")
    layers = {}
    for name in seen.names:
        traces = seen.calls(name)
        if len(traces) > 1:
            traces = list(seen.segments(name))
        if traces:
            layers[name] = _captured_layer(name, traces, labels, mask, settings)
    if not layers:
        raise RefusedError(
            "the model called no recurrent layer with this batch: does call= run those that are "
            "to be recorded?"
        )
    labels.check()
    return CapturedBatch(number, batch.digest, layers, labels.labelled)


def _captured_layer(
    name: str, traces: list[Trace], labels: BatchLabels, mask: Any, settings: Selected
) -> CapturedLayer:
    first = traces[0]
    names = _chosen(first.cell, settings)
    form = LayerForm(
        str(first.structure),
        first.cell.name,
        first.directions,
        {name: _quantity(first, name, settings.dtype) for name in names},
    )
    calls: list[CapturedCall] = []
    for k, tr in enumerate(traces):
        texts = labels.of(name, k, traces)
        try:
            call = _captured_call(tr, names, texts, settings.steps, of_layer(mask, name, k))
        except ShapeError as error:
            advice = ". A dict {layer: mask} gives each layer its own"
            raise ShapeError(f"{name!r}: {error}{advice}" if name else str(error)) from error
        calls.append(replace(call, number=k))
    deviations = [(tr.deviation, tr.tolerance) for tr in traces if tr.deviation is not None]
    deviation, tolerance = max(deviations, default=(None, None), key=lambda pair: pair[0])
    return CapturedLayer(
        form,
        calls,
        sum(int(tr.lengths.sum()) for tr in traces),
        deviation,
        tolerance,
        tuple(sorted({state for tr in traces for state in tr.unverified})),
    )


def _chosen(cell: Cell, settings: Selected) -> tuple[str, ...]:
    if settings.names == "gates":
        return tuple(cell.quantities)
    every = quantity_names(cell)
    if settings.names == "all":
        return tuple(every)
    names = (settings.names,) if isinstance(settings.names, str) else settings.names
    return tuple(name for name in dict.fromkeys(names) if name in every)


def _quantity(tr: Trace, name: str, dtype: torch.dtype | None) -> StoredQuantity:
    value = tr[name]
    kept = dtype or value.dtype
    stored_as = ""
    if kept == torch.bfloat16:
        kept, stored_as = torch.float32, "float32, from bfloat16"
    if dtype is not None and dtype != value.dtype:
        stored_as = f"{name_of_type(dtype)}, from {name_of_type(value.dtype)}"
    bounds = tr.cell.range(name) if name in tr.cell.quantities else None
    layer, direction, _, _, unit = value.shape
    return StoredQuantity(
        (layer, direction, unit), name_of_type(kept), tr.dims[name][-1], bounds, stored_as
    )


def _captured_call(
    tr: Trace,
    names: tuple[str, ...],
    texts: Labels,
    steps: str | Callable[[Any], Any],
    mask: Any,
) -> CapturedCall:
    sequences = tr.sizes["batch"]
    if steps == "last":
        last = tr.lengths.cpu() - 1
        if "forward" not in tr.directions:
            last = torch.zeros_like(last)
        ends = torch.stack([torch.arange(sequences, device="cpu"), last], dim=1)
        values = {name: tr.sel(name, time="last") for name in names}
        return CapturedCall(values, ends, sequences, texts, False, True)
    valid = tr.valid
    if mask is not None:
        valid = valid & _mask(mask, valid)
    index = valid.nonzero()
    full = index.shape[0] == valid.numel()
    return CapturedCall({name: tr[name] for name in names}, index, sequences, texts, full, False)


def _mask(mask: Any, valid: Tensor) -> Tensor:
    """A mask as the function steps= gave it, (batch, time)."""
    wanted = tuple(valid.shape)
    try:
        chosen = torch.as_tensor(mask, device=valid.device, dtype=torch.bool)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            f"steps= must give a mask (batch, time) of {wanted}; got {type(mask).__name__} "
            f"({error})"
        ) from error
    if tuple(chosen.shape) != wanted:
        raise ShapeError(
            f"steps= must give a mask (batch, time) of {wanted}; got {tuple(chosen.shape)}"
        )
    return chosen
