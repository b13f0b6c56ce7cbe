"""How PyTorch stores its layers and cells, and how rnnscope's own module follows it."""

from __future__ import annotations

from rnnscope._layouts.layout import Array, Layout, Stored

__all__ = ["PYTORCH", "PYTORCH_CELL", "RNNSCOPE"]

DIRECTIONS = ("", "_reverse")
MATRICES = (
    Array("weight_ih_l{layer}{direction}", "W_ih"),
    Array("weight_hh_l{layer}{direction}", "W_hh"),
)
BIASES = (
    Array("bias_ih_l{layer}{direction}", "b_ih"),
    Array("bias_hh_l{layer}{direction}", "b_hh"),
)
PROJECTION = Array("weight_hr_l{layer}{direction}", "W_hr")
PEEPHOLES = Array("peephole_{gate}_l{layer}{direction}", "peephole")
CELL_ARRAYS = (
    Array("weight_ih", "W_ih"),
    Array("weight_hh", "W_hh"),
    Array("bias_ih", "b_ih"),
    Array("bias_hh", "b_hh"),
)

PYTORCH = Layout(
    "pytorch",
    title="PyTorch: nn.RNN, nn.GRU, nn.LSTM",
    cells={
        "rnn": Stored("h", (*MATRICES, *BIASES)),
        "gru": Stored("rzn", (*MATRICES, *BIASES)),
        "lstm": Stored("ifgo", (*MATRICES, *BIASES, PROJECTION)),
    },
    layer="{number}",
    directions=DIRECTIONS,
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html",
    remark="GRU resets after the product",
)

PYTORCH_CELL = Layout(
    "pytorch_cell",
    title="PyTorch: nn.RNNCell, nn.GRUCell, nn.LSTMCell",
    cells={
        "rnn": Stored("h", CELL_ARRAYS),
        "gru": Stored("rzn", CELL_ARRAYS),
        "lstm": Stored("ifgo", CELL_ARRAYS),
    },
    layer="{number}.",
    directions=("forward.", "reverse."),
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTMCell.html",
    remark="cells only: the names of layers and directions are the user's own",
)

RNNSCOPE = Layout(
    "rnnscope",
    title="rnnscope.Recurrent",
    cells={
        "rnn": Stored("h", (*MATRICES, *BIASES)),
        "gru": Stored("rzn", (*MATRICES, *BIASES)),
        "gru_reset_before": Stored("rzn", (*MATRICES, *BIASES)),
        "lstm": Stored("ifgo", (*MATRICES, *BIASES, PROJECTION)),
        "lstm_peephole": Stored("ifgo", (*MATRICES, *BIASES, PEEPHOLES)),
        "lstm_coupled": Stored("igo", (*MATRICES, *BIASES)),
        "lstm_coupled_peephole": Stored("igo", (*MATRICES, *BIASES, PEEPHOLES)),
    },
    layer="{number}",
    directions=DIRECTIONS,
    source="rnnscope/_layers/recurrent.py",
    remark="named as PyTorch names them; the arrays do not tell the two forms of GRU apart",
)
