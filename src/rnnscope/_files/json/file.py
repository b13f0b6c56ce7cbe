"""JSON files of models: .nam of Neural Amp Modeler, .json of RTNeural and GuitarML.

What is in a file says whose it is, not its ending.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from rnnscope._files.content import FileContent
from rnnscope._files.disk import Allowance, LazyArray, Window
from rnnscope._files.json.parser import Numbers, parse_json
from rnnscope.errors import FileError

__all__ = ["JSON_ENDINGS", "MARK", "PARAMETER", "USUAL", "JsonModel", "read_json"]

JSON_ENDINGS = (".nam", ".json")

MARK = "rnnscope"
"""The key under which ``save`` says what a format has no place for; others pass over it."""

USUAL: Mapping[str, str] = MappingProxyType({"nam": "lstm", "guitarml": "rec"})
"""What a layer is called where the format has one, and no name for it."""

PARAMETER = re.compile(
    r"(?P<before>(?:.*[./:_\-])?)(?P<parameter>(?:weight|bias)_(?:ih|hh|hr))"
    r"(?P<end>_l[0-9]{1,3}(?:_reverse)?)?",
    re.DOTALL,
)
"""PyTorch's name of a parameter of a recurrent layer or cell, wherever it stands."""

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class JsonModel:
    """The JSON of a model, and the layout in which it is; ``dtype`` is that of its numbers."""

    layout: str
    data: Mapping[str, Any]
    marks: Mapping[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        """float32, in which the programs compute, unless ``save`` said otherwise."""
        name = self.marks.get("dtype")
        return _DTYPES.get(name, torch.float32) if isinstance(name, str) else torch.float32

    @property
    def name(self) -> str | None:
        """What the one layer was called when it was saved."""
        name = self.marks.get("name")
        return name if isinstance(name, str) and name else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What ``save`` could not keep, or filled in."""
        texts = self.marks.get("notes")
        texts = texts if isinstance(texts, list) else []
        return tuple(text for text in texts if isinstance(text, str))


def read_json(path: Path) -> FileContent:
    """A model in JSON. Raises ``FileError`` where it is damaged, or none that is known."""
    data = parse_json(Window.of(path))
    layout = _layout(data)
    if layout is None:
        raise FileError(
            f"{path}: expected the JSON of a model, which is an object with architecture, config "
            f"and weights (a .nam), with layers that each have type and weights (RTNeural), or "
            f"with a state_dict of lists (GuitarML); got {_describe(data)}"
        )
    marks = data.get(MARK)
    model = JsonModel(layout, data, marks if isinstance(marks, dict) else {})
    arrays = {
        name: LazyArray(numbers.shape, True, lambda numbers=numbers: numbers.tensor(model.dtype))  # type: ignore[misc]
        for name, numbers in _number_lists(data, "")
    }
    return FileContent(
        path=path,
        kind="json",
        allowance=Allowance.of(path),
        arrays=arrays,
        config=model,
    )


def _layout(data: Any) -> str | None:
    if not isinstance(data, dict):
        return None
    layers = data.get("layers")
    if {"architecture", "weights"} <= data.keys():
        return "nam"
    if isinstance(layers, list) and all(
        isinstance(layer, dict) and {"type", "weights"} <= layer.keys() for layer in layers
    ):
        return "rtneural"
    if isinstance(data.get("state_dict"), dict):
        return "guitarml"
    return "pytorch" if any(PARAMETER.fullmatch(name) for name in data) else None


def _describe(data: Any) -> str:
    if not isinstance(data, dict):
        return {str: "a text", Numbers: "lists of numbers", list: "a list"}.get(
            type(data), repr(data)[:40]
        )
    keys = ", ".join(repr(key[:40]) for key in list(data)[:8])
    return f"an object with {keys}{', ...' * (len(data) > 8)}" if data else "an empty object"


def _number_lists(value: Any, place: str) -> Iterator[tuple[str, Numbers]]:
    """Every list of numbers, under the keys and positions that lead to it."""
    if isinstance(value, Numbers):
        if value.count:
            yield place, value
    elif isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in entries:
            yield from _number_lists(entry, f"{place}/{key}" if place else str(key))
