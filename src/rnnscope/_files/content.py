"""A file as it is: named arrays, and what it says about itself. No layout yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rnnscope._files.disk import Allowance, LazyArray
from rnnscope._layouts import Converted

__all__ = ["RecurrentNode", "FileContent", "by_number"]


def by_number(name: str) -> list[str | int]:
    """A key that sorts names as people count: ``layer2`` before ``layer10``."""
    # every second part is a number; longer ones than these number no layer
    return [int(p) if k % 2 else p for k, p in enumerate(re.split(r"([0-9]{1,18})", name))]


@dataclass(frozen=True)
class RecurrentNode:
    """A recurrent node of an ONNX graph: its operation, inputs by name, and attributes.

    ``value`` gives an input's numbers where the file holds them, else None.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    value: Callable[[str], Tensor | None]


@dataclass(frozen=True)
class FileContent:
    """What a file holds.

    ``kind`` is ``torch``, ``safetensors``, ``npz``, ``keras``, ``hdf5``, ``onnx`` or ``json``.
    ``allowance`` counts the memory that it takes. ``arrays`` are not read yet. ``config`` is the
    text in which Keras describes the model, or a ``JsonModel``; ``names`` maps a group of
    arrays to the name that the model gives it; ``nodes`` are those of ONNX; ``cells`` are those
    that rnnscope wrote beside the arrays, by layer; ``conversions`` are the layers that were made
    of its arrays, with these arrays. ``unread`` are objects of classes that a checkpoint holds
    beside its tensors, and ``refusal`` is what to say where a layer may be in one of them.
    """

    path: Path
    kind: str
    allowance: Allowance
    arrays: Mapping[str, LazyArray] = field(default_factory=dict)
    config: Any = None
    names: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[RecurrentNode, ...] = ()
    cells: Mapping[str, str] = field(default_factory=dict)
    conversions: dict[Any, tuple[Converted, Any]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    refusal: str = ""
