"""Parameters, x and states that a port reads at other places than where they stand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import rnnscope as rs

Numbers = dict[str, NDArray[Any]]
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def cut(flat: NDArray[Any], like: Numbers, start: int) -> Numbers:
    """The parameters as they are cut from an array, one behind the other."""
    found = {}
    for name in NAMES:
        size = like[name].size
        found[name] = flat[start : start + size].reshape(like[name].shape)
        start += size
    return found


def header_too_long(p: Numbers) -> Numbers:
    flat = np.concatenate([*(p[name].ravel() for name in NAMES), [0.0]])
    return cut(flat, p, 1)


def header_too_short(p: Numbers) -> Numbers:
    return cut(np.concatenate([[0.0, 0.0], *(p[name].ravel() for name in NAMES)]), p, 0)


def stride_of_x(p: Numbers) -> Numbers:
    rows, columns = p["weight_hh_l0"].shape
    stride, flat = p["weight_ih_l0"].shape[1], p["weight_hh_l0"].ravel()
    value = [[flat[row * stride + k] for k in range(columns)] for row in range(rows)]
    return {**p, "weight_hh_l0": np.array(value)}


def biases_transposed(p: Numbers) -> Numbers:
    both = np.stack([p["bias_ih_l0"], p["bias_hh_l0"]]).T.reshape(2, -1)
    return {**p, "bias_ih_l0": both[0], "bias_hh_l0": both[1]}


def biases_in_turn(p: Numbers) -> Numbers:
    flat = np.concatenate([p["bias_ih_l0"], p["bias_hh_l0"]])
    return {**p, "bias_ih_l0": flat[0::2], "bias_hh_l0": flat[1::2]}


def biases_by_gate(p: Numbers) -> Numbers:
    flat, size = np.concatenate([p["bias_ih_l0"], p["bias_hh_l0"]]), p["weight_hh_l0"].shape[1]
    blocks = np.split(flat, len(flat) // size)
    first, second = np.concatenate(blocks[0::2]), np.concatenate(blocks[1::2])
    return {**p, "bias_ih_l0": first, "bias_hh_l0": second}


def last_bias_for_others(p: Numbers) -> Numbers:
    size, changed = p["weight_hh_l0"].shape[1], dict(p)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        value = p[name].copy()
        value[: 2 * size] = np.tile(value[-size:], 2)
        changed[name] = value
    return changed


def forget_gate_too_early(p: Numbers) -> Numbers:
    size, changed = p["weight_hh_l0"].shape[1], {n: value.copy() for n, value in p.items()}
    for name, value in changed.items():
        value[size : 2 * size] = p[name][size - 1 : 2 * size - 1]
    return changed


def w_hh_too_late(p: Numbers) -> Numbers:
    value = p["weight_hh_l0"]
    return {**p, "weight_hh_l0": np.concatenate([value[1:], value[-1:]])}


READ: dict[str, tuple[Callable[[Numbers], Numbers], str]] = {
    "long": (header_too_long, "all parameters are read one number too late from one array"),
    "short": (header_too_short, "all parameters are read two numbers too early from one array"),
    "stride": (stride_of_x, "weight_hh is read with the stride of weight_ih"),
    "transposed": (biases_transposed, "the array of both was transposed before it was read"),
    "in turn": (biases_in_turn, "they are read in turn, one of each"),
    "by gate": (biases_by_gate, "they are read as both of each gate in turn"),
    "one gate's": (last_bias_for_others, "are used for"),
    "early": (forget_gate_too_early, "bias_ih and bias_hh are taken one row too early"),
    "late": (w_hh_too_late, "the rows of weight_hh are read one row too late"),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_parameters_read_at_other_places(kind: Any, name: str) -> None:
    change, said = READ[name]
    layer, x = kind(4, 7), torch.randn(7, 3, 4)
    numbers = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    wrong = copy.deepcopy(layer)
    with torch.no_grad():
        for key, value in change(numbers).items():
            wrong.get_parameter(key).copy_(torch.from_numpy(value.copy()))
        mine = wrong(x)[0]
    verdict = rs.compare(mine, layer, x=x)
    assert [cause.name for cause in verdict.causes] == ["laid"]
    assert said in " ".join(str(verdict).split())


@pytest.mark.parametrize("lag", [2, 3])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM])
def test_a_state_of_some_steps_before(kind: Any, lag: int) -> None:
    layer, x = kind(3, 5), torch.randn(9, 2, 3)
    initial = torch.randn(1, 2, 5)
    given = (initial, initial.flip(-1)) if kind is nn.LSTM else initial
    states, outputs = [given] * lag, []
    with torch.no_grad():
        for t in range(len(x)):
            output, state = layer(x[t : t + 1], states[t])
            outputs.append(output)
            states.append(state)
    verdict = rs.compare(torch.cat(outputs), layer, x=x, initial=given)
    assert f"each step reads the state of {lag} steps before" in " ".join(str(verdict).split())


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda x: x.permute(0, 2, 1).reshape(x.shape), "x of (feature, time) is reshaped"),
        (
            lambda x: x.reshape(x.shape[0], x.shape[2], x.shape[1]).permute(0, 2, 1),
            "x of (time, feature) is reshaped",
        ),
    ],
)
def test_features_and_time_reshaped(read: Callable[[Tensor], Tensor], said: str) -> None:
    layer, x = nn.GRU(4, 6, batch_first=True), torch.randn(3, 40, 4)
    with torch.no_grad():
        verdict = rs.compare(layer(read(x))[0], layer, x=x)
    assert said in " ".join(str(verdict).split())


def test_a_projection_that_is_reshaped() -> None:
    layer = nn.LSTM(4, 7, proj_size=3)
    wrong = copy.deepcopy(layer)
    with torch.no_grad():
        wrong.weight_hr_l0.copy_(layer.weight_hr_l0.reshape(7, 3).T)
    verdict = rs.compare(lambda x, initial: wrong(x, initial), layer)
    assert [str(cause) for cause in verdict.causes] == ["reshaped of W_hr"]
    assert "the projection" not in verdict.right
