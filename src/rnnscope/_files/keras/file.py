"""Keras: .h5 and .hdf5 of Keras 1 to 3, .weights.h5 and .keras of Keras 3.

Arrays get one set of names, whoever wrote them: the layer's, ``forward_layer`` or
``backward_layer`` where there are both, and ``kernel``, ``recurrent_kernel``, ``bias``.

Source: keras/src/saving/saving_lib.py, keras/src/legacy/saving/legacy_h5_format.py
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rnnscope._files.arrays import Hdf5Content, read_hdf5
from rnnscope._files.cell_marks import KEY, marks_in
from rnnscope._files.content import FileContent, by_number
from rnnscope._files.disk import Allowance, Archive, LazyArray, Window
from rnnscope.errors import FileError

__all__ = ["layer_configs", "read_hdf5_file", "read_keras"]

_PARSED = 40  # JSON takes up to so many times its bytes: a dict of one number is a long object
_PARTS = ("kernel", "recurrent_kernel", "bias")
_CELL = re.compile(r"cell|vars|(?:lstm|gru|simple_rnn|cu_dnn\w+)_cell(?:_\d+)?")
_DIRECTION = re.compile(r"(forward|backward)_\w+")


def read_hdf5_file(path: Path) -> FileContent:
    """A .h5 file; one that Keras did not write keeps its own names."""
    window = Window.of(path)
    return _raw(path, window.allowance, read_hdf5(window), {})


def read_keras(path: Path) -> FileContent:
    """A .keras file: a .zip of the configuration and the weights."""
    archive = Archive(path)
    allowance = archive.allowance
    if "config.json" not in archive.names:
        raise FileError(f"{path}: no .keras file: it holds no config.json")
    config = _json(f"{path}, config.json", archive.read("config.json"), allowance)
    facts = {}
    if "metadata.json" in archive.names:
        facts = _json(f"{path}, metadata.json", archive.read("metadata.json"), allowance)
    weights = archive.read("model.weights.h5")
    window = Window(f"{path}, model.weights.h5", weights, allowance)
    if not isinstance(facts, dict):
        facts = {}
    return _raw(path, allowance, read_hdf5(window), {"model_config": config, **facts})


def _json(place: str, data: bytes | str, allowance: Allowance) -> Any:
    allowance.take(_PARSED * len(data), "its configuration")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{place}: damaged: no JSON: {error}") from error


def _raw(
    path: Path, allowance: Allowance, group: Hdf5Content, facts: Mapping[str, Any]
) -> FileContent:
    about: dict[str, Any] = {}
    for place in ("model_weights", ""):
        about |= group.attributes.get(place, {})
    config = facts.get("model_config", about.get("model_config"))
    if isinstance(config, str):
        config = _json(f"{path}, model_config", config, allowance)
    version = facts.get("keras_version", about.get("keras_version"))
    metadata = {"keras_version": version} if isinstance(version, str) else {}
    named = {
        place.removesuffix("/vars"): group_attributes["name"]
        for place, group_attributes in group.attributes.items()
        if place.endswith("/vars") and isinstance(group_attributes.get("name"), str)
    }
    renamed = {
        _canonical_name(name, named, group.arrays) or name: array
        for name, array in group.arrays.items()
    }
    # HDF5 sorts names, 10 before 2; Keras keeps its layers' order beside them
    listed = about.get("layer_names")
    order = [str(entry) for entry in listed] if isinstance(listed, list) else []
    order = order or [name for name, _, _ in layer_configs(config)]
    places = {name: k for k, name in reversed(list(enumerate(order)))}
    arrays = dict(
        sorted(
            renamed.items(),
            key=lambda entry: (places.get(entry[0].split("/")[0], len(order)), by_number(entry[0])),
        )
    )
    kind = "keras" if version or config is not None or named else "hdf5"
    cells = marks_in(path, about[KEY]) if KEY in about else {}
    return FileContent(path, kind, allowance, arrays, config=config, metadata=metadata, cells=cells)


def _canonical_name(
    name: str, named: Mapping[str, str], arrays: Mapping[str, LazyArray]
) -> str | None:
    """The one name of an array of a recurrent layer; None for any other."""
    *groups, last = name.split("/")
    last = last.partition(":")[0]
    if groups[-2:] == ["cell", "vars"] and last in ("0", "1", "2"):
        part = _PARTS[int(last)]
    elif last in _PARTS:
        part = last
    else:
        return None
    before = "/".join(groups)
    recurrent = any(
        f"{before}/{kernel_name}" in arrays
        for kernel_name in ("recurrent_kernel", "recurrent_kernel:0", "1")
    )
    if not recurrent:
        return None
    if groups[:1] == ["model_weights"]:
        groups = groups[1:]
    while groups and _CELL.fullmatch(groups[-1]):
        groups.pop()
    direction = ""
    if len(groups) > 1 and (match := _DIRECTION.fullmatch(groups[-1])):
        direction = f"{match[1]}_layer/"
        groups.pop()
    while groups and _CELL.fullmatch(groups[-1]):
        groups.pop()
    layer = named.get("/".join(groups)) or (groups[-1] if groups else "")
    return f"{layer}/{direction}{part}" if layer else direction + part


def layer_configs(config: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(name, class, configuration) of every layer in a model's description, outermost first."""
    waiting = deque([config])
    while waiting:
        part = waiting.popleft()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict):
            kind, inside = part.get("class_name"), part.get("config")
            if isinstance(kind, str) and isinstance(inside, dict):
                name = inside.get("name")
                if isinstance(name, str):
                    yield name, kind, inside
            waiting.extend(part.values())
