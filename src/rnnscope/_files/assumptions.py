"""What no array tells, and what is taken for granted of it."""

from __future__ import annotations

import re
from dataclasses import replace

from rnnscope._files.grouping import PYTORCH_LAYOUTS
from rnnscope._files.stored_layer import AmbiguousError, LoadRequest, StoredLayer
from rnnscope._layouts import Layout
from rnnscope._layouts.kinds import cell_of, kind_of, nonlinearity_of
from rnnscope.cells import GRU, Cell
from rnnscope.errors import DeclarationError, FileError

__all__ = ["completed"]

_GRU_SAID = "cell='gru', which resets after the product, as nn.GRU does"
_GRU_BY_BLOCKS = (
    f"{_GRU_SAID}: three blocks of rows, which cells of other equations have too; nothing else in "
    "the file says it"
)


def completed(layer: StoredLayer, request: LoadRequest, record: Layout | None) -> StoredLayer:
    """What no array tells: which nonlinearity an rnn has, and the order of dims.

    ``record`` is the layout; None where the file has more than arrays: nodes, or a model of Keras.
    """
    assumed = list(layer.assumed)
    cell = layer.cell
    nonlinearity = request.requested_nonlinearity
    file_nonlinearity = nonlinearity_of(cell)
    if file_nonlinearity is not None and record is not None:
        cell, rnn_assumptions = _rnn(record, nonlinearity)
        assumed += rnn_assumptions
    elif file_nonlinearity is not None and nonlinearity not in (None, file_nonlinearity):
        raise FileError(
            f"{layer.place}: the file says {file_nonlinearity}; got nonlinearity={nonlinearity!r}"
        )
    if layer.layout in PYTORCH_LAYOUTS and cell is GRU and request.cell is None:
        assumed.append(_GRU_SAID if "gru" in layer.name.lower() else _GRU_BY_BLOCKS)
    if layer.layout in PYTORCH_LAYOUTS and request.cell is None:
        assumed += _doubts(layer)
    assumed += _copies(layer.name)
    backwards = _BACKWARDS.search(layer.name)
    if backwards and not layer.reverse and not layer.options["bidirectional"]:
        assumed.append(f"it is read forward, though its name, {backwards[0]}, may say the reverse")
    if layer.batch_first is None and request.batch_first is None:
        assumed.append("batch_first=False")
    if layer.layout in PYTORCH_LAYOUTS and layer.options["num_layers"] != 1:
        assumed += [] if request.dropout else ["dropout=0.0"]
    return replace(layer, cell=cell, assumed=tuple(assumed))


def _doubts(layer: StoredLayer) -> list[str]:
    """What is said where a layer's name names another cell than its blocks of rows do."""
    kind = kind_of(layer.cell)
    last = layer.name.rpartition(".")[2].lower()
    named = next((word for word in ("lstm", "gru") if word in last), kind)
    if kind == named or (kind == "lstm" and named == "gru"):
        return []
    if layer.layout == "pytorch" and (kind, named) == ("gru", "lstm"):
        raise AmbiguousError(
            f"{layer.place}: three blocks of rows are a GRU, or an LSTM of coupled gates (f is "
            f"1 - i), as its name says",
            [{"cell": "gru", "layout": "pytorch"}, {"cell": "lstm_coupled", "layout": "rnnscope"}],
        )
    blocks = {"rnn": "one block of rows is nn.RNN", "gru": "three blocks of rows are nn.GRU"}
    return [f"{blocks[kind]}, though its name says {named}"]


_BACKWARDS = re.compile(r"(?<![a-z])(?:bwd?|backwards?|reversed?|rev|r2l)(?![a-z])", re.IGNORECASE)
_MOMENTS = re.compile(r"exp_avg\w*|max_exp_avg\w*|momentum\w*|grads?|gradients?")
_AVERAGES = re.compile(
    r"(?:\w*_)?ema(?:_\w*)?|shadow\w*|averaged?(?:_model|_weights)?|swa(?:_\w*)?"
)


def _copies(name: str) -> list[str]:
    """What is said of a layer whose place in the file is not that of a model's weights."""
    for word in re.split(r"[./]", name.lower()):
        if _MOMENTS.fullmatch(word):
            return [f"its place, {word}, is that of an optimiser's numbers: they are no weights"]
        if _AVERAGES.fullmatch(word):
            return [f"its place, {word}, is that of an average of weights over the training"]
    return []


def _rnn(record: Layout, requested: str | None) -> tuple[Cell, list[str]]:
    """The cell of an rnn in a layout, and what was assumed of its nonlinearity."""
    stored = record.stored("rnn")
    if stored.nonlinearity_fixed and requested not in (None, stored.nonlinearity):
        raise DeclarationError(
            f"an rnn of layout {record.name} has {stored.nonlinearity} alone; "
            f"got nonlinearity={requested!r}"
        )
    cell = cell_of("rnn", nonlinearity=requested or stored.nonlinearity)
    if requested or stored.nonlinearity_fixed:
        return cell, []
    whose = "" if record.name in PYTORCH_LAYOUTS else f", the default of {record.name}"
    return cell, [f"nonlinearity={stored.nonlinearity!r}{whose}"]
