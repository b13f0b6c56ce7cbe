"""A trained GRU from the wild: the encoder inside g2p-en, against that package's own NumPy code.

The package cannot be imported without nltk and its corpora, so only its `sigmoid`, `grucell` and
`encode` are taken, from its own source file; the weights are the ones that it ships.
"""

from __future__ import annotations

import ast
import os
import sys
import warnings
from importlib.metadata import distribution
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import rnnscope as rs

TEXT = """
    the of and to in is you that it he was for on are as with his they at be this have from or
    one had by word but not what all were we when your can said there use an each which she do
    how their if will up other about out many then them these so some her would make like him
    into time has look two more write go see number no way could people my than first water been
    call who oil its now find long down day did get come made may part rhythm psychology
"""
WORDS = TEXT.split()

# float32: the arguments of these gates reach 30, where one unit in the last place is 2e-6, and are
# sums of 512 products that NumPy adds up in another order
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def g2p() -> Any:
    """What stands for a `G2p`: its own methods and weights, and nothing that needs a corpus."""
    package = distribution("g2p-en")
    path = Path(str(package.locate_file("g2p_en/g2p.py")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an escape in one of its strings
        tree = ast.parse(path.read_text(encoding="utf-8"))
    (kind,) = (node for node in tree.body if getattr(node, "name", "") == "G2p")
    wanted = ("sigmoid", "grucell", "encode", "load_variables")
    kind.body = [node for node in kind.body if getattr(node, "name", "") in wanted]
    assert len(kind.body) == len(wanted)
    namespace: dict[str, Any] = {
        "np": np,
        "os": os,
        "dirname": str(package.locate_file("g2p_en")),
    }
    exec(compile(ast.Module([kind], []), str(path), "exec"), namespace)
    own = namespace["G2p"]()
    own.load_variables()
    # as in its __init__
    graphemes = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    own.g2idx = {grapheme: index for index, grapheme in enumerate(graphemes)}
    return own


@pytest.fixture(scope="module")
def encoder(g2p: Any) -> nn.GRU:
    layer = nn.GRU(g2p.enc_w_ih.shape[1], g2p.enc_w_hh.shape[1], batch_first=True)
    layer.load_state_dict(
        {
            "weight_ih_l0": torch.from_numpy(g2p.enc_w_ih),
            "weight_hh_l0": torch.from_numpy(g2p.enc_w_hh),
            "bias_ih_l0": torch.from_numpy(g2p.enc_b_ih),
            "bias_hh_l0": torch.from_numpy(g2p.enc_b_hh),
        }
    )
    return layer


def steps_of(g2p: Any, word: str) -> list[SimpleNamespace]:
    """The local variables of the package's `grucell` at each step of a word: r, z, n and h."""
    found: list[SimpleNamespace] = []

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code.co_name == "grucell":
            names = frame.f_locals
            found.append(SimpleNamespace(**{k: np.array(names[k])[0] for k in "rznh"}))

    x = g2p.encode(word)
    h = np.zeros((1, g2p.enc_w_hh.shape[1]), np.float32)
    weights = g2p.enc_w_ih, g2p.enc_w_hh, g2p.enc_b_ih, g2p.enc_b_hh
    before = sys.getprofile()
    sys.setprofile(look)
    try:
        for t in range(x.shape[1]):
            h = g2p.grucell(x[:, t], h, *weights)
    finally:
        sys.setprofile(before)
    assert len(found) == len(word) + 1  # "</s>" ends it
    return found


def compare(tr: rs.Trace, row: int, steps: list[SimpleNamespace]) -> float:
    """The largest difference between a row of the trace and the package's own numbers."""
    worst = 0.0
    for name in "rznh":
        mine: Tensor = tr[name, 0, "forward"][row]
        theirs = torch.from_numpy(np.stack([getattr(step, name) for step in steps]))
        assert theirs.dtype == torch.float32
        worst = max(worst, float((mine[: len(steps)] - theirs).abs().max()))
        assert not mine[len(steps) :].any()
    return worst


def test_a_hundred_words_step_by_step(g2p: Any, encoder: nn.GRU) -> None:
    assert len(WORDS) == len(set(WORDS)) == 100
    inputs = [torch.from_numpy(g2p.encode(word)) for word in WORDS]
    packed = pack_sequence([x[0] for x in inputs], enforce_sorted=False)
    tr = rs.trace(encoder, packed)
    assert set(tr) == set("rznh")
    for row, word in enumerate(WORDS):
        steps = steps_of(g2p, word)
        assert compare(tr, row, steps) < TOLERANCE, word
        # one at a time as well
        alone = rs.trace(encoder, inputs[row])
        assert compare(alone, 0, steps) < TOLERANCE, word
        last = tr.sel("h", layer=0, direction="forward", batch=row, time="last")
        assert (last - torch.from_numpy(steps[-1].h)).abs().max() < TOLERANCE


def test_the_weights_are_trained(g2p: Any, encoder: nn.GRU) -> None:
    """Gates that open and close: with freshly drawn weights they would stay near one half."""
    tr = rs.trace(encoder, torch.from_numpy(g2p.encode("psychology")))
    for gate in "rz":
        assert tr[gate].min() < 0.05
        assert tr[gate].max() > 0.95
    assert tr["n"].abs().max() > 0.9
    assert tr.deviation is not None
    assert tr.tolerance is not None
    assert tr.deviation <= tr.tolerance < 1e-3


def test_the_comparison_can_fail(g2p: Any, encoder: nn.GRU) -> None:
    tr = rs.trace(encoder, torch.from_numpy(g2p.encode("water")))
    assert compare(tr, 0, steps_of(g2p, "water")) < TOLERANCE
    steps = steps_of(g2p, "later")
    assert compare(tr, 0, steps) > 0.1
    exchanged = steps_of(g2p, "water")
    for step in exchanged:
        step.r, step.z = step.z, step.r
    assert compare(tr, 0, exchanged) > 0.1
