"""What is said of the rows in a store: of each layer, and of each batch.

All of it is JSON in a shard's attributes, so that it can be read without this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BatchFacts", "LayerForm", "LayerRows", "StoredQuantity"]


@dataclass(frozen=True)
class StoredQuantity:
    """One quantity in a store: its rows are (layer, direction, unit) of this ``shape``.

    ``unit`` names the last dim; ``range`` is that of its function, None where it has no bounds;
    ``stored_as`` says what became of a type that NumPy lacks.
    """

    shape: tuple[int, int, int]
    dtype: str
    unit: str = "unit"
    range: tuple[float, float] | None = None
    stored_as: str = ""


@dataclass(frozen=True)
class LayerForm:
    """What a recorded layer is, the same in all shards: its ``structure`` in words, its cell, the
    names of its directions, its quantities."""

    structure: str
    cell: str
    directions: tuple[str, ...]
    quantities: Mapping[str, StoredQuantity]

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> LayerForm:
        """From what ``json`` gave, by way of JSON."""
        quantities = {
            name: StoredQuantity(
                tuple(entry["shape"]),
                entry["dtype"],
                entry["unit"],
                None if entry["range"] is None else tuple(entry["range"]),
                entry["stored_as"],
            )
            for name, entry in data["quantities"].items()
        }
        return cls(data["structure"], data["cell"], tuple(data["directions"]), quantities)

    def json(self) -> dict[str, Any]:
        """As data."""
        quantities = {name: {**vars(quantity)} for name, quantity in self.quantities.items()}
        return {**vars(self), "quantities": quantities}


@dataclass(frozen=True)
class LayerRows:
    """What a batch gave of one layer: how many rows and sequences, and their proof.

    ``deviation`` is the largest from the layer's own output, ``tolerance`` what rounding allows
    there; None where nothing was compared. ``steps`` is how many steps were compared, recorded or
    not; ``nonfinite`` counts NaN and infinities by quantity; ``text`` is bytes of labels.
    """

    rows: int
    sequences: int
    calls: int
    steps: int
    deviation: float | None
    tolerance: float | None
    unverified: tuple[str, ...] = ()
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    text: int = 0


@dataclass(frozen=True)
class BatchFacts:
    """What is known of one recorded batch; ``digest`` is that of its numbers, ``layers`` by the
    names of the modules."""

    number: int
    digest: str
    layers: Mapping[str, LayerRows]

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> BatchFacts:
        """From what ``json`` gave."""
        layers = {
            name: LayerRows(**{**entry, "unverified": tuple(entry["unverified"])})
            for name, entry in data["layers"].items()
        }
        return cls(data["number"], data["digest"], layers)

    def json(self) -> dict[str, Any]:
        """As data."""
        layers = {name: {**vars(layer)} for name, layer in self.layers.items()}
        return {**vars(self), "layers": layers}
