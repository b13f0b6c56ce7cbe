"""Keras: .h5 and .hdf5 of Keras 1 to 3, .weights.h5 and .keras of Keras 3.

Arrays get one set of names, whoever wrote them: the layer's, ``forward_layer`` or
``backward_layer`` where there are both, and ``kernel``, ``recurrent_kernel``, ``bias``.

Source: keras/src/saving/saving_lib.py, keras/src/legacy/saving/legacy_h5_format.py
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
_CELL = re.compile(r"(?:\w+_)?cell(?:_\d+)?|vars|cu_dnn\w+_cell(?:_\d+)?")
_KERAS1 = re.compile(r"(?P<layer>.+)_(?P<part>[WUb](?:_[ifcozrh])?)(?::0)?", re.DOTALL)
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
    renamed = _renamed(group.arrays, named)
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
    first = any("/U" in f"/{name}" and name not in group.arrays for name in arrays)
    kind = "keras" if version or config is not None or named or first else "hdf5"
    cells = marks_in(path, about[KEY]) if KEY in about else {}
    return FileContent(path, kind, allowance, arrays, config=config, metadata=metadata, cells=cells)


def _renamed(arrays: Mapping[str, LazyArray], named: Mapping[str, str]) -> dict[str, LazyArray]:
    """The arrays of recurrent layers under one set of names, what lies in the group of such a
    layer under the layer's name, and all others under their own."""
    places = {name: _place(name, named, arrays) for name in arrays}
    counts = Counter(str(place) for place in places.values() if place)
    groups: dict[str, tuple[str, str]] = {}  # of layers: what stands there instead, and the cell's
    for name, place in places.items():
        if place and counts[str(place)] > 1:  # cells of one stack: their own groups tell them apart
            layer = _without_vars(name.split("/")[:-1])
            place = places[name] = _Home("/".join(layer), "", place.part, layer)
        if place and place.groups:
            scope = "".join(f"{group}/" for group in place.groups)
            groups[scope] = place.prefix, name[len(scope) : name.rindex("/") + 1]
    lengths = sorted({len(group) for group in groups}, reverse=True)
    renamed: dict[str, LazyArray] = {}
    for name, array in arrays.items():
        place = places[name]
        new_name = name if place is None else str(place)
        group = next((name[:k] for k in lengths if name[:k] in groups), None)
        if place is None and group is not None:
            prefix, of_cell = groups[group]
            new_name = prefix + name[len(group) :].removeprefix(of_cell)
        renamed[name if new_name in renamed else new_name] = array
    return renamed


@dataclass(frozen=True)
class _Home:
    """Where an array of a recurrent layer belongs: ``groups`` are those of the file around the
    layer's arrays."""

    layer: str
    direction: str
    part: str
    groups: tuple[str, ...]

    @property
    def prefix(self) -> str:
        return (f"{self.layer}/" if self.layer else "") + self.direction

    def __str__(self) -> str:
        return self.prefix + self.part


def _without_vars(groups: Sequence[str]) -> tuple[str, ...]:
    return tuple(groups[:-1] if groups[-1:] == ["vars"] else groups)


def _place(name: str, named: Mapping[str, str], arrays: Mapping[str, LazyArray]) -> _Home | None:
    """Where an array of a recurrent layer belongs; None for any other array."""
    *groups, last = name.split("/")
    if groups[:1] in (["optimizer"], ["optimizer_weights"]):
        return None  # moments, under the names of the weights
    if groups and (match := _KERAS1.fullmatch(last)) is not None:
        return _place_in_keras1(groups, match, arrays)
    last = last.partition(":")[0]
    in_cell = groups[-1:] == ["vars"] and (
        (len(groups) > 1 and _CELL.fullmatch(groups[-2])) or _looks_gated("/".join(groups), arrays)
    )
    if in_cell and last in ("0", "1", "2"):
        part = _PARTS[int(last)]
    elif last in _PARTS:
        part = last
    else:
        return None
    before = "/".join(groups)
    names = ["1"] if in_cell else ["recurrent_kernel", "recurrent_kernel:0"]
    kernel = next((arrays[k] for n in names if (k := f"{before}/{n}") in arrays), None)
    if kernel is None or len(kernel.shape) < 2:
        return None
    around = list(groups)
    if in_cell and "layers" in groups:  # as Keras 3 names its groups: layers/NAME/cell/vars
        end = len(groups) - groups[::-1].index("layers") + 1
        sided = len(groups) > end and _DIRECTION.fullmatch(groups[end])
        around = groups[: end + bool(sided)]
    while around and _CELL.fullmatch(around[-1]):
        around.pop()
    scope = tuple(around)
    if groups[:1] == ["model_weights"]:
        around = around[1:]
    direction = ""
    if len(around) > 1 and (match := _DIRECTION.fullmatch(around[-1])):
        direction = f"{match[1]}_layer/"
        around.pop()
    while around and _CELL.fullmatch(around[-1]):
        around.pop()
    layer = named.get("/".join(around)) or (around[-1] if around else "")
    return _Home(layer, direction, part, scope)


def _looks_gated(group: str, arrays: Mapping[str, LazyArray]) -> bool:
    """Whether a group of numbered arrays begins with the kernels of an LSTM or a GRU."""
    kernels = [arrays.get(f"{group}/{number}") for number in "01"]
    shapes = [kernel.shape for kernel in kernels if kernel is not None]
    if [len(shape) for shape in shapes] != [2, 2] or 0 in shapes[1]:
        return False
    units, columns = shapes[1]
    return columns == shapes[0][1] and columns in (3 * units, 4 * units)


def _place_in_keras1(
    groups: Sequence[str], match: re.Match[str], arrays: Mapping[str, LazyArray]
) -> _Home | None:
    """Where an array of Keras 1 belongs, as ``lstm_1/lstm_1_W_i``; None where the group has no
    matrix that multiplies h."""
    before = f"{'/'.join(groups)}/{match['layer']}_U"
    kernels = [before, *(f"{before}_{gate}" for gate in "ifcozrh")]
    if not any(f"{kernel}{end}" in arrays for kernel in kernels for end in ("", ":0")):
        return None
    direction = ""
    if (side := re.match(r"(forward|backward)_", match["layer"])) and match["layer"] != groups[-1]:
        direction = f"{side[1]}_layer/"
    return _Home(groups[-1], direction, match["part"], ())


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
