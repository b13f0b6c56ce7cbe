"""Data sets that tests record, and what a store of them must hold: rs.trace of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnscope as rs


class Encoder(nn.Module):
    """An embedding and a bidirectional LSTM that reads packed words."""

    def __init__(self, units: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.rnn = nn.LSTM(5, units, num_layers=2, bidirectional=True)

    def forward(self, words: Sequence[Tensor]) -> Any:
        return self.rnn(self.packed(words))[0]

    def packed(self, words: Sequence[Tensor]) -> PackedSequence:
        return pack_sequence([self.embed(word) for word in words], enforce_sorted=False)


def encoder(units: int = 6) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Encoder(units).eval()


def words(count: int, longest: int = 8) -> list[Tensor]:
    """Sequences of unequal lengths, the same each time."""
    drawn = torch.Generator("cpu").manual_seed(7)
    lengths = torch.randint(1, longest + 1, (count,), generator=drawn).tolist()
    return [torch.randint(11, (length,), generator=drawn) for length in lengths]


def batches(count: int, size: int = 4, longest: int = 8) -> list[list[Tensor]]:
    every = words(count, longest)
    return [every[k : k + size] for k in range(0, count, size)]


def run(model: nn.Module, batch: Any) -> Any:
    return model(batch)


def texts(batch: Sequence[Tensor]) -> list[list[str]]:
    return [[f"w{int(n)}" for n in word] for word in batch]


def expected(model: Encoder, parts: Sequence[Sequence[Tensor]]) -> dict[str, np.ndarray]:
    """All valid steps of all sequences, (step, layer, direction, unit): traces of the same
    batches, taken apart by a loop."""
    rows: dict[str, list[np.ndarray]] = {}
    for part in parts:
        with torch.no_grad():
            tr = rs.trace(model.rnn, model.packed(part))
        for name in tr:
            rows.setdefault(name, []).extend(
                tr[name][:, :, b, t].numpy()
                for b, word in enumerate(part)
                for t in range(len(word))
            )
    return {name: np.stack(steps) for name, steps in rows.items()}


def check_store(path: str | Path, model: Encoder, parts: Sequence[Sequence[Tensor]]) -> None:
    """Every number of a store, bit for bit, and which step each row is."""
    ds = rs.open_record(path)["rnn"]
    judge = expected(model, parts)
    assert set(ds.data_vars) == set(judge)
    for name, values in judge.items():
        assert np.array_equal(ds[name].values, values), name
    every = [word for part in parts for word in part]
    assert ds["sequence"].values.tolist() == [k for k, w in enumerate(every) for _ in w]
    assert ds["time"].values.tolist() == [t for word in every for t in range(len(word))]
    if "label" in ds.coords:
        assert ds["label"].values.tolist() == [f"w{int(n)}" for word in every for n in word]
