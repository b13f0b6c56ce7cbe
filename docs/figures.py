"""The pictures of docs/plots.md: `python docs/figures.py` draws them from trained layers.

These are the LSTM of tutorial 3, which counts brackets, and the GRU that reads the letters of an
English word in the package g2p-en, which the tests install. The layer unrolled has drawn weights.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot
from torch import nn

import rnnscope as rs

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tutorial"))
import brackets  # noqa: E402

WORD = "extraordinarily"


def encoder() -> tuple[nn.GRU, torch.Tensor, list[str]]:
    """The trained GRU of g2p-en, a word as its input (1, time, feature), and its letters."""
    found = importlib.util.find_spec("g2p_en")
    assert found is not None, "make test installs g2p-en"
    assert found.submodule_search_locations
    held = np.load(Path(found.submodule_search_locations[0]) / "checkpoint20.npz")
    gru = nn.GRU(256, 256, batch_first=True)
    names = {"weight_ih_l0": "enc_w_ih", "weight_hh_l0": "enc_w_hh"}
    names |= {"bias_ih_l0": "enc_b_ih", "bias_hh_l0": "enc_b_hh"}
    gru.load_state_dict({k: torch.from_numpy(held[v]) for k, v in names.items()})
    letters = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    word = [*WORD, "</s>"]
    x = torch.from_numpy(held["enc_emb"])[[letters.index(letter) for letter in word]]
    return gru, x.unsqueeze(0), word


def save(axes: matplotlib.axes.Axes, name: str) -> None:
    figure = axes.figure
    figure.savefig(HERE / f"plot_{name}.png", dpi=100, metadata={"Software": None})
    pyplot.close(figure)
    print(f"docs/plot_{name}.png")


def main() -> None:
    gru, x, word = encoder()
    tr = rs.trace(gru, x, labels=word)
    busy = tr["h"][0, 0, 0].std(0).argsort(descending=True)[:24].tolist()
    save(rs.plot.quantity(tr, "z", order=busy), "quantity")
    save(rs.plot.quantity(tr, "h", order="similar"), "similar")
    save(rs.plot.units(tr, "h", busy[:5]), "units")
    save(rs.plot.saturation(tr), "saturation")
    save(rs.plot.flow(tr), "flow")
    save(rs.plot.eigenvalues(tr), "eigenvalues")
    loss = tr.output[0, -1].square().sum()
    save(rs.plot.gradient_norm(tr.gradients(loss), batch=0, labels=word), "gradient_norm")

    text = "((a)b(()))a()"
    symbols = torch.tensor([[brackets.SYMBOLS.index(symbol) for symbol in text]])
    counter = rs.trace(brackets.load().lstm, brackets.one_hot(symbols), labels=list(text))
    save(rs.plot.units(counter, "c", range(brackets.HIDDEN)), "counter")
    save(rs.plot.memory(counter), "memory")

    lstm = nn.LSTM(10, 20, num_layers=2, bidirectional=True, batch_first=True)
    save(rs.plot.unrolled(rs.trace(lstm, torch.zeros(4, 30, 10))), "unrolled")


if __name__ == "__main__":
    main()
