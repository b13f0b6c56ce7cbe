"""Layers that are traced again and again: what is kept of them between calls is what they are."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from judges import by_cells
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch

import rnnscope as rs
from rnnscope._layers.derived import MOST_KEPT, derived
from rnnscope._opening.memory import same_numbers

MAKES: list[Any] = [nn.RNN, nn.GRU, nn.LSTM]


def layer_of(make: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return make(5, 7, **options)


def check(layer: Any, x: Tensor, tr: rs.Trace) -> None:
    """Against a loop over torch's cells in float64."""
    expected = by_cells(layer, x if layer.batch_first else x.transpose(0, 1), dtype=torch.float64)
    for name, value in tr.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)
    plain = layer(x)
    assert torch.equal(tr.output, plain[0])
    states = plain[1] if isinstance(plain[1], tuple) else (plain[1],)
    assert all(torch.equal(getattr(tr, f"{n}_n"), t) for n, t in zip("hc", states, strict=False))


@pytest.fixture(params=["llvm", "torch"])
def engine(request: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RNNSCOPE_ENGINE", request.param)
    return request.param


def in_place(p: Tensor) -> None:
    p.mul_(-1.5)


def past_versions(p: Tensor) -> None:
    p.data.mul_(-1.5)


def through_numpy(p: Tensor) -> None:
    p.detach().numpy()[...] *= -1.5


def one_number(p: Tensor) -> None:
    p.view(-1)[-1] += 0.25


def other_memory(p: Tensor) -> None:
    p.data = (p.data * -1.5).t().contiguous().t()


CHANGES: list[Callable[[Tensor], None]] = [
    *(in_place, past_versions, through_numpy, one_number, other_memory)
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", MAKES)
def test_weights_that_change_between_traces(make: Any, change: Any, engine: str) -> None:
    layer, x = layer_of(make), torch.randn(9, 3, 5)
    for _ in range(3):
        tr = rs.trace(layer, x)
        assert tr.engine == engine
        check(layer, x, tr)
        unverified = rs.trace(layer, x, check=False)
        for name, value in unverified.items():
            torch.testing.assert_close(value, tr[name], rtol=1e-5, atol=1e-5)
        assert unverified.deviation is None
        with torch.no_grad():
            for parameter in layer.parameters():
                change(parameter)


@pytest.mark.parametrize("make", MAKES)
def test_weights_of_another_type_between_traces(make: Any, engine: str) -> None:
    layer = layer_of(make)
    for dtype in (torch.float32, torch.float64, torch.float32):
        layer = layer.to(dtype)
        x = torch.randn(9, 3, 5, dtype=dtype)
        tr = rs.trace(layer, x)
        assert tr["h"].dtype == dtype
        check(layer, x, tr)


@pytest.mark.parametrize("make", MAKES)
def test_a_trace_s_own_weights_may_be_overwritten(make: Any, engine: str) -> None:
    """What is kept of them is not taken for the layer's, however both are changed."""
    layer, x = layer_of(make), torch.randn(9, 3, 5)
    first = rs.trace(layer, x)
    with torch.no_grad():
        for copy in first.weights[0][0].tensors():
            copy.mul_(2)
    check(layer, x, rs.trace(layer, x))
    again = rs.trace(layer, x)
    with torch.no_grad():
        for copy in again.weights[0][0].tensors():
            copy.mul_(2)
        for parameter in layer.parameters():
            parameter.mul_(2)
    check(layer, x, rs.trace(layer, x))


@pytest.mark.parametrize("make", MAKES)
def test_forms_of_a_call(make: Any, engine: str) -> None:
    layer = layer_of(make, batch_first=True)
    x = torch.randn(3, 9, 5)
    for given in (x, x.transpose(0, 1).contiguous().transpose(0, 1), x.expand(3, 9, 5)[:, ::2]):
        tr = rs.trace(layer, given)
        check(layer, given, tr)
    with pytest.raises(rs.ShapeError, match="input=5"):
        rs.trace(layer, torch.randn(3, 9, 4))
    with pytest.raises(rs.ShapeError, match="no step"):
        rs.trace(layer, torch.randn(3, 0, 5))
    with pytest.raises(rs.AddressError):
        rs.trace(layer, x, record="no such name")
    with pytest.raises(ValueError, match="check must be"):
        rs.trace(layer, x, check="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", MAKES)
def test_the_graph_of_what_is_returned(make: Any) -> None:
    layer, x = layer_of(make), torch.randn(9, 3, 5, requires_grad=True)
    tr = rs.trace(layer, x)
    ours = torch.autograd.grad(tr.output.square().sum(), [x, *layer.parameters()])
    own = torch.autograd.grad(layer(x)[0].square().sum(), [x, *layer.parameters()])
    assert all(map(torch.equal, ours, own))
    assert not tr.call.x.requires_grad
    with torch.no_grad():
        x.zero_()
    assert tr["x", 0].any()


@pytest.mark.parametrize("make", MAKES)
def test_modes_of_the_caller(make: Any, engine: str) -> None:
    layer, x = layer_of(make), torch.randn(9, 3, 5)
    with torch.inference_mode():
        inside = rs.trace(layer, x)
    with torch.no_grad():  # as it ran: with gradients oneDNN may round otherwise
        check(layer, x, inside)
    del inside
    after = rs.trace(layer, x)
    check(layer, x, after)
    assert not after.weights[0][0].ih.is_inference()
    assert after.gradients(after.output.sum()).deviation is not None
    with torch.no_grad():
        check(layer, x, rs.trace(layer, x))


def doubled(module: Any, args: Any) -> Any:
    return (args[0] * 2,)


def with_pre_hook(layer: Any) -> Any:
    return layer.register_forward_pre_hook(doubled)


def with_global_pre_hook(layer: Any) -> Any:
    return modules_of_torch.register_module_forward_pre_hook(doubled)


def with_output_hook(layer: Any) -> Any:
    return layer.register_forward_hook(lambda m, args, out: (out[0] * 3, out[1]))


@pytest.fixture(params=[with_pre_hook, with_global_pre_hook, with_output_hook])
def hooked(request: Any) -> Iterator[Any]:
    layer = layer_of(nn.GRU)
    handle = request.param(layer)
    yield layer, "pre" in request.param.__name__
    handle.remove()


def test_hooks_that_come_between_traces(hooked: Any) -> None:
    """What goes in is seen behind every hook of the caller's, what comes out before any."""
    layer, enters = hooked
    x = torch.randn(9, 3, 5)
    tr = rs.trace(layer, x)
    seen = x * 2 if enters else x
    own = nn.GRU.forward(layer, seen)[0]
    assert torch.equal(tr["h"][0, 0].transpose(0, 1), own)
    assert torch.equal(tr.call.x, seen)


def test_a_forward_of_its_own_is_not_passed_by() -> None:
    layer, x = layer_of(nn.LSTM), torch.randn(9, 3, 5)
    rs.trace(layer, x)
    calls = []
    right = layer.forward

    def counted(*args: Any) -> Any:
        calls.append(args)
        return right(*args)

    layer.forward = counted
    with pytest.raises(rs.RefusedError):
        rs.trace(layer, x)


def test_options_that_change_between_traces() -> None:
    layer, x = layer_of(nn.RNN), torch.randn(9, 9, 5)
    check(layer, x, rs.trace(layer, x))
    layer.nonlinearity, layer.mode = "relu", "RNN_RELU"
    check(layer, x, rs.trace(layer, x))
    layer.batch_first = True
    check(layer, x, rs.trace(layer, x))


@pytest.mark.parametrize("use", ["trace", "watch"])
@pytest.mark.parametrize("make", MAKES)
def test_weights_that_a_layer_finds_in_the_place_of_its_own(make: Any, use: str) -> None:
    """Past ``setattr``: a layer looks for them when it runs, at the latest."""
    layer, x = layer_of(make), torch.randn(9, 3, 5)
    rs.trace(layer, x)
    layer._parameters["weight_hh_l0"] = nn.Parameter(layer.weight_hh_l0.detach() * -1.5)
    if use == "watch":
        with rs.watch(layer) as seen:
            layer(x)
            layer._parameters["weight_hh_l0"] = nn.Parameter(layer.weight_hh_l0.detach() * -0.5)
            layer(x)
        check(layer, x, seen.calls("")[1])
    tr = rs.trace(layer, x)
    check(layer, x, tr)
    state = {name: value.detach() * -0.5 for name, value in layer.named_parameters()}
    inside = []

    class Within(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Any:
            inside.append(rs.trace(self.layer, x))
            inside.append(rs.trace(self.layer, x, check=False))
            return inside[0].output

    swapped = {f"layer.{name}": value for name, value in state.items()}
    output = torch.func.functional_call(Within(), swapped, (x,))
    assert torch.equal(inside[0].output, output)
    torch.testing.assert_close(inside[1]["h"], inside[0]["h"], rtol=1e-5, atol=1e-5)
    assert torch.equal(inside[0].weights[0][0].hh, state["weight_hh_l0"])
    check(layer, x, rs.trace(layer, x))


@pytest.mark.parametrize("use", ["trace", "watch"])
def test_a_module_goes_when_its_user_lets_it_go(use: str) -> None:
    layer, x = layer_of(nn.LSTM), torch.randn(9, 3, 5)
    gone = weakref.ref(layer)
    weight = weakref.ref(layer.weight_hh_l0)
    for _ in range(2):
        if use == "trace":
            rs.trace(layer, x)
        else:
            with rs.watch(layer) as seen:
                layer(x)
            del seen
    del layer
    gc.collect()
    assert gone() is None
    assert weight() is None


def test_large_weights_are_not_kept() -> None:
    layer, x = nn.LSTM(64, 128), torch.randn(3, 2, 64)
    tr = rs.trace(layer, x)
    gone = weakref.ref(tr.weights[0][0].ih)
    del tr
    gc.collect()
    assert gone() is None
    small = nn.LSTM(4, 8)
    tr = rs.trace(small, torch.randn(3, 2, 4))
    copy = weakref.ref(tr.weights[0][0].ih)
    del tr
    gc.collect()
    assert copy() is not None  # as long as the layer is there, and its weights are the same
    with torch.no_grad():
        small.weight_ih_l0.add_(1)
    rs.trace(small, torch.randn(3, 2, 4))
    gc.collect()
    assert copy() is None


def test_what_is_derived_goes_with_the_weights_and_their_versions() -> None:
    tr = rs.trace(layer_of(nn.GRU), torch.randn(9, 3, 5))
    weights = tr.weights[0][0].map(torch.clone)
    results = iter(range(10))
    assert [derived(weights, "key", lambda: next(results)) for _ in range(3)] == [0, 0, 0]
    assert derived(weights, "other", lambda: next(results)) == 1
    weights.b_hh.add_(1)
    assert derived(weights, "key", lambda: next(results)) == 2
    again = weights.map(torch.clone)
    assert derived(again, "key", lambda: next(results)) == 3
    assert derived(weights, "key", lambda: next(results)) == 2
    large = weights.map(lambda t: t.new_zeros(MOST_KEPT + 1, 1))
    assert [derived(large, "key", lambda: next(results)) for _ in range(2)] == [4, 5]
    value = torch.zeros(3)
    held = weakref.ref(value)
    derived(again, "tensor", lambda value=value: value)
    del value, again
    gc.collect()
    assert held() is None


def test_same_numbers() -> None:
    value = torch.tensor([[1.0, torch.nan], [torch.inf, -2.0]])
    assert same_numbers(value, value.clone())
    assert not same_numbers(value, value.double())
    assert not same_numbers(value, value[:1])
    assert not same_numbers(value, value.view(4))
    finite = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    turned = finite.t().contiguous().t()
    assert not turned.is_contiguous()
    assert same_numbers(finite, turned)
    assert not same_numbers(finite, finite.t())
    negative = torch._neg_view(finite)
    assert negative.is_neg()
    assert not same_numbers(finite, negative)
    assert same_numbers(-finite, negative)
    for place in range(4):
        other = finite.clone()
        other.view(-1)[place] += 1e-6
        assert not same_numbers(finite, other)
    assert not same_numbers(finite, finite.to("meta"))
    assert same_numbers(torch.empty(0, 3), torch.empty(0, 3))
