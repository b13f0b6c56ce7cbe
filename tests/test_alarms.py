"""False alarms and missed faults: a right layer never raises, however its weights are made, and a
wrong number in what it returned always does.

The judge is torch: whatever its kernels return is right by definition, and a number that the test
itself changed is wrong.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs
from rnnscope.adopt import Adopted, Returned

CHUNK = 25
"""Draws per test."""
QUICK, ALL = 300, 3_000

CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_proj")
WEIGHTS = ("constant", "positive", "uniform", "sparse", "rank one", "powers of two", "normal")
INPUTS = ("normal", "ones", "positive", "zeros", "large", "tiny")
PRECISIONS = ("float32", "float32", "float32", "float64", "float64", "bfloat16", "autocast")
MODES = {"grad": torch.enable_grad, "no grad": torch.no_grad, "inference": torch.inference_mode}


@dataclass(frozen=True)
class Drawn:
    """One layer and one call of it."""

    seed: int
    cell: str
    weights: str
    scale: float
    inputs: str
    precision: str
    mode: str
    threads: int
    sizes: tuple[int, int]  # input, hidden
    layers: int
    bidirectional: bool
    bias: bool
    training: bool
    batch: int
    steps: int
    form: str  # "batched", "batch_first", "packed", "unbatched"

    @classmethod
    def of(cls, seed: int) -> Drawn:
        """Everything at random; work per draw is about the same, so a long call has few units."""
        choose = random.Random(seed)
        scale = choose.choice((1.0, 1.0, 1.0, 12.0, 10 ** choose.uniform(-30, 8)))
        # the product of steps, sequences and weights is bounded: 1 in 100 draws may be large
        work = 2e8 if seed % 100 == 99 else 4e6
        hidden = round(math.exp(choose.uniform(0, math.log(2_000 if work > 1e7 else 400))))
        inputs = choose.choice((1, 2, 3, 7, 16, 40))
        steps = round(math.exp(choose.uniform(0, math.log(20_000 if work > 1e7 else 400))))
        layers = choose.choice((1, 1, 1, 2, 3))
        batch = choose.choice((1, 2, 3, 8))
        gates = 4 * hidden * (hidden + inputs) * layers
        steps = max(1, min(steps, round(work / gates / batch)))
        return cls(
            seed,
            choose.choice(CELLS),
            choose.choice(WEIGHTS),
            scale,
            choose.choice(INPUTS),
            choose.choice(PRECISIONS),
            choose.choice(list(MODES)),
            choose.choice((1, 1, 1, 1, 1, 1, 1, 2)),
            (inputs, hidden),
            layers,
            choose.random() < 0.3,
            choose.random() < 0.8,
            choose.random() < 0.3,
            batch,
            steps,
            choose.choice(("batched", "batched", "batch_first", "packed", "unbatched")),
        )

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "autocast" else getattr(torch, self.precision)

    def filled(self, shape: torch.Size) -> Tensor:
        """A weight of this kind, in float64."""
        normal = torch.randn(shape, dtype=torch.float64)
        spread = 1 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.25
        match self.weights:
            case "constant":
                number = random.Random(self.seed).choice((0.001, 0.01, 0.1 * spread, spread))
                return torch.full(shape, number, dtype=torch.float64)
            case "positive":
                return torch.rand(shape, dtype=torch.float64)
            case "uniform":
                return (2 * torch.rand(shape, dtype=torch.float64) - 1) * spread
            case "sparse":
                return normal * (torch.rand(shape) < 0.1)
            case "rank one":
                rows = torch.randn(shape[0], dtype=torch.float64)
                return spread * (rows if len(shape) == 1 else torch.outer(rows, normal[0]))
            case "powers of two":
                return normal.sign() * 2.0 ** torch.randint(-8, 1, shape)
            case _:
                return normal * spread

    def layer(self) -> nn.RNN | nn.GRU | nn.LSTM:
        inputs, hidden = self.sizes
        kinds = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU}
        options: dict[str, Any] = {}
        if self.cell.startswith("rnn"):
            options["nonlinearity"] = self.cell[4:]
        if self.cell == "lstm_proj" and hidden > 1:
            options["proj_size"] = hidden // 2
        layer = kinds.get(self.cell, nn.LSTM)(
            inputs,
            hidden,
            num_layers=self.layers,
            bidirectional=self.bidirectional,
            bias=self.bias,
            batch_first=self.form == "batch_first",
            dropout=0.2 if self.layers > 1 else 0.0,
            **options,
        )
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(self.filled(parameter.shape) * self.scale)
        return layer.to(self.dtype).train(self.training)

    def input(self) -> Any:
        shape = (self.steps, self.batch, self.sizes[0])
        made = {
            "normal": lambda: torch.randn(shape),
            "ones": lambda: torch.ones(shape),
            "positive": lambda: torch.rand(shape),
            "zeros": lambda: torch.zeros(shape),
            "large": lambda: torch.randn(shape) * 1e6,
            "tiny": lambda: torch.randn(shape) * 1e-25,
        }
        x = made[self.inputs]().to(self.dtype)
        match self.form:
            case "batch_first":
                return x.transpose(0, 1).contiguous()
            case "unbatched":
                return x[:, 0]
            case "packed":
                lengths = torch.randint(1, self.steps + 1, (self.batch,))
                return pack_padded_sequence(x, lengths, enforce_sorted=False)
            case _:
                return x

    def trace(self, **options: Any) -> rs.Trace:
        lowered = contextlib.nullcontext()
        if self.precision == "autocast":
            lowered = torch.autocast("cpu", torch.bfloat16)
        with torch.random.fork_rng(devices=[]), threads(self.threads), lowered:
            torch.manual_seed(self.seed)
            layer, x = self.layer(), self.input()
            with MODES[self.mode]():
                return rs.trace(layer, x, **options)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
