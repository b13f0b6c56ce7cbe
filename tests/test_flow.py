"""Jacobians, flow and additive memory: autograd through unfuse and a loop, and products by hand,
are the judges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from configurations import Configuration, build
from loops import by_loop
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import rnnscope as rs
from rnnscope.cells import DECLARED, Cell, from_h, from_x, previous, quantity, sigmoid, tanh

CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_proj")


def off(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one - other).abs().max()) / max(float(other.abs().max()), 1e-30)


# ── Jacobians ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("cell", CELLS)
def test_jacobians_are_autograds(cell: str, direction: str) -> None:
    """Of h and c at a step of the upper layer, to every quantity, x and initial state of both
    layers, at every step; a packed batch, with dropout between."""
    case = build(Configuration(cell, 3, True, initial=True, call="packed", training=True))
    before = torch.get_rng_state()
    tr = rs.trace(case.layer, *case.args, **case.kwargs, record="all")
    d, row, time, unit = tr.directions.index(direction), 1, 2, 4
    probes: dict[tuple[Any, ...], Tensor] = {}

    def probed(*place: Any) -> Tensor:
        *key, value = place
        probes[tuple(key)] = torch.zeros_like(value, requires_grad=True)
        return value + probes[tuple(key)]

    values: dict[tuple[Any, ...], Tensor] = {}

    def kept(*place: Any) -> Tensor:
        value = probed(*place)
        values[tuple(place[:-1])] = value
        return value

    by_loop(case, before, kept)
    for state in tr.cell.states:
        place = {"layer": 1, "direction": direction, "batch": row, "time": time}
        own = torch.autograd.grad(
            values[state, 1, d, row, time][unit],
            list(probes.values()),
            allow_unused=True,
            retain_graph=True,
        )
        judge = dict(zip(probes, own, strict=True))
        for to in (*tr, "x", *(f"{s}_0" for s in tr.cell.states)):
            for to_layer in (1, 0):
                way = {"to_direction": direction} if to_layer == 0 and to != "x" else {}
                found = tr.jacobian(state, to, **place, to_layer=to_layer, **way)
                if to.endswith("_0"):
                    assert off(found[unit], judge[to, to_layer, d, row, 0]) < 1e-10
                    continue
                for t in range(5):
                    expected = judge[to, to_layer, 0 if to == "x" else d, row, t]
                    if expected is None:
                        expected = torch.zeros_like(found[t, unit])
                    assert off(found[t, unit], expected) < 1e-10 or not expected.any()
                    assert expected.any() or not found[t, unit].any()


def test_the_shape_follows_the_address() -> None:
    tr = rs.trace(nn.LSTM(3, 4, num_layers=2, proj_size=2), torch.randn(6, 5, 3))
    place: dict[str, Any] = {"layer": 1}
    assert tr.jacobian("h", "h", **place).shape == (5, 6, 2, 2)
    assert tr.jacobian("h", "c", **place, batch=1).shape == (6, 2, 4)
    assert tr.jacobian("c", "x", **place, to_layer=0, to_time=slice(1, 3)).shape == (5, 2, 4, 3)
    one = tr.jacobian("c", "h", **place, batch=slice(1, 3), time=4, to_time=-3)
    assert one.shape == (2, 4, 2)
    whole = tr.jacobian("c", "h", **place, time=4)
    assert torch.allclose(one, whole[1:3, 3])
    assert not whole[:, 4:].any()  # ∂c_t/∂h_t: h comes after c
    assert torch.equal(tr.jacobian("h", "h", **place, time=4)[0, 4], torch.eye(2))
    assert tr.jacobian("h", "h_0", **place).shape == (5, 2, 2)
    last = tr.jacobian("h", "h_0", **place, batch=3)
    assert torch.allclose(last, tr.jacobian("h", "h_0", **place)[3])


@pytest.mark.parametrize("name", [name for name in DECLARED if name not in ("rnn_relu",)])
def test_jacobians_of_declared_cells_are_differences_of_edits(name: str) -> None:
    cell = DECLARED[name]
    extra = {"proj_size": 2} if cell.projected else {}
    layer = rs.Recurrent(cell, 3, 4, **extra).double()
    tr = rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64))
    step = 1e-5
    for to in cell.states:
        found = tr.jacobian("h", to, batch=1, to_time=1)
        for unit in range(found.shape[-1]):
            ends = [
                tr.rerun(rs.Edit(to, batch=1, time=1, unit=unit, add=sign * step))["h"]
                for sign in (1, -1)
            ]
            central = (ends[0] - ends[1])[0, 0, 1, -1] / (2 * step)
            assert float((found[:, unit] - central).abs().max()) < 1e-8


def test_the_product_of_steps() -> None:
    """nn.RNN: ∂h_3/∂h_1 is W_hh (1 - h²) of each step between, by hand."""
    rnn = nn.RNN(2, 3, dtype=torch.float64)
    tr = rs.trace(rnn, torch.randn(4, 1, 2, dtype=torch.float64))
    h = tr["h"][0, 0, 0]
    steps = [torch.diag(1 - h[t] ** 2) @ rnn.weight_hh_l0.detach() for t in range(4)]
    found = tr.jacobian("h", "h", batch=0)
    assert off(found[1], steps[3] @ steps[2]) < 1e-14
    x = tr.jacobian("h", "x", batch=0)
    by_hand = steps[3] @ torch.diag(1 - h[2] ** 2) @ rnn.weight_ih_l0.detach()
    assert off(x[2], by_hand) < 1e-14


# ── flow ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("norm", [2, "fro"])
def test_flow_is_the_norm_of_every_jacobian(norm: Any) -> None:
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    sequences = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 6)]
    tr = rs.trace(lstm, pack_sequence(sequences, enforce_sorted=False))
    for direction in tr.directions:
        place: dict[str, Any] = {"layer": 1, "direction": direction}
        pairs = tr.flow("h", "c", **place, norm=norm)
        assert pairs.shape == (2, 6, 6)
        for b, length in enumerate((4, 6)):
            for t in range(length):
                matrices = tr.jacobian("h", "c", **place, batch=b, time=t)
                expected = torch.linalg.matrix_norm(matrices, ord=norm)
                assert off(pairs[b, t], expected) < 1e-12
            assert not pairs[b, length:].any()
            assert not pairs[b, :, length:].any()
        along = tr.flow("h", "c", **place, time="last", norm=norm)
        ends = (3, 5) if direction == "forward" else (0, 0)
        for b, end in enumerate(ends):
            assert off(along[b], pairs[b, end]) < 1e-12
        assert off(tr.flow("h", "c", **place, batch=1, norm=norm), pairs[1]) < 1e-12


def test_gradients_vanish_and_explode() -> None:
    """By the weight: W_hh of spectral norm 1/2 and 2 in a linear stretch of tanh."""
    rnn = nn.RNN(1, 3, bias=False, dtype=torch.float64)
    for scale in (0.5, 2.0):
        with torch.no_grad():
            rnn.weight_hh_l0.copy_(scale * torch.eye(3, dtype=torch.float64))
        tr = rs.trace(rnn, 1e-9 * torch.ones(8, 1, 1, dtype=torch.float64))
        found = tr.flow(time="last", batch=0)
        expected = torch.tensor([scale**k for k in range(7, -1, -1)], dtype=torch.float64)
        assert off(found, expected) < 1e-6


# ── additive memory ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cell", ["gru", "lstm", "lstm_proj"])
@pytest.mark.parametrize("call", ["batched", "packed", "unbatched"])
def test_what_was_written_sums_to_the_state(cell: str, call: str) -> None:
    case = build(Configuration(cell, 3, True, initial=True, call=call))
    tr = rs.trace(case.layer, *case.args, **case.kwargs)
    memory = tr.memory()
    state = "h" if cell == "gru" else "c"
    assert memory.state == state
    total = memory["written"].sum(3) + memory.initial
    assert off(total, tr.sel(state, time="last")) < 1e-12
    assert off(memory["added"] * memory["kept"], memory["written"]) < 1e-15
    added = (1 - tr["z"]) * tr["n"] if cell == "gru" else tr["i"] * tr["g"]
    assert off(memory["added"], added) < 1e-14
    keep = tr["z"] if cell == "gru" else tr["f"]
    for d, direction in enumerate(tr.directions):
        for b, length in enumerate(tr.lengths.tolist()):
            order = list(range(length))[:: 1 if direction == "forward" else -1]
            product = torch.ones_like(keep[:, 0, 0, 0])
            for t in reversed(order):
                assert off(memory["kept"][:, d, b, t], product) < 1e-12
                product = product * keep[:, d, b, t]
            initial = product * tr.call.initial[state][:, d, b]
            assert off(memory.initial[:, d, b], initial) < 1e-12
            assert not memory["written"][:, d, b, length:].any()


def test_memory_up_to_a_step() -> None:
    lstm = nn.LSTM(3, 4, bidirectional=True, dtype=torch.float64)
    tr = rs.trace(lstm, torch.randn(6, 2, 3, dtype=torch.float64))
    for time in (0, 2, 5):
        memory = tr.memory(time=time)
        assert off(memory["written"].sum(3) + memory.initial, tr.sel("c", time=time)) < 1e-13
        assert not memory["written"][:, 0, :, time + 1 :].any()
        assert not memory["written"][:, 1, :, :time].any()


def test_a_forget_gate_that_underflows() -> None:
    """Products of 2,000 small gates are 0, and nothing is divided by them."""
    lstm = nn.LSTM(1, 2)
    with torch.no_grad():
        lstm.bias_ih_l0[2:4] = -3
    tr = rs.trace(lstm, torch.randn(2000, 1, 1))
    memory = tr.memory()
    assert memory["kept"][0, 0, 0, 0].tolist() == [0, 0]
    total = memory["written"].sum(3) + memory.initial
    assert float((total - tr.sel("c", time="last")).abs().max()) < 1e-6


def test_memory_of_declared_cells() -> None:
    for name in ("lstm_peephole", "lstm_coupled", "gru_reset_before"):
        layer = rs.Recurrent(DECLARED[name], 3, 4, num_layers=2).double()
        tr = rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64))
        memory = tr.memory()
        state = memory.state
        total = memory["written"].sum(3) + memory.initial
        assert off(total, tr.sel(state, time="last")) < 1e-13
    leaky = Cell(
        name="leaky",
        gates="s",
        equations={
            "s": 0.75 * previous("s") + 0.25 * (from_x("s") + from_h("s")),
            "h": tanh(quantity("s")),
        },
    )
    tr = rs.trace(rs.Recurrent(leaky, 3, 4).double(), torch.randn(5, 2, 3, dtype=torch.float64))
    memory = tr.memory("s")
    assert off(memory["written"].sum(3) + memory.initial, tr.sel("s", time="last")) < 1e-13
    powers = torch.tensor([0.75**k for k in (4, 3, 2, 1, 0)], dtype=torch.float64)
    assert off(memory["kept"][0, 0, 0, :, 0], powers) < 1e-15


STEPS_OF_C = {
    "added to": (previous("c") + quantity("i") * quantity("g"), 1.0),
    "added to, in the other order": (quantity("g") + previous("c"), 1.0),
    "taken away": (quantity("g") - 0.5 * previous("c"), -0.5),
    "kept with what is new": (0.5 * (previous("c") + quantity("g")), 0.5),
    "twice": (0.25 * previous("c") + quantity("g") + previous("c") * 0.25, 0.5),
    "a chain of factors": (0.5 * (previous("c") * 0.5) + quantity("i"), 0.25),
    "moved towards": (previous("c") + 0.25 * (quantity("g") - previous("c")), 0.75),
}


@pytest.mark.parametrize("name", STEPS_OF_C)
def test_memory_of_every_way_to_write_a_sum(name: str) -> None:
    step, factor = STEPS_OF_C[name]
    cell = Cell(
        name="own",
        gates="ig",
        equations={
            "i": sigmoid(from_x("i") + from_h("i")),
            "g": tanh(from_x("g") + from_h("g")),
            "c": step,
            "h": tanh(quantity("c")),
        },
    )
    layer = rs.Recurrent(cell, 3, 4, bidirectional=True).double()
    initial = tuple(torch.randn(2, 2, 4, dtype=torch.float64) for _ in cell.states)
    tr = rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64), initial)
    memory = tr.memory("c")
    assert off(memory["written"].sum(3) + memory.initial, tr.sel("c", time="last")) < 1e-13
    powers = torch.tensor([factor**k for k in (4, 3, 2, 1, 0)], dtype=torch.float64)
    assert off(memory["kept"][0, 0, 0, :, 0], powers) < 1e-15
    assert off(memory.initial[0, 0], factor**5 * tr.call.initial["c"][0, 0]) < 1e-13


@pytest.mark.parametrize("name", ["squared", "through a function"])
def test_what_is_no_sum_over_the_past(name: str) -> None:
    c = previous("c")
    step = c * c if name == "squared" else tanh(c) + from_x("g")
    equations = {"g": tanh(from_x("g") + from_h("g")), "c": step, "h": tanh(quantity("c"))}
    cell = Cell(name="own", gates="g", equations=equations)
    tr = rs.trace(rs.Recurrent(cell, 3, 4), torch.randn(5, 2, 3))
    with pytest.raises(rs.AddressError, match=r"in own .*computed otherwise"):
        tr.memory("c")


def test_memory_as_a_text() -> None:
    """Counted by hand: c is halved at each step, and 1 is added at the third of five."""
    gates = {name: from_x(name) + from_h(name) for name in "g"}
    equations = {**gates, "c": 0.5 * previous("c") + quantity("g"), "h": quantity("c") * 1.0}
    layer = rs.Recurrent(Cell(name="half", gates="g", equations=equations), 1, 1, bias=False)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
        layer.weight_hh_l0.zero_()
    x = torch.zeros(5, 1, 1)
    x[2] = 1.0
    text = str(rs.trace(layer, x).memory("c"))
    assert "half of it was written in the last 3 steps, nine tenths in the last 3 steps" in text
    assert "0% is left of c_0" in text
    initial = (torch.zeros(1, 1, 1), torch.full((1, 1, 1), 8.0))  # c_0 leaves 8/32, x leaves 1/4
    text = str(rs.trace(layer, x, initial).memory("c"))
    assert "half of it was written in the last 3 steps; 50% is left of c_0" in text


# ── refused ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("of", "to", "place", "says"),
    [
        ("i", "h", {"layer": 0}, "a Jacobian is of a state.*h or c; got 'i'"),
        ("h", "q", {"layer": 0}, "no quantity 'q'; there are"),
        ("h", "h", {}, "choose a layer: write layer=0 or layer=1"),
        ("h", "h", {"layer": 0, "direction": None}, "choose a direction: write direction="),
        ("h", "h", {"layer": 0, "direction": "up"}, "direction is 'up'"),
        ("h", "h", {"layer": 0, "to_layer": 1}, "layer 0 does not depend on layer 1"),
        ("h", "h", {"layer": 1, "to_layer": 0}, "choose a direction"),
        ("h", "h", {"layer": 1, "to_direction": "reverse"}, "directions do not depend on each"),
        ("h", "h", {"layer": 1, "time": 5}, "time=5 of batch 0 is padding.*length 4"),
        ("h", "h", {"layer": 1, "time": "first"}, '"last"; got'),
        ("h", "h", {"layer": 1, "batch": slice(7, 9)}, "selects no sequence of 2"),
        ("h", "h_0", {"layer": 1, "to_time": 0}, "h_0 is the state before the first step"),
    ],
)
def test_jacobians_that_there_are_not(of: str, to: str, place: dict[str, Any], says: str) -> None:
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    tr = rs.trace(lstm, pack_sequence([torch.randn(n, 3) for n in (4, 6)], enforce_sorted=False))
    with pytest.raises(rs.AddressError, match=says):
        tr.jacobian(of, to, **{"direction": "forward", **place})


def test_flow_and_memory_that_there_are_not() -> None:
    tr = rs.trace(nn.RNN(3, 4), torch.randn(5, 2, 3))
    with pytest.raises(rs.AddressError, match=r"h_0.*has no time"):
        tr.flow("h", "h_0")
    with pytest.raises(rs.AddressError, match=r"in RNN h is computed otherwise\. tr\.flow"):
        tr.memory()
    lstm = rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    with pytest.raises(
        rs.AddressError,
        match=r"in LSTM h is computed otherwise\. c is such a sum: tr\.memory\('c'\)",
    ):
        lstm.memory("h")
    with pytest.raises(rs.AddressError, match="got 'f'"):
        lstm.memory("f")
    with pytest.raises(rs.GradientError, match="equations do not hold"):
        lstm.rerun(rs.Edit("c", to=0.0)).memory()


def test_a_sequence_with_nan_takes_no_other_with_it() -> None:
    x = torch.randn(5, 2, 3)
    x[2, 0, 0] = torch.nan
    flow = rs.trace(nn.LSTM(3, 4), x).flow(time="last")
    alone = rs.trace(nn.LSTM(3, 4), x[:, 1:]).flow(time="last")
    assert flow[0].isnan().any()
    assert flow[1].isfinite().all()
    assert flow[1].shape == alone[0].shape
