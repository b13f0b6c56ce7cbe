"""The recurrent layers of a model in JSON, and what the model has beside them.

Source: neural-amp-modeler/nam/models/recurrent.py (``_export_weights``), NeuralAmpModelerCore/NAM/
lstm.cpp; RTNeural/RTNeural/model_loader.h; CoreAudioML/networks.py (``SimpleRNN.save_model``)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnscope._files.content import FileContent
from rnnscope._files.disk import LazyArray
from rnnscope._files.json.file import PARAMETER, USUAL, JsonModel
from rnnscope._files.json.parser import Numbers
from rnnscope._files.pytorch import assemble
from rnnscope._files.stored_layer import CELL_KINDS, LoadRequest, StoredLayer, kind_name, layer_name
from rnnscope._layouts import Converted, Layout, layout_named, to_torch
from rnnscope._layouts.kinds import kind_of
from rnnscope.errors import DtypeError, FileError, ShapeError

__all__ = ["layers_of_json"]

_DENSE = ("dense", "time-distributed-dense")
_UNITS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}


def layers_of_json(
    content: FileContent, chosen: Layout | None, request: LoadRequest
) -> list[StoredLayer]:
    """Every recurrent layer. Raises ``FileError`` with the place that does not fit."""
    model: JsonModel = content.config
    if chosen is not None and chosen.name != model.layout:
        raise FileError(
            f"{content.path}: this JSON is in layout {model.layout}; got layout={chosen.name!r}: "
            f"leave it out"
        )
    match model.layout:
        case "nam":
            layers = [_nam(content.path, model)]
        case "rtneural":
            layers = _rtneural(content.path, model)
        case _:
            layers = _state_dict(content.path, model)
    for layer in layers:
        if request.cell is not None and kind_of(layer.cell) not in CELL_KINDS[request.cell]:
            stored_kind = kind_name(layer.cell)
            raise FileError(
                f"{layer.place}: these are weights of {stored_kind}, not {request.cell}"
            )
    return layers


# what a place must hold ---------------------------------------------------------------------


def _object(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise FileError(f"{place}: expected an object; got {_describe(value)}")
    return value


def _whole(
    place: str,
    facts: Mapping[str, Any],
    key: str,
    default: int | None = None,
    most: int | None = None,
) -> int:
    """A whole number from 1, or the default, up to the most."""
    value = facts.get(key, default)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or (value < 1 and value != default) or (most is not None and value > most):
        least = 1 if default is None else min(1, default)
        got = _describe(value) if key in facts else "nothing"
        upto = "" if most is None else f" to {most}"
        raise FileError(f"{place}: {key} must be a whole number from {least}{upto}; got {got}")
    return int(value)


def _numbers(place: str, value: Any, dims: int | None = None) -> Numbers:
    if not isinstance(value, Numbers):
        where, why = _misfit(value)
        raise FileError(f"{place}{where}: {why}")
    if dims is not None and len(value.shape) != dims:
        kind = "a list of numbers" if dims == 1 else "lists of numbers in a list"
        raise FileError(f"{place}: expected {kind}; got lists of the shape {value.shape}")
    return value


def _misfit(value: Any) -> tuple[str, str]:
    """Where in nested lists the first entry is that is no number, or of another length."""
    if not isinstance(value, list):
        return "", f"expected lists of numbers; got {_describe(value)}"
    first = value[0] if value else None
    for k, entry in enumerate(value):
        if isinstance(entry, Numbers):
            if isinstance(first, Numbers) and entry.shape != first.shape:
                return f"[{k}]", f"expected a list of the shape {first.shape}; got {entry.shape}"
            if not isinstance(first, Numbers):
                return f"[{k}]", f"expected {_describe(first)}, as before; got a list"
        elif isinstance(entry, list):
            where, why = _misfit(entry)
            return f"[{k}]{where}", why
        elif isinstance(entry, bool) or not isinstance(entry, int | float):
            return f"[{k}]", f"expected a number; got {_describe(entry)}"
        elif isinstance(first, Numbers):
            return f"[{k}]", f"expected a list of the shape {first.shape}; got a number"
    return "", "expected lists of numbers"


def _describe(value: Any) -> str:
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            return f"the text {value[:40]!r}"
        case dict():
            return "an object"
        case Numbers():
            return f"lists of the shape {value.shape}"
        case list():
            return "a list"
    return repr(value)[:40]


def _tensor(place: str, numbers: Numbers, model: JsonModel) -> Tensor:
    tensor = numbers.tensor(model.dtype)
    if not bool(tensor.isfinite().all()):
        first = int((~tensor.isfinite()).flatten().nonzero()[0])
        remainder, index = first, []
        for size in reversed(tensor.shape):
            remainder, k = divmod(remainder, size)
            index.append(f"[{k}]")
        raise FileError(
            f"{place}{''.join(reversed(index))}: a number is beyond "
            f"{str(model.dtype).removeprefix('torch.')}"
        )
    return tensor


def _converted(place: str, layout: str, arrays: Mapping[str, Tensor], kind: str) -> Converted:
    try:
        return to_torch(layout, arrays, kind=kind)
    except (FileError, ShapeError, DtypeError) as error:
        raise FileError(f"{place}: {error}") from error


def _head_note(name: str, weight: Tensor) -> str:
    outputs, units = weight.shape
    return (
        f"the head ({units} -> {outputs}) is left to you: "
        f"torch.nn.functional.linear(output, beside['head.weight'], beside['head.bias']), "
        f"with beside = layers.beside[{name!r}]"
    )


# .nam ---------------------------------------------------------------------------------------


def _nam(path: Path, model: JsonModel) -> StoredLayer:
    architecture = model.data["architecture"]
    if architecture != "LSTM":
        raise FileError(
            f"{path}: expected architecture 'LSTM', the recurrent one; "
            f"got {_describe(architecture)}"
        )
    place = f"{path}, config"
    config = _object(place, model.data.get("config"))
    feature, hidden, depth = (
        _whole(place, config, key) for key in ("input_size", "hidden_size", "num_layers")
    )
    outputs = _whole(place, config, "out_channels", 1)
    place = f"{path}, weights"
    numbers = _numbers(place, model.data["weights"], 1)
    layer, head = 4 * hidden * 2 * hidden + 6 * hidden, outputs * (hidden + 1)
    expected = depth * layer + 4 * hidden * (feature - hidden) + head
    if numbers.count != expected:
        raise FileError(
            f"{place}: input_size={feature}, hidden_size={hidden} and num_layers={depth} need "
            f"{expected} numbers; got {numbers.count}"
        )
    record = layout_named("nam")
    arrays: dict[str, Tensor] = {}
    h_0, c_0 = torch.empty(2, depth, 1, hidden, dtype=model.dtype, device="cpu")
    flat = _tensor(place, numbers, model)
    for k in range(depth):
        width = (hidden if k else feature) + hidden
        before = record.layer.format(number=k) if depth > 1 else ""
        matrix, flat = flat[: 4 * hidden * width], flat[4 * hidden * width :]
        arrays[f"{before}weight"] = matrix.reshape(-1, width)
        arrays[f"{before}bias"], h_0[k, 0], c_0[k, 0] = (
            flat[: 4 * hidden],
            flat[4 * hidden : 5 * hidden],
            flat[5 * hidden : 6 * hidden],
        )
        flat = flat[6 * hidden :]
    model_numbers = {
        "h_0": h_0,
        "c_0": c_0,
        "head.weight": flat[: outputs * hidden].reshape(outputs, hidden).clone(),
        "head.bias": flat[outputs * hidden :].clone(),
    }
    rate = model.data.get("sample_rate")
    if isinstance(rate, int | float) and 1 < rate < 1e9:  # -1 stands for an unknown rate
        model_numbers["sample_rate"] = torch.tensor(float(rate), dtype=torch.float64, device="cpu")
    name = model.name or USUAL["nam"]
    notes = [_head_note(name, model_numbers["head.weight"])]
    if any(bool(model_numbers[state].count_nonzero()) for state in ("h_0", "c_0")):
        notes.insert(0, _state_note(name))
    converted = _converted(f"{path}", "nam", arrays, "lstm")
    return StoredLayer(
        name=name,
        place=f"{path}",
        layout="nam",
        gates=record.stored("lstm").gates,
        cell=converted.cell,
        state=converted.state_dict,
        options=converted.options,
        batch_first=True,
        assumed=(*notes, *model.notes),
        model_numbers=model_numbers,
    )


def _state_note(name: str) -> str:
    return (
        f"the model starts at its own h_0 and c_0, a layer at zero: pass them, "
        f"layer(x, (beside['h_0'], beside['c_0'])), with beside = layers.beside[{name!r}]"
    )


# RTNeural -----------------------------------------------------------------------------------


def _rtneural(path: Path, model: JsonModel) -> list[StoredLayer]:
    layers = model.data["layers"]
    types = [
        entry["type"] if isinstance(entry["type"], str) else _describe(entry["type"])
        for entry in layers
    ]
    recurrent = [k for k, kind in enumerate(types) if kind in ("lstm", "gru")]
    if not recurrent:
        raise FileError(
            f"{path}: expected a layer of type 'lstm' or 'gru'; got {', '.join(types[:8])}"
        )
    head = _dense_head(path, model, recurrent[-1])
    apart = {*recurrent, *([len(layers) - 1] if head else [])}
    unused = [f"layers[{k}] {kind[:40]}" for k, kind in enumerate(types) if k not in apart]
    stored_layers: list[StoredLayer] = []
    for k in recurrent:
        layer = _rtneural_layer(
            path, model, k, types[k], [stored_layer.name for stored_layer in stored_layers]
        )
        last = k == recurrent[-1]
        notes = [f"the model's {', '.join(unused)} are left out"] if unused else []
        if last and head:
            notes.append(_head_note(layer.name, head["head.weight"]))
        stored_layers.append(
            replace(
                layer,
                assumed=(*layer.assumed, *notes, *(model.notes if last else ())),
                model_numbers=head if last else {},
            )
        )
    return stored_layers


def _rtneural_layer(
    path: Path, model: JsonModel, k: int, kind: str, names: Sequence[str]
) -> StoredLayer:
    facts = model.data["layers"][k]
    place = f"{path}, layers[{k}] {kind}"
    weights = list(_entries(f"{place}, weights", facts["weights"]))
    if len(weights) != 3:
        raise FileError(
            f"{place}, weights: expected three, of the input, of h and the bias; got {len(weights)}"
        )
    arrays = {
        f"weights/{n}": _tensor(f"{place}, weights[{n}]", numbers, model)
        for n, numbers in enumerate(weights)
    }
    converted = _converted(place, "rtneural", arrays, kind)
    units, shape = converted.options["hidden_size"], facts.get("shape")
    entries = list(shape.tensor().tolist()) if isinstance(shape, Numbers) else shape
    if isinstance(entries, list) and entries and entries[-1] != units:
        raise FileError(
            f"{place}, shape: expected {units} units last; got {_describe(entries[-1])}"
        )
    title = facts.get("name")
    base = name = title if isinstance(title, str) and title else kind
    number = 1
    while name in names:
        name, number = f"{base}_{number}", number + 1
    activation = facts.get("activation")
    notes = []
    if activation not in (None, "", "tanh"):
        notes.append(f"tanh in place of activation={_describe(activation)}, as RTNeural computes")
    return StoredLayer(
        name=name,
        place=place,
        layout="rtneural",
        gates=layout_named("rtneural").stored(kind).gates,
        cell=converted.cell,
        state=converted.state_dict,
        options=converted.options,
        batch_first=True,
        assumed=tuple(notes),
    )


def _entries(place: str, value: Any) -> Iterator[Numbers]:
    """The arrays of a layer: lists of different shapes, or by chance of one."""
    entries = value.entries() if isinstance(value, Numbers) else value
    if not isinstance(entries, list) and not (isinstance(value, Numbers) and len(value.shape) > 1):
        raise FileError(f"{place}: expected a list of lists of numbers; got {_describe(value)}")
    for n, entry in enumerate(entries):
        yield _numbers(f"{place}[{n}]", entry)


def _dense_head(path: Path, model: JsonModel, last: int) -> dict[str, Tensor]:
    """The one linear layer after the recurrent ones; empty where something else is there."""
    layers = model.data["layers"]
    if len(layers) != last + 2:
        return {}
    facts = layers[-1]
    if facts["type"] not in _DENSE or facts.get("activation") not in (None, ""):
        return {}
    place = f"{path}, layers[{last + 1}] dense"
    weights = list(_entries(f"{place}, weights", facts["weights"]))
    if len(weights) != 2 or [len(array.shape) for array in weights] != [2, 1]:
        raise FileError(f"{place}, weights: expected a matrix and a bias")
    matrix, bias = (
        _tensor(f"{place}, weights[{n}]", numbers, model) for n, numbers in enumerate(weights)
    )
    return {
        "head.weight": matrix.T.clone(memory_format=torch.contiguous_format),
        "head.bias": bias.clone(),
    }


# state dicts --------------------------------------------------------------------------------


def _state_dict(path: Path, model: JsonModel) -> list[StoredLayer]:
    """GuitarML's, and one that is the whole file, as RTNeural's examples for PyTorch have it."""
    wrapped = model.layout == "guitarml"
    where = f"{path}, state_dict" if wrapped else f"{path}"
    state = model.data["state_dict"] if wrapped else model.data
    groups: dict[str, dict[str, LazyArray]] = {}
    used: set[str] = set()
    for key, value in state.items():
        if (match := PARAMETER.fullmatch(key)) is not None:
            numbers = _numbers(f"{where}, {key}", value)
            parameter = match["parameter"] + (match["end"] or "_l0")
            groups.setdefault(match["before"], {})[parameter] = _held(
                f"{where}, {key}", numbers, model
            )
            used.add(key)
    if not groups:
        raise FileError(
            f"{where}: expected weight_ih_l0 and weight_hh_l0 of a recurrent layer, as in "
            f"'rec.weight_hh_l0'; got {', '.join(map(repr, list(state)[:8])) or 'nothing'}"
        )
    head = _linear_head(where, model, state, groups) if wrapped else {}
    used |= {f"lin.{key.removeprefix('head.')}" for key in head}
    unused = [key for key in state if key not in used]
    facts = model.data.get("model_data") if wrapped else None
    layers: list[StoredLayer] = []
    for before, arrays in groups.items():
        usual = layer_name(before)
        place = f"{where}, {usual}" if usual else where
        kind, converted = assemble(place, arrays)
        name = model.name if model.name and len(groups) == 1 else usual
        notes, model_numbers = [], dict(head)
        if isinstance(facts, dict) and before == "rec.":
            _agree(f"{path}, model_data", facts, kind, converted)
            channels = converted.options["input_size"]
            skip = _whole(f"{path}, model_data", facts, "skip", 0, most=channels)
            if skip:
                model_numbers["skip"] = torch.tensor(skip, dtype=torch.int64, device="cpu")
                notes.append(f"skip={skip}: the model adds x[..., :{skip}] to what its head gives")
        if "head.weight" in model_numbers:
            notes.append(_head_note(name, model_numbers["head.weight"]))
        if unused:
            notes.append(f"the model's {', '.join(unused[:8])} are left out")
        layers.append(
            StoredLayer(
                name=name,
                place=place,
                layout=model.layout,
                gates=layout_named(model.layout).stored(kind).gates,
                cell=converted.cell,
                state=converted.state_dict,
                options=converted.options,
                assumed=(*notes, *model.notes),
                model_numbers=model_numbers,
            )
        )
    return layers


def _held(place: str, numbers: Numbers, model: JsonModel) -> LazyArray:
    return LazyArray(numbers.shape, True, lambda: _tensor(place, numbers, model))


def _linear_head(
    where: str, model: JsonModel, state: Mapping[str, Any], groups: Mapping[str, Any]
) -> dict[str, Tensor]:
    """``lin`` of SimpleRNN; empty where the model is another."""
    if list(groups) != ["rec."] or "lin.weight" not in state:
        return {}
    head = {}
    for key, dims in (("weight", 2), ("bias", 1)):
        if f"lin.{key}" in state:
            place = f"{where}, lin.{key}"
            numbers = _numbers(place, state[f"lin.{key}"], dims)
            head[f"head.{key}"] = _tensor(place, numbers, model).clone()
    # bias_fl=false: a head without
    head.setdefault(
        "head.bias", torch.zeros(len(head["head.weight"]), dtype=model.dtype, device="cpu")
    )
    return head


def _agree(place: str, facts: Mapping[str, Any], kind: str, converted: Converted) -> None:
    """Raise ``FileError`` where the description is not that of the arrays."""
    unit = facts.get("unit_type")
    if unit is not None and (not isinstance(unit, str) or _UNITS.get(unit) != kind):
        raise FileError(
            f"{place}: unit_type is {_describe(unit)}; the state_dict has {kind.upper()}"
        )
    for key in ("input_size", "hidden_size", "num_layers"):
        value = facts.get(key)
        if value is not None and value != converted.options[key]:
            raise FileError(
                f"{place}: {key} is {_describe(value)}; the state_dict has {converted.options[key]}"
            )
