"""What does watching a model cost, beside running it?

Run: ``python benchmarks/watch.py``. Each line is measured in one run, the sides taking turns; the
figures are medians and their ratio. README.md beside this file says how to read it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import rnnscope as rs

STEPS = 200


class Decoder(nn.Module):
    """Luong's decoder: embedding, one step of a GRU, attention over an encoder's outputs, words."""

    def __init__(self, words: int = 1000, size: int = 64) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(words, size), nn.GRUCell(size, size)
        self.mixed, self.out = nn.Linear(2 * size, size), nn.Linear(size, words)

    def forward(self, memory: Tensor, steps: int) -> Tensor:
        batch = memory.shape[0]
        token = torch.zeros(batch, dtype=torch.long, device=memory.device)
        h, tokens = memory[:, -1], []
        for _ in range(steps):
            h = self.cell(self.embed(token), h)
            weights = (memory @ h.unsqueeze(-1)).softmax(1)
            context = (weights * memory).sum(1)
            token = self.out(self.mixed(torch.cat([h, context], -1)).tanh()).argmax(-1)
            tokens.append(token)
        return torch.stack(tokens)


class Tagger(nn.Module):
    """An embedding, an LSTM, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(1000, 64), nn.LSTM(64, 128, batch_first=True)
        self.out = nn.Linear(128, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.rnn(self.embed(tokens))[0])


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def medians(sides: list[Callable[[], list[float]]], repeats: int) -> list[list[float]]:
    """What each side measures, taking turns; the first round is not counted."""
    figures: list[list[list[float]]] = [[] for _ in sides]
    for turn in range(repeats + 1):
        for k, side in enumerate(sides):
            measured = side()
            if turn:
                figures[k].append(measured)
    return [[statistics.median(column) for column in zip(*rows, strict=True)] for rows in figures]


def plain(work: Callable[[], object]) -> Callable[[], list[float]]:
    return lambda: [seconds(work)]


def watched(model: nn.Module, work: Callable[[], object]) -> Callable[[], list[float]]:
    """Inside the context, and at its end, where the proof is."""

    def measured() -> list[float]:
        seen = rs.watch(model)
        seen.__enter__()
        inside = seconds(work)
        return [inside, seconds(lambda: seen.__exit__(None, None, None))]

    return measured


def line(name: str, model: nn.Module, work: Callable[[], object], calls: int, repeats: int) -> None:
    [[own], [inside, end]] = medians([plain(work), watched(model, work)], repeats)
    per_call = 1e6 / calls
    print(
        f"{name:<34} {own * per_call:9.1f} {inside * per_call:9.1f} {end * per_call:9.1f}"
        f" {inside / own:8.2f} {(inside + end) / own:8.2f}"
    )


def loop(cell: nn.Module, x: Tensor) -> Callable[[], object]:
    def work() -> object:
        state = None
        for _ in range(STEPS):
            state = cell(x, state)
        return state

    return work


def training(model: nn.Module, tokens: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.Adam(model.parameters())

    def work() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            model(tokens).square().mean().backward()
            optimizer.step()

    return work


def memory_per_call() -> tuple[float, float, float]:
    """Bytes by which resident memory grows in a long loop, in all with the proof at its end, and
    those of the record."""
    cell, x, count = nn.LSTMCell(20, 20), torch.randn(1, 20), 50_000
    state = None
    seen = rs.watch(cell)
    with torch.no_grad(), seen:
        for k in range(count + 1000):
            if k == 1000:
                before = resident()
            state = cell(x, state)
        grown = resident() - before
    return grown / count, (resident() - before) / count, 6 * 20 * 4


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if sys.platform == "linux":  # first, while nothing that was freed is used again
        grown, proven, record = memory_per_call()
        print(
            f"memory of a call of LSTMCell(20, 20): {grown:.0f} bytes, {proven:.0f} once it is "
            f"proven; its record has {record:.0f}"
        )
    print(f"torch {torch.__version__}, {options.threads} thread, microseconds of CPU per call")
    print(f"{'':<34} {'plain':>9} {'watched':>9} {'at end':>9} {'ratio':>8} {'with end':>8}")
    cells = [nn.RNNCell(32, 32), nn.GRUCell(32, 32), nn.LSTMCell(32, 32)]
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            for cell in cells:
                name = f"{type(cell).__name__}(32, 32), {'grad' if grad else 'no grad'}"
                line(name, cell, loop(cell, torch.randn(4, 32)), STEPS, options.repeats)
    decoder, memory = Decoder(), torch.randn(8, 20, 64)
    with torch.no_grad():
        line("decoder, no grad", decoder, lambda: decoder(memory, 100), 100, options.repeats)
    tagger, tokens = Tagger(), torch.randint(1000, (16, 50))
    line("training step, LSTM(64, 128)", tagger, training(tagger, tokens), 4, options.repeats)


if __name__ == "__main__":
    main()
