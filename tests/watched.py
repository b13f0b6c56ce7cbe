"""Models that tests watch, and what holds after every watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs
from rnnscope._layers.adopt import RECURRENT

FORWARDS = {kind: vars(kind)["forward"] for kind in RECURRENT}


@pytest.fixture
def classes_as_before() -> Iterator[None]:
    """After the test, the forwards of torch's classes are what they were."""
    yield
    assert {kind: vars(kind)["forward"] for kind in RECURRENT} == FORWARDS


def equal(one: rs.Trace, other: rs.Trace) -> None:
    """All numbers of two traces are the same, bit for bit."""
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name
    for layer in range(one.sizes["layer"]):
        assert torch.equal(one.layer_input(layer), other.layer_input(layer))
    assert torch.equal(one.h_n, other.h_n)
    assert torch.equal(one.h_0, other.h_0)


class Tagger(nn.Module):
    """An embedding, a bidirectional LSTM and a head."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.rnn = nn.LSTM(
            6, 5, num_layers=2, bidirectional=True, batch_first=True, dropout=dropout
        )
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        x: Any = self.embed(tokens)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, _ = self.rnn(x)
        return self.head(output.data if lengths is not None else output)


class Decoder(nn.Module):
    """Calls nn.GRU with one step at a time, teacher-forced."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, num_layers=layers)
        self.head = nn.Linear(4, 3)
        self.between: Callable[[Tensor], Tensor] = lambda h: h

    def forward(self, targets: Tensor, h: Tensor | None = None) -> Tensor:
        outputs = []
        for x in targets:
            y, h = self.gru(x[None], None if h is None else self.between(h))
            outputs.append(self.head(y))
        return torch.cat(outputs)


class Cells(nn.Module):
    """An LSTMCell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)
        self.between: Callable[[int, Any], Any] = lambda t, state: state

    def forward(self, xs: Tensor) -> Tensor:
        state = None
        for t, x in enumerate(xs):
            state = self.cell(x, None if state is None else self.between(t, state))
        return state[0]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"rnn": nn.LSTM(3, 4)})
        self.decoder = nn.ModuleDict({"rnn": nn.GRU(4, 4), "cell": nn.GRUCell(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.encoder["rnn"](x)
        z, h = self.decoder["rnn"](y)
        return self.decoder["cell"](z[-1], h[0])


class OwnForward(nn.LSTM):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x * 2)


class OwnLoop(nn.LSTM):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return x @ self.weight_ih_l0.T
