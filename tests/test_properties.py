"""What must hold of every trace, whatever the numbers; sizes and lengths are drawn."""

from __future__ import annotations

import importlib
import io
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from configurations import SOME, TIME, Case, Configuration, build, name_of
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import by_cells
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import rnnscope as rs
from rnnscope._layers import adopt, structure
from rnnscope.cells import cells

CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_proj")
EXACT = 1e-12
"""In float64, where states are of order 1; two orders of the same sums differ by some 1e-15."""


def off(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def layer_of(cell: str, sizes: tuple[int, int, int], **options: Any) -> nn.RNNBase:
    kind = {"gru": nn.GRU, "lstm": nn.LSTM, "lstm_proj": nn.LSTM}.get(cell, nn.RNN)
    if cell.startswith("rnn"):
        options["nonlinearity"] = cell[4:]
    if cell == "lstm_proj":
        options["proj_size"] = sizes[2]
    return kind(sizes[0], sizes[1], dtype=torch.float64, **options)


@st.composite
def calls(draw: st.DrawFn, both: bool | None = None) -> Case:
    """A layer and a packed call of it, its sequences in batch-first order in `padded_x`."""
    cell = draw(st.sampled_from(CELLS))
    hidden = draw(st.integers(2, 6))
    sizes = draw(st.integers(1, 5)), hidden, draw(st.integers(1, hidden - 1))
    both = draw(st.booleans()) if both is None else both
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = layer_of(
        cell,
        sizes,
        num_layers=draw(st.integers(1, 3)),
        bidirectional=both,
        bias=draw(st.booleans()),
        batch_first=True,
    ).eval()
    batch, time = len(lengths), max(lengths)
    x = torch.randn(batch, time, sizes[0], dtype=torch.float64)
    rows = layer.num_layers * (1 + both)
    h_0 = torch.randn(rows, batch, layer.proj_size or hidden, dtype=torch.float64)
    c_0 = torch.randn(rows, batch, hidden, dtype=torch.float64)
    initial: Any = None
    if draw(st.booleans()):
        initial = (h_0, c_0) if isinstance(layer, nn.LSTM) else h_0
    packed = pack_padded_sequence(x, torch.tensor(lengths), True, enforce_sorted=False)
    return Case(layer, (packed, initial), {}, x, lengths, initial)


def rows_of(initial: Any, rows: Any) -> Any:
    """The initial states of some sequences."""
    if isinstance(initial, tuple):
        return tuple(state[:, rows].contiguous() for state in initial)
    return None if initial is None else initial[:, rows].contiguous()


# ── drawn sizes and lengths ──────────────────────────────────────────────────────────────────


@settings(max_examples=120)
@given(calls())
def test_any_sizes_against_the_judge(case: Case) -> None:
    expected = by_cells(case.layer, case.padded_x, case.initial, case.lengths)
    tr = rs.trace(case.layer, *case.args, record="all")
    assert set(tr) == set(expected) - {"output", "h_n", "c_n"}
    for name in tr:
        assert off(tr[name], expected[name]) < EXACT, name
    # and dense, over the full length
    expected = by_cells(case.layer, case.padded_x, case.initial)
    tr = rs.trace(case.layer, case.padded_x, case.initial, record="all")
    for name in tr:
        assert off(tr[name], expected[name]) < EXACT, name


@settings(max_examples=60)
@given(calls(), st.randoms(use_true_random=False))
def test_permuting_the_batch(case: Case, random: Any) -> None:
    assert case.lengths is not None
    order = list(range(len(case.lengths)))
    random.shuffle(order)
    tr = rs.trace(case.layer, *case.args, record="all")
    permuted = pack_sequence(
        [case.padded_x[row, : case.lengths[row]] for row in order], enforce_sorted=False
    )
    other = rs.trace(case.layer, permuted, rows_of(case.initial, order), record="all")
    for name in tr:
        assert off(tr[name][:, :, order], other[name]) < EXACT, name
    assert torch.equal(tr.valid[order], other.valid)


@settings(max_examples=60)
@given(calls())
def test_a_packed_row_equals_the_sequence_alone(case: Case) -> None:
    assert case.lengths is not None
    tr = rs.trace(case.layer, *case.args, record="all")
    for row, length in enumerate(case.lengths):
        initial = rows_of(case.initial, slice(row, row + 1))
        alone = rs.trace(case.layer, case.padded_x[row : row + 1, :length], initial, record="all")
        for name in tr:
            assert off(tr[name][:, :, row : row + 1, :length], alone[name]) < EXACT, name
            assert not tr[name][:, :, row, length:].any(), name


@settings(max_examples=60)
@given(calls(both=False), st.integers(1, 6))
def test_cutting_the_sequence_and_carrying_the_state(case: Case, at: int) -> None:
    x = case.padded_x
    at = min(at, x.shape[1])
    whole = rs.trace(case.layer, x, case.initial, record="all")
    first = rs.trace(case.layer, x[:, :at], case.initial, record="all")
    parts = [first]
    if at < x.shape[1]:
        states = (first.h_n, first.c_n) if isinstance(case.layer, nn.LSTM) else first.h_n
        parts.append(rs.trace(case.layer, x[:, at:], states, record="all"))
    for name in whole:
        joined = torch.cat([part[name] for part in parts], dim=3)
        assert off(whole[name], joined) < EXACT, name


@settings(max_examples=60)
@given(calls(), st.sampled_from([math.nan, math.inf, 1e300]))
def test_padding_never_matters(case: Case, garbage: float) -> None:
    assert case.lengths is not None
    tr = rs.trace(case.layer, *case.args, record="all")
    x = case.padded_x.clone()
    for row, length in enumerate(case.lengths):
        x[row, length:] = garbage
    packed = pack_padded_sequence(x, torch.tensor(case.lengths), True, enforce_sorted=False)
    other = rs.trace(case.layer, packed, case.initial, record="all")
    for name in tr:
        assert torch.equal(tr[name], other[name]), name
        assert not tr[name].masked_select(~tr.valid[None, None, :, :, None]).any(), name
    assert other.nonfinite is None
    assert torch.equal(tr["x", 0], other["x", 0])


@settings(max_examples=40)
@given(calls())
def test_the_gates_do_not_depend_on_what_else_is_recorded(case: Case) -> None:
    everything = rs.trace(case.layer, *case.args, record="all")
    usual = rs.trace(case.layer, *case.args)
    assert set(usual) == set(everything.cell.quantities)
    for name in usual:
        assert off(usual[name], everything[name]) < EXACT, name


# ── nothing changes ──────────────────────────────────────────────────────────────────────────


def picture(*things: Any) -> dict[str, Any]:
    """Everything about modules and tensors that tracing could change, byte for byte."""
    found: dict[str, Any] = {}
    for k, thing in enumerate(things):
        if isinstance(thing, nn.Module):
            for name, module in thing.named_modules():
                for key, value in vars(module).items():
                    if isinstance(value, Tensor):
                        found[f"{k} {name} {key}"] = id(value)
                    elif isinstance(value, dict):
                        found[f"{k} {name} {key}"] = {a: id(b) for a, b in value.items()}
                    elif key == "_flat_weights":
                        found[f"{k} {name} {key}"] = list(map(id, value))
                    else:
                        found[f"{k} {name} {key}"] = repr(value)
            tensors = dict(thing.named_parameters()) | dict(thing.named_buffers())
            stored = io.BytesIO()
            torch.save(thing.state_dict(), stored)
            found[f"{k} state_dict"] = stored.getvalue()
        else:
            tensors = {"": thing}
        for name, t in tensors.items():
            grad = None if t.grad is None else t.grad.clone().numpy().tobytes()
            facts = t.detach().clone().numpy().tobytes(), t._version, t.requires_grad, grad
            found[f"{k} {name}"] = (*facts, t.data_ptr(), t.stride(), t.is_leaf)
    return found


def tensors_in(case: Case) -> list[Tensor]:
    found: list[Tensor] = []
    for thing in (*case.args, *case.kwargs.values(), case.padded_x):
        group = thing if isinstance(thing, tuple) else (thing,)
        found += [t for t in group if isinstance(t, Tensor)]
    return found


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_tracing_changes_nothing(configuration: Configuration) -> None:
    case = build(configuration)
    for p in list(case.layer.parameters())[::2]:
        p.requires_grad_(False)
    for p in list(case.layer.parameters())[1::2]:
        p.grad = torch.ones_like(p)
    case.layer.register_forward_hook(lambda *_: None)
    state = torch.get_rng_state()
    case.layer(*case.args, **case.kwargs)
    by_the_layer = torch.get_rng_state()
    before = picture(case.layer, *tensors_in(case))
    for check in (True, "thorough", False):
        torch.set_rng_state(state)
        rs.trace(case.layer, *case.args, **case.kwargs, record="all", check=check)
        assert torch.equal(torch.get_rng_state(), by_the_layer)
        assert picture(case.layer, *tensors_in(case)) == before


class StoppedError(Exception):
    """A user's own."""


@pytest.mark.parametrize("fault", ["shape", "dtype", "record", "verification", "hook", "backend"])
def test_after_an_exception_nothing_is_changed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = build(Configuration("gru", 3, True, training=True, initial=True))
    x, h_0 = case.args
    expected: type[Exception] = rs.ShapeError
    options: dict[str, Any] = {}
    match = "h_0"
    if fault == "shape":
        h_0 = h_0[:1]
    elif fault == "dtype":
        x, expected, match = x.float(), rs.DtypeError, "float32"
    elif fault == "record":
        options, expected, match = {"record": ["q"]}, rs.AddressError, "q"
    elif fault == "verification":
        exchanged = replace(cells.GRU, gates="zrn")
        for module in (adopt, structure):
            monkeypatch.setattr(module, "GRU", exchanged)
        expected, match = rs.VerificationError, "time="
    elif fault == "hook":

        def stop(*_: Any) -> None:
            raise StoppedError("by the user")

        case.layer.register_forward_hook(stop)
        expected, match = StoppedError, "by the user"
    else:

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("out of memory")

        opening = importlib.import_module("rnnscope._trace.trace")
        monkeypatch.setattr(opening, "open_call", fail)
        expected, match = RuntimeError, "out of memory"
    before, state = picture(case.layer, x, h_0), torch.get_rng_state()
    with pytest.raises(expected, match=match):
        rs.trace(case.layer, x, h_0, **options)
    assert picture(case.layer, x, h_0) == before
    if fault in ("verification", "backend"):
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        case.layer(x, h_0)
        assert torch.equal(after, torch.get_rng_state())
    elif fault != "hook":
        assert torch.equal(state, torch.get_rng_state())


def test_gradients_flow_through_what_the_layer_returned() -> None:
    case = build(Configuration("lstm", 2, True, batch_first=True))
    x = case.args[0].requires_grad_()
    own, _ = case.layer(x)
    expected = torch.autograd.grad(own.square().sum(), [x, *case.layer.parameters()])
    tr = rs.trace(case.layer, x)
    found = torch.autograd.grad(tr.output.square().sum(), [x, *case.layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not any(t.requires_grad for t in [*tr.values(), *tr.parameters.values(), tr["x", 0]])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Callable[[], Any]) -> None:
    case = build(Configuration("gru", 3, True, initial=True))
    expected = by_cells(case.layer, case.padded_x, case.initial)
    with mode():
        tr = rs.trace(case.layer, *case.args)
    for name in tr:
        assert off(tr[name], expected[name]) < EXACT
    assert not tr.output.requires_grad


# ── a trace is a snapshot ────────────────────────────────────────────────────────────────────


def contents(tr: rs.Trace) -> dict[str, Tensor]:
    """Copies of all that a trace holds, what the layer returned (the caller's own) aside."""
    found = {name: t.clone() for name, t in tr.items()} | {
        f"parameter {name}": t.clone() for name, t in tr.parameters.items()
    }
    found |= {f"x of {k}": tr["x", k].clone() for k in range(tr.sizes["layer"])}
    return found | {f"{s}_0": getattr(tr, f"{s}_0").clone() for s in tr.cell.states}


@pytest.mark.parametrize("call", ["batched", "unbatched", "packed"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_trace_outlives_every_change(cell: str, call: str) -> None:
    configuration = Configuration(cell, 3, True, initial=True, call=call)
    case = build(configuration)
    layer = case.layer
    expected = by_cells(layer, case.padded_x, case.initial, case.lengths)
    tr = rs.trace(layer, *case.args, **case.kwargs, record="all")
    held = contents(tr)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    output = tr.output.data if call == "packed" else tr.output
    output.square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        for p in layer.parameters():
            p.data.add_(1)  # which no version counter sees
            p.mul_(2)
        for t in tensors_in(case):
            if t.is_floating_point():
                t.add_(1)
    assert all(torch.equal(held[name], now) for name, now in contents(tr).items())
    for name in tr:
        assert off(tr[name], expected[name]) < EXACT, name


def test_weights_are_shared_only_while_they_are_the_same() -> None:
    case = build(Configuration("lstm", 1))
    one = rs.trace(case.layer, *case.args)
    two = rs.trace(case.layer, *case.args)
    assert one.parameters["weight_hh_l0"] is two.parameters["weight_hh_l0"]
    case.layer.weight_hh_l0.data[0, 0] += 0.5  # no version counter sees it
    three = rs.trace(case.layer, *case.args)
    assert three.parameters["weight_hh_l0"] is not two.parameters["weight_hh_l0"]
    expected = by_cells(case.layer, case.padded_x)
    assert all(off(three[name], expected[name]) < EXACT for name in three)
    assert off(one["h"], three["h"]) > 1e-4


@pytest.mark.parametrize("cell", CELLS)
def test_after_an_optimizer_step_the_new_weights_count(cell: str) -> None:
    case = build(Configuration(cell, 3, True, batch_first=True))
    for _ in range(2):
        tr = rs.trace(case.layer, *case.args)
        expected = by_cells(case.layer, case.padded_x)
        assert all(off(tr[name], expected[name]) < EXACT for name in tr)
        tr.output.square().sum().backward()
        torch.optim.SGD(case.layer.parameters(), lr=0.05).step()


# ── weights that come from elsewhere ─────────────────────────────────────────────────────────


class Opening(nn.Module):
    """A model that traces its layer in its forward."""

    def __init__(self, rnn: nn.RNNBase, check: Any) -> None:
        super().__init__()
        self.rnn, self.check = rnn, check

    def forward(self, *args: Any) -> rs.Trace:
        return rs.trace(self.rnn, *args, check=self.check)


@pytest.mark.parametrize("cell", CELLS)
def test_functional_call(cell: str) -> None:
    configuration = Configuration(cell, 3, True, initial=True, batch_first=True)
    case, other = build(configuration), build(configuration, seed=1).layer
    weights = {f"rnn.{name}": p.detach().clone() for name, p in other.named_parameters()}
    expected = by_cells(other, case.padded_x, case.initial)
    own = by_cells(case.layer, case.padded_x, case.initial)
    for check in (False, True, "thorough"):  # False first: no forward has seen the new weights
        before = {name: id(p) for name, p in case.layer.named_parameters()}
        model = Opening(case.layer, check)
        tr = torch.func.functional_call(model, weights, case.args)
        assert all(off(tr[name], expected[name]) < EXACT for name in tr)
        assert off(tr.output, expected["output"]) < EXACT
        assert {name: id(p) for name, p in case.layer.named_parameters()} == before
        # and the layer's own weights again
        again = rs.trace(case.layer, *case.args, check=check)
        assert all(off(again[name], own[name]) < EXACT for name in again)


class Doubled(nn.Module):
    def forward(self, p: Tensor) -> Tensor:
        return 2 * p


REPARAMETRISED: dict[str, Callable[[nn.Module], Any]] = {
    "orthogonal": lambda m: parametrizations.orthogonal(m, "weight_hh_l0"),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m, "weight_hh_l0"),
    "weight_norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "old weight_norm": lambda m: torch.nn.utils.weight_norm(m, "weight_hh_l0"),
    "own": lambda m: parametrize.register_parametrization(m, "weight_ih_l1_reverse", Doubled()),
}


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
@pytest.mark.parametrize("kind", REPARAMETRISED)
def test_parametrizations(kind: str, cell: str, training: bool) -> None:
    case, twin = (build(Configuration(cell, 3, True, initial=True)) for _ in range(2))
    layer, plain = case.layer.train(training), twin.layer.train(training)
    for each in (layer, plain):
        torch.manual_seed(0)  # spectral norm draws the vectors from which it starts
        REPARAMETRISED[kind](each)
    for _ in range(2):
        tr = rs.trace(layer, *case.args)
        # the layer as it would have run untraced, spectral norm's iteration included
        own = plain(*case.args)
        assert torch.equal(tr.output, own[0])
        assert picture(layer)["0 state_dict"] == picture(plain)["0 state_dict"]
        used = build(Configuration(cell, 3, True, initial=True)).layer
        used.load_state_dict(tr.parameters)
        expected = by_cells(used, case.padded_x, case.initial)
        assert off(expected["output"], tr.output.detach().transpose(0, 1)) < EXACT
        for name in tr:
            assert off(tr[name], expected[name]) < EXACT, name
        with torch.no_grad():
            for one, other in zip(layer.parameters(), plain.parameters(), strict=True):
                one.mul_(0.9)
                other.mul_(0.9)


@pytest.mark.parametrize("kind", ["orthogonal", "weight_norm", "own"])
def test_the_equations_alone_take_the_weights_of_now(kind: str) -> None:
    """check=False runs no forward, which is what makes a layer note that its weights changed."""
    case = build(Configuration("gru", 3, True, initial=True))
    REPARAMETRISED[kind](case.layer)
    for _ in range(2):
        alone = rs.trace(case.layer, *case.args, check=False)
        expected = by_cells(case.layer, case.padded_x, case.initial)
        assert all(off(alone[name], expected[name]) < EXACT for name in alone)
        with torch.no_grad():
            for p in case.layer.parameters():
                p.add_(torch.randn_like(p))


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*deprecated:FutureWarning")
def test_the_equations_alone_are_refused_behind_a_hook() -> None:
    """Old weight norm computes the weight in such a hook, which only a forward runs."""
    case = build(Configuration("gru", 1))
    layer = torch.nn.utils.weight_norm(case.layer, "weight_hh_l0")
    with pytest.raises(rs.RefusedError, match="check=False does not run it"):
        rs.trace(layer, *case.args, check=False)


class Renamed(nn.LSTM):
    """A subclass that keeps the forward, with something of its own beside."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label = "mine"


def test_a_subclass_that_keeps_the_forward() -> None:
    case = build(Configuration("lstm", 3, True))
    layer = Renamed(7, 9, num_layers=3, bidirectional=True, dtype=torch.float64)
    layer.load_state_dict(case.layer.state_dict())
    expected = by_cells(case.layer, case.padded_x)
    tr = rs.trace(layer, *case.args)
    assert all(off(tr[name], expected[name]) < EXACT for name in tr)


# ── ways to lie in memory ────────────────────────────────────────────────────────────────────


def test_any_strides() -> None:
    case = build(Configuration("gru", 1, True, initial=True))
    x, h_0 = case.args
    expected = rs.trace(case.layer, x, h_0)
    spread = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)[..., ::2]
    spread.copy_(x)
    for other in (spread, x.expand(*x.shape), x.transpose(0, 1).contiguous().transpose(0, 1)):
        tr = rs.trace(case.layer, other, h_0)
        assert all(off(tr[name], expected[name]) < EXACT for name in tr)


def test_equal_lengths_are_no_padding() -> None:
    case = build(Configuration("lstm", 3, True))
    packed = pack_padded_sequence(case.args[0], [TIME] * 4)
    one, two = rs.trace(case.layer, packed), rs.trace(case.layer, *case.args)
    assert one.valid.all()
    assert all(off(one[name], two[name]) < EXACT for name in two)


def test_calls_of_other_threads_are_left_alone() -> None:
    """One thread traces a layer that two others call: each gets its own numbers."""
    layer, other = nn.LSTM(3, 4), torch.randn(6, 2, 3)
    expected = layer(other)[0]
    wrong: list[object] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                if not torch.equal(layer(other)[0], expected):
                    wrong.append("other numbers")
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            x = torch.randn(5, 1, 3)
            assert torch.equal(rs.trace(layer, x).output, layer(x)[0])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
