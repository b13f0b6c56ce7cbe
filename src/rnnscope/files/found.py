"""A recurrent layer that was found in a file, and the module that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn

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
from rnnscope.layouts.kinds import storage_kind
from rnnscope.recurrent import Recurrent

__all__ = [
    "CELL_KINDS",
    "AmbiguousError",
    "Found",
    "Wanted",
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


class AmbiguousError(FileError):
    """Several readings fit; ``choices`` are the arguments of ``load`` that say which."""

    def __init__(self, what: str, choices: Sequence[Mapping[str, str]]) -> None:
        self.what, self.choices = what, choices
        super().__init__(self._text("{}={!r}".format, ", "))

    def in_options(self, names: Mapping[str, str]) -> str:
        """The message with the options of a command, ``names`` by argument."""
        return self._text(lambda name, value: f"{names[name]} {value}", " ")

    def _text(self, written: Callable[[str, str], str], between: str) -> str:
        each = "; or ".join(between.join(starmap(written, c.items())) for c in self.choices)
        pairs = " of these pairs" if len(self.choices[0]) > 1 else ""
        return f"{self.what}; give one{pairs}: {each}"


@dataclass(frozen=True)
class Wanted:
    """What a caller says of a file, where the file does not say it."""

    cell: str | None = None
    nonlinearity: str | None = None
    batch_first: bool | None = None
    dropout: float = 0.0

    @property
    def told_nonlinearity(self) -> str | None:
        """Of an rnn, by itself or in the cell's name; None where it is left to the file."""
        return self.nonlinearity or {"rnn_tanh": "tanh", "rnn_relu": "relu"}.get(self.cell or "")


@dataclass(frozen=True)
class Found:
    """A layer: its cell, parameters under PyTorch's names, and sizes as ``nn.LSTM`` takes them.

    ``layout`` and ``gates`` say how the file keeps it; ``batch_first`` is None where the file
    does not say; ``assumed`` is what was taken for granted, and what the model around the layer
    does that the layer does not; ``beside`` are numbers of that model, such as a trained ``h_0``.
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
    beside: Mapping[str, Tensor] = field(default_factory=dict)


def kind_name(cell: Cell) -> str:
    """The cell in a word: ``lstm``, ``gru_reset_before``, or what sets it apart."""
    own = as_declared(cell)
    known = next((name for name, each in DECLARED.items() if each is own), None)
    return known or ": ".join(filter(None, (cell.name, cell.departures)))


def layer_name(before: str) -> str:
    """The name of the layer in what stands before a layout's own name: ``enc`` of ``enc.`` and of
    ``enc_``, but ``_enc`` of ``_enc.``."""
    name = before.lstrip("./:")
    return name.rstrip("./:" if name.endswith((".", "/", ":")) else "_-")


def module_of(found: Found, wanted: Wanted) -> nn.Module:
    """``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` where one can hold the layer, else ``Recurrent``;
    in evaluation mode."""
    cell = found.cell
    options: dict[str, Any] = dict(found.options)
    batch_first = wanted.batch_first if wanted.batch_first is not None else found.batch_first
    options["batch_first"] = bool(batch_first)
    if wanted.dropout and options["num_layers"] > 1:
        options["dropout"] = wanted.dropout
    kind = None if found.reverse else _TORCH.get(cell)
    state = dict(found.state)
    module: nn.Module
    try:
        if kind is not None:
            if kind is nn.RNN:
                options["nonlinearity"] = "relu" if cell is RNN_RELU else "tanh"
            # on no device: nothing is drawn from the random state, nothing is allocated twice
            module = kind(**options, device="meta")
        else:
            module = Recurrent(cell, **options, reverse=found.reverse, device="meta")
            if found.reverse:
                state = {f"{name}_reverse": value for name, value in state.items()}
        parameters = {name: nn.Parameter(_own(value)) for name, value in state.items()}
        module.load_state_dict(parameters, assign=True)
    except RnnscopeError as error:
        raise FileError(f"{found.place}: {error}") from error
    except (ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise FileError(f"{found.place}: {line}") from error
    return module.eval()


def _own(value: Tensor) -> Tensor:
    # a copy of its own: what was read may be a view of the file, or shared between names
    return value.detach().clone(memory_format=torch.contiguous_format)
