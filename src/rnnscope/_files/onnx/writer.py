"""A model of ONNX made of recurrent layers: one chain of nodes for each.

Source: onnx/onnx.proto; operator set 14, the first in which all three have ``layout``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from rnnscope._files.onnx.protobuf import encoded
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
        for k, (own, arrays) in enumerate(stack):
            nodes.append(_node(own, source, f"{own}.Y", adopted, arrays))
            constants += [_tensor(f"{own}.{key}", value.numpy()) for key, value in arrays.items()]
            # (time, direction, batch, hidden) to (time, batch, direction × hidden)
            source = f"{before}output" if k + 1 == len(stack) else f"{own}.output"
            nodes.append(
                _operation("Transpose", [f"{own}.Y"], [f"{own}.turned"], {"perm": [0, 2, 1, 3]})
            )
            nodes.append(_operation("Reshape", [f"{own}.turned", "joined"], [source], {}))
        outputs.append(_value(source, kind, None))
    constants.append(_tensor("joined", np.array([0, 0, -1], np.int64), 7))
    graph = b"".join(
        [
            *(encoded(1, node) for node in nodes),
            encoded(2, "rnnscope"),
            *(encoded(5, constant) for constant in constants),
            *(encoded(11, each) for each in inputs),
            *(encoded(12, each) for each in outputs),
        ]
    )
    opset = encoded(1, "") + encoded(2, _OPSET)
    return encoded(1, _IR) + encoded(2, "rnnscope") + encoded(7, graph) + encoded(8, opset)


def _node(
    name: str, source: str, target: str, adopted: Adopted, arrays: Mapping[str, Tensor]
) -> bytes:
    op = kind_of(adopted.cell).partition("_")[0].upper()
    two = adopted.bidirectional
    direction = "bidirectional" if two else "reverse" if adopted.reverse else "forward"
    facts: dict[str, object] = {"hidden_size": adopted.hidden_size, "direction": direction}
    functions = _functions(adopted.cell, op) if adopted.cell not in _standard() else []
    if functions:
        numbers = [re.findall(r"-?\d[\d.e+-]*", each.partition("(")[2]) for each in functions]
        facts["activations"] = [_NAMES[each.partition("(")[0]] for each in functions] * (1 + two)
        for k, which in enumerate(("alpha", "beta")):
            values = [float(each[k]) for each in numbers if len(each) > k]
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
    plain = (each for name, each in CELLS.items() if name != "rnn_relu")
    return (*plain, *(each for name, each in DECLARED.items() if name not in CELLS))


def _resets_after(cell: Cell) -> bool:
    """Whether r multiplies W_hn h + b_hn, after the product."""
    found = any(
        isinstance(part, Product) and "FromH" in type(part.right).__name__
        for part in _parts(cell.equations["n"])
    )
    return found


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
    found = []
    for letter in _OF[op]:
        name = _function(cell, letter)
        if any(
            _function(cell, other) != name
            for other in together.get(letter, "")
            if other in cell.gates
        ):
            raise RefusedError(f"ONNX has one activation for the gates {letter}{together[letter]}")
        family = name.partition("(")[0]
        if family not in _NAMES:
            raise RefusedError(f"ONNX has no activation {name}")
        # PyTorch's hard sigmoid, x / 6 + 1 / 2
        found.append(f"hard_sigmoid({1 / 6!r}, 0.5)" if name == "hard_sigmoid" else name)
    return found


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
            *(encoded(1, each) for each in inputs),
            *(encoded(2, each) for each in outputs),
            encoded(3, name),
            encoded(4, op),
            *(encoded(5, _attribute(key, value)) for key, value in facts.items()),
        ]
    )


def _attribute(name: str, value: object) -> bytes:
    head = encoded(1, name)
    if isinstance(value, int):
        return head + encoded(3, value) + encoded(20, 2)
    if isinstance(value, str):
        return head + encoded(4, value) + encoded(20, 3)
    assert isinstance(value, list)
    if isinstance(value[0], float):
        return head + b"".join(encoded(7, each) for each in value) + encoded(20, 6)
    if isinstance(value[0], int):
        return head + b"".join(encoded(8, each) for each in value) + encoded(20, 7)
    return head + b"".join(encoded(9, each) for each in value) + encoded(20, 8)


def _tensor(
    name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], kind: int = 0
) -> bytes:
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return b"".join(
        [
            *(encoded(1, size) for size in array.shape),
            encoded(2, kind or _KINDS[str(array.dtype)]),
            encoded(8, name),
            encoded(9, data.tobytes()),
        ]
    )


def _value(name: str, kind: int, last: int | None) -> bytes:
    """A tensor of three dims: time, batch, and a size or any."""
    dims = [encoded(2, "time"), encoded(2, "batch")]
    dims.append(encoded(1, last) if last is not None else encoded(2, f"{name}_size"))
    shape = b"".join(encoded(1, dim) for dim in dims)
    return encoded(1, name) + encoded(2, encoded(1, encoded(1, kind) + encoded(2, shape)))
