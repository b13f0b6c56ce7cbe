"""rnnscope opens the recurrent layers of PyTorch: every number inside, proven and explained.

>>> import torch, rnnscope as rs
>>> lstm = torch.nn.LSTM(10, 20, num_layers=2, bidirectional=True, batch_first=True)
>>> tr = rs.trace(lstm, torch.randn(4, 30, 10))
>>> tr["f"].shape                               # layer, direction, batch, time, unit
torch.Size([2, 2, 4, 30, 20])
>>> tr["c", 1, "reverse"].shape
torch.Size([4, 30, 20])
"""

from importlib.metadata import version as _version

from rnnscope import plot
from rnnscope._compare import Cause, Verdict, assert_agrees, compare
from rnnscope._edit import Edit
from rnnscope._files import load, save
from rnnscope._layers.recurrent import Recurrent, unfuse
from rnnscope._layouts import Array, Layout, Stored
from rnnscope._trace.trace import load_trace, trace
from rnnscope._trace.verbs import Trace
from rnnscope._watch.watch import watch
from rnnscope.cells import Cell
from rnnscope.errors import (
    AddressError,
    CandidateError,
    DeclarationError,
    DtypeError,
    FileError,
    GradientError,
    MissingExtraError,
    NotRecurrentError,
    RefusedError,
    RnnscopeError,
    ShapeError,
    VerificationError,
)

__version__ = _version("rnnscope")

__all__ = [
    "AddressError",
    "Array",
    "CandidateError",
    "Cause",
    "Cell",
    "DeclarationError",
    "DtypeError",
    "Edit",
    "FileError",
    "GradientError",
    "Layout",
    "MissingExtraError",
    "NotRecurrentError",
    "Recurrent",
    "RefusedError",
    "RnnscopeError",
    "ShapeError",
    "Stored",
    "Trace",
    "Verdict",
    "VerificationError",
    "assert_agrees",
    "compare",
    "load",
    "load_trace",
    "plot",
    "save",
    "trace",
    "unfuse",
    "watch",
]
