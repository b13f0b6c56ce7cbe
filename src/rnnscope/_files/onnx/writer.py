"""A model of ONNX made of recurrent layers: one chain of nodes for each.

Source: onnx/onnx.proto; operator set 14, the first in which all three have ``layout``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from rnnscope._files.onnx.protobuf import encode_field
from rnnscope._layers.adopt import Adopted
from rnnscope._layouts.kinds import kind_of
from rnnscope.cells import CELLS, DECLARED, Cell
from rnnscope.cells.algebra import Apply, Expr, Product, Sum
from rnnscope.errors import RefusedError

__all__ = ["model_of"]

_IR, _OPSET = 8, 14
_KINDS = {"float32": 1, "float16": 10, "float64": 11}
_NAMES = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "affine": "Affine",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "hard_sigmoid": "HardSigmoid",
    "elu": "Elu",
}
_OF = {"LSTM": "igh", "GRU": "rn", "RNN": "h"}

Layer = tuple[str, Adopted, Sequence[tuple[str, Mapping[str, Tensor]]]]
"""Its name, the module, and the name and arrays of each stacked layer."""


def model_of(layers: Sequence[Layer]) -> bytes:
    """The bytes of a model; each layer reads (time, batch, input) and gives what PyTorch gives."""
    nodes: list[bytes] = []
    constants: list[bytes] = []
    inputs: list[bytes] = []
    outputs: list[bytes] = []
    for name, adopted, stack in layers:
        before = f"{name}." if name else ""
        kind = _KINDS[str(next(iter(stack[0][1].values())).dtype).removeprefix("torch.")]
        source = f"{before}input"
        inputs.append(_value(source, kind, adopted.input_size))
        for k, (node_name, arrays) in enumerate(stack):
            nodes.append(_node(node_name, source, f"{node_name}.Y", adopted, arrays))
            constants += [
                _tensor(f"{node_name}.{key}", value.numpy()) for key, value in arrays.items()
            ]
            # (time, direction, batch, hidden) to (time, batch, direction × hidden)
            source = f"{before}output" if k + 1 == len(stack) else f"{node_name}.output"
            nodes.append(
                _operation(
                    "Transpose", [f"{node_name}.Y"], [f"{node_name}.turned"], {"perm": [0, 2, 1, 3]}
                )
            )
            nodes.append(_operation("Reshape", [f"{node_name}.turned", "joined"], [source], {}))
        outputs.append(_value(source, kind, None))
    constants.append(_tensor("joined", np.array([0, 0, -1], np.int64), 7))
    graph = b"".join(
        [
            *(encode_field(1, node) for node in nodes),
            encode_field(2, "rnnscope"),
            *(encode_field(5, constant) for constant in constants),
            *(encode_field(11, value_info) for value_info in inputs),
            *(encode_field(12, value_info) for value_info in outputs),
        ]
    )
    opset = encode_field(1, "") + encode_field(2, _OPSET)
    return (
        encode_field(1, _IR)
        + encode_field(2, "rnnscope")
        + encode_field(7, graph)
        + encode_field(8, opset)
    )


def _node(
    name: str, source: str, target: str, adopted: Adopted, arrays: Mapping[str, Tensor]
) -> bytes:
    op = kind_of(adopted.cell).partition("_")[0].upper()
    two = adopted.bidirectional
    direction = "bidirectional" if two else "reverse" if adopted.reverse else "forward"
    facts: dict[str, object] = {"hidden_size": adopted.hidden_size, "direction": direction}
    functions = _functions(adopted.cell, op) if adopted.cell not in _standard() else []
    if functions:
        numbers = [
            re.findall(r"-?\d[\d.e+-]*", function.partition("(")[2]) for function in functions
        ]
        facts["activations"] = [_NAMES[function.partition("(")[0]] for function in functions] * (
            1 + two
        )
        for k, which in enumerate(("alpha", "beta")):
            values = [float(function[k]) for function in numbers if len(function) > k]
            if values:
                facts[f"activation_{which}"] = values * (1 + two)
    if op == "GRU":
        facts["linear_before_reset"] = int(_resets_after(adopted.cell))
    if kind_of(adopted.cell).startswith("lstm_coupled"):
        facts["input_forget"] = 1
    inputs = [source, f"{name}.W", f"{name}.R"]
    if "B" in arrays or "P" in arrays:
        inputs.append(f"{name}.B" if "B" in arrays else "")
    if "P" in arrays:
        inputs += ["", "", "", f"{name}.P"]
    return _operation(op, inputs, [target], facts, name)


def _standard() -> tuple[Cell, ...]:
    plain = (cell for name, cell in CELLS.items() if name != "rnn_relu")
    return (*plain, *(cell for name, cell in DECLARED.items() if name not in CELLS))


def _resets_after(cell: Cell) -> bool:
    """Whether r multiplies W_hn h + b_hn, after the product."""
    return any(
        isinstance(part, Product) and "FromH" in type(part.right).__name__
        for part in _parts(cell.equations["n"])
    )


def _parts(expr: Expr) -> list[Expr]:
    match expr:
        case Apply(_, argument):
            return [expr, *_parts(argument)]
        case Sum(left, right) | Product(left, right):
            return [expr, *_parts(left), *_parts(right)]
        case _:
            return [expr]


def _functions(cell: Cell, op: str) -> list[str]:
    """The names of a cell's functions in ONNX's order f, g, h; each stands for several gates."""
    together = {"LSTM": {"i": "fo"}, "GRU": {"r": "z"}, "RNN": {}}[op]
    functions = []
    for letter in _OF[op]:
        name = _function(cell, letter)
        if any(
            _function(cell, gate) != name for gate in together.get(letter, "") if gate in cell.gates
        ):
            raise RefusedError(f"ONNX has one activation for the gates {letter}{together[letter]}")
        family = name.partition("(")[0]
        if family not in _NAMES:
            raise RefusedError(f"ONNX has no activation {name}")
        # PyTorch's hard sigmoid, x / 6 + 1 / 2
        functions.append(f"hard_sigmoid({1 / 6!r}, 0.5)" if name == "hard_sigmoid" else name)
    return functions


def _function(cell: Cell, name: str) -> str:
    return next(part.name for part in _parts(cell.equations[name]) if isinstance(part, Apply))


# messages -----------------------------------------------------------------------------------


def _operation(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    facts: Mapping[str, object],
    name: str = "",
) -> bytes:
    return b"".join(
        [
            *(encode_field(1, tensor_name) for tensor_name in inputs),
            *(encode_field(2, tensor_name) for tensor_name in outputs),
            encode_field(3, name),
            encode_field(4, op),
            *(encode_field(5, _attribute(key, value)) for key, value in facts.items()),
        ]
    )


def _attribute(name: str, value: object) -> bytes:
    head = encode_field(1, name)
    if isinstance(value, int):
        return head + encode_field(3, value) + encode_field(20, 2)
    if isinstance(value, str):
        return head + encode_field(4, value) + encode_field(20, 3)
    assert isinstance(value, list)
    if isinstance(value[0], float):
        return head + b"".join(encode_field(7, entry) for entry in value) + encode_field(20, 6)
    if isinstance(value[0], int):
        return head + b"".join(encode_field(8, entry) for entry in value) + encode_field(20, 7)
    return head + b"".join(encode_field(9, entry) for entry in value) + encode_field(20, 8)


def _tensor(
    name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], kind: int = 0
) -> bytes:
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return b"".join(
        [
            *(encode_field(1, size) for size in array.shape),
            encode_field(2, kind or _KINDS[str(array.dtype)]),
            encode_field(8, name),
            encode_field(9, data.tobytes()),
        ]
    )


def _value(name: str, kind: int, last: int | None) -> bytes:
    """A tensor of three dims: time, batch, and a size or any."""
    dims = [encode_field(2, "time"), encode_field(2, "batch")]
    dims.append(encode_field(1, last) if last is not None else encode_field(2, f"{name}_size"))
    shape = b"".join(encode_field(1, dim) for dim in dims)
    return encode_field(1, name) + encode_field(
        2, encode_field(1, encode_field(1, kind) + encode_field(2, shape))
    )
