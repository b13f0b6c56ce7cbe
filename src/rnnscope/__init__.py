"""rnnscope opens the recurrent layers of PyTorch: every number inside, proven and explained.

>>> import torch, rnnscope as rs
>>> lstm = torch.nn.LSTM(10, 20, num_layers=2, bidirectional=True, batch_first=True)
>>> tr = rs.trace(lstm, torch.randn(4, 30, 10))
>>> tr["f"].shape                               # layer, direction, batch, time, unit
torch.Size([2, 2, 4, 30, 20])
>>> tr["c", 1, "reverse"].shape
torch.Size([4, 30, 20])
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; a running program finds the same in _HOMES
    from rnnscope import cells as cells
    from rnnscope import errors as errors
    from rnnscope import plot
    from rnnscope._check import check
    from rnnscope._compare import Cause, Verdict, assert_agrees, compare
    from rnnscope._corpus.reading.dataset import open_record, sequence
    from rnnscope._corpus.reading.statistics import statistics
    from rnnscope._corpus.reading.top import top
    from rnnscope._corpus.record import record
    from rnnscope._edit import Edit
    from rnnscope._files import load, save
    from rnnscope._gradients.saved import load_record
    from rnnscope._layers.adapter import Adapter
    from rnnscope._layers.recurrent import Recurrent, unfuse
    from rnnscope._layouts import Array, Layout, Stored
    from rnnscope._opening.warm import warm_up
    from rnnscope._trace.trace import load_trace, trace
    from rnnscope._trace.verbs import Trace
    from rnnscope._watch.watch import watch
    from rnnscope.cells import Cell
    from rnnscope.errors import (
        AddressError,
        BatchError,
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

    __version__: str

__all__ = [
    "Adapter",
    "AddressError",
    "Array",
    "BatchError",
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
    "check",
    "compare",
    "load",
    "load_record",
    "load_trace",
    "open_record",
    "plot",
    "record",
    "save",
    "sequence",
    "statistics",
    "top",
    "trace",
    "unfuse",
    "warm_up",
    "watch",
]

_HOMES = {
    "Adapter": "rnnscope._layers.adapter",
    "AddressError": "rnnscope.errors",
    "Array": "rnnscope._layouts",
    "BatchError": "rnnscope.errors",
    "CandidateError": "rnnscope.errors",
    "Cause": "rnnscope._compare",
    "Cell": "rnnscope.cells",
    "DeclarationError": "rnnscope.errors",
    "DtypeError": "rnnscope.errors",
    "Edit": "rnnscope._edit",
    "FileError": "rnnscope.errors",
    "GradientError": "rnnscope.errors",
    "Layout": "rnnscope._layouts",
    "MissingExtraError": "rnnscope.errors",
    "NotRecurrentError": "rnnscope.errors",
    "Recurrent": "rnnscope._layers.recurrent",
    "RefusedError": "rnnscope.errors",
    "RnnscopeError": "rnnscope.errors",
    "ShapeError": "rnnscope.errors",
    "Stored": "rnnscope._layouts",
    "Trace": "rnnscope._trace.verbs",
    "Verdict": "rnnscope._compare",
    "VerificationError": "rnnscope.errors",
    "assert_agrees": "rnnscope._compare",
    "cells": "rnnscope",
    "check": "rnnscope._check",
    "compare": "rnnscope._compare",
    "errors": "rnnscope",
    "load": "rnnscope._files",
    "load_record": "rnnscope._gradients.saved",
    "load_trace": "rnnscope._trace.trace",
    "open_record": "rnnscope._corpus.reading.dataset",
    "plot": "rnnscope",
    "record": "rnnscope._corpus.record",
    "save": "rnnscope._files",
    "sequence": "rnnscope._corpus.reading.dataset",
    "statistics": "rnnscope._corpus.reading.statistics",
    "top": "rnnscope._corpus.reading.top",
    "trace": "rnnscope._trace.trace",
    "unfuse": "rnnscope._layers.recurrent",
    "warm_up": "rnnscope._opening.warm",
    "watch": "rnnscope._watch.watch",
}
"""Where each public name is defined. A name is imported when it is first used, so that ``import
rnnscope`` costs next to nothing, and so does a command that only prints its help."""

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any misspelt name

    def __getattr__(name):
        from importlib import import_module

        if name == "__version__":
            from importlib.metadata import version

            value = version("rnnscope")
        elif name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        elif _HOMES[name] == __name__:
            value = import_module(f"{__name__}.{name}")
        else:
            value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *_HOMES, "__version__"})
