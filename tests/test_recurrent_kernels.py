"""Recurrent without gradients, by kernels: torch's own layers and the loops in NumPy of
test_recurrent are the judges."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import test_recurrent
import torch
from configurations import SOME, Configuration, build, name_of
from test_recurrent import EVERY, OPTIONS, flat, recurrent, size, twin
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import rnnscope as rs
from rnnscope._kernels import engine
from rnnscope._layers import stretches
from rnnscope.cells import GRU, LSTM_PEEPHOLE


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each run of a kernel, all of which are asked for."""
    runs: list[int] = []
    fill = stretches.Frames.fill

    def counting(frames: Any, kernel: Any, packed: Any, x: Any, span: Any = None) -> None:
        runs.append(len(x))
        fill(frames, kernel, packed, x, span)

    monkeypatch.setenv("RNNSCOPE_ENGINE", "llvm")
    monkeypatch.setattr(stretches.Frames, "fill", counting)
    return runs


# the numbers -------------------------------------------------------------------------------------


def check_as_torchs_own(configuration: Configuration, filled: list[int]) -> None:
    """Outputs, states and dropout masks; types, shapes and strides of time and batch too."""
    case = build(configuration)
    layer = twin(configuration, case)
    returned, states = [], []
    for module in (case.layer, layer):
        torch.manual_seed(3)
        with torch.no_grad():
            returned.append(module(*case.args, **case.kwargs))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    projects = configuration.cell == "lstm_proj"
    count = configuration.num_layers * (2 if configuration.bidirectional else 1)
    assert len(filled) == (0 if projects else count)
    filled.clear()
    assert type(returned[0][0]) is type(returned[1][0])
    assert isinstance(returned[0][1], tuple) == isinstance(returned[1][1], tuple)
    for one, other in zip(*map(flat, returned), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert not other.requires_grad
        double = configuration.dtype == torch.float64
        assert size(one - other) < (1e-12 if double else 1e-5) * (1 + size(one))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("configuration", SOME[::3], ids=name_of)
def test_as_torchs_own(configuration: Configuration, filled: list[int]) -> None:
    check_as_torchs_own(configuration, filled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_as_torchs_own_in_every_configuration(filled: list[int]) -> None:
    for configuration in SOME:
        check_as_torchs_own(configuration, filled)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", [name for name in EVERY if name != "gru_reset_before"])
def test_declared_cells_against_a_loop_in_numpy(name: str, options: str, filled: list[int]) -> None:
    for call in ("batched", "packed", "unbatched"):
        with torch.no_grad():
            test_recurrent.test_against_a_loop_in_numpy(name, options, call)
        assert filled
        filled.clear()


@pytest.mark.parametrize("name", ["gers", "leaky", "learnt", "lstm_coupled"])
def test_what_is_recorded_changes_no_bit_of_what_is_returned(name: str, filled: list[int]) -> None:
    """Its parts are those of the equations, from the states that the trace itself holds."""
    for options in OPTIONS:
        with torch.no_grad():
            test_recurrent.test_a_trace_holds_the_numbers_of_the_run(name, options)
        layer = recurrent(EVERY[name], **OPTIONS[options])
        x = pack_sequence([torch.randn(n, 3, dtype=torch.float64) for n in (6, 4, 1)])
        with torch.no_grad():
            tr = rs.trace(layer, x, record="all")
            assert torch.equal(tr.output.data, layer(x)[0].data)
            assert torch.equal(rs.trace(layer, x).output.data, tr.output.data)
        assert tr.engine == "llvm"
        by_torch = rs.trace(layer, x, record="all")  # with gradients
        assert by_torch.engine == "torch"
        for quantity in tr:
            assert size(tr[quantity] - by_torch[quantity]) < 1e-13, quantity
        assert all(value.shape == by_torch[quantity].shape for quantity, value in tr.items())


def test_watched_without_gradients(filled: list[int]) -> None:
    layer = rs.Recurrent(LSTM_PEEPHOLE, 3, 4, num_layers=2)
    x = torch.randn(5, 2, 3)
    with torch.no_grad(), rs.watch(nn.Sequential(layer)) as seen:
        returned = layer(x)
    assert seen["0"].engine == "llvm"
    assert torch.equal(seen["0"]["h", 1, "forward"].transpose(0, 1), returned[0])


# where torch follows -----------------------------------------------------------------------------


class Seen(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


# torch warns of what it uses itself, and that a traced number of steps is fixed
@pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_whatever_looks_at_operations_sees_them(filled: list[int]) -> None:
    layer = recurrent(LSTM_PEEPHOLE)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    expected = layer(x)[0].detach()
    frozen = copy.deepcopy(layer).requires_grad_(False)
    assert layer(x)[0].requires_grad
    assert frozen(x.clone().requires_grad_())[0].requires_grad
    state = torch.zeros(2, 1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert frozen(x, tuple(state))[0].requires_grad
    with torch.no_grad():
        batched = torch.func.vmap(lambda row: layer(row)[0])(torch.stack([x, x]))
        assert size(batched - expected) < 1e-14
        _, tangent = torch.func.jvp(lambda value: layer(value)[0], (x,), (torch.ones_like(x),))
        assert tangent.any()
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            assert size(forward_ad.unpack_dual(layer(dual)[0]).tangent - tangent) < 1e-14
        with Seen() as seen:
            layer(x)
        assert seen.count > 50
        with FlopCounterMode(display=False) as flops:
            layer(x)
        assert flops.get_total_flops() > 0
        with torch.autocast("cpu", torch.bfloat16):
            lower = layer.float()(x.float())[0]
        assert 1e-4 < size(lower - expected) < 0.1
        layer.double()
        traced = torch.jit.trace(layer, (x,), check_trace=False)
        assert size(traced(2 * x)[0] - layer(2 * x)[0]) < 1e-13
    assert filled == [5]  # the last call alone


def test_nothing_requires_gradients(filled: list[int]) -> None:
    layer = recurrent(LSTM_PEEPHOLE).requires_grad_(False)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    one = layer(x)[0]
    with torch.inference_mode():
        other = layer(x)[0]
    assert other.is_inference()
    assert torch.equal(one, other)
    assert filled == [5, 5]


def test_unfused_layers_are_plain_operations(filled: list[int]) -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    plain = rs.unfuse(layer)
    for module in (plain, copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        with torch.no_grad():
            assert size(module(x)[0] - layer(x)[0]) < 1e-6
    assert not filled


# the choice --------------------------------------------------------------------------------------


def test_the_size_of_a_call_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ready", set())
    monkeypatch.setattr(engine, "_warm", set())
    monkeypatch.delenv("RNNSCOPE_ENGINE", raising=False)
    layer, x = rs.Recurrent(GRU, 2, 3), torch.randn(10, 4, 2)
    with torch.no_grad():
        by_torch = layer(x)[0]
        assert rs.trace(layer, x).engine == "torch"
        monkeypatch.setattr(engine, "LARGE", 10 * 4 * 3 * 4)  # steps, batch, units, quantities
        assert rs.trace(layer, x).engine == "llvm"
        assert size(layer(x)[0] - by_torch) < 1e-6
        assert rs.trace(layer, x[:9]).engine == "torch"
        rs.warm_up(GRU)
        assert rs.trace(layer, x[:2]).engine == "llvm"
        assert rs.trace(layer, x[:1]).engine == "torch"  # a single step
        monkeypatch.setattr(engine, "PACKED", 22)  # of 45 weights
        assert rs.trace(layer, x[:2]).engine == "torch"
        assert rs.trace(layer, x[:3]).engine == "llvm"
        assert rs.trace(layer, x[:1], check=False).engine == "llvm"


def test_an_output_keeps_no_other_layer_in_memory(filled: list[int]) -> None:
    layer = rs.Recurrent(GRU, 3, 4, num_layers=5)
    with torch.no_grad():
        output, _ = layer(torch.randn(20, 2, 3))
    assert output.untyped_storage().nbytes() == 22 * 2 * 4 * 4
    assert output.is_contiguous()
