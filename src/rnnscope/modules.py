"""Layers as a command line gives them: drawn from a seed, or from a file of weights.

Files are data: nothing in them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rnnscope.errors import AddressError, FileError, ShapeError
from rnnscope.inputs import MOST, number, reader_of

__all__ = ["construction", "drawn", "read_layer", "set_parameter"]

KINDS: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}
GATES = {1: "rnn", 3: "gru", 4: "lstm"}

_PARAMETER = re.compile(
    r"(?P<prefix>(?:.*\.)?)(?P<name>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l(?P<layer>\d{1,3})(?P<reverse>_reverse)?)?"
)


def drawn(seed: int, kind: str, input_size: int, hidden_size: int, **options: Any) -> nn.RNNBase:
    """A layer in evaluation mode, its weights as torch draws them after ``torch.manual_seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(kind, input_size, hidden_size, **options).eval()


def construction(module: nn.RNNBase) -> str:
    """The line of Python that builds the layer."""
    kind = module.mode.split("_")[0]
    options: dict[str, Any] = {
        "input_size": module.input_size,
        "hidden_size": module.hidden_size,
    }
    defaults: dict[str, Any] = {"num_layers": 1, "nonlinearity": "tanh", "bias": True}
    defaults |= {"batch_first": False, "bidirectional": False, "proj_size": 0}
    for option, default in defaults.items():
        if getattr(module, option, default) != default:
            options[option] = getattr(module, option)
    arguments = ", ".join(f"{option}={value!r}" for option, value in options.items())
    return f"{kind.lower()} = nn.{kind}({arguments})"


def _build(kind: str, input_size: int, hidden_size: int, **options: Any) -> nn.RNNBase:
    """``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` with weights as torch draws them.

    Raises ``ShapeError`` where it would hold too many numbers.
    """
    layers, directions = options.get("num_layers", 1), 2 if options.get("bidirectional") else 1
    output_size = options.get("proj_size") or hidden_size
    gates = next(count for count, name in GATES.items() if name == kind)
    features = input_size + (layers - 1) * output_size * directions  # of all layers together
    count = gates * hidden_size * directions * (features + layers * output_size)
    if count > MOST:
        raise ShapeError(f"a layer of these sizes holds {count} weights; the most here is {MOST}")
    return KINDS[kind](input_size, hidden_size, **options)


def read_layer(
    path: Path, name: str | None = None, kind: str | None = None, nonlinearity: str | None = None
) -> nn.RNNBase:
    """The recurrent layer whose weights a state dict holds, ``batch_first``, in evaluation mode.

    Its kind and sizes follow from the names and shapes. ``name`` chooses among several layers.
    Raises ``FileError`` for a file that is damaged or holds no such layer, ``AddressError`` for a
    name that it does not hold.
    """
    readers = {".pt": _read_torch, ".pth": _read_torch, ".safetensors": _read_safetensors}
    loaded = reader_of(path, readers)(path)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(loaded):
        match = _PARAMETER.fullmatch(key)
        if match:
            # a cell module's names lack the layer: its weights are those of a layer of one
            layer = f"_l{match['layer'] or 0}{match['reverse'] or ''}"
            layers.setdefault(match["prefix"].rstrip("."), {})[match["name"] + layer] = tensor
    layers = {prefix: found for prefix, found in layers.items() if "weight_ih_l0" in found}
    prefix = _chosen(path, list(layers), name)
    place = f"{path}, {prefix}" if prefix else f"{path}"
    return _assembled(place, layers[prefix], kind, nonlinearity)


def _chosen(path: Path, names: list[str], name: str | None) -> str:
    if not names:
        raise FileError(
            f"{path}: no weights of a recurrent layer (weight_ih_l0, weight_hh_l0, ...); expected "
            f"the state dict of a model that holds nn.RNN, nn.GRU or nn.LSTM"
        )
    shown = ", ".join(repr(each) for each in names[:8]) + (", ..." if len(names) > 8 else "")
    if name is not None:
        if name not in names:
            raise AddressError(f"{path}: no recurrent layer {name!r}; it holds {shown}")
        return name
    if len(names) > 1:
        raise FileError(
            f"{path}: {len(names)} recurrent layers, {shown}; choose one with --layer NAME"
        )
    return names[0]


def _assembled(
    place: str, found: dict[str, Tensor], kind: str | None, nonlinearity: str | None
) -> nn.RNNBase:
    for key, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            raise FileError(f"{place}: {key} is {tensor.dtype}; expected plain floating point")
        if tensor.dtype != found["weight_ih_l0"].dtype:
            raise FileError(f"{place}: {key} is {tensor.dtype}, unlike weight_ih_l0")
    ih, hh, hr = (found.get(f"weight_{which}_l0") for which in ("ih", "hh", "hr"))
    assert ih is not None, "layers without weight_ih_l0 were left out"
    if hh is None:
        raise FileError(f"{place}: weight_hh_l0 is missing")
    if ih.dim() != 2 or hh.dim() != 2 or (hr is not None and hr.dim() != 2) or 0 in hh.shape:
        raise FileError(f"{place}: expected matrices; weight_ih_l0 is {tuple(ih.shape)}")
    hidden = hh.shape[1] if hr is None else hr.shape[1]
    of_file = GATES.get(ih.shape[0] // hidden) if hidden and ih.shape[0] % hidden == 0 else None
    if of_file is None:
        raise FileError(
            f"{place}: weight_ih_l0 has {ih.shape[0]} rows for {hidden} units; expected as many "
            f"(nn.RNN), three times (nn.GRU) or four times (nn.LSTM)"
        )
    if kind not in (None, of_file):
        raise FileError(f"{place}: these are weights of nn.{of_file.upper()}, not {kind}")
    highest = max(int(key.split("_l")[1].removesuffix("_reverse")) for key in found)
    options: dict[str, Any] = {
        "num_layers": highest + 1,
        "bias": "bias_ih_l0" in found,
        "bidirectional": "weight_ih_l0_reverse" in found,
        "batch_first": True,
    }
    if hr is not None:
        options["proj_size"] = hr.shape[0]
    if nonlinearity is not None and of_file == "rnn":
        options["nonlinearity"] = nonlinearity
    try:
        layer = _build(of_file, ih.shape[1], hidden, **options)
    except ValueError as error:  # torch's own, and ShapeError
        raise FileError(f"{place}: {error}") from error
    _check_names(place, layer, found)
    layer.to(ih.dtype).load_state_dict(found)
    return layer.eval()


def _check_names(place: str, layer: nn.RNNBase, found: Mapping[str, Tensor]) -> None:
    expected = {key: tuple(p.shape) for key, p in layer.named_parameters()}
    for key, shape in expected.items():
        if key not in found:
            raise FileError(f"{place}: {key} {shape} is missing")
        if tuple(found[key].shape) != shape:
            raise FileError(f"{place}: {key} must be {shape}; got {tuple(found[key].shape)}")
    for key in found:
        if key not in expected:
            raise FileError(f"{place}: {key} does not fit with the other weights")


def _read_torch(path: Path) -> Any:
    expected = "expected a state dict, torch.save(model.state_dict(), ...)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how the file should have been written
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)|(?:class|type) '?([\w.]+)", str(error))
        if name is None:
            raise FileError(
                f"{path}: damaged, or it holds more than tensors, which could run code when "
                f"read; {expected}"
            ) from error
        raise FileError(
            f"{path}: refused: it holds {name[1] or name[2]}, and unpickling more than tensors "
            f"could run code; {expected}"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise FileError(f"{path}: damaged, or no file of torch.save: {_line(error)}") from error


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileError(f"{path}: damaged, or no safetensors file: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The first sentence of a message; the rest is torch's advice."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return first.split(". ")[0][:200]


def _tensors(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts, under its names joined by dots."""
    waiting, seen = [("", loaded)], set()
    while waiting:
        prefix, held = waiting.pop()
        if not isinstance(held, Mapping) or id(held) in seen:  # a dict may hold itself
            continue
        seen.add(id(held))
        for key, value in held.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                yield prefix + key, value
            elif isinstance(key, str):
                waiting.append((f"{prefix}{key}.", value))


def set_parameter(module: nn.RNNBase, change: str) -> None:
    """``name=value`` fills a parameter, ``name[row,column]=value`` sets one number of it."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\[([^\]]*)\])?\s*=\s*(\S+)\s*", change)
    if match is None:
        raise AddressError(f"--set {change!r}: expected weight_hh_l0=0.7 or weight_hh_l0[0,1]=0.7")
    name, index, text = match.groups()
    parameters = dict(module.named_parameters())
    if name not in parameters:
        held = ", ".join(f"{key} {tuple(p.shape)}" for key, p in parameters.items())
        hint = " --bias adds the biases." if name.startswith("bias") and not module.bias else ""
        raise AddressError(f"--set: no parameter {name!r}; the layer has {held}.{hint}")
    try:
        value = number(text)
    except ValueError as error:
        raise AddressError(f"--set {change!r}: {error}") from error
    parameter = parameters[name]
    with torch.no_grad():
        if index is None:
            parameter.fill_(value)
        else:
            parameter[_place(name, parameter, index)] = value


def _place(name: str, parameter: Tensor, index: str) -> tuple[int, ...]:
    shape = tuple(parameter.shape)
    words = index.split(",")
    if len(words) != len(shape) or not all(re.fullmatch(r"\s*-?\d{1,9}\s*", w) for w in words):
        form = "[row,column]" if len(shape) == 2 else "[row]"
        raise AddressError(f"--set {name}[{index}]: expected {name}{form} with whole numbers")
    place = tuple(map(int, words))
    if not all(-size <= k < size for k, size in zip(place, shape, strict=True)):
        raise AddressError(f"--set {name}[{index}]: {name} has shape {shape}, numbered from 0")
    return place
