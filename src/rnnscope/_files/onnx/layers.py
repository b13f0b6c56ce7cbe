"""The nodes LSTM, GRU and RNN of ONNX as layers.

Source: onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rnnscope._files.content import FileContent, RecurrentNode
from rnnscope._files.stored_layer import StoredLayer, convert_layer
from rnnscope._layouts import layout_named
from rnnscope.cells import RNN_RELU, RNN_TANH, Cell
from rnnscope.errors import DeclarationError, FileError, RefusedError

__all__ = ["layers_of_nodes"]

# an activation of ONNX: ours, and the defaults of alpha and beta where it takes them
_ACTIVATIONS: Mapping[str, tuple[str, tuple[float | None, ...]]] = {
    "relu": ("relu", ()),
    "tanh": ("tanh", ()),
    "sigmoid": ("sigmoid", ()),
    "softsign": ("softsign", ()),
    "softplus": ("softplus", ()),
    "affine": ("affine", (1.0, 0.0)),
    "leakyrelu": ("leaky_relu", (0.01,)),
    "thresholdedrelu": ("thresholded_relu", (1.0,)),
    "scaledtanh": ("scaled_tanh", (None, None)),
    "hardsigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "elu": ("elu", (1.0,)),
}
# the quantities to which the activations belong, in ONNX's order f, g, h
_OF: Mapping[str, tuple[str, ...]] = {"LSTM": ("ifo", "g", "h"), "GRU": ("rz", "n"), "RNN": ("h",)}
_DEFAULT = {
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
    "RNN": ("tanh",),
}
_DIRECTIONS = ("forward", "reverse", "bidirectional")


def layers_of_nodes(content: FileContent) -> list[StoredLayer]:
    """Each node a layer of its own, as ONNX has no stacks. Raises ``FileError`` and
    ``RefusedError`` for what no layer can hold, with the reason."""
    content.allowance.check_layers(len(content.nodes))
    layers: list[StoredLayer] = []
    ends: dict[str, str] = {}  # what the last layer of a name has behind it
    taken: set[str] = set()
    for node in content.nodes:
        end = ends.get(node.name, "")
        while (name := node.name + end) in taken:
            end += "_"
        ends[node.name] = end
        taken.add(name)
        content.allowance.take(len(name), "the names of its layers")
        layers.append(_layer(content, name, node))
    return layers


def _layer(content: FileContent, name: str, node: RecurrentNode) -> StoredLayer:
    place = f"{content.path}, {node.op} {node.name}"
    facts = node.attributes
    if facts.get("clip") is not None:
        raise RefusedError(f"{place}: clip={facts['clip']}: no cell here clips its arguments")
    direction = _text(facts.get("direction", b"forward"))
    if direction not in _DIRECTIONS:
        raise FileError(f"{place}: direction {direction!r}; expected {', '.join(_DIRECTIONS)}")
    arrays = _inputs(place, node)
    coupled = node.op == "LSTM" and bool(facts.get("input_forget", 0))
    if node.op == "GRU":
        kind = "gru" if facts.get("linear_before_reset", 0) else "gru_reset_before"
    else:
        kind = node.op.lower() + "_coupled" * coupled + "_peephole" * ("P" in arrays)
    layer = convert_layer(content, "onnx", arrays, kind)
    two = direction == "bidirectional"
    if layer.options["bidirectional"] != two:
        raise FileError(
            f"{place}: direction={direction} with W of shape {tuple(arrays['W'].shape)}"
        )
    hidden = facts.get("hidden_size")
    if hidden is not None and hidden != layer.options["hidden_size"]:
        raise FileError(
            f"{place}: hidden_size={hidden}, but R is for {layer.options['hidden_size']} units"
        )
    strangers = content.metadata.get("strangers", "")
    notes = []
    for place_of, words in (
        (4, "sequence_lens: pack the input"),
        (5, "initial_h"),
        (6, "initial_c"),
    ):
        if len(node.inputs) > place_of and node.inputs[place_of]:
            notes.append(f"the node is given {words}{' as the initial state' * (place_of > 4)}")
    return StoredLayer(
        name=name,
        place=place,
        layout="onnx",
        gates=layout_named("onnx").stored(kind).gates,
        cell=_with_activations(place, node.op, layer.cell, facts, two),
        state=layer.state_dict,
        options=layer.options,
        reverse=direction == "reverse",
        batch_first=bool(facts.get("layout", 0)),
        assumed=tuple(notes),
        ignored=(f"{strangers}: not a layer of ONNX's own, such as an int8 one",) * bool(strangers),
    )


def _inputs(place: str, node: RecurrentNode) -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = {}
    for k, letter in ((1, "W"), (2, "R"), (3, "B"), (7, "P")):
        if len(node.inputs) <= k or not node.inputs[k]:
            continue
        value = node.value(node.inputs[k])
        if value is None:
            raise RefusedError(
                f"{place}: {letter} ({node.inputs[k]}) is computed when the model runs, as of a "
                f"quantised layer; it is no constant of the file"
            )
        arrays[letter] = value
    for letter in "WR":
        if letter not in arrays:
            raise FileError(f"{place}: damaged: the node has no input {letter}")
    return arrays


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _with_activations(place: str, op: str, cell: Cell, facts: Mapping[str, Any], two: bool) -> Cell:
    activations = facts.get("activations")
    if not activations:
        return cell
    per = len(_OF[op])
    names = [_text(activation).lower() for activation in activations]
    if len(names) != per * (1 + two):
        raise FileError(f"{place}: {len(names)} activations; expected {per} for each direction")
    numbers = [
        list(value) if isinstance(value := facts.get(f"activation_{k}"), list) else []
        for k in ("alpha", "beta")
    ]
    functions: list[str] = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise RefusedError(f"{place}: activation {name!r} is not one of ONNX's")
        ours, defaults = _ACTIVATIONS[name]
        values: list[Any] = [
            parameters.pop(0) if parameters else default
            for parameters, default in zip(numbers, defaults, strict=False)
        ]
        if None in values:
            raise FileError(f"{place}: {name} needs activation_alpha and activation_beta")
        written = ", ".join(repr(round(float(value), 7)) for value in values)  # float32's digits
        functions.append(f"{ours}({written})" if values else ours)
    if functions[:per] != functions[per:] and two:
        raise RefusedError(f"{place}: its two directions have different activations: {names}")
    chosen = dict(zip(_OF[op], functions[:per], strict=True))
    if tuple(chosen.values()) == _DEFAULT[op]:
        return cell
    if cell in (RNN_TANH, RNN_RELU) and chosen["h"] == "relu":
        return RNN_RELU
    gates = set(cell.gates) | {"h"}
    changes = {
        letter: function
        for letters, function in chosen.items()
        for letter in letters
        if letter in gates
    }
    if op == "GRU":
        changes.pop("h", None)
    try:
        return cell.with_functions(changes)
    except DeclarationError as error:
        raise FileError(f"{place}: {error}") from error
