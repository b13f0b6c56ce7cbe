"""How Keras and TensorFlow 1 store their layers."""

from __future__ import annotations

from rnnscope._layouts.layout import Array, Layout, Stored

__all__ = ["KERAS", "KERAS1", "KERAS_CUDNN", "TENSORFLOW1", "TENSORFLOW1_LSTM"]

_KERNELS = (
    Array("kernel", "W_ih"),
    Array("recurrent_kernel", "W_hh"),
)
_MERGED = Array("bias", "b_ih")
_BOTH = Array("bias", "b_ih b_hh")
_BIDIRECTIONAL = ("forward_layer/", "backward_layer/")

KERAS = Layout(
    "keras",
    title="Keras 2 and 3: SimpleRNN, GRU, LSTM, Bidirectional",
    cells={
        "rnn": Stored("h", (*_KERNELS, _MERGED), orientation="columns"),
        "gru": Stored("zrn", (*_KERNELS, _BOTH), orientation="columns", biases="stacked"),
        "gru_reset_before": Stored("zrn", (*_KERNELS, _MERGED), orientation="columns"),
        "lstm": Stored("ifgo", (*_KERNELS, _MERGED), orientation="columns"),
    },
    layer="layers/{number}/",
    directions=_BIDIRECTIONAL,
    source="https://github.com/keras-team/keras/blob/master/keras/src/layers/rnn/gru.py",
    remark=(
        "gru is reset_after=True; unit_forget_bias only initialises; gates were hard_sigmoid by "
        "default before Keras 2.3"
    ),
)

_KERAS1_RNN = (Array("W", "W_ih"), Array("U", "W_hh"), Array("b", "b_ih"))
_KERAS1_GATES = (
    Array("W_{gate}", "W_ih"),
    Array("U_{gate}", "W_hh"),
    Array("b_{gate}", "b_ih"),
)

KERAS1 = Layout(
    "keras1",
    title="Keras 1: SimpleRNN, GRU, LSTM, Bidirectional",
    cells={
        "rnn": Stored("h", _KERAS1_RNN, orientation="columns", biased=True),
        "gru_reset_before": Stored(
            "zrn",
            _KERAS1_GATES,
            orientation="columns",
            biased=True,
            gate_names={"z": "z", "r": "r", "n": "h"},
        ),
        "lstm": Stored(
            "igfo",
            _KERAS1_GATES,
            orientation="columns",
            biased=True,
            gate_names={"i": "i", "g": "c", "f": "f", "o": "o"},
        ),
    },
    layer="layers/{number}/",
    directions=_BIDIRECTIONAL,
    source="https://github.com/keras-team/keras/blob/1.2.2/keras/layers/recurrent.py",
    remark=(
        "an array for each gate; gates are hard_sigmoid by default; the layer's name stands before "
        "each name"
    ),
)

KERAS_CUDNN = Layout(
    "keras_cudnn",
    title="Keras 2: CuDNNGRU, CuDNNLSTM",
    cells={
        "gru": Stored("zrn", (*_KERNELS, _BOTH), orientation="reshaped", biased=True),
        "lstm": Stored("ifgo", (*_KERNELS, _BOTH), orientation="reshaped", biased=True),
    },
    layer="layers/{number}/",
    directions=_BIDIRECTIONAL,
    source="https://github.com/keras-team/keras/blob/keras-2/keras/saving/legacy/hdf5_format.py",
    remark="each gate's block holds the numbers of (hidden, input) in the shape (input, hidden)",
)

TENSORFLOW1 = Layout(
    "tensorflow1",
    title="TensorFlow 1: BasicRNNCell, GRUCell, BasicLSTMCell",
    cells={
        "rnn": Stored(
            "h",
            (
                Array("basic_rnn_cell/kernel", "W_ih W_hh"),
                Array("basic_rnn_cell/bias", "b_ih"),
            ),
            orientation="columns",
            biased=True,
        ),
        "gru_reset_before": Stored(
            "rzn",
            (
                Array("gru_cell/gates/kernel", "W_ih W_hh", gates="rz"),
                Array("gru_cell/candidate/kernel", "W_ih W_hh", gates="n"),
                Array("gru_cell/gates/bias", "b_ih", gates="rz"),
                Array("gru_cell/candidate/bias", "b_ih", gates="n"),
            ),
            orientation="columns",
            biased=True,
        ),
        "lstm": Stored(
            "igfo",
            (
                Array("basic_lstm_cell/kernel", "W_ih W_hh"),
                Array("basic_lstm_cell/bias", "b_ih"),
            ),
            orientation="columns",
            forget_bias=1.0,
            biased=True,
        ),
    },
    layer="cell_{number}/",
    directions=("fw/", "bw/"),
    source=(
        "https://github.com/tensorflow/tensorflow/blob/v1.15.5/"
        "tensorflow/python/ops/rnn_cell_impl.py"
    ),
    remark="the forget bias is an argument of the cell, in no file; scopes stand before the names",
)

_LSTM_CELL = (
    Array("lstm_cell/kernel", "W_ih W_hh"),
    Array("lstm_cell/bias", "b_ih"),
)

TENSORFLOW1_LSTM = Layout(
    "tensorflow1_lstm",
    title="TensorFlow 1: LSTMCell",
    cells={
        "lstm": Stored(
            "igfo",
            (*_LSTM_CELL, Array("lstm_cell/projection/kernel", "W_hr")),
            orientation="columns",
            forget_bias=1.0,
            biased=True,
        ),
        "lstm_peephole": Stored(
            "igfo",
            (*_LSTM_CELL, Array("lstm_cell/w_{gate}_diag", "peephole")),
            orientation="columns",
            forget_bias=1.0,
            biased=True,
        ),
    },
    layer="cell_{number}/",
    directions=("fw/", "bw/"),
    source=TENSORFLOW1.source,
    remark="the forget bias is an argument of the cell; cell_clip and proj_clip are not held",
)
