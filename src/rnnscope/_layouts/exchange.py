"""How formats of exchange, and frameworks of other languages, store recurrent layers."""

from __future__ import annotations

from rnnscope._layouts.layout import Array, Layout, Stored

__all__ = ["BURN", "COREML", "MXNET", "MXNET_CELL", "ONNX"]

_ONNX_ARRAYS = (
    Array("W", "W_ih"),
    Array("R", "W_hh"),
    Array("B", "b_ih b_hh"),
)
_ONNX_PEEPHOLES = Array("P", "peephole")

ONNX = Layout(
    "onnx",
    title="ONNX: RNN, GRU, LSTM",
    cells={
        "rnn": Stored("h", _ONNX_ARRAYS),
        "gru": Stored("zrn", _ONNX_ARRAYS),
        "gru_reset_before": Stored("zrn", _ONNX_ARRAYS),
        "lstm": Stored("iofg", _ONNX_ARRAYS),
        "lstm_peephole": Stored("iofg", (*_ONNX_ARRAYS, _ONNX_PEEPHOLES)),
        "lstm_coupled": Stored("io-g", _ONNX_ARRAYS),
        "lstm_coupled_peephole": Stored("io-g", (*_ONNX_ARRAYS, _ONNX_PEEPHOLES)),
    },
    layer="{number}/",
    direction_axis=True,
    source="https://onnx.ai/onnx/operators/onnx__LSTM.html",
    remark=(
        "gru is linear_before_reset=1 and coupled is input_forget=1, which the arrays do not "
        "tell; a node is one layer; the names are those of the node's inputs"
    ),
)

_MXNET_ARRAYS = (
    Array("{direction}{layer}_i2h_weight", "W_ih"),
    Array("{direction}{layer}_h2h_weight", "W_hh"),
    Array("{direction}{layer}_i2h_bias", "b_ih"),
    Array("{direction}{layer}_h2h_bias", "b_hh"),
)

MXNET = Layout(
    "mxnet",
    title="MXNet Gluon: rnn.RNN, rnn.GRU, rnn.LSTM",
    cells={
        "rnn": Stored("h", _MXNET_ARRAYS, biased=True, nonlinearity="relu"),
        "gru": Stored("rzn", _MXNET_ARRAYS, biased=True),
        "lstm": Stored(
            "ifgo",
            (*_MXNET_ARRAYS, Array("{direction}{layer}_h2r_weight", "W_hr")),
            biased=True,
        ),
    },
    layer="{number}",
    directions=("l", "r"),
    source="https://github.com/apache/mxnet/blob/master/python/mxnet/gluon/rnn/rnn_layer.py",
    remark="GRU resets after the product",
)

_MXNET_CELL_ARRAYS = (
    Array("i2h_weight", "W_ih"),
    Array("h2h_weight", "W_hh"),
    Array("i2h_bias", "b_ih"),
    Array("h2h_bias", "b_hh"),
)

MXNET_CELL = Layout(
    "mxnet_cell",
    title="MXNet Gluon: RNNCell, GRUCell, LSTMCell",
    cells={
        "rnn": Stored("h", _MXNET_CELL_ARRAYS, biased=True),
        "gru": Stored("rzn", _MXNET_CELL_ARRAYS, biased=True),
        "lstm": Stored("ifgo", _MXNET_CELL_ARRAYS, biased=True),
    },
    layer="{number}.",
    directions=("l_cell.", "r_cell."),
    source="https://github.com/apache/mxnet/blob/master/python/mxnet/gluon/rnn/rnn_cell.py",
)

_COREML_LSTM = (
    Array("{gate}WeightMatrix", "W_ih"),
    Array("{gate}RecursionMatrix", "W_hh"),
    Array("{gate}BiasVector", "b_ih"),
)
_COREML_LSTM_GATES = {"i": "inputGate", "f": "forgetGate", "g": "blockInput", "o": "outputGate"}

COREML = Layout(
    "coreml",
    title="Core ML: SimpleRecurrentLayer, GRULayer, UniDirectional- and BiDirectionalLSTMLayer",
    cells={
        "rnn": Stored(
            "h",
            (
                Array("weightMatrix", "W_ih"),
                Array("recursionMatrix", "W_hh"),
                Array("biasVector", "b_ih"),
            ),
        ),
        "gru_reset_before": Stored(
            "zrn",
            (
                Array("{gate}WeightMatrix", "W_ih"),
                Array("{gate}RecursionMatrix", "W_hh"),
                Array("{gate}BiasVector", "b_ih"),
            ),
            gate_names={"z": "updateGate", "r": "resetGate", "n": "outputGate"},
        ),
        "lstm": Stored("ifgo", _COREML_LSTM, gate_names=_COREML_LSTM_GATES),
        "lstm_peephole": Stored(
            "ifgo",
            (*_COREML_LSTM, Array("{gate}PeepholeVector", "peephole")),
            gate_names=_COREML_LSTM_GATES,
        ),
    },
    layer="layers/{number}/",
    directions=("weightParams/0/", "weightParams/1/"),
    source="https://github.com/apple/coremltools/blob/main/mlmodel/format/NeuralNetwork.proto",
    remark=(
        "forgetBias=true means forget_bias=1; pre-activations are clipped to ±50, which is not "
        "held; matrices are flat in a file, row by row"
    ),
)

_BURN_ARRAYS = (
    Array("{gate}.input_transform.weight", "W_ih"),
    Array("{gate}.hidden_transform.weight", "W_hh"),
    Array("{gate}.input_transform.bias", "b_ih"),
    Array("{gate}.hidden_transform.bias", "b_hh"),
)
_BURN_GRU = Stored(
    "zrn",
    _BURN_ARRAYS,
    orientation="columns",
    gate_names={"z": "update_gate", "r": "reset_gate", "n": "new_gate"},
)

BURN = Layout(
    "burn",
    title="burn: Rnn, Gru, Lstm and their Bi- forms",
    cells={
        "rnn": Stored("h", _BURN_ARRAYS, orientation="columns", gate_names={"h": "gate"}),
        "gru": _BURN_GRU,
        "gru_reset_before": _BURN_GRU,
        "lstm": Stored(
            "ifog",
            _BURN_ARRAYS,
            orientation="columns",
            gate_names={
                "i": "input_gate",
                "f": "forget_gate",
                "o": "output_gate",
                "g": "cell_gate",
            },
        ),
    },
    layer="{number}.",
    directions=("forward.", "reverse."),
    source="https://github.com/tracel-ai/burn/tree/main/crates/burn-nn/src/modules/rnn",
    remark="gru is reset_after=true, which the arrays do not tell; one Linear for each gate",
)
