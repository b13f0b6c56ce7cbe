"""One number that is fitted, and the parameters without which candidate and reference agree."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope import cells
from rnnscope.cells import from_h, from_x, previous, quantity, sigmoid, tanh


def changed(layer: nn.RNNBase, kind: str, change: Callable[[Tensor], object]) -> nn.RNNBase:
    """A copy of a layer whose parameters of one kind are changed."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.startswith(kind):
                change(parameter)
    return other


CASES = {
    "weight_hh is multiplied by 0.6": ("weight_hh", lambda p: p.mul_(0.6)),
    "bias_ih and bias_hh are multiplied by 0.5": ("bias", lambda p: p.mul_(0.5)),
    "0.05 is added to weight_hh": ("weight_hh", lambda p: p.add_(0.05)),
    "the rows of {first} in weight_ih are multiplied by 1.3": (
        "weight_ih",
        lambda p: p[:7].mul_(1.3),
    ),
}


@pytest.mark.parametrize("title", CASES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.GRU, {}), (nn.LSTM, {}), (nn.GRU, {"num_layers": 2, "bidirectional": True})],
    ids=["gru", "lstm", "gru two layers"],
)
def test_a_factor_and_a_constant_are_fitted(kind: Any, options: Any, title: str) -> None:
    layer, x = kind(5, 7, batch_first=True, **options), torch.randn(3, 8, 5)
    prefix, change = CASES[title]
    mine = changed(layer, prefix, change)(x)[0].detach()
    verdict = rs.compare(mine, layer, x, effort=0.1)
    first = "r" if kind is nn.GRU else "i"
    titles = [words.title for one in verdict.explanations for words in one.words]
    assert title.format(first=first) in titles
    with torch.no_grad():  # and with it torch's own layer agrees
        assert rs.compare(mine, changed(layer, prefix, change), x)


def test_noise_is_no_factor() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        layer, x = nn.GRU(5, 7), torch.randn(8, 3, 5)
        mine = changed(layer, "weight_hh", lambda p: p.add_(0.01 * torch.randn_like(p)))
        assert rs.compare(mine(x)[0].detach(), layer, x, effort=0.05).causes == ()


def lstm(weights: dict[str, Tensor], x: Tensor, states: Any, mistake: str) -> Tensor:
    w_ih, w_hh, b_ih, b_hh = (
        weights[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    (h,), (c,) = states
    size, outputs = h.shape[-1], []
    w_hh = w_hh.clone()
    if mistake == "rows of g":
        w_hh[2 * size : 3 * size] = w_hh[2 * size : 3 * size].flip(1)
    for x_t in x:
        biases = b_ih * b_hh if mistake == "biases" else b_ih + b_hh
        i, f, g, o = (x_t @ w_ih.T + h @ w_hh.T + biases).chunk(4, -1)
        o = o.clamp(min=-0.1) if mistake == "gate o" else o
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("rows of g", "It agrees if the rows of g in weight_hh are zero in both"),
        ("gate o", "It agrees if all rows of o are zero in both"),
        ("biases", "It agrees if bias_ih and bias_hh are zero in both"),
    ],
)
def test_what_must_be_zero_for_both_to_agree_is_told(mistake: str, sentence: str) -> None:
    layer = nn.LSTM(5, 6)

    def candidate(x: Tensor, states: Any, weights: dict[str, Tensor]) -> Tensor:
        return lstm(weights, x, states, mistake)

    verdict = rs.compare(candidate, layer, effort=0.05)
    assert verdict.causes == ()
    assert sentence in " ".join(str(verdict).split())


def test_what_is_done_to_x_is_told_of_a_function_that_has_its_own_weights() -> None:
    layer = nn.GRU(5, 6)
    verdict = rs.compare(lambda x: layer(x.sin())[0], layer, effort=0.05)
    assert verdict.causes == ()
    assert "It agrees if x is zero: look at how you use it" in " ".join(str(verdict).split())


def test_modules_are_called_with_zeros_and_keep_their_weights() -> None:
    class Port(nn.Module):
        def __init__(self, layer: nn.GRU) -> None:
            super().__init__()
            self.rnn = copy.deepcopy(layer)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                other = changed(self.rnn, "weight_hh", lambda p: p.copy_(p.sin().exp() - 1))
            output: Tensor = other(x)[0]
            return output

    layer = nn.GRU(5, 6)
    port = Port(layer)
    before = copy.deepcopy(port.state_dict())
    verdict = rs.compare(port, layer, effort=0.05)
    assert "It agrees if weight_hh is zero in both" in " ".join(str(verdict).split())
    for name, value in port.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_declared_cell_without_rows_for_every_gate_is_compared() -> None:
    z, r, n = (quantity(name) for name in "zrn")
    equations = {
        "z": sigmoid(from_x("z") + from_h("z")),
        "r": sigmoid(from_x("r")),  # r and n have no rows in weight_hh
        "n": tanh(from_x("n") * r),
        "h": (1 - z) * n + z * previous("h"),
    }
    cell = cells.Cell("partly fed back", "zrn", equations)
    layer = rs.Recurrent(cell, 3, 4)

    def candidate(x: Tensor, initial: Any, weights: dict[str, Tensor]) -> Tensor:
        output: Tensor = torch.func.functional_call(layer, weights, (x, initial))[0]
        return output + 0.1 * output.square()

    assert rs.compare(candidate, layer, effort=0.05).agrees is False
