"""Layers as a command line gives them: drawn from a seed, or from a file of weights.

Files are data: nothing in them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._cli.choices import AnyCell, Nonlinearity
from rnnscope._cli.inputs import MOST, number
from rnnscope._cli.terminal import ArgumentError
from rnnscope._files import Layers, load
from rnnscope._files.stored_layer import AmbiguousError
from rnnscope._layers.recurrent import Recurrent
from rnnscope.cells import DECLARED
from rnnscope.errors import AddressError, FileError, ShapeError

__all__ = [
    "LayerFile",
    "cell_name",
    "construction",
    "drawn",
    "options_named",
    "set_parameter",
]

KINDS: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


def drawn(seed: int, kind: str, input_size: int, hidden_size: int, **options: Any) -> Any:
    """A layer in evaluation mode, its weights as torch draws them after ``torch.manual_seed``."""
    if kind.startswith("rnn_"):
        kind, options["nonlinearity"] = kind.split("_")
    # a generator of its own: other threads may be drawing from the one that they all share
    generator = torch.Generator("cpu").manual_seed(seed)
    layer = _build(kind, input_size, hidden_size, device="meta", **options).to_empty(device="cpu")
    limit = 1 / math.sqrt(hidden_size)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -limit, limit, generator=generator)
    return layer.eval()


def construction(module: nn.Module, path: Path | None = None, name: str = "") -> str:
    """The line of Python that builds the layer; one that torch.nn lacks is loaded again."""
    if not isinstance(module, nn.RNNBase) and path is not None:
        return f"layer = rnnscope.load({path.name!r})[{name!r}]   # {module}"
    if isinstance(module, nn.RNNBase):
        kind = module.mode.split("_")[0]
        begun = f"{kind.lower()} = nn.{kind}("
    else:
        assert isinstance(module, Recurrent)
        cell = next(name for name, declared in DECLARED.items() if declared is module.cell)
        begun = f"layer = rnnscope.Recurrent(rnnscope.cells.{cell.upper()}, "
    options: dict[str, Any] = {
        "input_size": module.input_size,
        "hidden_size": module.hidden_size,
    }
    defaults: dict[str, Any] = {"num_layers": 1, "nonlinearity": "tanh", "bias": True}
    defaults |= {"batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0}
    for option, default in defaults.items():
        if getattr(module, option, default) != default:
            options[option] = getattr(module, option)
    arguments = ", ".join(f"{option}={value!r}" for option, value in options.items())
    training = ".train()" if module.training and options.get("dropout") else ""
    return f"{begun}{arguments}){training}"


def _build(kind: str, input_size: int, hidden_size: int, **options: Any) -> nn.RNNBase | Recurrent:
    """A layer of torch.nn, or of a declared cell, with weights as torch draws them.

    Raises ``ShapeError`` where it would hold too many numbers.
    """
    layers, directions = options.get("num_layers", 1), 2 if options.get("bidirectional") else 1
    output_size = options.get("proj_size") or hidden_size
    cell = DECLARED["rnn_tanh" if kind == "rnn" else kind]
    gates = len(cell.gates)
    features = input_size + (layers - 1) * output_size * directions  # of all layers together
    count = gates * hidden_size * directions * (features + layers * output_size)
    if count > MOST:
        raise ShapeError(f"a layer of these sizes holds {count} weights; the most here is {MOST}")
    options.setdefault("device", "cpu")
    if kind not in KINDS:
        return Recurrent(cell, input_size, hidden_size, dtype=torch.float32, **options)
    return KINDS[kind](input_size, hidden_size, dtype=torch.float32, **options)


@dataclass(frozen=True)
class LayerFile:
    """A recurrent layer in a file of any kind; None for what the options do not say of it."""

    path: Path
    name: str | None = None
    kind: str | None = None
    layout: str | None = None
    nonlinearity: str | None = None

    def read(self) -> tuple[str, nn.Module]:
        """The layer's name in the file, and the layer: ``batch_first``, in evaluation mode.

        Raises what ``read_whole`` raises.
        """
        return next(iter(self.read_whole().items()))

    def read_whole(self) -> Layers:
        """The one layer, with what was assumed of it.

        Raises what ``rnnscope.load`` raises, and ``FileError`` where there are several.
        """
        with options_named(layout="--layout"):
            layers = load(
                self.path,
                layer=self.name,
                cell=self.kind,
                layout=self.layout,
                nonlinearity=self.nonlinearity,
                batch_first=True,
            )
        if len(layers) > 1:
            names = ", ".join(map(repr, list(layers)[:8])) + ", ..." * (len(layers) > 8)
            raise FileError(
                f"{self.path}: {len(layers)} recurrent layers, {names}; choose one with "
                f"--layer NAME"
            )
        return layers


@contextmanager
def options_named(layout: str) -> Iterator[None]:
    """Where several readings of a file fit, the error names options: ``layout`` is that of the
    layout."""
    try:
        yield
    except AmbiguousError as error:
        raise ArgumentError(error.in_options({"cell": "--cell", "layout": layout})) from error


def cell_name(
    cell: AnyCell | None, nonlinearity: Nonlinearity | None
) -> tuple[str | None, str | None]:
    """The kind of cell and the activation, as text. Raises ``ArgumentError`` where a cell other
    than an ``rnn`` is given an activation."""
    if nonlinearity is not None and cell not in (None, AnyCell.rnn):
        raise ArgumentError("--nonlinearity is an option of --cell rnn")
    return cell.value if cell else None, nonlinearity.value if nonlinearity else None


def set_parameter(module: nn.Module, change: str) -> None:
    """``name=value`` fills a parameter, ``name[row,column]=value`` sets one number of it."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\[([^\]]*)\])?\s*=\s*(\S+)\s*", change)
    if match is None:
        raise AddressError(f"--set {change!r}: expected weight_hh_l0=0.7 or weight_hh_l0[0,1]=0.7")
    name, index, text = match.groups()
    parameters = dict(module.named_parameters())
    if name not in parameters:
        shapes = ", ".join(f"{key} {tuple(p.shape)}" for key, p in parameters.items())
        hint = (
            " --bias adds the biases."
            if name.startswith("bias") and not getattr(module, "bias", True)
            else ""
        )
        raise AddressError(f"--set: no parameter {name!r}; the layer has {shapes}.{hint}")
    try:
        value = number(text)
    except ValueError as error:
        raise AddressError(f"--set {change!r}: {error}") from error
    parameter = parameters[name]
    if math.isfinite(value) and abs(value) > torch.finfo(parameter.dtype).max:
        raise AddressError(
            f"--set {change!r}: too large for the layer's numbers, {parameter.dtype}"
        )
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
