"""A recorded data set as a whole: what it holds, how it was proven, what is missing."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from rnnscope._corpus.disk.description import LayerForm, LayerRows
from rnnscope._corpus.disk.folder import place_of
from rnnscope._corpus.disk.shard import group_of
from rnnscope._corpus.disk.store import Store
from rnnscope._corpus.reading.dataset import numbers, open_record
from rnnscope._escaping import markdown, printable
from rnnscope.errors import FileError

__all__ = ["Corpus", "store_at"]


def store_at(path: str | os.PathLike[str]) -> Store:
    """The store at a path, its shards read; raises ``FileError`` where there is none."""
    place = place_of(path)
    store = Store.find(place)
    if store is None:
        raise FileError(f"{place.text}: there is no store of rs.record here")
    return store.look()


class Corpus:
    """A store that ``record`` wrote: printed, it says what is in it; ``open()`` opens it.

    Raises ``FileError`` where the path holds no store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._store = store_at(path)

    def open(self, *, partial: bool = False) -> dict[str, Any]:
        """See ``open_record``."""
        return open_record(self.path, partial=partial)

    @property
    def names(self) -> tuple[str, ...]:
        """The recorded layers."""
        return tuple(self._store.forms)

    @property
    def batches(self) -> int:
        """How many batches are recorded, those in the journal not counted."""
        return len(self._store.batches)

    @property
    def skipped(self) -> dict[int, str]:
        """Batches that the model refused, by number, with the reason."""
        return self._store.skipped

    @property
    def damaged(self) -> dict[str, str]:
        """Shards that are damaged, by name, with the reason."""
        return dict(self._store.damaged)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._store.nbytes

    def _layer(self, name: str) -> list[LayerRows]:
        return [b.layers[name] for b in self._store.batches if name in b.layers]

    # as text -----------------------------------------------------------------------------

    def data(self) -> dict[str, Any]:
        """What it holds, as data."""
        store = self._store
        return {
            "path": str(self.path),
            "model": store.origin.model,
            "training": store.origin.training,
            "written_by": store.version,
            "settings": dict(store.origin.settings),
            "batches": self.batches,
            "journal": store.journaled,
            "complete": store.expected is not None and not store.missing(),
            "missing": store.missing(),
            "skipped": {str(number): reason for number, reason in self.skipped.items()},
            "damaged": self.damaged,
            "shards": len(store.shards),
            "bytes_on_disk": self.nbytes,
            "layers": {
                name: _layer_data(form, self._layer(name))
                | {"several_calls": self._has_several_calls(name)}
                for name, form in store.forms.items()
            },
        }

    def _has_several_calls(self, name: str) -> bool:
        """Whether the model called the layer more than once with a batch."""
        column = f"{group_of(name)}/call/zarr.json"
        return any(column in shard.files for shard in self._store.shards)

    def __str__(self) -> str:
        return "\n".join(map(printable, self._lines()))

    __repr__ = __str__

    def markdown(self) -> str:
        """As a table of the layers, with what is missing below."""
        data = self.data()
        rows = ["| layer | | sequences | steps | deviation |", "|---|---|---|---|---|"]
        for name, layer in data["layers"].items():
            largest = "" if layer["deviation"] is None else f"{layer['deviation']:.0e}"
            rows.append(
                f"| {markdown(name or '(model)')} | {markdown(layer['structure'])} "
                f"| {layer['sequences']:,} | {layer['rows']:,} | {largest} |"
            )
        return "\n".join([*rows, "", *map(markdown, self._lines()[1 + 3 * len(data["layers"]) :])])

    def _lines(self) -> list[str]:
        data, store = self.data(), self._store
        state = "complete" if data["complete"] else "unfinished: rs.record goes on with it"
        mode = ", in train mode" if data["training"] else ""
        words = [
            f"{data['path']}: {numbers(self.batches, 'batch')} of {data['model']}{mode}, {state}"
        ]
        raw = 0
        for name, layer in data["layers"].items():
            raw += layer["bytes"]
            quantities = " ".join(layer["quantities"]) or "none of the names that were chosen"
            words.append(f"  {name or '(model)'}  {layer['structure']}")
            words.append(
                f"      {quantities}: "
                f"{numbers(layer['sequences'], 'sequence')}, {numbers(layer['rows'], 'step')}, "
                f"{_size(layer['bytes'])}"
                + (", several calls with a batch (call=)" if layer["several_calls"] else "")
            )
            words.append(f"      {_proof(layer)}")
        unused = [name for name in store.origin.layers if name not in data["layers"]]
        if unused and data["layers"]:
            words.append(f"no recorded batch reached {', '.join(map(repr, unused))}")
        words.append(
            f"{numbers(data['shards'], 'shard')}, {_size(self.nbytes)} on disk"
            + (f" ({self.nbytes / raw:.0%} of the numbers)" if raw else "")
        )
        if data["journal"]:
            words.append(
                f"{numbers(data['journal'], 'batch')} in the journal: the next rs.record makes a "
                f"shard of them"
            )
        words += [f"skipped: batch {number}: {why}" for number, why in data["skipped"].items()]
        if data["missing"]:
            first = ", ".join(map(str, data["missing"][:5]))
            more = len(data["missing"]) - 5
            words.append(f"missing: batch {first}{f' and {more} more' if more > 0 else ''}")
        words += [f"damaged: {why}" for why in data["damaged"].values()]
        return words


def _layer_data(form: LayerForm, parts: list[LayerRows]) -> dict[str, Any]:
    rows = sum(part.rows for part in parts)
    proofs = [(p.deviation, p.tolerance) for p in parts if p.deviation is not None]
    deviation, tolerance = max(proofs, default=(None, None), key=lambda pair: pair[0])
    nonfinite: dict[str, int] = {}
    for part in parts:
        for name, count in part.nonfinite.items():
            nonfinite[name] = nonfinite.get(name, 0) + count
    size = sum(
        math.prod(q.shape) * int("".join(c for c in q.dtype if c.isdigit())) // 8
        for q in form.quantities.values()
    )
    return {
        "structure": form.structure,
        "quantities": list(form.quantities),
        "stored_as": {n: q.stored_as for n, q in form.quantities.items() if q.stored_as},
        "sequences": sum(part.sequences for part in parts),
        "rows": rows,
        "bytes": rows * size,
        "steps_compared": sum(part.steps for part in parts),
        "deviation": deviation,
        "tolerance": tolerance,
        "unverified": sorted({state for part in parts for state in part.unverified}),
        "nonfinite": nonfinite,
    }


def _size(nbytes: int) -> str:
    """Bytes in words."""
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:,.1f} kB"


def _largest(stored_as: str) -> str:
    """What made numbers infinite on disk that may have been none."""
    if not stored_as.startswith("float16"):
        return ""
    return f" (as float16, whose largest number is {int(np.finfo(np.float16).max)})"


def _proof(layer: dict[str, Any]) -> str:
    if layer["deviation"] is None:
        text = "not compared"
    else:
        text = (
            f"largest deviation from the layer's own output over "
            f"{numbers(layer['steps_compared'], 'step')}: {layer['deviation']:.0e}; rounding "
            f"allows {layer['tolerance']:.0e} there"
        )
    if layer["unverified"]:
        text += f"; {', '.join(layer['unverified'])} not verified somewhere"
    if layer["nonfinite"]:
        counts = ", ".join(
            f"{count:,} in {name}{_largest(layer['stored_as'].get(name, ''))}"
            for name, count in layer["nonfinite"].items()
        )
        text += f"; NaN or infinite: {counts}"
    return text
