"""Planted faults: what would make a trace wrong makes it raise, and say where.

Each fault is one that a person could make in rnnscope's own code: the tests alter it on purpose.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from configurations import Case, Configuration, build
from torch import Tensor, nn

import rnnscope as rs
from rnnscope._layers import adopt, structure
from rnnscope._opening import buffers, capture
from rnnscope._opening import part as direction
from rnnscope.cells import cells, from_h, from_x, sigmoid, tanh
from rnnscope.cells.algebra import Expr, Previous, Quantity

A_PLACE = r"at layer \d, (forward|reverse), batch \d, time=\d"
DTYPES = (torch.float64, torch.float32)
i, f, g, o, c, r, z, n = (Quantity(name) for name in "ifgocrzn")
h_prev, c_prev = Previous("h"), Previous("c")


def case_of(cell: str, dtype: torch.dtype = torch.float64, **options: Any) -> Case:
    """Two directions, given initial states and unsorted lengths, unless told otherwise."""
    defaults = {"bidirectional": True, "initial": True, "call": "packed"}
    return build(Configuration(cell, 3, dtype=dtype, **(defaults | options)))


def refused(case: Case, **options: Any) -> str:
    with pytest.raises(rs.VerificationError, match=A_PLACE) as raised:
        rs.trace(case.layer, *case.args, **case.kwargs, **options)
    return str(raised.value)


# ── declarations ─────────────────────────────────────────────────────────────────────────────

DECLARED = {
    "rnn_tanh": "RNN_TANH",
    "rnn_relu": "RNN_RELU",
    "gru": "GRU",
    "lstm": "LSTM",
    "lstm_proj": "LSTM_PROJECTED",
}


def declare(monkeypatch: pytest.MonkeyPatch, cell: str, **changed: Any) -> None:
    """The cell that rnnscope takes for this layer, altered."""
    name = DECLARED[cell]
    declared = replace(getattr(cells, name), **changed)
    for module in (adopt, structure):
        monkeypatch.setattr(module, name, declared, raising=False)


def swapped(gates: str) -> list[str]:
    """The gates with two of them exchanged, in every way."""
    found = []
    for one, other in itertools.combinations(range(len(gates)), 2):
        order = list(gates)
        order[one], order[other] = order[other], order[one]
        found.append("".join(order))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("cell", "gates"),
    [
        *(("gru", gates) for gates in swapped("rzn")),
        *(("lstm", gates) for gates in swapped("ifgo")),
        *(("lstm_proj", gates) for gates in swapped("ifgo")),
    ],
)
def test_swapped_gates(
    cell: str, gates: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(cell, dtype)
    rs.trace(case.layer, *case.args, **case.kwargs)
    declare(monkeypatch, cell, gates=gates)
    refused(case)


EQUATIONS: dict[str, tuple[str, dict[str, Expr]]] = {
    "relu for tanh": ("rnn_tanh", {"h": cells.relu(from_x("h") + from_h("h"))}),
    "tanh for relu": ("rnn_relu", {"h": tanh(from_x("h") + from_h("h"))}),
    "the state forgotten": ("rnn_tanh", {"h": tanh(from_x("h") + 0 * from_h("h"))}),
    "the state subtracted": ("rnn_relu", {"h": cells.relu(from_x("h") - from_h("h"))}),
    "reset before the product": ("gru", {"n": tanh(from_x("n") + from_h("n", r * h_prev))}),
    "reset of both parts": ("gru", {"n": tanh(r * from_x("n") + r * from_h("n"))}),
    "z and 1 - z exchanged": ("gru", {"h": z * n + (1 - z) * h_prev}),
    "n by sigmoid": ("gru", {"n": sigmoid(from_x("n") + r * from_h("n"))}),
    "g by sigmoid": ("lstm", {"g": sigmoid(from_x("g") + from_h("g"))}),
    "f and i exchanged in c": ("lstm", {"c": i * c_prev + f * g}),
    "coupled gates": ("lstm", {"c": f * c_prev + (1 - f) * g}),
    "no tanh of c": ("lstm", {"h": o * c}),
    "o by tanh": ("lstm_proj", {"o": tanh(from_x("o") + from_h("o"))}),
    "no tanh of c before the projection": ("lstm_proj", {"m": o * c}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", EQUATIONS)
def test_wrong_equations(fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, changed = EQUATIONS[fault]
    case = case_of(cell, dtype)
    rs.trace(case.layer, *case.args, **case.kwargs)
    right = getattr(cells, DECLARED[cell]).equations
    assert set(changed) <= set(right)
    declare(monkeypatch, cell, equations={**right, **changed})
    refused(case)


# ── what goes in ─────────────────────────────────────────────────────────────────────────────


def wrong_initial(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    right = adopt.Adopted._initial

    def initial(*args: Any, **kwargs: Any) -> Any:
        states, given = right(*args, **kwargs)
        return {name: change(value) for name, value in states.items()}, given

    return initial


@pytest.mark.parametrize("cell", DECLARED)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(torch.zeros_like, id="zeros"),
        pytest.param(lambda s: s.roll(1, 2), id="of another sequence"),
        pytest.param(lambda s: s.flip(1), id="of the other direction"),
        pytest.param(lambda s: s.roll(1, 0), id="of another layer"),
    ],
)
def test_wrong_initial_states(
    cell: str, change: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(cell)
    monkeypatch.setattr(adopt.Adopted, "_initial", wrong_initial(change))
    refused(case)


@pytest.mark.parametrize("state", ["h", "c"])
def test_one_wrong_initial_state(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("lstm")
    right = adopt.Adopted._initial

    def initial(*args: Any, **kwargs: Any) -> Any:
        states, given = right(*args, **kwargs)
        states[state][1, 1, 2, 3] += 0.01
        return states, given

    monkeypatch.setattr(adopt.Adopted, "_initial", initial)
    # all that follows from the layers below is right, and so it is the first place that is named:
    # reverse, where a sequence starts at its end (the third has one step)
    assert "at layer 1, reverse, batch 2, time=0" in refused(case)


@pytest.mark.parametrize("cell", DECLARED)
def test_stale_weights(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of the last call's weights, taken for this call's."""
    case = case_of(cell)
    kept = rs.trace(case.layer, *case.args, **case.kwargs)
    with torch.no_grad():
        case.layer.weight_hh_l1[2, 3] += 0.01
    monkeypatch.setattr(capture.Snapshot, "equals", lambda *_: True)
    # layer 2, whose input comes from layer 1, would fail as well: the first place is named
    assert re.search("first at layer 1", refused(case))
    del kept  # the copy lives as long as a trace holds it


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_first_step_that_fails_is_named(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that meets only one feature, which is zero until step 4 of 9 (of 0 to 8)."""
    layer = torch.nn.LSTM(2, 5, bidirectional=True)
    x = torch.randn(9, 3, 2)
    x[:4, :, 1] = 0
    x[5:, :, 1] = 0
    kept = rs.trace(layer, x)
    with torch.no_grad():
        layer.get_parameter(f"weight_ih_l0{'_reverse' if direction == 'reverse' else ''}")[
            :, 1
        ] += 1
    monkeypatch.setattr(capture.Snapshot, "equals", lambda *_: True)
    with pytest.raises(rs.VerificationError, match=rf"first at layer 0, {direction}, .*time=4"):
        rs.trace(layer, x)
    del kept


@pytest.mark.parametrize("cell", DECLARED)
def test_wrong_dropout_masks(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(cell, training=True)
    rs.trace(case.layer, *case.args, **case.kwargs)
    right = capture._masks

    def others(*args: Any) -> tuple[Tensor, ...]:
        masks = right(*args)
        assert masks is not None
        return tuple(mask.flip(0) for mask in masks)

    monkeypatch.setattr(capture, "_masks", others)
    assert re.search("at layer [12]", refused(case))


# ── where things stand ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cell", DECLARED)
def test_inputs_off_by_one(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(cell, call="batched")
    right = adopt.Adopted.call
    monkeypatch.setattr(
        adopt.Adopted,
        "call",
        lambda *args: replace(call := right(*args), x=call.x.roll(1, 0)),
    )
    refused(case)


@pytest.mark.parametrize("cell", DECLARED)
def test_states_off_by_one(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of the step itself, or of two steps before, taken for the state before: where torch
    opens, as the kernel takes its places by itself."""
    monkeypatch.setenv("RNNSCOPE_ENGINE", "torch")
    case = case_of(cell, call="batched")
    right = direction.Direction._place

    def place(self: Any, name: str, start: int, stop: int) -> Tensor:
        if name != "h":
            return right(self, name, start, stop)
        step = 1 if self.reverse else -1
        return right(self, name, start + step, stop + step)

    monkeypatch.setattr(direction.Direction, "_place", place)
    refused(case)


@pytest.mark.parametrize("cell", DECLARED)
@pytest.mark.parametrize("call", ["batched", "packed"])
def test_wrong_direction(cell: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reverse direction opened as if it ran forward."""
    case = case_of(cell, call=call)
    right = direction.Direction.__init__

    def forward(self: Any, *args: Any) -> None:
        right(self, *args)
        self.reverse = False

    monkeypatch.setattr(direction.Direction, "__init__", forward)
    assert "reverse" in refused(case)


@pytest.mark.parametrize("cell", DECLARED)
def test_exchanged_directions(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The halves of the layer's output exchanged."""
    case = case_of(cell)
    right = adopt.Adopted.returned

    def exchanged(self: Any, *args: Any) -> Any:
        found = right(self, *args)
        return replace(found, h=torch.cat(found.h.chunk(2, -1)[::-1], dim=-1))

    monkeypatch.setattr(adopt.Adopted, "returned", exchanged)
    assert "at layer 2" in refused(case)


@pytest.mark.parametrize("cell", DECLARED)
def test_exchanged_directions_between_layers(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(cell)
    right = buffers.Buffers.input_of

    def exchanged(self: Any, layer: int) -> Callable[[int, int], Tensor]:
        block = right(self, layer)
        return lambda start, stop: torch.cat(block(start, stop).chunk(2, -1)[::-1], dim=-1)

    monkeypatch.setattr(buffers.Buffers, "input_of", exchanged)
    refused(case)


@pytest.mark.parametrize("cell", DECLARED)
def test_reverse_from_the_end_of_the_padding(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reverse direction of a short sequence begun at the end of the longest."""
    case = case_of(cell)
    right = adopt.Adopted.call
    monkeypatch.setattr(adopt.Adopted, "call", lambda *args: replace(right(*args), lengths=None))
    refused(case)


def test_the_layer_itself_altered() -> None:
    """A user's hook that alters the output: the layer's own numbers are the ones that count."""
    layer = nn.GRU(3, 4)
    x = torch.randn(5, 2, 3)
    handle = layer.register_forward_hook(lambda _m, _i, out: (out[0] + 1, out[1]))
    tr = rs.trace(layer, x)
    handle.remove()
    output, _ = layer(x)
    assert torch.equal(tr.sel("h", layer=0, direction="forward"), output.transpose(0, 1))


# ── the place ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cell", DECLARED)
@pytest.mark.parametrize("way", [0, 1])
def test_the_place_is_the_one(cell: str, way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single number of the layer's output altered, by too little to matter anywhere else."""
    case = case_of(cell, call="batched")
    right = adopt.Adopted.returned

    def altered(self: Any, *args: Any) -> Any:
        found = right(self, *args)
        h = found.h.clone()
        h[3, 2, way * self.output_size + 1] += 1e-6
        return replace(found, h=h)

    monkeypatch.setattr(adopt.Adopted, "returned", altered)
    found = re.search(r"layer (\d), (\w+), batch (\d), time=(\d)", refused(case))
    assert found is not None
    # the step itself, or the one that starts from it
    next_step = "4" if way == 0 else "2"
    name = ("forward", "reverse")[way]
    assert found.groups() in {("2", name, "2", "3"), ("2", name, "2", next_step)}


# ── what the ordinary check cannot see ───────────────────────────────────────────────────────


def saturated(dtype: torch.dtype, hidden_by: str) -> tuple[nn.LSTM, Tensor, tuple[Tensor, Tensor]]:
    """An LSTM whose c shows in no h, and is forgotten before the end.

    Hidden by tanh: c starts at 100 and stays there, where its tanh is 1 whatever it is. Hidden
    by the output gate: o is σ(-2000), which is 0. The last step's input closes i and f.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layer = nn.LSTM(2, 3, dtype=dtype)
        x = torch.randn(6, 2, 2, dtype=dtype)
        x[:, :, 1] = 0
        x[-1, :, 1] = 1
    with torch.no_grad():
        layer.bias_ih_l0[3:6] = 50  # f is 1
        layer.weight_ih_l0[:6, 1] = -2_000  # i and f are 0 where the second feature is 1
        if hidden_by == "o":
            layer.bias_ih_l0[9:] = -2_000
    c_0 = torch.full((1, 2, 3), 100.0 if hidden_by == "tanh" else 0.5, dtype=dtype)
    return layer, x, (torch.zeros_like(c_0), c_0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden_by", ["tanh", "o"])
@pytest.mark.parametrize("wrong", [f * c_prev + 2 * (i * g), f * c_prev + -1 * (i * g)])
def test_what_thorough_sees(
    dtype: torch.dtype, hidden_by: str, wrong: Expr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong c that neither h nor the last c shows."""
    layer, x, initial = saturated(dtype, hidden_by)
    assert rs.trace(layer, x, initial, check="thorough").proofs["c"].every_step
    right = rs.trace(layer, x, initial)["c"]
    declare(monkeypatch, "lstm", equations={**cells.LSTM.equations, "c": wrong})
    unseen = rs.trace(layer, x, initial)  # no error: the ordinary check proves h, and c at the end
    assert (unseen["c"] - right).abs().max() > 0.1
    assert "c at the end" in unseen.proof
    case = Case(layer, (x, initial), {}, x, None, None)
    assert refused(case, check="thorough").startswith("c by the equations")


def test_gates_without_effect_are_beyond_any_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where z is exactly 1 a GRU's n reaches no state: torch returns nothing that depends on it."""
    layer = nn.GRU(2, 3)
    with torch.no_grad():
        layer.bias_ih_l0[3:6] = 200
    x = torch.randn(4, 2, 2)
    equations = {**cells.GRU.equations, "n": sigmoid(from_x("n"))}
    declare(monkeypatch, "gru", equations=equations)
    tr = rs.trace(layer, x, check="thorough")
    assert (tr["z"] == 1).all()
    assert set(tr.proofs) == {"h"}


@pytest.mark.parametrize("check", [True, "thorough"])
def test_what_a_bound_cannot_show_is_not_called_equal(check: bool | str) -> None:
    """Where two outliers nearly cancel, rounding reaches the states: an error of 0.3 passes, and is
    said. An outlier alone saturates every gate, whatever the rounding."""
    layer = torch.nn.LSTM(3, 4)
    with torch.no_grad():
        layer.weight_ih_l0[:, 1] = -layer.weight_ih_l0[:, 0]
    x = torch.randn(10, 2, 3)
    x[5, 0, :2] = 1e20
    alone = rs.trace(layer, x.clone().index_fill_(2, torch.tensor([1]), 0.0), check=check)
    assert alone.proofs["h"].loose == 0
    assert "h at every step" in alone.proof
    with torch.no_grad():
        tr = rs.trace(layer, x, check=check)
    proof = tr.proofs["h"]
    assert 0 < proof.loose < proof.places
    shown = f"h at {proof.places - proof.loose} of {proof.places} steps (at the others rounding"
    assert shown in tr.proof
    everywhere = rs.trace(layer, x * 0 + 1e30 * torch.randn(10, 2, 3), check=check)
    assert "allows nan" not in everywhere.proof
    assert not math.isnan(everywhere.tolerance)


def test_the_proof_says_what_stands_at_the_place_that_it_names() -> None:
    x = torch.tensor([[[1.0], [math.inf], [math.nan]]])
    tr = rs.trace(nn.RNN(1, 1, batch_first=True), x)
    assert tr.nonfinite is not None
    assert tr.nonfinite.startswith("inf first in x")
    assert "time=1" in tr.nonfinite


def test_where_no_step_is_proven_what_the_steps_show_is_told() -> None:
    """Not the last state's, which is a copy and differs by nothing."""
    torch.manual_seed(0)
    tr = rs.trace(nn.GRUCell(3, 4).bfloat16(), torch.randn(2, 3).bfloat16())
    assert tr.proof.startswith("Not verified")
    assert tr.deviation is not None
    assert tr.deviation > 0
    assert f"largest difference {tr.deviation:.0e}" in tr.proof
