"""What the options of the commands choose among.

The lists of cells, layouts and endings are those of the rooms that know them, which a test holds;
they stand here as text, so that a help text needs neither these rooms nor torch.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "ENDINGS",
    "LAYOUT_NAMES",
    "AnyCell",
    "CellKind",
    "CheckedType",
    "Format",
    "Nonlinearity",
    "PaperSize",
    "ReadingDirection",
    "VerdictFormat",
]

ENDINGS = (
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".tar",
    ".safetensors",
    ".npz",
    ".h5",
    ".hdf5",
    ".keras",
    ".onnx",
    ".nam",
    ".json",
)
"""The endings of the files that are read: those of ``rnnscope._files.containers.READERS``."""

LAYOUT_NAMES = (
    "pytorch",
    "pytorch_cell",
    "rnnscope",
    "keras",
    "keras1",
    "keras_cudnn",
    "tensorflow1",
    "tensorflow1_lstm",
    "onnx",
    "flax",
    "flax_nnx",
    "flax_nnx_optimized",
    "equinox",
    "haiku",
    "mxnet",
    "mxnet_cell",
    "coreml",
    "burn",
    "nam",
    "rtneural",
    "guitarml",
)
"""The layouts: those of ``rnnscope._layouts.LAYOUTS``."""


class CellKind(StrEnum):
    """The recurrent layers of torch.nn."""

    rnn = "rnn"
    gru = "gru"
    lstm = "lstm"


class AnyCell(StrEnum):
    """The cells that a file may hold, or that may be drawn."""

    rnn = "rnn"
    gru = "gru"
    lstm = "lstm"
    rnn_tanh = "rnn_tanh"
    rnn_relu = "rnn_relu"
    gru_reset_before = "gru_reset_before"
    lstm_peephole = "lstm_peephole"
    lstm_coupled = "lstm_coupled"
    lstm_coupled_peephole = "lstm_coupled_peephole"


class Nonlinearity(StrEnum):
    """The activations of nn.RNN."""

    tanh = "tanh"
    relu = "relu"


class ReadingDirection(StrEnum):
    """The directions in which a layer reads."""

    forward = "forward"
    reverse = "reverse"


class Format(StrEnum):
    """The forms in which a text can be printed."""

    text = "text"
    latex = "latex"
    markdown = "markdown"
    json = "json"


class VerdictFormat(StrEnum):
    """The forms in which a verdict can be printed."""

    text = "text"
    json = "json"


class PaperSize(StrEnum):
    """The sizes of paper for which a sheet can be printed."""

    a4 = "a4"
    letter = "letter"


class CheckedType(StrEnum):
    """Types of number in which a machine's layers are checked."""

    float32 = "float32"
    float64 = "float64"
