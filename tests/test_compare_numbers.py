"""Numbers that tell nothing, and numbers that lie on a grid."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs


def plain(verdict: Any) -> str:
    return " ".join(str(verdict).split())


# --- NaN, infinities, nothing ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_no_number_against_no_number_is_no_agreement(kind: Any, called: bool, value: float) -> None:
    layer, x = kind(3, 4), torch.randn(5, 2, 3)
    nn.init.constant_(layer.bias_ih_l0, value)
    nn.init.constant_(layer.weight_hh_l0, math.nan)
    output, final = layer(x)
    if not bool(torch.isnan(output).all()):
        pytest.skip("gates of infinite arguments are numbers")
    states = dict(zip(("h_n", "c_n"), final if kind is nn.LSTM else (final,), strict=False))
    candidate = layer if called else {"output": output, **states}
    verdict = rs.compare(candidate, layer, x)
    assert not verdict
    assert "cannot be decided" in str(verdict)
    assert f"Nothing was compared: nn.{kind.__name__} itself gives NaN" in plain(verdict)
    with pytest.raises(AssertionError, match="cannot be decided"):
        rs.assert_agrees(candidate, layer, x)
    other = torch.zeros(5, 2, 4)
    assert str(rs.compare(other, layer, x, effort=0)).startswith("differs")


def test_infinities_that_both_have_are_not_compared() -> None:
    """In float32 the layer's own numbers are infinite from the second step on."""
    layer, x = nn.RNN(3, 4, nonlinearity="relu"), torch.rand(6, 2, 3) + 1
    nn.init.constant_(layer.weight_ih_l0, 1e30)
    nn.init.constant_(layer.weight_hh_l0, 1e30)
    output = layer(x)[0].detach()
    assert bool(torch.isinf(output[1:]).all())
    verdict = rs.compare(output, layer, x)
    assert verdict
    assert "agrees as far as it can be compared: differs by at most" in plain(verdict)
    assert "inf" not in plain(verdict).split("Unseen")[0].replace("infinite", "")
    assert "From step 2 (time=1) on, nn.RNN itself gives NaN or infinite numbers" in plain(verdict)
    wrong = output.clone()
    wrong[0] *= 1.5
    assert not rs.compare(wrong, layer, x, effort=0)
    nn.init.constant_(layer.bias_ih_l0, math.inf)
    verdict = rs.compare(layer, layer, x)
    assert not verdict
    assert "Nothing was compared" in plain(verdict)


@pytest.mark.parametrize("shape", [(0, 2), (5, 0)])
def test_nothing_is_not_compared(shape: tuple[int, int]) -> None:
    layer = nn.GRU(3, 4)
    with pytest.raises(rs.ShapeError, match="there is nothing to compute"):
        rs.compare(torch.zeros(*shape, 4), layer, torch.zeros(*shape, 3))
    with pytest.raises(rs.ShapeError, match="lengths must lie between 1 and 5"):
        rs.compare(torch.zeros(5, 2, 4), layer, torch.zeros(5, 2, 3), lengths=[0, 0])


# --- grids ----------------------------------------------------------------------------------------


def on_grid(value: Tensor, step: float, how: Any = np.round) -> Any:
    return how(value.detach().double().numpy() / step) * step


@pytest.mark.parametrize("how", [np.round, np.floor, np.trunc])
@pytest.mark.parametrize("bits", [3, 4, 7, 8, 10, 15])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_fixed_point_is_named_and_not_called_floating_point(kind: Any, bits: int, how: Any) -> None:
    layer, x = kind(5, 6, 2), torch.randn(9, 4, 5)
    output = on_grid(layer(x)[0], 2.0**-bits, how).astype(np.float32)
    verdict = rs.compare(output, layer, x, effort=0.1)
    name = f"multiples of 1/{2**bits}"
    assert [str(cause) for cause in verdict.causes] == [f"precision {name}"]
    assert f"the output is in {name}" in plain(verdict)
    assert "float16" not in plain(verdict)
    assert ("downwards" in plain(verdict)) == (how is np.floor)
    assert ("towards zero" in plain(verdict)) == (how is np.trunc)


@pytest.mark.parametrize("step", [1 / 128, 1 / 1024, 0.01])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_a_state_of_fixed_point_is_named(kind: str, step: float) -> None:
    layer = getattr(nn, kind)(5, 6)
    cell = getattr(nn, f"{kind}Cell")(5, 6)
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in layer.state_dict().items()})
    cell, x, outputs = cell.double(), torch.randn(9, 4, 5), []
    states = [torch.zeros(4, 6).double()] * (2 if kind == "LSTM" else 1)
    with torch.no_grad():
        for x_t in x.double():
            found = cell(x_t, tuple(states) if kind == "LSTM" else states[0])
            states = [
                torch.from_numpy(on_grid(s, step)) for s in (found if kind == "LSTM" else (found,))
            ]
            outputs.append(states[0])
    verdict = rs.compare(torch.stack(outputs), layer.double(), x.double(), effort=0.1)
    name = "2 decimals" if step == 0.01 else f"multiples of 1/{1 / step:.0f}"
    assert [str(cause) for cause in verdict.causes] == [f"precision {name}"]
    assert "rounding the state to them at every step" in plain(verdict)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_floating_point_is_not_called_fixed_point(kind: Any, name: str) -> None:
    layer, x = kind(5, 6), torch.randn(9, 4, 5)
    output = layer(x)[0].detach().to(getattr(torch, name)).float()
    verdict = rs.compare(output, layer, x, effort=0.1)
    assert [str(cause) for cause in verdict.causes] == [f"precision {name}"]
    assert "multiples" not in str(verdict)


@pytest.mark.parametrize("step", [1 / 128, 0.01])
def test_a_mistake_beside_fixed_point_is_not_called_precision(step: float) -> None:
    layer, x = nn.GRU(5, 6), torch.randn(9, 4, 5)
    output = on_grid(layer(x)[0].flip(-1), step).astype(np.float32)
    verdict = rs.compare(output, layer, x)
    name = "2 decimals" if step == 0.01 else "multiples of 1/128"
    assert [cause.name for cause in verdict.causes] == ["units_reversed", "approximate"]
    assert f"what is returned is rounded to {name}" in plain(verdict)
    # a mistake of no entry
    other = np.roll(on_grid(layer(x)[0], step), 1, axis=-1).astype(np.float32)
    verdict = rs.compare(other, layer, x, effort=0.1)
    assert verdict.causes == ()
    told = {  # half a step of the first is more than can be searched within
        0.01: "Your output has no more than 2 decimals, too coarse to search for mistakes in",
        1 / 128: "your numbers are multiples of 1/128: a mistake that changes less does not show",
    }
    assert told[step] in plain(verdict)


def test_whole_numbers_of_a_layer_of_whole_numbers_are_no_grid() -> None:
    layer = nn.RNN(3, 4, nonlinearity="relu")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape))
    x = torch.randint(-3, 4, (5, 3, 3)).float()
    output = layer(x)[0].detach()
    assert rs.compare(output, layer, x)
    assert "multiples" not in str(rs.compare(output.flip(0), layer, x, effort=0.1))


def ported_gru(keep: Any, mistake: str) -> Any:
    """A GRU in NumPy whose state is kept as ``keep`` has it, with one mistake of a small effect."""

    def candidate(x: Any, initial: Any, weights: Any) -> Any:
        w_ih, w_hh, b_ih, b_hh = (
            weights[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, outputs = initial[0], []
        for t in range(x.shape[1]):
            x_r, x_z, x_n = np.split(x[:, t] @ w_ih.T + b_ih, 3, -1)
            h_r, h_z, h_n = np.split(h @ w_hh.T + b_hh, 3, -1)
            bias = b_hh[-h.shape[-1] :]
            h_z = 0.5 * h_z if mistake == "half of z" else h_z
            r, z = 1 / (1 + np.exp(-x_r - h_r)), 1 / (1 + np.exp(-x_z - h_z))
            hidden = bias + r * (h_n - bias) if mistake == "merged" else r * h_n
            h = keep((1 - z) * np.tanh(x_n + hidden) + z * h).astype(np.float32)
            outputs.append(h)
        return np.stack(outputs, 1)

    return candidate


KEPT = {
    "multiples of 1/128": lambda h: np.round(h * 128) / 128,
    "multiples of 1/16": lambda h: np.round(h * 16) / 16,
    "bfloat16": lambda h: torch.from_numpy(h).float().bfloat16().float().numpy(),
}


@pytest.mark.parametrize("name", KEPT)
def test_few_bits_excuse_no_mistake(name: str) -> None:
    layer, x = nn.GRU(8, 16, batch_first=True), torch.randn(2, 6, 8)
    right = rs.compare(ported_gru(KEPT[name], ""), layer, x)
    assert [str(cause) for cause in right.causes] == [f"precision {name}"]
    assert "A mistake that changes less does not show" in plain(right)
    merged = rs.compare(ported_gru(KEPT[name], "merged"), layer, x)
    assert [cause.name for cause in merged.causes] == ["bias_merged", "approximate"]
    unlisted = rs.compare(ported_gru(KEPT[name], "half of z"), layer, x, effort=0.1)
    assert unlisted.causes == ()
    assert "no mistake" not in plain(unlisted)


def test_what_is_rounded_to_few_bits_in_every_operation_is_still_precision() -> None:
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        layer, x = kind(8, 16, 2, batch_first=True), torch.randn(3, 8, 8)
        low = kind(8, 16, 2, batch_first=True).bfloat16()
        low.load_state_dict(layer.state_dict())
        verdict = rs.compare(low(x.bfloat16())[0].detach().float(), layer, x)
        assert [str(cause) for cause in verdict.causes] == ["precision bfloat16"]


# --- numbers of few digits are searched within what these hide ------------------------------------


def order_of(kind: str) -> list[int]:
    return {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 1, 3, 2]}[kind]


def with_rows_in_order(layer: Any, order: list[int]) -> Any:
    other = copy.deepcopy(layer)
    for parameter in other.parameters():
        parts = parameter.data.chunk(len(order))
        parameter.data = torch.cat([parts[k] for k in order])
    return other


COARSE = {
    "5 decimals": lambda y: y.round(decimals=5),
    "3 decimals": lambda y: y.round(decimals=3),
    "float16": lambda y: y.half(),
}
PLANTED = {
    "gate_order": lambda layer, x: with_rows_in_order(layer, order_of(type(layer).__name__))(x),
    "scaled": lambda layer, x: layer(2 * x),
    "time_reversed": lambda layer, x: layer(x.flip(0)),
    "begins_anew": lambda layer, x: (torch.cat([layer(part)[0] for part in x.split(5)]), None),
    "rows_joined": lambda layer, x: (
        layer(x.transpose(0, 1).reshape(-1, 1, 4))[0].reshape(2, -1, 7).transpose(0, 1),
        None,
    ),
}


@pytest.mark.parametrize("digits", COARSE)
@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM])
def test_a_mistake_in_numbers_of_few_digits_is_named(make: Any, planted: str, digits: str) -> None:
    layer, x = make(4, 7), torch.randn(15, 2, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter *= 1.5
        output = COARSE[digits](PLANTED[planted](layer, x)[0]).numpy()
    verdict = rs.compare(output, layer, x)
    names = [cause.name for cause in verdict.causes if cause.name != "approximate"]
    # "x is read as 2 x", "weight_ih is multiplied by 2": the same
    assert names == [planted] or (planted, *names) in {("scaled", "fitted"), ("scaled", "prepared")}


@pytest.mark.parametrize("late", [3, 4, 11])
@pytest.mark.parametrize("layers", [1, 2])
def test_float16_excuses_no_number_that_is_wrong_later(late: int, layers: int) -> None:
    layer, x = nn.LSTM(3, 4, num_layers=layers), torch.randn(12, 2, 3)
    output = layer(x)[0].detach().clone()
    right = rs.compare(output.half(), layer, x)
    assert [str(cause) for cause in right.causes] == ["precision float16"]
    output[late, 0, 1] += 0.5
    verdict = rs.compare(output.half(), layer, x)
    assert "precision" not in [cause.name for cause in verdict.causes], str(verdict)


def test_what_few_digits_hardly_show_is_explained_by_nothing() -> None:
    """Any small change explains numbers that are off by hardly more than half a step."""
    torch.manual_seed(211)
    layer, x = nn.GRU(4, 7, num_layers=2), torch.randn(12, 2, 4)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight_hh_l0[2:5] *= 1.3
    verdict = rs.compare(other(x)[0].detach().round(decimals=3).numpy(), layer, x)
    assert not verdict
    assert verdict.causes == (), str(verdict)
