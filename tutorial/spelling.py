"""The encoder of g2p-en, a model that learned how English words sound, and words to read.

Its GRU reads a word letter by letter; another GRU, which tutorial 9 opens, then says the sounds.
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
SYMBOLS = ["<pad>", "<unk>", END, *"abcdefghijklmnopqrstuvwxyz"]
"""What the model reads, in the order of its embedding."""
_SOUNDS = """
    AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH
    EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG
    OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH
"""
SOUNDS = ["<pad>", "<unk>", "<start>", "<end>", *_SOUNDS.split()]
"""What the model says, in the order of its last layer: a vowel ends in a digit, 1 where the main
stress is."""


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
        numbers = [SYMBOLS.index(symbol) for symbol in word + END]
        return self.embed(torch.tensor(numbers))


def dictionary() -> tuple[list[str], list[list[str]]]:
    """5,000 words and their sounds, such as wanted: W AO1 N T AH0 D; a vowel ends in a digit."""
    text = (Path(__file__).parent / "words.tsv").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return [word for word, _ in lines], [sounds.split() for _, sounds in lines]
