"""Rows, lengths, axes and final states that are those of others: each is named by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnscope as rs

Finals = tuple[Tensor, ...]
KINDS = [nn.LSTM, pytest.param(nn.GRU, marks=pytest.mark.slow)]


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


def named(verdict: rs.Verdict) -> str:
    """The one cause of the one explanation."""
    assert not verdict
    assert len(verdict.explanations) == 1, str(verdict)
    [cause] = verdict.causes
    return str(cause)


# --- axes of x ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "which"),
    [(0, 2, "time and features"), (1, 2, "batch and features")],
)
def test_two_axes_of_x_are_exchanged(
    kind: Any, batch_first: bool, first: int, second: int, which: str
) -> None:
    """``first`` and ``second`` of (time, batch, feature)."""
    layer = kind(7, 5, batch_first=batch_first)
    sizes = [4, 4, 7]
    sizes[first] = 7
    x = torch.randn(*sizes)
    exchanged = x.transpose(first, second)
    if batch_first:
        x, exchanged = x.transpose(0, 1), exchanged.transpose(0, 1)
    verdict = rs.compare(layer(exchanged)[0], layer, x)
    named(verdict)
    assert f"{which} of x are exchanged" in plain(verdict)
    position = {0: int(batch_first), 1: int(not batch_first), 2: 2}
    assert f"not x.swapaxes({position[first]}, {position[second]})" in plain(verdict)
    assert "reshaped" not in plain(verdict)


def test_x_that_is_reshaped_is_still_told_as_reshaped() -> None:
    layer, x = nn.GRU(6, 5, batch_first=True), torch.randn(4, 9, 6)
    reshaped = x.transpose(1, 2).reshape(4, 9, 6)
    verdict = rs.compare(layer(reshaped)[0], layer, x)
    assert named(verdict) == "read features_first of x"
    assert "reshaped to (time, feature), not transposed" in plain(verdict)
