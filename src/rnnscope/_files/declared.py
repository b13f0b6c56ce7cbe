"""Layers of cells that the caller declares, from arrays under the names of ``Recurrent``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rnnscope._files.companions import Surroundings, companions
from rnnscope._files.content import FileContent
from rnnscope._files.disk import LazyArray
from rnnscope._files.stored_layer import StoredLayer
from rnnscope._layers.recurrent import Recurrent
from rnnscope.cells import Cell
from rnnscope.errors import AddressError, DeclarationError, FileError

__all__ = ["declared_layers"]

_LAYER = re.compile(r"(?P<parameter>\w+?)(?P<end>_l\d{1,3}(?:_reverse)?)?")


def declared_layers(
    content: FileContent, cells: Any, names: Mapping[str, str] | None
) -> tuple[list[StoredLayer], FileContent]:
    """The layers of declared cells, by name, and the file without their arrays.

    ``names`` maps parameters of the one layer to the file's names. Raises ``FileError`` where an
    array is missing or has another shape than the cell needs, ``AddressError`` where nothing in
    the file has a layer's name.
    """
    if not isinstance(cells, Mapping) or not all(isinstance(c, Cell) for c in cells.values()):
        raise DeclarationError(
            f"cells must map names of layers to cells, as cells={{'encoder.rnn': cell}}; "
            f"got {cells!r:.80}"
        )
    if names is not None and len(cells) != 1:
        raise DeclarationError(f"names are those of one layer; got cells of {', '.join(cells)}")
    layers = []
    arrays = dict(content.arrays)
    for name, cell in cells.items():
        prefix = _prefix(content, name) if names is None else ""
        used = _parameters(content, prefix, cell, names)
        layer = _layer(content, name, cell, {k: array for k, (_, array) in used.items()})
        surroundings = Surroundings(
            layer.place,
            prefix,
            dict(used.values()),
            int(layer.options["hidden_size"]),
            int(layer.options["hidden_size"]) * len(cell.gates),
        )
        if names is None:
            ignored = companions(content.arrays, [surroundings])[prefix]
            layer = replace(layer, ignored=ignored)
        layers.append(layer)
        for file_name in content.arrays:
            if file_name in surroundings.used or (prefix and file_name.startswith(prefix)):
                arrays.pop(file_name, None)
    return layers, replace(content, arrays=arrays)


def _prefix(content: FileContent, name: str) -> str:
    if not name:
        return ""
    for mark in "./:_":
        if any(array.startswith(name + mark) for array in content.arrays):
            return name + mark
    raise AddressError(
        f"{content.path}: no arrays of a layer {name!r}; it holds "
        f"{', '.join(list(content.arrays)[:8]) or 'none'}"
    )


def _parameters(
    content: FileContent, prefix: str, cell: Cell, names: Mapping[str, str] | None
) -> dict[str, tuple[str, LazyArray]]:
    """The file's arrays by the parameters of ``Recurrent``; a cell's names are those of layer 0."""
    known = {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", *cell.vectors}
    parameters: dict[str, tuple[str, LazyArray]] = {}
    pairs = names.items() if names is not None else _under(content, prefix)
    for parameter, file_name in pairs:
        if file_name not in content.arrays:
            raise FileError(f"{content.path}: no array {file_name!r}, named for {parameter}")
        match = _LAYER.fullmatch(parameter)
        if match is not None and match["parameter"] in known:
            full_name = match["parameter"] + (match["end"] or "_l0")
            parameters[full_name] = file_name, content.arrays[file_name]
    return parameters


def _under(content: FileContent, prefix: str) -> Iterator[tuple[str, str]]:
    for file_name in content.arrays:
        if file_name.startswith(prefix):
            yield file_name[len(prefix) :].removesuffix(":0"), file_name


def _layer(
    content: FileContent, name: str, cell: Cell, arrays: Mapping[str, LazyArray]
) -> StoredLayer:
    place = f"{content.path}, {name}" if name else f"{content.path}"
    options = _options(place, cell, arrays)
    expected = Recurrent(cell, **options, device="meta").state_dict()
    state: dict[str, Tensor] = {}
    assumed: list[str] = []
    for parameter, like in expected.items():
        array = arrays.get(parameter)
        if array is None and parameter.startswith("bias_hh"):
            state[parameter] = state["weight_ih_l0"].new_zeros(like.shape)
            assumed.append(f"{parameter} is zero: the file has none")
            continue
        shape = tuple(like.shape)
        if array is None or array.shape != shape or not array.floating:
            got = f"got {array.shape}" if array is not None else "it is missing"
            raise FileError(
                f"{place}: {parameter} of cell {cell.name} must be {shape}, with input "
                f"{options['input_size']}, {options['hidden_size']} units and the gates "
                f"{' '.join(cell.gates)} in this order; {got}"
            )
        state[parameter] = array.read()
    surplus = [parameter for parameter in arrays if parameter not in expected]
    if surplus:
        raise FileError(f"{place}: cell {cell.name} has no {', '.join(surplus)}")
    return StoredLayer(
        name=name,
        place=place,
        layout="rnnscope",
        gates="".join(cell.gates),
        cell=cell,
        state=state,
        options=options,
        assumed=tuple(assumed),
    )


def _options(place: str, cell: Cell, arrays: Mapping[str, LazyArray]) -> dict[str, Any]:
    """The sizes of the layer, from its first matrices."""
    ih, hh = arrays.get("weight_ih_l0"), arrays.get("weight_hh_l0")
    if ih is None or len(ih.shape) != 2 or (hh is not None and len(hh.shape) != 2):
        raise FileError(
            f"{place}: a layer of cell {cell.name} needs matrices weight_ih_l0 and weight_hh_l0, "
            f"or weight_ih and weight_hh; got {', '.join(arrays) or 'neither'}. Where they have "
            f"other names: names={{'weight_ih_l0': ..., 'weight_hh_l0': ..., ...}}"
        )
    hr = arrays.get("weight_hr_l0")
    gates = len(cell.gates)
    hidden = hh.shape[1] if hh is not None and hr is None else ih.shape[0] // gates
    numbers = [int(match[1]) for k in arrays if (match := re.search(r"_l(\d{1,3})", k))]
    options: dict[str, Any] = {
        "input_size": ih.shape[1],
        "hidden_size": hidden,
        "num_layers": max(numbers) + 1,
        "bias": any(name.startswith("bias_") for name in arrays),
        "bidirectional": "weight_ih_l0_reverse" in arrays,
    }
    if hr is not None:
        options["proj_size"] = hr.shape[0]
    if ih.shape[1] < 1 or hidden < 1 or ih.shape[0] != gates * hidden:
        raise FileError(
            f"{place}: weight_ih_l0 is {ih.shape}, for {hidden} units; cell {cell.name} has the "
            f"gates {' '.join(cell.gates)}, so it needs {gates} × {hidden} rows"
        )
    return options
