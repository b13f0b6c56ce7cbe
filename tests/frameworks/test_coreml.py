"""The names of Core ML's own schema: its layers run on Apple's machines only."""

from __future__ import annotations

import pytest
from against import framework

from rnnscope._layouts import LAYOUTS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("rnn", "SimpleRecurrentLayerParams"),
        ("gru_reset_before", "GRULayerParams"),
        ("lstm", "LSTMWeightParams"),
        ("lstm_peephole", "LSTMWeightParams"),
    ],
)
def test_names_are_those_of_the_schema(kind: str, message: str) -> None:
    schema = framework("coremltools.proto.NeuralNetwork_pb2")
    fields = {field.name for field in getattr(schema, message).DESCRIPTOR.fields}
    weights = {n for n in fields if n.endswith(("Matrix", "Vector")) and not n.startswith("has")}
    names = set(LAYOUTS["coreml"].names(kind))
    assert names <= fields
    assert names == {n for n in weights if "Peephole" not in n or kind == "lstm_peephole"}
