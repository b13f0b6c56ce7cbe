"""A recurrent layer that was found in a file, and the module that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._files.content import FileContent
from rnnscope._files.disk import Allowance
from rnnscope._layers.recurrent import Recurrent
from rnnscope._layouts import Converted, Layout, to_torch
from rnnscope._layouts.kinds import storage_kind
from rnnscope.cells import (
    DECLARED,
    GRU,
    LSTM,
    LSTM_PROJECTED,
    RNN_RELU,
    RNN_TANH,
    Cell,
    as_declared,
)
from rnnscope.errors import FileError, RnnscopeError

__all__ = [
    "CELL_KINDS",
    "AmbiguousError",
    "Copies",
    "StoredLayer",
    "LoadRequest",
    "NoLayerError",
    "convert_layer",
    "kind_name",
    "layer_name",
    "module_of",
]

CELL_KINDS: Mapping[str, tuple[str, ...]] = {
    "rnn": ("rnn",),
    **{name: (storage_kind(name),) for name in DECLARED},
    "lstm": ("lstm", "lstm_peephole"),
}
"""The names by which a caller may ask for a cell, and the kinds of layouts that each may mean."""

_TORCH: Mapping[Cell, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {
    RNN_TANH: nn.RNN,
    RNN_RELU: nn.RNN,
    GRU: nn.GRU,
    LSTM: nn.LSTM,
    LSTM_PROJECTED: nn.LSTM,
}


class NoLayerError(FileError):
    """No array of the file has a name of a recurrent layer."""


class AmbiguousError(FileError):
    """Several readings fit; ``choices`` are the arguments of ``load`` that say which."""

    def __init__(self, reason: str, choices: Sequence[Mapping[str, str]]) -> None:
        self.what, self.choices = reason, choices
        super().__init__(self._text("{}={!r}".format, ", "))

    def in_options(self, names: Mapping[str, str]) -> str:
        """The message with the options of a command, ``names`` by argument."""
        return self._text(lambda name, value: f"{names[name]} {value}", " ")

    def _text(self, written: Callable[[str, str], str], between: str) -> str:
        alternatives = "; or ".join(between.join(starmap(written, c.items())) for c in self.choices)
        pairs = " of these pairs" if len(self.choices[0]) > 1 else ""
        return f"{self.what}; give one{pairs}: {alternatives}"


@dataclass(frozen=True)
class LoadRequest:
    """The arguments of ``load`` that say what a file does not say."""

    cell: str | None = None
    nonlinearity: str | None = None
    batch_first: bool | None = None
    dropout: float = 0.0
    ignore: tuple[str, ...] = ()
    cells: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def requested_nonlinearity(self) -> str | None:
        """The nonlinearity of an rnn, by itself or in the cell's name; None: the file says it."""
        return self.nonlinearity or {"rnn_tanh": "tanh", "rnn_relu": "relu"}.get(self.cell or "")


@dataclass(frozen=True)
class StoredLayer:
    """A layer: its cell, parameters under PyTorch's names, and sizes as ``nn.LSTM`` takes them.

    ``layout`` and ``gates`` say how the file keeps it; ``batch_first`` is None where the file
    does not say; ``assumed`` is what was taken for granted, and what the model around the layer
    does that the layer does not; ``ignored`` are arrays under the layer's name that it does not
    use, with what they may be; ``forget_bias`` was added to the forget gate's bias, as the
    framework adds it at run time; ``model_numbers`` are numbers of that model, such as a trained
    ``h_0``.
    """

    name: str
    place: str
    layout: str
    gates: str
    cell: Cell
    state: Mapping[str, Tensor]
    options: Mapping[str, Any]
    reverse: bool = False
    batch_first: bool | None = None
    assumed: tuple[str, ...] = field(default=())
    ignored: tuple[str, ...] = field(default=())
    forget_bias: float = 0.0
    model_numbers: Mapping[str, Tensor] = field(default_factory=dict)


def kind_name(cell: Cell) -> str:
    """The cell in a word: ``lstm``, ``gru_reset_before``, or what sets it apart."""
    declared = as_declared(cell)
    declared_name = next(
        (name for name, candidate in DECLARED.items() if candidate is declared), None
    )
    return declared_name or ": ".join(filter(None, (cell.name, cell.departures)))


def layer_name(before: str) -> str:
    """The name of the layer in what stands before a layout's own name: ``enc`` of ``enc.`` and of
    ``enc_``, but ``_enc`` of ``_enc.``."""
    name = before.lstrip("./:")
    return name.rstrip("./:" if name.endswith((".", "/", ":")) else "_-")


def convert_layer(
    content: FileContent, layout: Layout | str, tensors: Mapping[str, Tensor], kind: str
) -> Converted:
    """The layer in arrays of a layout; the same arrays, which a file may hold under several names,
    give one layer. Raises what ``to_torch`` raises, and ``FileError`` where it takes more memory
    than the file may."""
    name = layout if isinstance(layout, str) else layout.name
    key = name, kind, *sorted((name, id(tensor)) for name, tensor in tensors.items())
    if key not in content.conversions:
        size = sum(tensor.nbytes for tensor in tensors.values())
        with content.allowance.attempt(size, ", ".join(tensors)):
            # the tensors, too, so that nothing else gets their ids
            content.conversions[key] = to_torch(layout, tensors, kind=kind), tensors
    return content.conversions[key][0]


class Copies:
    """The parameters of the modules of one file: an array under several names is copied once."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self._copies: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def of(self, value: Tensor, name: str) -> Tensor:
        """A copy: what was read may be a view of the file. Raises ``FileError`` where it takes
        more than the file may."""
        key = value.data_ptr(), value.dtype, value.shape, value.stride()
        if key not in self._copies:
            self.allowance.take(value.nbytes, name)
            copy = value.detach().clone(memory_format=torch.contiguous_format)
            self._copies[key] = value, copy  # the value, so that its address stays its own
        return self._copies[key][1]


def module_of(layer: StoredLayer, request: LoadRequest, copies: Copies) -> nn.Module:
    """``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` where one can hold the layer, else ``Recurrent``;
    in evaluation mode."""
    cell = layer.cell
    options: dict[str, Any] = dict(layer.options)
    batch_first = request.batch_first if request.batch_first is not None else layer.batch_first
    options["batch_first"] = bool(batch_first)
    if request.dropout and options["num_layers"] > 1:
        options["dropout"] = request.dropout
    kind = None if layer.reverse else _TORCH.get(cell)
    module: nn.Module
    copied = {name: copies.of(value, layer.name) for name, value in layer.state.items()}
    try:
        if kind is not None:
            if kind is nn.RNN:
                options["nonlinearity"] = "relu" if cell is RNN_RELU else "tanh"
            # on no device: nothing is drawn from the random state, nothing is allocated twice
            module = kind(**options, device="meta")
        else:
            module = Recurrent(cell, **options, reverse=layer.reverse, device="meta")
            if layer.reverse:
                copied = {f"{name}_reverse": value for name, value in copied.items()}
        parameters = {name: nn.Parameter(value) for name, value in copied.items()}
        module.load_state_dict(parameters, assign=True)
    except RnnscopeError as error:
        raise FileError(f"{layer.place}: {error}") from error
    except (ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise FileError(f"{layer.place}: {line}") from error
    return module.eval()
