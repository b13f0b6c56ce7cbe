"""From what a watch saw of one batch to rows: the valid steps of every sequence, one after another.

A row is a step of a sequence, (layer, direction, unit); rows of a batch follow each other sequence
by sequence, each in the order of time, so nothing on disk is padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rnnscope._corpus.disk.description import BatchFacts, LayerForm, LayerRows
from rnnscope._corpus.disk.journal import Array
from rnnscope._record.labels import Labels
from rnnscope.errors import ShapeError

__all__ = ["CapturedBatch", "CapturedCall", "CapturedLayer", "changed_layer"]


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

    def write_rows(self, name: str, into: Tensor) -> None:
        """Write a quantity into (row, layer, direction, unit), in the order of the index."""
        value = self.values[name]
        if self.last:
            into.copy_(value.permute(2, 0, 1, 3))
        elif self.full:  # in one copy
            by_step = value.permute(2, 3, 0, 1, 4)
            into.view(by_step.shape).copy_(by_step)
        else:
            into.copy_(value[:, :, self.index[:, 0], self.index[:, 1]].permute(2, 0, 1, 3))


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

    def array(self, name: str) -> Array:
        """One of them; NaN and infinities of a quantity are counted on the way."""
        if name in self.form.quantities:
            return self._quantity(name)
        if name == "label_text":
            return np.frombuffer(self.text[0], np.uint8)
        if name == "label_end":
            return self.text[1]
        columns = [call.coordinates()[name] for call in self.calls]
        return np.concatenate(columns).astype(np.int32)

    def _quantity(self, name: str) -> Array:
        quantity = self.form.quantities[name]
        rows = sum(len(call.index) for call in self.calls)
        target = np.empty((rows, *quantity.shape), quantity.dtype)
        into = torch.from_numpy(target)
        start = 0
        for call in self.calls:
            stop = start + len(call.index)
            call.write_rows(name, into[start:stop])
            start = stop
        # of numbers that are all finite the sum is finite, or overflows, which is then counted as 0
        if not bool(torch.isfinite(into.sum())):
            count = int((~torch.isfinite(into)).sum())
            if count:
                self.nonfinite[name] = count
        return target

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

    def array(self, module: str, name: str) -> Array:
        """See ``BatchRows``."""
        return self._layers[module].array(name)


def changed_layer(name: str, before: LayerForm, now: LayerForm) -> ShapeError:
    """The error for a layer that is not in all batches the same."""
    return ShapeError(
        f"{name or 'the model'} is {now.structure} in this batch ({', '.join(now.quantities)}), "
        f"and was {before.structure} ({', '.join(before.quantities)}): these are no rows of one "
        f"table"
    )
