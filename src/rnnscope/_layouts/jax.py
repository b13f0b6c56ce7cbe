"""How the libraries of JAX store their cells."""

from __future__ import annotations

from rnnscope._layouts.layout import Array, Layout, Stored

__all__ = ["EQUINOX", "FLAX", "FLAX_NNX", "FLAX_NNX_OPTIMIZED", "HAIKU"]

FLAX = Layout(
    "flax",
    title="Flax linen: SimpleCell, GRUCell, LSTMCell, OptimizedLSTMCell",
    cells={
        "rnn": Stored(
            "h",
            (
                Array("i/kernel", "W_ih"),
                Array("h/kernel", "W_hh"),
                Array("i/bias", "b_ih"),
            ),
            orientation="columns",
            biased=True,
        ),
        "gru": Stored(
            "rzn",
            (
                Array("i{gate}/kernel", "W_ih"),
                Array("h{gate}/kernel", "W_hh"),
                Array("i{gate}/bias", "b_ih"),
                Array("h{gate}/bias", "b_hh", gates="n"),
            ),
            orientation="columns",
            biased=True,
        ),
        "lstm": Stored(
            "ifgo",
            (
                Array("i{gate}/kernel", "W_ih"),
                Array("h{gate}/kernel", "W_hh"),
                Array("h{gate}/bias", "b_ih"),
            ),
            orientation="columns",
            biased=True,
        ),
    },
    layer="layers_{number}/",
    directions=("forward_rnn/cell/", "backward_rnn/cell/"),
    source="https://github.com/google/flax/blob/main/flax/linen/recurrent.py",
    remark="GRU resets after the product; names of stacked layers are the user's own",
)

_DENSE = (
    Array("dense_i/kernel", "W_ih"),
    Array("dense_h/kernel", "W_hh"),
)
_BIAS_OF_X = Array("dense_i/bias", "b_ih")
_BIAS_OF_H = Array("dense_h/bias", "b_ih")
_NNX_SOURCE = "https://github.com/google/flax/blob/main/flax/nnx/nn/recurrent.py"

FLAX_NNX = Layout(
    "flax_nnx",
    title="Flax nnx: SimpleCell, GRUCell, LSTMCell",
    cells={
        "rnn": Stored("h", (*_DENSE, _BIAS_OF_X), orientation="columns", biased=True),
        "gru": Stored("rzn", (*_DENSE, _BIAS_OF_X), orientation="columns", biased=True),
        "lstm": Stored(
            "ifgo",
            (
                Array("ii/kernel", "W_ih", gates="i"),
                Array("if_/kernel", "W_ih", gates="f"),  # "if" is a word of Python
                Array("ig/kernel", "W_ih", gates="g"),
                Array("io/kernel", "W_ih", gates="o"),
                Array("h{gate}/kernel", "W_hh"),
                Array("h{gate}/bias", "b_ih"),
            ),
            orientation="columns",
            biased=True,
        ),
    },
    layer="layers/{number}/",
    directions=("forward_rnn/cell/", "backward_rnn/cell/"),
    source=_NNX_SOURCE,
    remark="GRU resets after the product and has no b_hn, which must be zero",
)

FLAX_NNX_OPTIMIZED = Layout(
    "flax_nnx_optimized",
    title="Flax nnx: OptimizedLSTMCell",
    cells={"lstm": Stored("ifgo", (*_DENSE, _BIAS_OF_H), orientation="columns", biased=True)},
    layer="layers/{number}/",
    directions=("forward_rnn/cell/", "backward_rnn/cell/"),
    source=_NNX_SOURCE,
)

_EQUINOX_MATRICES = (Array("weight_ih", "W_ih"), Array("weight_hh", "W_hh"))

EQUINOX = Layout(
    "equinox",
    title="Equinox: GRUCell, LSTMCell",
    cells={
        "gru": Stored(
            "rzn",
            (
                *_EQUINOX_MATRICES,
                Array("bias", "b_ih"),
                Array("bias_n", "b_hh", gates="n"),
            ),
        ),
        "lstm": Stored("ifgo", (*_EQUINOX_MATRICES, Array("bias", "b_ih"))),
    },
    layer="layers/{number}/",
    source="https://github.com/patrick-kidger/equinox/blob/main/equinox/nn/_rnn.py",
    remark="GRU resets after the product; names of layers and directions are the user's own",
)

HAIKU = Layout(
    "haiku",
    title="Haiku: VanillaRNN, GRU, LSTM",
    cells={
        "rnn": Stored(
            "h",
            (
                Array("vanilla_rnn/linear/w", "W_ih"),
                Array("vanilla_rnn/linear_1/w", "W_hh"),
                Array("vanilla_rnn/linear/b", "b_ih"),
                Array("vanilla_rnn/linear_1/b", "b_hh"),
            ),
            orientation="columns",
            biased=True,
            nonlinearity="relu",
            nonlinearity_fixed=True,
        ),
        "gru_reset_before": Stored(
            "zrn",
            (
                Array("gru/w_i", "W_ih"),
                Array("gru/w_h", "W_hh"),
                Array("gru/b", "b_ih"),
            ),
            orientation="columns",
            update="takes",
            biased=True,
        ),
        "lstm": Stored(
            "igfo",
            (
                Array("lstm/linear/w", "W_ih W_hh"),
                Array("lstm/linear/b", "b_ih"),
            ),
            orientation="columns",
            forget_bias=1.0,
            biased=True,
        ),
    },
    source="https://github.com/google-deepmind/dm-haiku/blob/main/haiku/_src/recurrent.py",
    remark=(
        "VanillaRNN is with double_bias=True; names of layers and directions are the user's own"
    ),
)
