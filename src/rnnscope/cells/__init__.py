"""The words in which a cell is declared, and the cells of PyTorch declared in them, once.

Enters: equations, written in these words.
Leaves: a ``Cell``: its text and LaTeX, values, derivatives and the source of functions.
"""

from rnnscope.cells.cells import (
    CELLS,
    DECLARED,
    GRU,
    GRU_RESET_BEFORE,
    LSTM,
    LSTM_COUPLED,
    LSTM_COUPLED_PEEPHOLE,
    LSTM_PEEPHOLE,
    LSTM_PROJECTED,
    RNN_RELU,
    RNN_TANH,
    Cell,
    apply,
    as_declared,
    from_h,
    from_x,
    part_name,
    previous,
    project,
    quantity,
    quantity_names,
    relu,
    sigmoid,
    tanh,
    vector,
)
from rnnscope.cells.functions import Function

__all__ = [
    # what a cell is declared in
    "Cell",
    "Function",
    "apply",
    "from_h",
    "from_x",
    "previous",
    "project",
    "quantity",
    "relu",
    "sigmoid",
    "tanh",
    "vector",
    # the cells
    "CELLS",
    "DECLARED",
    "GRU",
    "GRU_RESET_BEFORE",
    "LSTM",
    "LSTM_COUPLED",
    "LSTM_COUPLED_PEEPHOLE",
    "LSTM_PEEPHOLE",
    "LSTM_PROJECTED",
    "RNN_RELU",
    "RNN_TANH",
    # what is read from one
    "as_declared",
    "part_name",
    "quantity_names",
]
