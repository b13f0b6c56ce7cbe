"""Recurrent layers that are no modules of the model: in plain lists, made in forward, others'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs


class Hidden(nn.Module):
    """Layers in a list, in a dict of tuples, and past nn.Module's own way of setting."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRU(3, 3)
        self.layers = [nn.GRU(3, 3), nn.Sequential(nn.GRU(3, 3))]
        self.by_name = {"a": (nn.LSTM(3, 3), nn.Linear(3, 3))}
        object.__setattr__(self, "sly", nn.RNN(3, 3))
        self.kept = [self.first, "x", None]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)[0]
        x = self.layers[1](self.layers[0](x)[0])[0]
        return self.sly(self.by_name["a"][0](x)[0])[0]  # type: ignore[operator]


def test_layers_in_plain_lists_and_dicts() -> None:
    model = Hidden()
    with rs.watch(model) as seen:
        model(torch.randn(4, 2, 3))
    assert seen.names == ("first",)
    assert list(seen.skipped) == ["layers.0", "layers.1.0", "by_name.a.0", "sly"]
    assert "a plain list" in seen.skipped["layers.0"]
    assert "nn.ModuleList([...])" in seen.skipped["layers.0"]
    assert "rs.watch(nn.GRU)" in seen.skipped["layers.0"]
    assert "self.sly = layer" in seen.skipped["sly"]
    with pytest.raises(rs.AddressError, match="a plain tuple"):
        seen["by_name.a.0"]


class OnlyInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers: Any = [nn.GRU(3, 3)]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)[0]
        return x


def test_the_line_that_is_proposed_is_right() -> None:
    model, x = OnlyInAList(), torch.randn(4, 2, 3)
    with rs.watch(model) as seen:
        model(x)
    assert "nn.ModuleList([...])" in seen.skipped["layers.0"]
    assert "layers.0" in str(seen)
    with rs.watch(nn.GRU) as seen:
        model(x)
    [layer] = model.layers
    assert torch.equal(seen["GRU.0"]["h"], rs.trace(layer, x)["h"])
    model.layers = nn.ModuleList(model.layers)
    with rs.watch(model) as seen:
        model(x)
    assert torch.equal(seen["layers.0"]["h"], rs.trace(layer, x)["h"])
    assert seen.skipped == {}


class MadeInForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.GRU(3, 4)(self.rnn(x)[0])[0]


def test_layers_that_are_made_inside_forward() -> None:
    model = MadeInForward()
    with rs.watch(model) as seen:
        model(torch.randn(4, 2, 3))
        model(torch.randn(4, 2, 3))
    assert list(seen.skipped) == ["nn.GRU"]
    assert "2 calls in the model's forward" in seen.skipped["nn.GRU"]
    assert "are they made there" in seen.skipped["nn.GRU"]
    assert "rs.watch(nn.GRU)" in str(seen)
    with rs.watch(model) as seen:  # another model's are nobody's concern
        model.rnn(nn.GRU(3, 3)(torch.randn(4, 2, 3))[0])
    assert seen.skipped == {}
    empty = rs.watch(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(rs.NotRecurrentError, match=r"inside forward .* rs\.watch\(nn\.LSTM\)"):
        empty.__enter__()


def test_what_holds_many_things_is_not_searched() -> None:
    model = nn.Sequential(nn.GRU(3, 3))
    model.data = [object()] * 100_000  # type: ignore[assignment]
    model.itself = [model]  # type: ignore[assignment]
    with rs.watch(model) as seen:
        model(torch.randn(4, 2, 3))
    assert seen.skipped == {}
