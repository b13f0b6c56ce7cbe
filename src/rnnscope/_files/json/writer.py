"""Models in JSON from layers: a .nam, RTNeural's and GuitarML's .json.

What a format has no place for is said under a key of our own, which ``load`` tells and the
programs pass over; where a program needs a head and none is given, it is one of zeros.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnscope._files.json.file import JSON_ENDINGS, MARK, USUAL
from rnnscope._layers.adopt import Adopted
from rnnscope._layouts import Layout
from rnnscope._layouts.kinds import kind_of
from rnnscope.errors import RefusedError

__all__ = [
    "JSON_ENDINGS",
    "JSON_LAYOUTS",
    "JsonLayer",
    "json_of",
    "refuse_directions",
    "refuse_layout",
]

JSON_LAYOUTS = ("nam", "rtneural", "guitarml")
_VERSION = "0.5.4"  # of .nam: the oldest that every program of today reads
_UNITS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


@dataclass(frozen=True)
class JsonLayer:
    """A layer to be written: the layout's arrays for each layer of its stack, or for all of
    them; and the numbers of the model around it."""

    name: str
    adopted: Adopted
    arrays: tuple[Mapping[str, Tensor], ...]
    model_numbers: Mapping[str, Tensor]


def refuse_layout(path: Path, ending: str, layout: Layout) -> None:
    """Raise ``RefusedError`` where a JSON file has no such layout."""
    expected = ("nam",) if ending == ".nam" else JSON_LAYOUTS
    if ending in JSON_ENDINGS and layout.name not in expected:
        names = " or ".join(f"layout={name!r}" for name in expected)
        raise RefusedError(f"{path}: layout {layout.name} in a {ending} file; expected {names}")


def refuse_directions(place: str, layout: Layout, adopted: Adopted) -> None:
    """Raise ``RefusedError`` for two directions: no program that reads these files runs them."""
    if layout.name in JSON_LAYOUTS and len(adopted.directions) > 1:
        raise RefusedError(f"{place}layout {layout.name} holds one direction; the layer has two")


def json_of(path: Path, layout: Layout, layers: Sequence[JsonLayer]) -> bytes:
    """The text of a file. Raises ``RefusedError`` for what its format cannot hold."""
    for layer in layers:
        for arrays in (*layer.arrays, layer.model_numbers):
            for name, value in arrays.items():
                if not bool(value.isfinite().all()):
                    raise RefusedError(f"{path}: {name} holds NaN or infinity, which JSON lacks")
    if layout.name != "rtneural" and len(layers) > 1:
        names = ", ".join(layer.name for layer in layers)
        raise RefusedError(
            f"{path}: layout {layout.name} holds one stack of layers; got {names}: write a file "
            f"for each"
        )
    data, kept, notes = _WRITERS[layout.name](path, layers)
    dropped = [name for layer in layers for name in layer.model_numbers if name not in kept]
    if dropped:
        notes = [*notes, f"{', '.join(dropped)} of the model that was read are not in this file"]
    dtypes = {next(iter(layer.arrays[0].values())).dtype for layer in layers}
    marks: dict[str, Any] = {"notes": notes} if notes else {}
    if dtypes != {torch.float32}:
        marks["dtype"] = str(max(dtypes, key=lambda dtype: dtype.itemsize)).removeprefix("torch.")
    if layers[0].name and layers[0].name != USUAL.get(layout.name, layers[0].name):
        marks["name"] = layers[0].name
    return json.dumps({**data, **({MARK: marks} if marks else {})}, allow_nan=False).encode()


_Model = tuple[dict[str, Any], set[str], list[str]]  # the data, what it keeps, what is to be said


def _head(layer: JsonLayer) -> tuple[Tensor, Tensor, list[str]]:
    """Weight and bias of the head, and what is to be said of it."""
    if {"head.weight", "head.bias"} <= layer.model_numbers.keys():
        weight, bias = layer.model_numbers["head.weight"], layer.model_numbers["head.bias"]
        if (
            weight.dim() == 2
            and weight.shape[1] == layer.adopted.hidden_size
            and (bias.shape == weight.shape[:1])
        ):
            return weight, bias, []
        raise RefusedError(
            f"layer {layer.name}: head.weight {tuple(weight.shape)} and head.bias "
            f"{tuple(bias.shape)} do not fit {layer.adopted.hidden_size} units"
        )
    zeros = torch.zeros(1, layer.adopted.hidden_size, dtype=torch.float32, device="cpu")
    return zeros, zeros[0, :1], ["no head was given to save: the one in this file is of zeros"]


def _nam(path: Path, layers: Sequence[JsonLayer]) -> _Model:
    layer = layers[0]
    depth, hidden = layer.adopted.num_layers, layer.adopted.hidden_size
    weight, bias, notes = _head(layer)
    states = []
    for name in ("h_0", "c_0"):
        state = layer.model_numbers.get(
            name, torch.zeros(depth, 1, hidden, dtype=torch.float32, device="cpu")
        )
        if state.shape != (depth, 1, hidden):
            raise RefusedError(
                f"{path}: {name} must be {(depth, 1, hidden)}; got {tuple(state.shape)}"
            )
        states.append(state[:, 0])
    stored = list(layer.arrays[0].values())  # weight and bias of each layer
    parts: list[Tensor] = []
    for k in range(depth):
        parts += [*stored[2 * k : 2 * k + 2], states[0][k], states[1][k]]
    config = {
        "input_size": layer.adopted.input_size,
        "hidden_size": hidden,
        "num_layers": depth,
        **({"out_channels": len(bias)} if len(bias) > 1 else {}),
    }
    weights = [number for part in (*parts, weight, bias) for number in part.flatten().tolist()]
    data: dict[str, Any] = {
        "version": _VERSION,
        "architecture": "LSTM",
        "config": config,
        "weights": weights,
    }
    if "sample_rate" in layer.model_numbers:
        data["sample_rate"] = layer.model_numbers["sample_rate"].item()
    kept = {"h_0", "c_0", "head.weight", "head.bias", "sample_rate"}
    return data, kept, notes


def _rtneural(path: Path, layers: Sequence[JsonLayer]) -> _Model:
    entries: list[dict[str, Any]] = []
    width = layers[0].adopted.input_size
    for layer in layers:
        adopted = layer.adopted
        if adopted.input_size != width:
            raise RefusedError(
                f"{path}: RTNeural runs its layers one after the other; layer {layer.name!r} "
                f"takes {adopted.input_size} numbers, the one before gives {width}"
            )
        width = adopted.hidden_size
        for k, arrays in enumerate(layer.arrays):
            end = f"_l{k}" if len(layer.arrays) > 1 else ""
            entries.append(
                {
                    **({"name": layer.name + end} if layer.name else {}),
                    "type": kind_of(adopted.cell),
                    "activation": "tanh",
                    "shape": [None, None, width],
                    "weights": [value.tolist() for value in arrays.values()],
                }
            )
    kept: set[str] = set()
    if "head.weight" in layers[-1].model_numbers:
        weight, bias, _ = _head(layers[-1])
        kept = {"head.weight", "head.bias"}
        entries.append(
            {
                "type": "dense",
                "activation": "",
                "shape": [None, None, len(bias)],
                "weights": [weight.T.tolist(), bias.tolist()],
            }
        )
    shape = [None, None, layers[0].adopted.input_size]
    return {"in_shape": shape, "layers": entries}, kept, []


def _guitarml(path: Path, layers: Sequence[JsonLayer]) -> _Model:
    layer = layers[0]
    weight, bias, notes = _head(layer)
    skip = layer.model_numbers.get("skip")
    state = {**layer.arrays[0], "lin.weight": weight, "lin.bias": bias}
    facts = {
        "model": "SimpleRNN",
        "input_size": layer.adopted.input_size,
        "skip": 0 if skip is None else int(skip),
        "output_size": len(bias),
        "unit_type": _UNITS[kind_of(layer.adopted.cell)],
        "num_layers": layer.adopted.num_layers,
        "hidden_size": layer.adopted.hidden_size,
        "bias_fl": True,
    }
    lists = {name: value.tolist() for name, value in state.items()}
    return {"model_data": facts, "state_dict": lists}, {"head.weight", "head.bias", "skip"}, notes


_WRITERS: Mapping[str, Callable[[Path, Sequence[JsonLayer]], _Model]] = {
    "nam": _nam,
    "rtneural": _rtneural,
    "guitarml": _guitarml,
}
