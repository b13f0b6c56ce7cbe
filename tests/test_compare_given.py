"""compare: what the caller gives it: lengths, states, a reference; in any form, wrong ones too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


# --- lengths that a candidate does not take -------------------------------------------------------


def loop(layer: nn.GRU) -> Any:
    """A GRU as many write it: it knows of one array, and of no lengths."""

    def mine(x: Tensor, h0: Any = None) -> Any:
        h = torch.zeros(x.shape[1], layer.hidden_size) if h0 is None else h0[0]
        output = []
        for x_t in x:
            a = (x_t @ layer.weight_ih_l0.T + layer.bias_ih_l0).chunk(3, -1)
            b = (h @ layer.weight_hh_l0.T + layer.bias_hh_l0).chunk(3, -1)
            r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
            h = (1 - z) * torch.tanh(a[2] + r * b[2]) + z * h
            output.append(h)
        return torch.stack(output), h[None]

    return mine


@pytest.mark.parametrize("drawn", [True, False])
def test_a_function_without_lengths_is_compared_on_padded_x(drawn: bool) -> None:
    layer = nn.GRU(3, 4)
    x, lengths = (None, True) if drawn else (torch.randn(5, 3, 3), [2, 5, 3])
    verdict = rs.compare(loop(layer), layer, x, lengths=lengths, seconds=1)
    assert not verdict
    assert [cause.name for cause in verdict.causes] == ["padding"]
    note = "mine was given padded x, and no lengths: it has no parameter for them, such as lengths"
    assert verdict.notes.count(note) == 1


def test_a_function_that_takes_a_packed_sequence_is_given_one() -> None:
    layer = nn.GRU(3, 4)
    verdict = rs.compare(
        lambda x, h0=None: layer(x, h0), layer, torch.randn(5, 3, 3), lengths=[2, 5, 3]
    )
    assert verdict, str(verdict)
    assert not any("padded x" in note for note in verdict.notes)
