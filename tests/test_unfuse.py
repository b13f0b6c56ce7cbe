"""unfuse: the layer itself, loops over samples and finite differences are the judges."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from configurations import SOME, Configuration, build, name_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence

import rnnscope as rs
from rnnscope.cells import LSTM_PEEPHOLE

LAYERS: dict[str, Callable[..., nn.Module]] = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def flat(value: Any) -> list[Tensor]:
    """Every tensor in what a layer returns."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value if each is not None for tensor in flat(each)]


def size(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max())


def layer_of(kind: str, **options: Any) -> nn.Module:
    return LAYERS[kind](3, 4, dtype=torch.float64, **options)


# ── the same layer ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_the_same_numbers_and_gradients(configuration: Configuration) -> None:
    case = build(configuration)
    state = torch.get_rng_state()
    plain = rs.unfuse(case.layer)
    assert torch.equal(torch.get_rng_state(), state)
    returned, after = [], []
    for module in (case.layer, plain):
        torch.manual_seed(3)
        returned.append(module(*case.args, **case.kwargs))
        after.append(torch.get_rng_state())
    assert torch.equal(*after)  # the same masks were drawn
    assert [type(part) for part in returned[0]] == [type(part) for part in returned[1]]
    # float64: rounding of some 100 operations; float32: the same, relu's states reach 15
    allowed = 1e-12 if configuration.dtype == torch.float64 else 3e-5
    for one, other in zip(*map(flat, returned), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert size(one - other) < allowed * (1 + size(one))
    gradients = []
    for one in returned:
        loss = sum((t.double() ** 2).sum() for t in flat(one) if t.requires_grad)
        gradients.append(torch.autograd.grad(loss, list(case.layer.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert size(one - other) < 30 * allowed * (1 + size(one))


def test_the_parameters_are_shared() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2, dropout=0.5).eval()
    plain = rs.unfuse(layer)
    assert isinstance(plain, rs.Recurrent)
    assert list(plain.state_dict()) == list(layer.state_dict())
    assert all(a is b for a, b in zip(plain.parameters(), layer.parameters(), strict=True))
    assert plain.dropout == 0.5
    assert not plain.training
    x = torch.randn(5, 2, 3)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    plain(x)[0].square().sum().backward()
    assert layer.weight_ih_l0.grad is not None
    optimizer.step()
    assert size(plain(x)[0] - layer(x)[0]) < 1e-6
    layer.load_state_dict(copy.deepcopy(plain.state_dict()))


def test_a_declared_cell_and_a_single_layer_with_dropout() -> None:
    layer = rs.Recurrent(LSTM_PEEPHOLE, 3, 4, reverse=True)
    plain = rs.unfuse(layer)
    x = torch.randn(5, 2, 3)
    assert torch.equal(plain(x)[0], layer(x)[0])
    with pytest.warns(UserWarning, match="dropout"):
        single = nn.GRU(3, 4, dropout=0.5)
    assert rs.unfuse(single).dropout == 0.5  # nn.GRU warned once; that is enough


def test_what_cannot_be_unfused() -> None:
    with pytest.raises(rs.RefusedError, match=r"nn\.LSTMCell is one step.*unfuse an nn\.LSTM"):
        rs.unfuse(nn.LSTMCell(3, 4))
    with pytest.raises(rs.NotRecurrentError, match="Linear is no recurrent layer"):
        rs.unfuse(nn.Linear(3, 4))
    normed = parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")
    with pytest.raises(rs.RefusedError, match=r"weight_hh_l0 of this nn\.GRU is computed anew"):
        rs.unfuse(normed)


# ── transformations ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_each_sample(kind: str) -> None:
    layer = layer_of(kind, num_layers=2, bidirectional=True)
    plain = rs.unfuse(layer)
    samples = torch.randn(6, 5, 3, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in plain.named_parameters()}

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(plain, parameters, (sample,))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, samples)
    for k, sample in enumerate(samples):
        own = torch.autograd.grad(layer(sample)[0].square().sum(), list(layer.parameters()))
        for name, expected in zip(parameters, own, strict=True):
            assert size(each[name][k] - expected) < 1e-12 * (1 + size(expected))


# torch 2.13's own forward mode scripts its decompositions, and warns of that
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", LAYERS)
def test_jvp_is_a_finite_difference(kind: str) -> None:
    layer = layer_of(kind, bidirectional=True)
    plain = rs.unfuse(layer)
    x, along = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    value, slope = torch.func.jvp(lambda x: plain(x)[0], (x,), (along,))
    step = 1e-5
    with torch.no_grad():
        central = (layer(x + step * along)[0] - layer(x - step * along)[0]) / (2 * step)
        assert size(value - layer(x)[0]) < 1e-14
    assert size(slope - central) < 1e-9  # step² times a third derivative of order 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", LAYERS)
def test_hessian_is_a_finite_difference(kind: str) -> None:
    layer = layer_of(kind)
    plain = rs.unfuse(layer)
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    found = torch.func.hessian(lambda x: plain(x)[0].square().sum())(x).reshape(18, 18)
    step, rows = 1e-5, []
    for k in range(18):
        ends = []
        for sign in (1, -1):
            moved = x.clone().reshape(-1)
            moved[k] += sign * step
            moved = moved.reshape(3, 2, 3).requires_grad_()
            ends.append(torch.autograd.grad(layer(moved)[0].square().sum(), moved)[0].reshape(-1))
        rows.append((ends[0] - ends[1]) / (2 * step))
    assert size(found - torch.stack(rows)) < 1e-8


@pytest.mark.parametrize("kind", LAYERS)
def test_second_derivatives(kind: str) -> None:
    """Of the input and of every parameter; in evaluation mode."""
    layer = layer_of(kind, bidirectional=True).eval()
    plain = rs.unfuse(layer)
    names = [name for name, _ in plain.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in plain.parameters()]
    x = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, values, strict=True))
        return tuple(flat(torch.func.functional_call(plain, parameters, (x,))))

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *values), fast_mode=True)


def test_a_packed_call_has_second_derivatives() -> None:
    plain = rs.unfuse(layer_of("LSTM"))
    sizes = torch.tensor([2, 2, 1])
    data = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def run(data: Tensor) -> tuple[Tensor, ...]:
        output, (h_n, c_n) = plain(PackedSequence(data, sizes))
        return output.data, h_n, c_n

    assert torch.autograd.gradgradcheck(run, (data,))


@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_up_to_16_steps(kind: str) -> None:
    """As one graph, forward and backward."""
    layer = layer_of(kind)
    compiled = torch.compile(rs.unfuse(layer), backend="aot_eager", fullgraph=True)
    x = torch.randn(16, 2, 3, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(module(x)[0].square().sum(), list(layer.parameters()))
        for module in (compiled, layer)
    ]
    for one, other in zip(*gradients, strict=True):
        assert size(one - other) < 1e-12 * (1 + size(other))
    torch.compiler.reset()


def test_a_model_that_flattens_parameters_goes_on() -> None:
    assert rs.unfuse(nn.LSTM(3, 4)).flatten_parameters() is None
