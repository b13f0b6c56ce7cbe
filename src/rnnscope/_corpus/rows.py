"""From what a watch saw of one batch to rows: the valid steps of every sequence, one after another.

A row is a step of a sequence, (layer, direction, unit); rows of a batch follow each other sequence
by sequence, each in the order of time, so nothing on disk is padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnscope._corpus.disk.chunks import Array
from rnnscope._corpus.disk.description import BatchFacts, LayerForm, LayerRows
from rnnscope._record.labels import Labels
from rnnscope.errors import ShapeError

__all__ = ["CapturedBatch", "CapturedCall", "CapturedLayer", "changed_layer"]

PIECE = 1 << 20
"""Bytes of a quantity that go to disk at a time: they stay in cache on their way."""


@dataclass(frozen=True)
class CapturedCall:
    """A call of a layer: its quantities (layer, direction, batch, time, unit), or at ``last`` steps
    (layer, direction, batch, unit); the sequence and time of each row (row, 2); and its labels.

    ``full``: every step is a row; ``number`` counts the calls of a layer with one batch, ``before``
    the sequences of the batches before it in a partition."""

    values: Mapping[str, Tensor]
    index: Tensor
    sequences: int
    labels: Labels
    full: bool
    last: bool
    number: int = 0
    before: int = 0

    def coordinates(self) -> dict[str, Array]:
        """Of each row, in whole numbers."""
        index = self.index.cpu().numpy()
        return {
            "sequence": index[:, 0] + self.before,
            "time": index[:, 1],
            "call": np.full(len(index), self.number),
        }

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A quantity as (row, layer, direction, unit), in the order of the index: about ``PIECE``
        bytes of it at a time, and whole sequences where every step is a row."""
        value = self.values[name]
        if self.last:
            yield value.permute(2, 0, 1, 3)
            return
        by_step = value.permute(2, 3, 0, 1, 4)
        row_bytes = by_step[0, 0].numel() * value.element_size()
        rows = max(1, PIECE // max(row_bytes, 1))
        if self.full:
            count = max(1, rows // value.shape[3])
            for start in range(0, self.sequences, count):
                yield by_step[start : start + count]
            return
        for start in range(0, len(self.index), rows):
            sequence, time = self.index[start : start + rows].T
            yield by_step[sequence, time]


@dataclass
class CapturedLayer:
    """All calls of a layer within a batch."""

    form: LayerForm
    calls: list[CapturedCall]
    steps: int
    deviation: float | None
    tolerance: float | None
    unverified: tuple[str, ...]
    nonfinite: dict[str, int] = field(default_factory=dict)
    _piece: Array | None = None  # bytes that every quantity uses again

    @cached_property
    def text(self) -> tuple[bytes, Array]:
        """The labels of all rows as bytes, and where each ends."""
        texts = [
            (call.labels[b][t] if call.labels else "").encode("utf-8", "surrogatepass")
            for call in self.calls
            for b, t in call.index.tolist()
        ]
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        return b"".join(texts), ends

    @property
    def labelled(self) -> bool:
        """Whether any call has labels."""
        return any(call.labels for call in self.calls)

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that are written."""
        several = ("call",) if any(call.number for call in self.calls) else ()
        text = ("label_end", "label_text") if self.labelled else ()
        return (*self.form.quantities, "time", "sequence", *several, *text)

    def pieces(self, name: str) -> Iterator[Array]:
        """One of them, at least one piece, which is read before the next is asked for; NaN and
        infinities of a quantity are counted on the way."""
        if name in self.form.quantities:
            return self._quantity(name)
        if name == "label_text":
            return iter([np.frombuffer(self.text[0], np.uint8)])
        if name == "label_end":
            return iter([self.text[1]])
        columns = [call.coordinates()[name] for call in self.calls]
        return iter([np.concatenate(columns).astype(np.int32)])

    def _quantity(self, name: str) -> Iterator[Array]:
        quantity = self.form.quantities[name]
        self.nonfinite.pop(name, None)
        yield np.empty((0, *quantity.shape), quantity.dtype)
        for call in self.calls:
            for value in call.pieces(name):
                rows = math.prod(value.shape[:-3])
                piece = self._memory((rows, *quantity.shape), np.dtype(quantity.dtype))
                into = torch.from_numpy(piece)
                into.view(value.shape).copy_(value)
                # of numbers that are all finite the sum is finite, or overflows
                if not math.isfinite(float(into.sum())):
                    count = int((~torch.isfinite(into)).sum())
                    if count:
                        self.nonfinite[name] = self.nonfinite.get(name, 0) + count
                yield piece

    def _memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory for a piece, which every piece uses again."""
        size = math.prod(shape) * dtype.itemsize
        if self._piece is None or len(self._piece) < size:
            self._piece = np.empty(size, np.uint8)
        return self._piece[:size].view(dtype).reshape(shape)

    def joined(self, following: CapturedLayer, name: str) -> CapturedLayer:
        """The calls of a layer in two batches; raises ``ShapeError`` where it changed between."""
        if self.form != following.form:
            raise changed_layer(name, self.form, following.form)
        before = self.facts.sequences
        calls = [replace(call, before=call.before + before) for call in following.calls]
        proofs = [(x.deviation, x.tolerance) for x in (self, following) if x.deviation is not None]
        deviation, tolerance = max(proofs, default=(None, None), key=lambda pair: pair[0])
        unverified = {*self.unverified, *following.unverified}
        return CapturedLayer(
            self.form,
            [*self.calls, *calls],
            self.steps + following.steps,
            deviation,
            tolerance,
            tuple(sorted(unverified)),
        )

    @cached_property
    def facts(self) -> LayerRows:
        """What is known of the rows; ``nonfinite`` is counted while they are written."""
        return LayerRows(
            rows=sum(len(call.index) for call in self.calls),
            sequences=max((call.before + call.sequences for call in self.calls), default=0),
            calls=len(self.calls),
            steps=self.steps,
            deviation=self.deviation,
            tolerance=self.tolerance,
            unverified=self.unverified,
            nonfinite=self.nonfinite,
            text=len(self.text[0]) if self.labelled else 0,
        )


class CapturedBatch:
    """The rows of a batch that has just gone through the model; made when they are written."""

    def __init__(
        self,
        number: int,
        digest: str,
        layers: Mapping[str, CapturedLayer],
        labelled: Mapping[tuple[str, int], bool] | None = None,
    ) -> None:
        self.number, self._digest, self._layers = number, digest, dict(layers)
        self.labelled = dict(labelled or {})
        """Which calls of a layer the labels of all layers fit."""
        self.forms: Mapping[str, LayerForm] = {n: layer.form for n, layer in layers.items()}

    @cached_property
    def facts(self) -> BatchFacts:
        """See ``BatchRows``."""
        return BatchFacts(
            self.number, self._digest, {name: layer.facts for name, layer in self._layers.items()}
        )

    def joined(self, following: CapturedBatch) -> CapturedBatch:
        """The rows of two batches of one partition as those of one, the sequences counted on."""
        layers = dict(self._layers)
        for name, layer in following._layers.items():
            before = layers.get(name)
            layers[name] = layer if before is None else before.joined(layer, name)
        labelled = {**self.labelled, **following.labelled}
        return CapturedBatch(self.number, self._digest + following._digest, layers, labelled)

    @property
    def nbytes(self) -> int:
        """Bytes of the quantities' rows."""
        return sum(
            layer.facts.rows
            * sum(
                int(np.prod(q.shape)) * np.dtype(q.dtype).itemsize
                for q in layer.form.quantities.values()
            )
            for layer in self._layers.values()
        )

    def names(self, module: str) -> tuple[str, ...]:
        """See ``BatchRows``."""
        return self._layers[module].names

    def pieces(self, module: str, name: str) -> Iterator[Array]:
        """See ``BatchRows``."""
        return self._layers[module].pieces(name)


def changed_layer(name: str, before: LayerForm, now: LayerForm) -> ShapeError:
    """The error for a layer that is not in all batches the same."""
    return ShapeError(
        f"{name or 'the model'} is {now.structure} in this batch ({', '.join(now.quantities)}), "
        f"and was {before.structure} ({', '.join(before.quantities)}): these are no rows of one "
        f"table"
    )
