"""Gradients and memories in files like a trace's: tensors and JSON, nothing that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rnnscope._escaping import lines
from rnnscope._files.disk import (
    checksum,
    description,
    metadata_for,
    no_file,
    refuse_foreign,
    replacing,
)
from rnnscope._record.labels import step_labels
from rnnscope._record.record import Record
from rnnscope.errors import FileError, ShapeError

__all__ = ["SavedRecord", "load_record", "save_record"]

FORMAT = "rnnscope record 1"
Groups = Mapping[str, Mapping[str, Tensor]]


class SavedRecord(Record):
    """A record that was read from a file: quantities with the dims and addresses they had.

    ``kind`` is "gradients" or "memory"; ``groups`` holds what stood beside the quantities, by name:
    ``groups["parameters"]``, ``groups["initial"]``, ``groups["direct"]``; ``text`` is what the
    record printed.
    """

    def __init__(self, record: Record, kind: str, groups: Groups, text: str) -> None:
        super().__init__(
            dict(record),
            record._inputs,
            record.lengths,
            record.directions,
            record._unit_names,
        )
        self.labels = record.labels
        self.kind, self.groups, self.text = kind, groups, text

    def __repr__(self) -> str:
        return lines(self.text)


def save_record(path: str | os.PathLike[str], record: Record, kind: str, groups: Groups) -> None:
    """Write a record; an existing file is replaced whole, or not at all.

    Raises ``FileError`` where the place cannot be written, and for the ending of another kind of
    file.
    """
    place = Path(path)
    named = place if place.name else place / "gates"  # of "." and "/" there is none
    line = (
        f"Write .save({str(named.with_suffix('.record'))!r}), to be read by rs.load_record; for "
        f"tables there are .to_xarray() and .to_pandas()"
    )
    refuse_foreign(place, kind, line)
    tensors = {f"value/{name}": value for name, value in record.items()}
    tensors |= {f"input/{k}": x for k, x in enumerate(record._inputs) if x is not None}
    tensors["lengths"] = record.lengths
    for group, members in groups.items():
        tensors |= {f"group/{group}/{name}": value for name, value in members.items()}
    ready = {name: t.detach().contiguous().clone() for name, t in tensors.items()}
    facts = {
        "format": FORMAT,
        "kind": kind,
        "names": list(record),
        "layers": len(record._inputs),
        "directions": record.directions,
        "units": dict(record._unit_names),
        "labels": record.labels,
        "text": str(record),
        "crc32": checksum(ready),
    }
    with replacing(place) as temporary:
        save_file(ready, temporary, metadata_for(facts, ready))


def load_record(path: str | os.PathLike[str]) -> SavedRecord:
    """The gradients or memory that ``.save`` wrote, as a record; nothing in the file is run.

    >>> import tempfile, torch
    >>> from rnnscope import trace
    >>> tr = trace(torch.nn.LSTM(3, 4), torch.randn(5, 2, 3))
    >>> path = f"{tempfile.mkdtemp()}/m.record"
    >>> tr.memory().save(path)
    >>> torch.equal(load_record(path)["written"], tr.memory()["written"])
    True

    Raises ``FileError`` where the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{no_file(path)}: {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # a type of numbers that torch lacks is told as an error of many kinds
    except (SafetensorError, OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        raise FileError(f"{path} is damaged, or no .safetensors file: {error}") from error
    try:
        text = description(metadata, tensors)
        facts = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: {error}") from error
    written = facts.get("format") if isinstance(facts, dict) else None
    if written != FORMAT:
        if str(written).startswith("rnnscope trace"):
            raise FileError(f"{path} holds a trace: rs.load_trace reads it")
        raise FileError(
            f"{path} holds no record (its format is {str(written)[:40]!r}; this version reads "
            f"{FORMAT!r}): records are written by g.save(path) and tr.memory().save(path)"
        )
    try:
        return _record(facts, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, ShapeError) as error:
        raise FileError(
            f"{path} is damaged: its parts do not fit together: {type(error).__name__}: {error}"
        ) from error


def _record(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SavedRecord:
    if facts["crc32"] != checksum(tensors):
        raise ValueError("its numbers are not those that were written: the checksum differs")
    values = {str(name): tensors[f"value/{name}"] for name in facts["names"]}
    inputs = tuple(tensors.get(f"input/{k}") for k in range(int(facts["layers"])))
    lengths = tensors["lengths"]
    directions = tuple(map(str, facts["directions"]))
    first = inputs[0]
    if first is None:
        raise ValueError("it lacks input/0")
    batch, steps = first.shape[:2]
    lead = (len(inputs), len(directions), batch, steps)
    for name, value in values.items():
        if tuple(value.shape[:4]) != lead or value.dim() != 5:
            raise ValueError(f"value/{name} must be {lead} and units; got {tuple(value.shape)}")
    inside = tuple(lengths.shape) == (batch,) and not lengths.is_floating_point()
    if not inside or int(lengths.min()) < 1 or int(lengths.max()) > steps:
        raise ValueError(f"lengths must be {batch} whole numbers from 1 to {steps}")
    units = {str(name): str(dim) for name, dim in facts["units"].items()}
    record = Record(values, inputs, lengths, directions, units)
    if facts["labels"]:
        record.labels = step_labels(facts["labels"], lengths.tolist())
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("group/"):
            _, group, member = name.split("/", 2)
            groups.setdefault(group, {})[member] = value
    return SavedRecord(record, str(facts["kind"]), groups, str(facts["text"]))
