"""What the comparisons with other frameworks share: their layer in torch, and the same numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from rnnscope._layers.recurrent import Recurrent
from rnnscope._layouts import Converted, from_torch, to_torch
from rnnscope.cells import CELLS

Floats = NDArray[np.float32]

INPUT, HIDDEN, BATCH, STEPS = 3, 5, 2, 7
CLOSE = 1e-6  # between two float32 implementations: some roundings of numbers below 1


def framework(name: str) -> Any:
    """A framework's package; the test is skipped where it is not installed.

    To install them all: pip install -c constraints.txt -r tests/frameworks/requirements.txt
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a framework's own warnings are not ours
        return pytest.importorskip(
            name, reason=f"{name} is not installed: see tests/frameworks", exc_type=ImportError
        )


def numbers(*shape: int, seed: int = 0) -> Floats:
    """Random numbers, biases and initial states included: zeros would hide what is wrong."""
    rng = np.random.default_rng([*shape, seed])
    return rng.uniform(-0.7, 0.7, shape).astype(np.float32)


def x_and_states(directions: int = 1) -> tuple[Floats, Floats, Floats]:
    """x (time, batch, input), h_0 and c_0 (directions, batch, hidden)."""
    x = numbers(STEPS, BATCH, INPUT, seed=1)
    h, c = (numbers(directions, BATCH, HIDDEN, seed=seed) for seed in (2, 3))
    return x, h, c


def in_torch(converted: Converted) -> nn.Module:
    """The module that holds the layer: torch's own where it can."""
    cell, state, options = converted
    named = {id(known): name for name, known in CELLS.items()}.get(id(cell))
    module: nn.Module
    if named is None or options.get("reverse"):
        module = Recurrent(cell, **options)
    elif named.startswith("rnn"):
        module = nn.RNN(nonlinearity=named.removeprefix("rnn_"), **options)
    else:
        module = (nn.GRU if named == "gru" else nn.LSTM)(**options)
    module.load_state_dict(state)
    return module


def outputs(module: nn.Module, x: Floats, h: Floats, c: Floats) -> tuple[Floats, ...]:
    """The output, h_n and c_n (where there is one), as arrays."""
    has_c = isinstance(module, nn.LSTM) or (
        isinstance(module, Recurrent) and "c" in module.cell.states
    )
    states = (torch.tensor(h), torch.tensor(c)) if has_c else torch.tensor(h)
    with torch.no_grad():
        output, last = module(torch.tensor(x), states)
    finals = last if isinstance(last, tuple) else (last,)
    return tuple(tensor.numpy() for tensor in (output, *finals))


def agree(found: tuple[Floats, ...], expected: tuple[Any, ...]) -> float:
    """The largest difference, which must be within rounding."""
    assert len(found) == len(expected)
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == np.shape(theirs)
        worst = max(worst, float(np.abs(ours - np.asarray(theirs)).max()))
    print(f"largest difference {worst:.1e}")
    assert worst <= CLOSE
    return worst


def same_again(
    layout: str, arrays: Mapping[str, Any], kind: str, exact: bool = True, reverse: bool = False
) -> Converted:
    """The layer in torch; written back, it is the framework's own arrays."""
    converted = to_torch(layout, arrays, kind=kind, reverse=reverse)
    again = from_torch(layout, converted.cell, converted.state_dict)
    assert again.keys() == arrays.keys()
    for name, array in again.items():
        if exact:
            assert np.array_equal(array, np.asarray(arrays[name])), name
        else:
            # a bias of 1 added and taken away again: a rounding of numbers below 2
            assert np.allclose(array, np.asarray(arrays[name]), rtol=0, atol=2**-23), name
    return converted
