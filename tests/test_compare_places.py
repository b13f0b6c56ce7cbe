"""An output whose memory was read with its axes in another order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

import rnnscope as rs


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("order", [o for o in permutations(range(3)) if o != (0, 1, 2)])
def test_axes_in_another_order_are_named(order: tuple[int, ...], batch_first: bool) -> None:
    layer = nn.GRU(5, 6, batch_first=batch_first)
    x = torch.randn(4, 9, 5)
    output = layer(x)[0].detach()
    mine = output.permute(order).contiguous().reshape(output.shape)
    verdict = rs.compare(mine, layer, x)
    assert [c.name for c in verdict.causes] in (["places"], ["turned_wrongly"])
    puts_back(verdict, mine, output)


def puts_back(verdict: rs.Verdict, mine: torch.Tensor, output: torch.Tensor) -> None:
    """The line that is printed puts the numbers at their places."""
    if verdict.causes[0].name == "places":
        [words] = verdict.explanations[0].words
        mended = eval(words.repair, {"output": mine, "np": np})
        assert np.array_equal(mended, output)


@pytest.mark.parametrize("order", [(2, 0, 1, 3), (0, 2, 1, 3), (1, 0, 2, 3)])
def test_two_directions(order: tuple[int, ...]) -> None:
    layer, x = nn.LSTM(5, 6, bidirectional=True), torch.randn(7, 3, 5)
    output = layer(x)[0].detach()
    mine = output.unflatten(-1, (2, 6)).permute(order).reshape(output.shape)
    verdict = rs.compare(mine, layer, x)
    assert [c.name for c in verdict.causes] in (["places"], ["turned_wrongly"])
    puts_back(verdict, mine, output)


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_output_of_onnx_that_is_not_transposed(batch_first: bool) -> None:
    layer, x = nn.LSTM(5, 6, bidirectional=True, batch_first=batch_first), torch.randn(7, 3, 5)
    output = layer(x)[0].detach()
    time_first = output.transpose(0, 1) if batch_first else output
    y = time_first.unflatten(-1, (2, 6)).transpose(1, 2).contiguous()  # (time, direction, batch)
    mine = y.reshape(time_first.shape)
    mine = mine.transpose(0, 1) if batch_first else mine
    verdict = rs.compare(mine, layer, x)
    assert [c.name for c in verdict.causes] == ["places"]
    puts_back(verdict, mine, output)


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("explained", [True, False])
def test_directions_that_are_summed_have_no_places(size: int, explained: bool) -> None:
    """An output of another width is not cut in two directions, whatever its width is."""
    layer = nn.GRU(3, size, bidirectional=True)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        mine = layer(x)[0].unflatten(-1, (2, size)).sum(2)
    mine = mine if explained else mine + 0.01 * torch.randn(mine.shape)
    verdict = rs.compare(mine, layer, x, effort=0.2)
    assert not verdict
    assert [str(cause) for cause in verdict.causes] == ["directions_merged sum"] * explained


@pytest.mark.parametrize("batch_first", [False, True])
def test_memory_that_is_read_as_if_units_came_first(batch_first: bool) -> None:
    """As of Julia and Fortran, whose first axis lies closest in memory."""
    layer, x = nn.LSTM(5, 6, batch_first=batch_first), torch.randn(4, 9, 5)
    output = layer(x)[0].detach()
    mine = output.contiguous().reshape(6, *reversed(output.shape[:2])).permute(2, 1, 0)
    verdict = rs.compare(mine, layer, x)
    assert [c.name for c in verdict.causes] == ["places"]
    puts_back(verdict, mine, output)
