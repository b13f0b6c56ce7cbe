"""What the numbers show beside a mistake of the catalogue, or beside each other: both are named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from restated import Array, Restated, drawn, layer_of, recorded, sigma

import rnnscope as rs
from rnnscope._compare.candidate.inputs import given_inputs
from rnnscope._compare.candidate.recorded import OfArrays
from rnnscope._compare.facts import explained_beside
from rnnscope._compare.search.search import Search
from rnnscope._layers.adopt import adopt

SLOW = pytest.mark.slow
Weights = Callable[[dict[str, Array]], dict[str, Array]]


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


# --- mistakes of the catalogue --------------------------------------------------------------------


def ordered(order: tuple[int, ...]) -> Weights:
    """The gates' rows in another order."""

    def change(w: dict[str, Array]) -> dict[str, Array]:
        parts = {name: np.split(value, len(order)) for name, value in w.items()}
        return {name: np.concatenate([rows[k] for k in order]) for name, rows in parts.items()}

    return change


def no_second_bias(w: dict[str, Array]) -> dict[str, Array]:
    return {n: 0 * v if n.startswith("bias_hh") else v for n, v in w.items()}


class ResetBefore(Restated):
    """A GRU of the paper."""

    def _step(self, w: Any, x: Array, state: dict[str, Array]) -> tuple[dict[str, Array], Array]:
        h = state["h"]
        a = x @ w["weight_ih"].T + w["bias_ih"] + w["bias_hh"]
        W_r, W_z, W_n = np.split(w["weight_hh"], 3)
        a_r, a_z, a_n = np.split(a, 3, -1)
        r, z = sigma(a_r + h @ W_r.T), sigma(a_z + h @ W_z.T)
        h = ((1 - z) * np.tanh(a_n + (r * h) @ W_n.T) + z * h).astype(x.dtype)
        return {"h": h}, h


MISTAKES: dict[str, dict[str, Weights | None]] = {
    "lstm": {"gate_order": ordered((0, 1, 3, 2)), "bias_missing": no_second_bias},
    "gru": {"gate_order": ordered((1, 0, 2)), "reset_before": None},
    "rnn": {"bias_missing": no_second_bias},
}


def port(layer: Any, kind: str, mistake: str, **options: Any) -> Restated:
    """A port with a mistake, and what else is wrong."""
    change, own = MISTAKES[kind][mistake], options.pop("weights", lambda w: w)
    if change is None:
        return ResetBefore(layer, weights=own, **options)
    return Restated(layer, weights=lambda w: change(own(w)), **options)


# --- what the numbers show ------------------------------------------------------------------------


def on_output(function: Callable[[Array], Array]) -> dict[str, Any]:
    return {"returned": lambda y, states: (function(y).astype(y.dtype), states)}


def wiped(y: Array) -> Array:
    y = y.copy()
    y[5:, 1] = y[7:, 2] = 0
    return y


def first_half_twice(y: Array) -> Array:
    return np.concatenate([np.split(y, 2, -1)[0]] * 2, -1)


EPISODES = ((3, 1), (5, 2), (7, 1))
CHUNKS = {"begins": lambda time, row: time > 0 and time % 4 == 0}
SHOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "chunks": ("begins_anew", CHUNKS),
    "wiped once": ("begins_anew", {"begins": lambda time, row: time == 5}),
    "episodes": ("begins_anew", {"begins": lambda time, row: (time, row) in EPISODES}),
    "factor": ("scaled", on_output(lambda y: y * np.float32(1.25))),
    "constant": ("moved", on_output(lambda y: y + np.float32(0.1))),
    "tanh": ("function_on_top", on_output(np.tanh)),
    "relu": ("function_on_top", on_output(lambda y: np.maximum(y, 0))),
    "zeros": ("wiped", on_output(wiped)),
    "start": ("steps_missing", {"steps": lambda back, T: range(1, T)}),
    "halves": ("halves", on_output(first_half_twice)),
    "loop": (
        "steps_missing",
        {"steps": lambda back, T: range(T - 1, 0, -1) if back else range(T)},
    ),
    "holds": ("parameter", {"weights": lambda w: w | {"weight_hh_l1": w["weight_hh_l0"]}}),
    "zero": ("parameter", {"weights": lambda w: w | {"weight_ih_l1": 0 * w["weight_ih_l1"]}}),
    "between": ("scaled", {"between": lambda y: y * np.float32(1 / 0.7)}),
}
ONE_WAY = ("chunks", "episodes", "factor", "constant", "tanh", "relu", "zeros", "start")
TWO_WAYS = ("wiped once", "factor", "tanh", "halves", "loop")
STACKED = ("chunks", "factor", "start", "holds", "zero", "between")
QUICK = {("gru", 1, False, "episodes", "reset_before"), ("rnn", 1, False, "tanh", "bias_missing")}
CASES = [
    pytest.param(*case, marks=() if case in QUICK else SLOW)
    for kind, mistakes in MISTAKES.items()
    for layers, two, names in ((1, False, ONE_WAY), (1, True, TWO_WAYS), (2, False, STACKED))
    for name in names
    for mistake in mistakes
    for case in [(kind, layers, two, name, mistake)]
]


@pytest.mark.parametrize(("kind", "layers", "two", "name", "mistake"), CASES)
def test_both_are_named(kind: str, layers: int, two: bool, name: str, mistake: str) -> None:
    layer = layer_of(kind, num_layers=layers, bidirectional=two)
    cause, options = SHOWN[name]
    candidate = port(layer, kind, mistake, **options)
    x, initial = drawn(layer)
    verdict = rs.compare(recorded(candidate, x, initial), layer, x, initial)
    assert sorted(c.name for c in verdict.causes) == sorted([cause, mistake]), str(verdict)
    assert "together leave" in plain(verdict)
    assert verdict.explanations[0].left < 1e-5


@pytest.mark.parametrize("kind", [pytest.param("lstm", marks=SLOW), "rnn"])
def test_both_are_named_of_what_is_called(kind: str) -> None:
    layer = layer_of(kind)
    candidate = port(layer, kind, "bias_missing", **CHUNKS, **on_output(lambda y: y))

    def mine(x: Any, initial: Any = None) -> Any:
        return candidate(x, initial)

    verdict = rs.compare(mine, layer)
    assert sorted(c.name for c in verdict.causes) == ["begins_anew", "bias_missing"]
    assert "set to zero inside the sequence, before time 4" in plain(verdict)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y * np.float32(1 / 0.9),
        pytest.param(np.tanh, marks=SLOW),
        pytest.param(lambda y: y + np.float32(0.5), marks=SLOW),
    ],
)
def test_two_that_the_numbers_show(function: Any) -> None:
    """A state that begins anew, and a factor, a function or a constant on the output."""
    layer = layer_of("gru")
    x, initial = drawn(layer)
    candidate = Restated(layer, **CHUNKS, **on_output(function))
    verdict = rs.compare(recorded(candidate, x, initial)["output"], layer, x, initial)
    names = [c.name for c in verdict.causes]
    assert names[1] == "begins_anew", str(verdict)
    assert names[0] in ("scaled", "moved", "function_on_top")


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("turned", ["x", "output", "both"])
@pytest.mark.parametrize("weights", [None, "order"])
def test_time_turned_round_in_a_long_recording(kind: str, turned: str, weights: str | None) -> None:
    """Its first steps, with which mistakes are searched, depend on the last ones."""
    layer = layer_of(kind)
    order = {"gru": (1, 0, 2), "lstm": (0, 1, 3, 2)}[kind]
    candidate = Restated(layer, weights=ordered(order) if weights else lambda w: w)
    x, initial = drawn(layer, batch=3, steps=25)
    numbers = recorded(candidate, x.flip(0) if turned != "output" else x, initial)
    if turned != "x":
        numbers["output"] = numbers["output"][::-1].copy()
    verdict = rs.compare(numbers, layer, x, initial)
    expected = ["gate_order", "time_reversed"] if weights else ["time_reversed"]
    assert sorted(c.name for c in verdict.causes) == expected, str(verdict)


def test_recorded_gates_beside_time_turned_round() -> None:
    """What a model with another x gives is asked for with its gates."""
    layer = layer_of("gru")
    x, initial = drawn(layer, batch=3, steps=25)
    gates = rs.trace(layer, x.flip(0), initial)
    numbers = {"output": gates.output.detach(), "r": gates["r"], "z": gates["z"]}
    verdict = rs.compare(numbers, layer, x, initial)
    assert [c.name for c in verdict.causes] == ["time_reversed"], str(verdict)
    moved = rs.compare({**numbers, "r": 0.9 * gates["r"]}, layer, x, initial)
    assert not moved.agrees


def test_some_rows_wrong_beside_a_mistake_in_all() -> None:
    """From row 2 on the input is reversed in time too."""
    layer = layer_of("gru")
    candidate = port(layer, "gru", "reset_before")
    x, initial = drawn(layer, batch=4)
    turned = torch.cat([x[:, :2], x[:, 2:].flip(0)], 1)
    numbers = recorded(candidate, turned, initial)
    verdict = rs.compare(numbers, layer, x, initial)
    assert sorted(c.name for c in verdict.causes) == ["reset_before", "time_reversed"]
    assert "in rows 2 and 3 alone, the input is reversed in time" in plain(verdict)


# --- no false cause -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        lambda y: y + 1e-3 * np.sin(37 * np.arange(y.size)).reshape(y.shape),
        pytest.param(
            lambda y: np.where(np.arange(len(y))[:, None, None] > 4, y * y, y), marks=SLOW
        ),
        pytest.param(lambda y: np.maximum(y, 0) + np.float32(0.01) * y, marks=SLOW),
    ],
)
def test_what_is_odd_beside_a_mistake_gets_no_cause(odd: Any) -> None:
    layer = layer_of("rnn")
    x, initial = drawn(layer)
    candidate = port(layer, "rnn", "bias_missing", **on_output(odd))
    assert not rs.compare(recorded(candidate, x, initial), layer, x, initial).causes


def test_final_states_that_are_odd_are_no_factor_of_the_output() -> None:
    layer = layer_of("rnn")
    x, initial = drawn(layer)
    candidate = Restated(layer, returned=lambda y, states: (y, [states[0] ** 2]))
    assert not rs.compare(recorded(candidate, x, initial), layer, x, initial).causes


# --- nothing without effect -----------------------------------------------------------------------


def over_the_batch(kind: str) -> Any:
    """A scan over the first axis, which is the batch, from zeros as many as there are steps."""

    def mine(x: Array, initial: Any, weights: dict[str, Array]) -> Array:
        W, U, b, d = (weights[n] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = c = np.zeros((x.shape[1], U.shape[1]), x.dtype)
        ys = []
        for v in x:
            a, u = v @ W.T + b, h @ U.T + d
            if kind == "lstm":
                i, f, g, o = np.split(a + u, 4, -1)
                c = sigma(f) * c + sigma(i) * np.tanh(g)
                h = sigma(o) * np.tanh(c)
            elif kind == "gru":
                (a_r, a_z, a_n), (u_r, u_z, u_n) = np.split(a, 3, -1), np.split(u, 3, -1)
                z = sigma(a_z + u_z)
                h = (1 - z) * np.tanh(a_n + sigma(a_r + u_r) * u_n) + z * h
            else:
                h = np.tanh(a + u)
            ys.append(h)
        return np.stack(ys)

    def named(x: Array, initial: Any, weights: dict[str, Array]) -> Array:
        return mine(x, initial, {name.removesuffix("_l0"): v for name, v in weights.items()})

    return named


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_scan_over_the_batch_that_starts_from_zeros(kind: str, given: bool) -> None:
    """States that are not used may be as many as there are steps."""
    layer = layer_of(kind, batch_first=True)
    verdict = rs.compare(over_the_batch(kind), layer, torch.randn(6, 9, 3) if given else None)
    assert sorted(c.name for c in verdict.causes) == ["axes_exchanged", "initial_ignored"]


@pytest.mark.parametrize("kind", ["lstm", "rnn"])
def test_what_changes_nothing_stands_beside_no_mistake(kind: str) -> None:
    """Two biases that are added can be exchanged: nothing changes with that."""
    layer = layer_of(kind)
    x = torch.randn(6, 5, 3)
    with torch.no_grad():
        output = layer(x.transpose(0, 1))[0].transpose(0, 1)
    adopted = adopt(layer)
    subject = OfArrays(output, adopted, given_inputs(adopted, x, None, None), None)
    model, shown = subject.model, subject.shown()
    beside = explained_beside(Search(model, shown), shown, 1.0)
    assert beside is not None
    told, _ = beside
    assert [cause.name for cause, _ in told] == ["axes_exchanged"]


# --- one layer's numbers in another ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_parameter_of_another_layer_beside_a_mistake_in_all(kind: str) -> None:
    """The second layer has W_hh of the first, and every layer's gates are in another order."""
    layer = getattr(torch.nn, kind.upper())(10, 20, num_layers=2)
    wrong = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in wrong.parameters():
            first, second, *others = parameter.chunk(4 if kind == "lstm" else 3)
            parameter.copy_(torch.cat([second, first, *others]))
        wrong.weight_hh_l1.copy_(wrong.weight_hh_l0)

    def port(x: Any, initial: Any = None) -> Any:
        with torch.no_grad():
            return wrong(x, initial)

    verdict = rs.compare(port, layer)
    assert [cause.name for cause in verdict.causes] == ["gate_order", "parameter"]
    assert "weight_hh_l1 holds" in plain(verdict)
