"""A trace as a table: each number stands in its own column, whatever the layers read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rnnscope as rs


@pytest.mark.parametrize("features", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_that_read_unequal_numbers_of_features(features: int, bidirectional: bool) -> None:
    layer = nn.RNN(features, 1, num_layers=2, bidirectional=bidirectional)
    x = torch.arange(2.0 * features).view(2, 1, features) / 10
    tr = rs.trace(layer, x)
    header, *rows = str(tr).splitlines()[1:-1]
    ends = {name: header.index(name) + len(name) for name in header.split()}
    states = tr["h"][:, :, 0, :, 0].flatten().tolist()
    assert len(rows) == len(states)
    for row, state in zip(rows, states, strict=True):
        assert row.split()[-1] == f"{state:.6g}"
        assert len(row) == ends["h"]  # right-aligned under h, the last column
    lower = tr.layer_input(1)[0, 0].tolist()  # what layer 1 reads at the first step
    row = rows[len(rows) // 2]
    numbers = row.split("time=0")[1].split()
    assert numbers[:-1] == [f"{number:.6g}" for number in lower]
    assert "<td>" in tr._repr_html_()
