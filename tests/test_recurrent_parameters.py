"""rs.Recurrent has the parameters that its equations use, and no more.

Judges: a loop over the equations in plain torch, and autograd through it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope.cells import Cell, from_h, from_x, previous, quantity, sigmoid, tanh, vector

MIN_GRU = Cell(
    name="minGRU",
    gates="zn",
    equations={
        "z": sigmoid(from_x("z")),
        "n": from_x("n"),
        "h": (1 - quantity("z")) * previous("h") + quantity("z") * quantity("n"),
    },
)
HALF = Cell(  # only the candidate sees the state
    name="half",
    gates="zn",
    equations={
        "z": sigmoid(from_x("z")),
        "n": tanh(from_x("n") + from_h("n")),
        "h": (1 - quantity("z")) * previous("h") + quantity("z") * quantity("n"),
    },
)
DRIVEN = Cell(  # x enters one gate, a product with the state the other
    name="driven",
    gates="nz",
    equations={
        "n": tanh(from_x("n") + vector("u") * previous("h")),
        "z": sigmoid(from_h("z", quantity("n") * previous("h"))),
        "h": quantity("z") * quantity("n"),
    },
)
NAMES = {
    "minGRU": {"weight_ih": (8, 3), "bias_ih": (8,)},
    "half": {"weight_ih": (8, 3), "weight_hh": (4, 4), "bias_ih": (8,), "bias_hh": (4,)},
    "driven": {
        "weight_ih": (4, 3),
        "weight_hh": (4, 4),
        "bias_ih": (4,),
        "bias_hh": (4,),
        "u": (4,),
    },
}


def loop(layer: nn.Module, x: Tensor) -> Tensor:
    """The same by hand, (time, batch, unit)."""
    p = {name.removesuffix("_l0"): value for name, value in layer.named_parameters()}
    h, states = x.new_zeros(x.shape[1], 4), []
    for x_t in x:
        of_x = x_t @ p["weight_ih"].T + p["bias_ih"]
        if layer.cell is MIN_GRU:
            z, n = of_x[:, :4].sigmoid(), of_x[:, 4:]
            h = (1 - z) * h + z * n
        elif layer.cell is HALF:
            z = of_x[:, :4].sigmoid()
            n = (of_x[:, 4:] + h @ p["weight_hh"].T + p["bias_hh"]).tanh()
            h = (1 - z) * h + z * n
        else:
            n = (of_x + p["u"] * h).tanh()
            h = ((n * h) @ p["weight_hh"].T + p["bias_hh"]).sigmoid() * n
        states.append(h)
    return torch.stack(states)


@pytest.mark.parametrize("cell", [MIN_GRU, HALF, DRIVEN], ids=lambda cell: cell.name)
def test_parameters_are_those_that_the_equations_use(cell: Cell) -> None:
    layer = rs.Recurrent(cell, 3, 4).double()
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {f"{name}_l0": shape for name, shape in NAMES[cell.name].items()}
    x = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    output, _ = layer(x)
    judge = loop(layer, x)
    torch.testing.assert_close(output, judge, rtol=0, atol=1e-14)
    tr = rs.trace(layer, x)
    assert {n: tuple(p.shape) for n, p in tr.parameters.items()} == shapes
    loss = tr.output.square().sum()
    g = tr.gradients(loss)
    expected = torch.autograd.grad(judge.square().sum(), list(layer.parameters()))
    for (name, _), gradient in zip(layer.named_parameters(), expected, strict=True):
        torch.testing.assert_close(g.parameters[name], gradient, rtol=0, atol=1e-12)
    at = g.parameters_at(2)
    assert {n: tuple(p.shape) for n, p in at.items()} == shapes
    name = next(iter(shapes))
    changed = tr.rerun(weights={name: tr.parameters[name] * 2})
    with torch.no_grad():
        getattr(layer, name).mul_(2)
        torch.testing.assert_close(changed.output, loop(layer, x), rtol=0, atol=1e-14)


def test_explanations_name_the_rows_of_these_parameters() -> None:
    layer = rs.Recurrent(HALF, 3, 4)
    tr = rs.trace(layer, torch.randn(5, 1, 3))
    text = str(tr.explain("n", time=2, unit=1))
    assert "weight_hh_l0[1]" in text
    assert "weight_ih_l0[5]" in text
    tr.explain(time=2, unit=1)


def test_bidirectional_stacks_reload_and_files_keep_them(tmp_path) -> None:
    layer = rs.Recurrent(HALF, 3, 4, num_layers=2, bidirectional=True)
    fresh = rs.Recurrent(HALF, 3, 4, num_layers=2, bidirectional=True)
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3)
    assert torch.equal(layer(x)[0], fresh(x)[0])
    tr = rs.trace(layer, x)
    tr.save(tmp_path / "half.trace")
    again = rs.load_trace(tmp_path / "half.trace")
    for name, value in tr.parameters.items():
        assert torch.equal(again.parameters[name], value)
