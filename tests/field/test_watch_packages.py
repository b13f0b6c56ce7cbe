"""Layers of packages that others wrote, watched and opened.

Judges: torch.nn with the same weights, and what the packages' own layers return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs
from rnnscope.cells import Cell, Function, apply, from_h, from_x, previous, quantity, relu, sigmoid

Module = Callable[[str], ModuleType]
z, n = quantity("z"), quantity("n")


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("name", ["DPRNN", "DPGRU", "DPLSTM"])
def test_opacus(module: Module, name: str, options: dict[str, Any]) -> None:
    kind = getattr(module("opacus.layers.dp_rnn"), name)
    torch_kind = getattr(nn, name.removeprefix("DP"))
    cell = {"DPRNN": rs.cells.RNN_TANH, "DPGRU": rs.cells.GRU, "DPLSTM": rs.cells.LSTM}[name]
    layer = kind(3, 4, batch_first=True, **options).double()
    judge = torch_kind(3, 4, batch_first=True, **options).double()
    judge.load_state_dict(layer.state_dict())
    model = nn.Sequential(layer)
    with rs.watch(model) as seen:
        pass
    assert seen.names == ()
    assert f"cells={{{name}: rs.cells." in seen.skipped["0"]
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor([2, 5]), batch_first=True, enforce_sorted=False)
    for given in (x, packed):
        with rs.watch(model, cells={kind: cell}) as seen:
            output = layer(given)[0]
            (output.data if given is packed else output).square().sum().backward()
        expected = rs.trace(judge, given)
        for quantity_name in expected:
            torch.testing.assert_close(
                seen["0"][quantity_name], expected[quantity_name], rtol=0, atol=1e-13
            )
        assert seen["0"].deviation <= seen["0"].tolerance < 1e-12
        for parameter, p in layer.named_parameters():
            gradient = seen["0"].grad.parameters[parameter]
            torch.testing.assert_close(gradient, p.grad, rtol=0, atol=1e-11)
        layer.zero_grad()


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_pytorch_forecasting(module: Module, name: str) -> None:
    kind = getattr(module("pytorch_forecasting.models.nn.rnn"), name)
    layer, x = kind(3, 4, batch_first=True), torch.randn(2, 5, 3)
    judge = getattr(nn, name)(3, 4, batch_first=True)
    judge.load_state_dict(layer.state_dict())
    lengths = torch.tensor([2, 5])
    with rs.watch(nn.Sequential(layer)) as seen:
        layer(x)
        layer(x, lengths=lengths, enforce_sorted=False)
    assert seen.skipped == {}
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    for tr, expected in zip(
        seen.calls("0"), (rs.trace(judge, x), rs.trace(judge, packed)), strict=True
    ):
        for quantity_name in expected:
            assert torch.equal(tr[quantity_name], expected[quantity_name])
    assert torch.equal(rs.trace(layer, x)["h"], rs.trace(judge, x)["h"])


def test_supar(module: Module) -> None:
    kind = module("supar.modules.lstm").VariationalLSTM
    layer = kind(3, 4, num_layers=2, bidirectional=True)
    judge = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    parameters = dict(judge.named_parameters())
    with torch.no_grad():
        for way, suffix in (("f", ""), ("b", "_reverse")):
            for k in (0, 1):
                for name, p in getattr(layer, f"{way}_cells")[k].named_parameters():
                    p.copy_(torch.randn_like(p) / 2)
                    parameters[f"{name}_l{k}{suffix}"].copy_(p)
    x = pack_padded_sequence(torch.randn(2, 5, 3), torch.tensor([5, 5]), batch_first=True)
    with rs.watch(layer) as seen:
        layer(x)
    expected = rs.trace(judge, x)
    assert seen.names == ("f_cells.0", "f_cells.1", "b_cells.0", "b_cells.1")
    assert seen.skipped == {}
    for k in (0, 1):
        forward = seen.joined(f"f_cells.{k}")
        torch.testing.assert_close(forward["c"][0, 0], expected["c", k, "forward"])
        backward = seen.joined(f"b_cells.{k}")
        torch.testing.assert_close(backward["c"][0, 0].flip(1), expected["c", k, "reverse"])


def test_snntorch(module: Module) -> None:
    neurons = module("snntorch._neurons.leaky")
    layer = neurons.Leaky(beta=0.9)
    with rs.watch(nn.Sequential(nn.GRU(3, 4), layer)) as seen:
        pass
    assert "the state that it takes" in seen.skipped["1"]


LI_GRU = Cell(
    "Li-GRU",
    "nz",
    {
        "n": relu(from_x("n") + from_h("n")),
        "z": sigmoid(from_x("z") + from_h("z")),
        "h": z * previous("h") + (1 - z) * n,
    },
)


def normalised(layer: Any) -> tuple[Tensor, Tensor]:
    """W and b of a linear part with the batch normalisation behind it, as in evaluation."""
    scale = layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()
    return layer.w.weight * scale[:, None], layer.norm.bias - layer.norm.running_mean * scale


def test_speechbrain(module: Module) -> None:
    kind = module("speechbrain.nnet.RNN").LiGRU
    layer = kind(4, input_shape=(2, 5, 3), num_layers=1).eval().double()
    norm = layer.rnn[0].norm
    with torch.no_grad():
        for p in (norm.weight, norm.running_mean, norm.running_var):
            p.copy_(torch.rand_like(p) + 0.5)
    with rs.watch(layer) as seen:
        pass
    assert "rnn.0.w.weight (8, 3)" in seen.skipped[""]
    adapter = rs.Adapter(
        LI_GRU,
        parameters={
            "weight_ih": lambda m: normalised(m.rnn[0])[0],
            "bias_ih": lambda m: normalised(m.rnn[0])[1],
            "weight_hh": "rnn.{layer}.u.weight",
        },
        batch_first=True,
    )
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    tr = rs.trace(layer, x, cells={kind: adapter})
    torch.testing.assert_close(tr["h", 0, "forward"], layer(x)[0], rtol=0, atol=1e-13)
    assert tr.deviation <= tr.tolerance < 1e-11


def positive(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x + 0.5, x.sigmoid())


def slope(x: Tensor) -> Tensor:
    return torch.where(x >= 0, torch.ones_like(x), x.sigmoid() * (1 - x.sigmoid()))


POSITIVE = Function(
    name="positive",
    symbol="g",
    latex="g",
    forward=positive,
    forward_=lambda x: x.copy_(positive(x)),
    derivative=slope,
    steepest=1.0,
    range=None,
    through_zero=False,
    script="x >= 0 ? x + 0.5 : 1 / (1 + Math.exp(-x))",
    derivative_at=slope,
)
MIN_GRU = Cell(
    "minGRU",
    "nz",
    {
        "n": apply(POSITIVE, from_x("n")),
        "z": sigmoid(from_x("z")),
        "h": (1 - z) * previous("h") + z * n,
    },
    source="Feng et al. 2024, B.3",
)


def test_min_gru(module: Module) -> None:
    kind = module("minGRU_pytorch.minGRU").minGRU
    layer = kind(4).double()
    adapter = rs.Adapter(
        MIN_GRU, parameters={"weight_ih": "to_hidden_and_gate.weight"}, batch_first=True
    )
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    with rs.watch(layer, cells={kind: adapter}) as seen:
        _, h = layer(x, return_next_prev_hidden=True)
        for t in range(3):
            _, h = layer(x[:, t : t + 1], h, return_next_prev_hidden=True)
    joined = seen.joined("")
    assert joined.sizes["time"] == 9
    h = seen.calls("")[0]["h", 0, "forward"]
    new, gate = layer.to_hidden_and_gate(x).chunk(2, -1)
    before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
    torch.testing.assert_close(
        h, torch.lerp(before, positive(new), gate.sigmoid()), rtol=0, atol=1e-13
    )


def shifted(cell: Any) -> Tensor:
    """The bias of the input's map with the 1 that forward adds to the forget gate."""
    one = torch.zeros_like(cell.input_map.bias)
    one.view(4, -1)[2] = 1
    return cell.input_map.bias + one


def test_ncps() -> None:
    """A closed-form continuous-time layer with an LSTM for its memory: gates g i f o, f shifted."""
    layer = pytest.importorskip("ncps.torch").CfC(3, 4, mixed_memory=True).double()
    kind = type(layer.lstm)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    with rs.watch(layer) as seen:
        pass
    assert "cells={LSTMCell: rs.cells.LSTM}" in seen.skipped["lstm"]
    assert list(seen.skipped) == ["rnn_cell", "lstm"]
    adapter = rs.Adapter(
        replace(rs.cells.LSTM, gates="gifo"),
        parameters={
            "weight_ih": "input_map.weight",
            "bias_ih": shifted,
            "weight_hh": "recurrent_map.weight",
        },
    )
    taken: list[Any] = []
    zeros = x.new_zeros(2, 4)
    cell = layer.lstm
    cell.register_forward_hook(lambda _, args, output: taken.append((*args, output)))
    with rs.watch(layer, cells={kind: adapter}) as seen:
        layer(x, (zeros, zeros))
    assert list(seen.skipped) == ["rnn_cell"]
    for tr, (x_t, (h, c), after) in zip(seen.calls("lstm"), taken, strict=True):
        g, i, f, o = (cell.input_map(x_t) + cell.recurrent_map(h)).chunk(4, 1)
        judge = {"i": i.sigmoid(), "f": (f + 1).sigmoid(), "o": o.sigmoid(), "g": g.tanh()}
        judge |= {"c": judge["f"] * c + judge["i"] * judge["g"], "h": after[0]}
        for name, value in judge.items():
            torch.testing.assert_close(tr[name][0, 0, :, 0], value, rtol=0, atol=1e-13)
    # between two calls CfC replaces h: each call begins anew, and says why
    assert len(seen.segments("lstm")) == 5
    assert seen.segments("lstm")[1].why == "h_0 holds other numbers than the call before returned"
