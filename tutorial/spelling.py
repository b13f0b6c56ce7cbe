"""The encoder of g2p-en, a model that learned how English words sound, and words to read.

Its GRU reads a word letter by letter; another GRU, which is not used here, then says the sounds.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

END = "."
"""What stands behind the last letter of every word, as the model was trained."""
_SYMBOLS = ["<pad>", "<unk>", END, *"abcdefghijklmnopqrstuvwxyz"]


class Encoder(nn.Module):
    """An embedding of letters and a GRU of 256 units, with the weights that g2p-en ships."""

    def __init__(self) -> None:
        super().__init__()
        path = distribution("g2p-en").locate_file("g2p_en/checkpoint20.npz")
        with np.load(str(path)) as arrays:
            weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self.embed = nn.Embedding.from_pretrained(weights["enc_emb"])
        self.gru = nn.GRU(256, 256)
        names = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
        self.gru.load_state_dict(
            {f"{name}_l0": weights[f"enc_{short}"] for name, short in names.items()}
        )

    def forward(self, words: list[str]) -> Any:
        """Read words of any lengths, given as texts."""
        return self.gru(pack_sequence([self.letters(w) for w in words], enforce_sorted=False))

    def letters(self, word: str) -> Tensor:
        """The embedding of each letter, and of the end."""
        numbers = [_SYMBOLS.index(symbol) for symbol in word + END]
        return self.embed(torch.tensor(numbers))


def dictionary() -> tuple[list[str], list[list[str]]]:
    """5,000 words and their sounds, such as wanted: W AO1 N T AH0 D; a vowel ends in a digit."""
    text = (Path(__file__).parent / "words.tsv").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return [word for word, _ in lines], [sounds.split() for _, sounds in lines]
