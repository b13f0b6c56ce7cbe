"""The one list of configurations over which the tests are parametrised.

@pytest.mark.parametrize("configuration", ALL, ids=name_of)
def test_something(configuration): ...
    layer, args, kwargs, padded_x, lengths, initial = build(configuration, seed=0)
    layer(*args, **kwargs)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

# no two sizes are equal, nor equal to a number of layers (1, 3), of directions (1, 2) or of rows
# of h_n (1, 2, 3, 6): an axis that is taken for another changes a shape
BATCH, TIME, INPUT, HIDDEN, PROJECTED = 4, 5, 7, 9, 8
LENGTHS = [2, 5, 1, 2]  # unsorted, with a tie, a single step and the full length
DROPOUT = 0.3

VALUES: dict[str, tuple[Any, ...]] = {
    "cell": ("rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_proj"),
    "num_layers": (1, 3),
    "bidirectional": (False, True),
    "bias": (True, False),
    "batch_first": (False, True),
    "initial": (False, True),
    "call": ("batched", "unbatched", "packed"),
    "training": (False, True),
    "dtype": (torch.float64, torch.float32),
}


@dataclass(frozen=True)
class Configuration:
    """One way to build and to call a recurrent layer."""

    cell: str
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    initial: bool = False  # are initial states given?
    call: str = "batched"  # or "unbatched", or "packed": unsorted lengths
    training: bool = False
    dtype: torch.dtype = torch.float64

    @property
    def dropout(self) -> float:
        """Dropout of the layer: a single layer has no boundary to drop at, and torch warns."""
        return DROPOUT if self.training and self.num_layers > 1 else 0.0


class Case(NamedTuple):
    """A layer and one call of it, `layer(*args, **kwargs)`, and the same call for a judge."""

    layer: nn.RNN | nn.GRU | nn.LSTM
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    padded_x: Tensor  # (batch, time, feature), batch 1 for an unbatched call
    lengths: list[int] | None  # None unless packed
    initial: Any  # None, h_0 or (h_0, c_0), with a batch dim also for an unbatched call


def name_of(configuration: Configuration) -> str:
    """The id of a test: gru-3-bidirectional-nobias-batchfirst-initial-packed-train-float32."""
    words = [configuration.cell, str(configuration.num_layers)]
    words += ["bidirectional"] * configuration.bidirectional
    words += ["nobias"] * (not configuration.bias)
    words += ["batchfirst"] * configuration.batch_first
    words += ["initial"] * configuration.initial
    words += [configuration.call, "train" if configuration.training else "eval"]
    return "-".join([*words, str(configuration.dtype).removeprefix("torch.")])


def layer_of(configuration: Configuration) -> nn.RNN | nn.GRU | nn.LSTM:
    """The layer as torch initialises it, drawing from the global random state."""
    options: dict[str, Any] = {
        "num_layers": configuration.num_layers,
        "bias": configuration.bias,
        "batch_first": configuration.batch_first,
        "dropout": configuration.dropout,
        "bidirectional": configuration.bidirectional,
        "dtype": configuration.dtype,
    }
    kinds = {
        "rnn_tanh": (nn.RNN, {"nonlinearity": "tanh"}),
        "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
        "gru": (nn.GRU, {}),
        "lstm": (nn.LSTM, {}),
        "lstm_proj": (nn.LSTM, {"proj_size": PROJECTED}),
    }
    kind, own = kinds[configuration.cell]
    return kind(INPUT, HIDDEN, **options, **own).train(configuration.training)


def build(configuration: Configuration, seed: int = 0) -> Case:
    """The layer and the call of a configuration; the global random state stays as it was.

    Initial states are passed by position in a batched call, and as `hx=` otherwise. Padding holds
    ordinary numbers, so that whoever reads it gets wrong numbers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = layer_of(configuration)
        # the numbers of float32 are those of float64, rounded
        options = {"dtype": torch.float64}
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                drawn = torch.randn(parameter.shape, **options)
                # states of order 1: neither dead nor saturated, and no exploding relu
                scale = 0.5 if name.startswith("bias") else 1 / math.sqrt(parameter.shape[-1])
                if isinstance(layer, nn.LSTM) and name.startswith("weight"):
                    scale *= 2  # its h, o tanh(c), is well below 1
                parameter.copy_(drawn * scale)
        batch = 1 if configuration.call == "unbatched" else BATCH
        x = torch.randn(batch, TIME, INPUT, **options).to(configuration.dtype)
        rows = configuration.num_layers * (2 if configuration.bidirectional else 1)
        h_0 = torch.randn(rows, batch, layer.proj_size or HIDDEN, **options)
        c_0 = torch.randn(rows, batch, HIDDEN, **options)
    h_0, c_0 = h_0.to(configuration.dtype), c_0.to(configuration.dtype)
    initial: Any = None
    if configuration.initial:
        initial = (h_0, c_0) if isinstance(layer, nn.LSTM) else h_0

    if configuration.call == "unbatched":
        args: tuple[Any, ...] = (x[0].clone(),)
        own = initial
        if own is not None:
            own = (
                tuple(s[:, 0].clone() for s in own) if isinstance(own, tuple) else own[:, 0].clone()
            )
        return Case(layer, args, {"hx": own} if configuration.initial else {}, x, None, initial)
    dense = x.clone() if configuration.batch_first else x.transpose(0, 1).contiguous()
    if configuration.call == "batched":
        args = (dense, initial) if configuration.initial else (dense,)
        return Case(layer, args, {}, x, None, initial)
    packed = pack_padded_sequence(
        dense, torch.tensor(LENGTHS), batch_first=configuration.batch_first, enforce_sorted=False
    )
    kwargs = {"hx": initial} if configuration.initial else {}
    return Case(layer, (packed,), kwargs, x, list(LENGTHS), initial)


def covering(configurations: Iterable[Configuration], width: int) -> list[Configuration]:
    """Few configurations that hold every combination of values of any `width` fields.

    Greedy, and the same in every run: the next one is the first that holds most that is missing.
    """
    candidates = list(configurations)
    bits: dict[Any, int] = {}
    held = []
    for candidate in candidates:
        values = astuple(candidate)
        mask = 0
        for places in itertools.combinations(range(len(values)), width):
            combination = (places, tuple(values[place] for place in places))
            mask |= 1 << bits.setdefault(combination, len(bits))
        held.append(mask)
    missing, chosen = (1 << len(bits)) - 1, []
    while missing:
        best = max(range(len(candidates)), key=lambda i: (held[i] & missing).bit_count())
        chosen.append(candidates[best])
        missing &= ~held[best]
    return chosen


assert tuple(VALUES) == tuple(field.name for field in fields(Configuration))
ALL = [Configuration(*values) for values in itertools.product(*VALUES.values())]
SOME = covering(ALL, width=3)
