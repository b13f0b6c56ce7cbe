"""onnxruntime's numbers, for one node of each kind, in each direction."""

from __future__ import annotations

from typing import Any

import pytest
from against import (
    BATCH,
    HIDDEN,
    INPUT,
    STEPS,
    Floats,
    agree,
    framework,
    in_torch,
    numbers,
    outputs,
    same_again,
    x_and_states,
)

onnx = framework("onnx")
onnxruntime = framework("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")

KINDS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "rnn_tanh": ("RNN", 1, {}),
    "rnn_relu": ("RNN", 1, {"activations": ["Relu"]}),
    "gru": ("GRU", 3, {"linear_before_reset": 1}),
    "gru_reset_before": ("GRU", 3, {"linear_before_reset": 0}),
    "lstm": ("LSTM", 4, {}),
    "lstm_peephole": ("LSTM", 4, {}),
    "lstm_coupled": ("LSTM", 4, {"input_forget": 1}),
    "lstm_coupled_peephole": ("LSTM", 4, {"input_forget": 1}),
}


def run(kind: str, direction: str, arrays: dict[str, Floats], x: Floats, h: Floats, c: Floats):
    operator, _, attributes = KINDS[kind]
    if "activations" in attributes:
        attributes = {"activations": attributes["activations"] * (h.shape[0])}
    is_lstm = operator == "LSTM"
    given = {"X": x, **arrays, "H": h} | ({"C": c} if is_lstm else {})
    order = ["X", "W", "R", "B", "", "H", *(["C", "P"] if is_lstm else [])]
    inputs = [name if name in given else "" for name in order]
    while inputs[-1] == "":
        inputs.pop()
    names = ["Y", "Y_h", "Y_c"][: 3 if is_lstm else 2]
    node = onnx.helper.make_node(
        operator, inputs, names, hidden_size=HIDDEN, direction=direction, **attributes
    )
    floats = onnx.TensorProto.FLOAT
    rank = {"Y": 4, "Y_h": 3, "Y_c": 3}
    graph = onnx.helper.make_graph(
        [node],
        "one_node",
        [onnx.helper.make_tensor_value_info(n, floats, a.shape) for n, a in given.items()],
        [onnx.helper.make_tensor_value_info(n, floats, [None] * rank[n]) for n in names],
    )
    opset = onnx.helper.make_opsetid("", 14)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, *last = session.run(None, given)
    return (y.transpose(0, 2, 1, 3).reshape(STEPS, BATCH, -1), *last)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_node(kind: str, direction: str, bias: bool) -> None:
    directions = 1 + (direction == "bidirectional")
    x, h, c = x_and_states(directions)
    k = KINDS[kind][1]
    arrays = {
        "W": numbers(directions, k * HIDDEN, INPUT, seed=4),
        "R": numbers(directions, k * HIDDEN, HIDDEN, seed=5),
    }
    if bias:
        arrays["B"] = numbers(directions, 2 * k * HIDDEN, seed=6)
    if kind.endswith("peephole"):
        arrays["P"] = numbers(directions, 3 * HIDDEN, seed=7)
    if "coupled" in kind:  # what onnxruntime does not read is zero, as it is written
        for name in ("W", "R", "P"):
            if name in arrays:
                arrays[name][:, 2 * HIDDEN : 3 * HIDDEN] = 0
        if bias:
            for block in (2, 6):
                arrays["B"][:, block * HIDDEN : (block + 1) * HIDDEN] = 0
    expected = run(kind, direction, arrays, x, h, c)
    module = in_torch(same_again("onnx", arrays, kind, reverse=direction == "reverse"))
    agree(outputs(module, x, h, c), expected)
