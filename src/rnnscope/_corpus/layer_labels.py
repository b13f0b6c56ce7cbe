"""Labels and masks of a batch: whose they are, where a model has several recurrent layers.

A function of the user's gives the same for all layers, or a dict by the layer's name; of a layer
that is called several times with a batch also by (name, number of the call). The labels of all
layers belong to those calls whose sequences have as many steps as there are labels. Whether they
do must be the same in all batches, so that no labels end up at a layer by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rnnscope._corpus.disk.description import BatchFacts
from rnnscope._record.labels import Labels, step_labels
from rnnscope._trace.verbs import Trace
from rnnscope._watch.join import Joined
from rnnscope.errors import AddressError, ShapeError

__all__ = ["BatchLabels", "LabelledCalls", "check_layers", "of_layer"]

CallOfLayer = tuple[str, int]


def of_layer(values: Any, name: str, call: int) -> Any:
    """What belongs to a call of a layer; None of a dict that does not name it."""
    if not isinstance(values, Mapping):
        return values
    return values.get((name, call), values.get(name))


def check_layers(values: Any, names: Iterable[str], argument: str) -> None:
    """Raise ``AddressError`` for a dict by layers that names another."""
    known = list(names)
    for key in values if isinstance(values, Mapping) else ():
        if (key[0] if isinstance(key, tuple) and key else key) not in known:
            raise AddressError(
                f"{argument} gave a dict, whose keys must be layers, {', '.join(map(repr, known))}"
                f", or (layer, number of its call); got {key!r}"
            )


@dataclass
class BatchLabels:
    """The labels that a batch has, and where they could not be laid."""

    values: Any
    labelled: dict[CallOfLayer, bool] = field(default_factory=dict)
    misfits: list[ShapeError] = field(default_factory=list)

    def of(self, name: str, call: int, traces: list[Trace]) -> Labels:
        """Those of one of the layer's calls; none where they do not fit it and may be another's.

        Raises ``ShapeError`` where a dict says that they are this layer's.
        """
        labels = of_layer(self.values, name, call)
        if labels is None:
            return ()
        try:
            texts = step_labels(labels, traces[call].lengths.tolist())
        except ShapeError as error:
            explained = _explained(error, labels, name, call, traces)
            if isinstance(self.values, Mapping):
                raise explained from error
            self.misfits.append(explained)
            texts = ()
        if not isinstance(self.values, Mapping):
            self.labelled[name, call] = bool(texts)
        return texts

    def check(self) -> None:
        """Raise where they fit no layer at all."""
        if self.misfits and not any(self.labelled.values()):
            raise self.misfits[0]


def _explained(
    error: ShapeError, labels: Any, name: str, call: int, traces: list[Trace]
) -> ShapeError:
    """The error with the layer, and with what a model may have done to its sequences."""
    trace = traces[call]
    lengths = trace.lengths.tolist()
    text = (f"{name!r}: {error}" if name else str(error)).rstrip(".")
    if _counts(labels) == sorted(lengths) and lengths != _counts(labels, in_order=True):
        text += (
            ". The layer's sequences come in another order, as where a model sorts its batch: "
            "sequences are counted as the layer sees them, so give the labels in that order, or "
            "let pack_padded_sequence(..., enforce_sorted=False) sort"
        )
    elif len(traces) > 1 and set(lengths) == {1} and isinstance(trace, Joined):
        why = next((t.why for t in traces[1:] if isinstance(t, Joined) and t.why), trace.why)
        text += (
            f". The layer's {len(traces)} calls with this batch are no one sequence, because "
            f"{why}: only a state that is handed on bit for bit makes them one. "
            f"labels= may give each call its own by a dict {{({name!r}, 0): [...], ...}}"
        )
    return ShapeError(text)


def _counts(labels: Any, in_order: bool = False) -> list[int] | None:
    """How many labels each sequence has; None where there is one list for all."""
    try:
        counts = [len(entry) for entry in labels]
    except TypeError:
        return None
    return counts if in_order else sorted(counts)


class LabelledCalls:
    """Which calls had labels in the batches so far."""

    def __init__(self, recorded: Iterable[BatchFacts]) -> None:
        self._known: dict[CallOfLayer, tuple[bool, int]] = {}
        for batch in recorded:
            layers = {name: layer for name, layer in batch.layers.items() if layer.rows}
            if any(layer.text for layer in layers.values()):
                for name, layer in layers.items():
                    if layer.calls == 1:
                        self._known.setdefault((name, 0), (layer.text > 0, batch.number))

    def add(self, number: int, labelled: Mapping[CallOfLayer, bool]) -> None:
        """One more batch; raises ``ShapeError`` where its labels are another layer's."""
        for (name, call), has in labelled.items():
            before, batch = self._known.setdefault((name, call), (has, number))
            if before == has:
                continue
            fits, lacks = (batch, number) if before else (number, batch)
            which = f"{name or 'the model'}{f', call {call}' if call else ''}"
            raise ShapeError(
                f"labels fit {which} in batch {fits} and not in batch {lacks}: it "
                f"is not clear whose they are. Say it by a dict, "
                f"labels=lambda batch: {{layer: ...}}, and record into another path"
            )
