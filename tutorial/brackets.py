"""An LSTM that counts brackets: trains the layer of tutorial 3 and writes its weights.

    python tutorial/brackets.py     # writes tutorial/brackets.safetensors, in half a minute

It reads a sequence of ( and ) and letters, and says after each symbol how many brackets are open:
how many ) it would take to close them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
WEIGHTS = HERE / "brackets.safetensors"
SYMBOLS = "()ab"
HIDDEN, DEEPEST = 3, 8


class Counter(nn.Module):
    """An LSTM and one linear layer: symbols (batch, time, symbol) → open brackets (batch, time)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(len(SYMBOLS), HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0]).squeeze(-1)


def sentences(count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random sequences as indices (count, length) into SYMBOLS, and the depth after each symbol."""
    rng = torch.Generator().manual_seed(seed)
    depth = torch.zeros(count, dtype=torch.long)
    # each sequence climbs in its first part and falls in its last, at its own pace
    lean = torch.rand(count, generator=rng) * 0.6 + 0.2
    symbols, depths = [], []
    for _ in range(length):
        chance = torch.rand(count, 2, generator=rng)
        letter = chance[:, 0] < 0.25
        up = (chance[:, 1] < lean) & (depth < DEEPEST) | (depth == 0)
        symbol = torch.where(letter, 2 + (chance[:, 1] < 0.5), (~up).long())
        depth = depth + (symbol == 0).long() - (symbol == 1).long()
        symbols.append(symbol)
        depths.append(depth)
    return torch.stack(symbols, 1), torch.stack(depths, 1)


def one_hot(symbols: Tensor) -> Tensor:
    """Indices (…) as (…, symbol)."""
    return nn.functional.one_hot(symbols, len(SYMBOLS)).float()


def train(steps: int = 4000, seed: int = 4) -> Counter:
    """The model, trained on fresh sequences at every step; a small price on recurrent weights
    keeps its units apart."""
    torch.manual_seed(seed)
    model = Counter()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        symbols, depths = sentences(64, 40, seed=1000 + step)
        loss = nn.functional.mse_loss(model(one_hot(symbols)), depths.float())
        loss = loss + 1e-3 * model.lstm.weight_hh_l0.abs().sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 500 == 499:
            print(f"step {step + 1}: loss {loss.item():.4f}")
    return model.eval()


def accuracy(model: Counter, count: int = 500, length: int = 60, seed: int = 1) -> float:
    """The share of steps of held-out sequences whose depth is predicted exactly."""
    symbols, depths = sentences(count, length, seed)
    with torch.no_grad():
        return float((model(one_hot(symbols)).round() == depths).float().mean())


def load() -> Counter:
    """The trained model."""
    model = Counter()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


if __name__ == "__main__":
    torch.set_num_threads(1)  # products this small wait longer for another thread than they take
    trained = train()
    print(f"held-out steps counted exactly: {accuracy(trained):.1%}")
    save_file(trained.state_dict(), WEIGHTS)
    print(f"wrote {WEIGHTS.name}, {WEIGHTS.stat().st_size} bytes")
