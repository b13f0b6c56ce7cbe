"""A shard: the rows of some batches as a group of Zarr 3, with all that is known of them.

Inside it is a group for each layer, whose arrays are (step, layer, direction, unit), beside
``time``, ``sequence`` and ``call`` (step), and the labels as bytes with the end of each. Every
chunk carries a checksum, and the shard's attributes the size of each file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from rnnscope._corpus.disk.chunks import Array, ArrayForm, ArrayWriter
from rnnscope._corpus.disk.description import BatchFacts, LayerForm
from rnnscope._corpus.disk.events import completed
from rnnscope._corpus.disk.folder import DESCRIPTION, Folder
from rnnscope._corpus.disk.journal import BatchRows
from rnnscope._corpus.disk.sealed import sealed, unsealed, unsealed_array
from rnnscope.errors import FileError

__all__ = ["KEY", "PREFIX", "Shard", "group_of", "read_array", "read_shard", "write_shard"]

KEY = "rnnscope_record"
"""The attribute that holds what this package says of a group."""
PREFIX = "batches-"


@dataclass(frozen=True)
class Shard:
    """A shard as its attributes describe it: its batches in the order of its rows."""

    name: str
    batches: tuple[BatchFacts, ...]
    forms: Mapping[str, LayerForm]
    files: Mapping[str, int]

    def rows(self, module: str) -> int:
        """How many rows a layer has."""
        return sum(b.layers[module].rows for b in self.batches if module in b.layers)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(self.files.values())


def group_of(module: str) -> str:
    """The name of a layer's group: its own, but for what Zarr does not allow; the model itself has
    no name."""
    return quote(module, safe="") or "(model)"


# writing -------------------------------------------------------------------------------------


def write_shard(place: Folder, batches: Sequence[BatchRows], compress: bool) -> str | None:
    """Write the rows of batches as a shard; its name, or None where such a shard is there."""
    name = _name_of([rows.facts for rows in batches])
    with place.scratch() as path:
        files = _write(str(path), batches, compress)
        forms: dict[str, LayerForm] = {}
        for rows in batches:
            forms |= rows.forms
        facts = {
            "batches": [rows.facts.json() for rows in batches],
            "layers": {module: form.json() for module, form in forms.items()},
            "files": files,
        }
        _write_group(str(path), sealed({KEY: facts}))
        return name if place.publish(path, name) else None


def _name_of(batches: Sequence[BatchFacts]) -> str:
    """The name of the shard of these batches."""
    return f"{PREFIX}{batches[0].number:08d}-{batches[-1].number:08d}"


def _write_group(path: str, attributes: Mapping[str, Any]) -> int:
    """The description of a group of Zarr 3, in a folder; its bytes."""
    description = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    with open(os.path.join(path, DESCRIPTION), "wb") as file:
        return file.write(json.dumps(description).encode())


def _write(path: str, batches: Sequence[BatchRows], compress: bool) -> dict[str, int]:
    """Write the groups of all layers; the bytes of each file, by its name inside."""
    files: dict[str, int] = {}
    modules = list(dict.fromkeys(module for rows in batches for module in rows.facts.layers))
    for module in modules:
        holders = [rows for rows in batches if module in rows.facts.layers]
        group = group_of(module)
        os.mkdir(os.path.join(path, group))
        size = _write_group(os.path.join(path, group), {"module": module})
        files[f"{group}/{DESCRIPTION}"] = size
        names = dict.fromkeys(name for rows in holders for name in rows.names(module))
        for name in names:
            written = _write_array(path, holders, (module, name), compress)
            files |= {f"{group}/{name}/{key}": size for key, size in written.items()}
    return files


def _write_array(
    path: str, holders: Sequence[BatchRows], address: tuple[str, str], compress: bool
) -> dict[str, int]:
    """Write an array of a layer; the bytes of each of its files."""
    module, name = address
    dims: tuple[str, ...] = ("step", "layer", "direction", "unit")
    if name == "label_text":
        total, dims = sum(rows.facts.layers[module].text for rows in holders), ("text",)
    else:
        total = sum(rows.facts.layers[module].rows for rows in holders)
    if total == 0:
        return {}
    writer: ArrayWriter | None = None
    try:
        for piece in _pieces(holders, module, name):
            if writer is None:
                shape = (total, *piece.shape[1:])
                form = ArrayForm(shape, piece.dtype, dims[: len(shape)], compress)
                writer = ArrayWriter(os.path.join(path, group_of(module), name), form)
            writer.add(piece)
        if writer is None:
            return {}
        writer.close()
        return writer.files
    finally:
        if writer is not None:
            writer.abandon()


def _pieces(holders: Sequence[BatchRows], module: str, name: str) -> Iterator[Array]:
    """An array of all batches; ``sequence`` and ``label_end`` are counted through them."""
    before = 0
    for rows in holders:
        layer = rows.facts.layers[module]
        for piece in _of_batch(rows, module, name):
            yield piece + np.asarray(before, piece.dtype) if before else piece
        if name == "sequence":
            before += layer.sequences
        elif name == "label_end":
            before += layer.text


def _of_batch(rows: BatchRows, module: str, name: str) -> Iterable[Array]:
    """An array of one batch; batches without labels, or called once, have zeros."""
    if name in rows.names(module):
        return rows.pieces(module, name)
    if name == "label_text":
        return ()
    count = rows.facts.layers[module].rows
    return [np.zeros(count, np.int64 if name == "label_end" else np.int32)]


# reading -------------------------------------------------------------------------------------


def read_shard(place: Folder, name: str) -> Shard:
    """What a shard says of itself; raises ``FileError`` where it is damaged or cut."""
    content = place.read(f"{name}/{DESCRIPTION}")
    advice = "remove this folder and run rs.record again: its batches are recorded once more"
    if content is None:
        raise FileError(f"{place.text}: shard {name} is damaged: it lacks {DESCRIPTION}; {advice}")
    try:
        facts = unsealed(json.loads(content)["attributes"], KEY)[KEY]
        batches = tuple(BatchFacts.of_json(entry) for entry in facts["batches"])
        forms = {module: LayerForm.of_json(entry) for module, entry in facts["layers"].items()}
        files = {str(path): int(size) for path, size in facts["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FileError(
            f"{place.text}: shard {name} is damaged: {DESCRIPTION} does not describe it "
            f"({type(error).__name__}: {error}); {advice}"
        ) from error
    if not batches or name != _name_of(batches):
        whose = _name_of(batches) if batches else "no shard"
        raise FileError(
            f"{place.text}: shard {name} holds what {whose} holds, and would count twice: move "
            f"this folder out of the store"
        )
    sizes = place.sizes(name)
    for path, size in files.items():
        if sizes.get(path) != size:
            got = "is missing" if path not in sizes else f"has {sizes[path]} bytes, not {size}"
            raise FileError(f"{place.text}: shard {name} is damaged: {path} {got}; {advice}")
    return Shard(name, batches, forms, files)


def read_array(place: Folder, shard: str, address: tuple[str, str], rows: slice) -> Array:
    """Some rows of an array (module, name) of a shard.

    Raises ``FileError`` with the shard's name where its bytes are not those that were written.
    """
    module, name = address
    path = f"{group_of(module)}/{name}"
    try:
        unsealed_array(place.read(f"{shard}/{path}/{DESCRIPTION}"))
        return completed(_read(place, shard, path, rows))
    except (OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        raise FileError(
            f"{place.text}: shard {shard} is damaged: {module or 'the model'}'s {name} cannot be "
            f"read ({error}). The other shards are whole: remove this folder, and either run "
            f"rs.record again, which records its batches once more, or open what there is with "
            f"rs.open_record(path, partial=True)"
        ) from error


async def _read(place: Folder, shard: str, path: str, rows: slice) -> Array:
    from zarr.api.asynchronous import open_array

    array = await open_array(store=place.zarr_store(shard), path=path, mode="r")
    return np.asarray(await array.getitem((rows,)))
