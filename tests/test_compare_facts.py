"""What compare reads off the numbers: causes, where two agree, what has influence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from planted import Mistake
from planting import Setting, plant
from restated import Restated, drawn, layer_of, recorded
from torch import Tensor, nn

import rnnscope as rs

SLOW = pytest.mark.slow
KINDS = [pytest.param("rnn", marks=SLOW), pytest.param("gru", marks=SLOW), "lstm"]
LAYERS = [1, pytest.param(2, marks=SLOW)]
SHAPES = [(1, False), (2, False), (1, True), (2, True)]
Wrong = Callable[..., Restated]


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


def called(candidate: Restated) -> Callable[..., Any]:
    def mine(x: Any, initial: Any = None) -> Any:
        return candidate(x, initial)

    return mine


def verdict_of(candidate: Restated, *, steps: int = 9, **options: Any) -> rs.Verdict:
    """Of recorded numbers."""
    x, initial = drawn(candidate.layer, steps)
    numbers = recorded(candidate, x, initial)
    return rs.compare(numbers, candidate.layer, x, initial, **options)


LISTED_AS = {"directions_order": "halves"}
"""Causes of the catalogue that say the same, which come first."""


def cause_of(verdict: rs.Verdict) -> str:
    assert not verdict
    assert len(verdict.explanations) == 1
    assert verdict.explanations[0].left < 1e-5
    [cause] = verdict.causes
    return LISTED_AS.get(cause.name, cause.name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "two"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=SLOW)])
def test_the_judge_is_torch_and_agrees(kind: str, layers: int, two: bool, dtype: Any) -> None:
    layer = layer_of(kind, num_layers=layers, bidirectional=two).to(dtype)
    x, initial = drawn(layer)
    numbers = recorded(Restated(layer), x, initial)
    with torch.no_grad():
        assert np.abs(numbers["output"] - layer(x, initial)[0].numpy()).max() < 1e-5
    verdict = rs.compare(numbers, layer, x, initial)
    assert verdict, verdict
    assert not verdict.agreement


# --- a state that begins anew ---------------------------------------------------------------------


def chunks(layer: nn.Module, **options: Any) -> Restated:
    return Restated(layer, begins=lambda time, row: time > 0 and time % 4 == 0, **options)


EPISODES = ((3, 1), (5, 2), (7, 1))


def episodes(layer: nn.Module, **options: Any) -> Restated:
    return Restated(layer, begins=lambda time, row: (time, row) in EPISODES, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", LAYERS)
def test_a_state_that_begins_anew_in_every_chunk(kind: str, layers: int) -> None:
    layer = layer_of(kind, num_layers=layers)
    verdict = verdict_of(chunks(layer), steps=14)
    assert cause_of(verdict) == "begins_anew"
    text = plain(verdict)
    assert "set to zero inside the sequence, before times 4, 8 and 12 (every 4 steps)" in text
    again = ", again from 8 and 12 (every 4 steps)" if layers == 1 else " on"
    assert f"times 0 to 3 in every row; wrong from 4{again}" in text
    assert cause_of(rs.compare(called(chunks(layer)), layer)) == "begins_anew"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", LAYERS)
def test_chunks_of_both_directions(kind: str, layers: int) -> None:
    """Each chunk is run by itself in both directions."""
    layer = layer_of(kind, num_layers=layers, bidirectional=True)

    def by_chunk(x: Any, initial: Any = None) -> Any:
        outputs = []
        for piece in torch.as_tensor(x).split(4):
            output, _ = layer(piece, None)
            outputs.append(output.detach())
        return torch.cat(outputs)

    verdict = rs.compare(by_chunk(x := drawn(layer, 11)[0]).numpy(), layer, x)
    assert cause_of(verdict) == "begins_anew"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", LAYERS)
def test_a_state_that_begins_anew_where_an_episode_starts(kind: str, layers: int) -> None:
    verdict = verdict_of(episodes(layer_of(kind, num_layers=layers)))
    assert cause_of(verdict) == "begins_anew"
    assert "in row 1 before times 3 and 7, in row 2 before time 5" in plain(verdict)
    assert "row 0, not rows 1 and 2" in plain(verdict)


@pytest.mark.parametrize("wiped", ["h", "c"])
@pytest.mark.parametrize("to_given", [False, True])
def test_one_state_alone_that_begins_anew(wiped: str, to_given: bool) -> None:
    """From h alone: c is not recorded."""
    layer = layer_of("lstm")
    x, initial = drawn(layer)
    candidate = episodes(layer, wiped=wiped, to_given=to_given)
    numbers = recorded(candidate, x, initial)["output"]
    verdict = rs.compare(numbers, layer, x, initial)
    assert cause_of(verdict) == "begins_anew"
    goal = f"{wiped}_0" if to_given else "zero"
    assert f"{wiped} alone is set to {goal} inside the sequence" in plain(verdict)


def test_an_episode_in_a_reverse_layer_and_with_padding() -> None:
    layer = layer_of("lstm")
    x, initial = drawn(layer)
    lengths = [9, 5, 8]
    numbers = recorded(episodes(layer), x, initial)["output"]
    verdict = rs.compare(numbers, layer, x, initial, lengths=lengths)
    assert cause_of(verdict) == "begins_anew"
    assert "in row 1 before time 3" in plain(verdict)
    assert "time 7" not in plain(verdict)  # padding


def test_a_cell_state_that_is_given_too() -> None:
    layer = layer_of("lstm")
    candidate, cells = chunks(layer), []
    step = candidate._step

    def keeping(w: Any, x: Any, state: Any) -> Any:
        after, h = step(w, x, state)
        cells.append(after["c"].copy())
        return after, h

    candidate._step = keeping  # type: ignore[method-assign]
    x, initial = drawn(layer, 14)
    numbers = recorded(candidate, x, initial)
    numbers["c"] = np.stack(cells, 1)[None, None]
    assert cause_of(rs.compare(numbers, layer, x, initial)) == "begins_anew"


# --- what is returned -----------------------------------------------------------------------------


def output_through(function: Callable[[Any], Any], state: bool = False) -> Any:
    def returned(y: Any, states: list[Any]) -> Any:
        if state:
            states = [np.concatenate([states[0][:-1], function(states[0][-1:])]), *states[1:]]
        return function(y), states

    return returned


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "two"), [(1, False), pytest.param(2, True, marks=SLOW)])
@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        (
            "scaled",
            lambda y: y * np.float32(1.25),
            "multiplied by 1.25 (it may be 1 / (1 - p) of dropout",
        ),
        ("scaled", lambda y: y * np.float32(-3), "multiplied by -3"),
        ("moved", lambda y: y + np.float32(0.1), "0.1 is added to the output"),
        ("function_on_top", np.tanh, "tanh is applied to the output"),
        ("function_on_top", lambda y: np.maximum(y, 0), "relu is applied to the output"),
        ("function_on_top", lambda y: 1 / (1 + np.exp(-y)), "sigmoid is applied to the output"),
    ],
)
def test_what_is_done_to_the_output(
    kind: str, layers: int, two: bool, name: str, function: Any, words: str
) -> None:
    layer = layer_of(kind, num_layers=layers, bidirectional=two)
    candidate = Restated(layer, returned=output_through(function, state=not two))
    for verdict in (verdict_of(candidate), rs.compare(called(candidate), layer)):
        assert cause_of(verdict) == name
        assert words in plain(verdict)


def test_a_factor_between_layers() -> None:
    layer = layer_of("gru", num_layers=2)
    candidate = Restated(layer, between=lambda y: y * np.float32(1 / 0.7))
    verdict = verdict_of(candidate)
    assert cause_of(verdict) == "scaled"
    assert "dropout with p = 0.3, left on) (layer 0)" in plain(verdict)


def test_dropout_in_recorded_numbers() -> None:
    layer = layer_of("lstm")
    kept = np.random.default_rng(0).random((9, 3, 4)) < 0.5
    candidate = Restated(layer, returned=lambda y, s: ((y * kept * 2).astype(y.dtype), s))
    verdict = verdict_of(candidate)
    assert cause_of(verdict) == "dropped"
    assert "dropout with p = 0.5" in plain(verdict)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("half", [0, pytest.param(1, marks=SLOW)])
def test_both_halves_are_equal(kind: str, layers: int, half: int) -> None:
    layer = layer_of(kind, num_layers=layers, bidirectional=True)
    own = slice(4 * half, 4 * half + 4)
    candidate = Restated(
        layer, returned=lambda y, s: (np.concatenate([y[..., own], y[..., own]], -1), s)
    )
    for verdict in (verdict_of(candidate), rs.compare(called(candidate), layer)):
        assert cause_of(verdict) == "halves"
        kept = ["forward", "reverse"][half]
        assert "both halves of the output are" in plain(verdict)
        assert kept in plain(verdict)


# --- steps that are zero --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize(
    ("times", "missing"),
    [
        (lambda T: range(T - 1, 0, -1), "leaves out time 0"),
        (lambda T: range(T - 2, -1, -1), "leaves out time 8"),
        (lambda T: range(T - 1, 1, -1), "leaves out times 0 and 1"),
    ],
)
def test_a_reverse_loop_that_is_too_short(kind: str, layers: int, times: Any, missing: str) -> None:
    layer = layer_of(kind, num_layers=layers, bidirectional=True)
    candidate = Restated(layer, steps=lambda back, T: times(T) if back else range(T))
    verdict = verdict_of(candidate)
    assert cause_of(verdict) == "steps_missing"
    assert f"the reverse loop {missing}" in plain(verdict)


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_that_is_zero(half: int) -> None:
    layer = layer_of("gru", num_layers=2, bidirectional=True)
    kept = np.repeat([half == 1, half == 0], 4)
    verdict = verdict_of(Restated(layer, returned=lambda y, s: (y * kept.astype(y.dtype), s)))
    assert cause_of(verdict) == "halves"
    name = ["forward", "reverse"][half]
    assert f"the {name} half of the output is zero throughout" in plain(verdict)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_begins_anew_often(kind: str) -> None:
    """At the first step too."""
    layer = layer_of(kind)
    verdict = verdict_of(Restated(layer, begins=lambda time, row: time % 2 == 0))
    assert cause_of(verdict) == "begins_anew"
    assert "before times 0, 2, 4, 6 and 8 (every 2 steps)" in plain(verdict)


def test_a_limit_that_only_large_inputs_reach() -> None:
    layer = layer_of("lstm")
    verdict = rs.compare(called(Restated(layer, limit=3.0)), layer)
    assert cause_of(verdict) == "clipped"
    assert "c is clipped at 3" in plain(verdict).replace("±", "")


def test_all_parameters_of_a_direction_are_zero() -> None:
    layer = layer_of("gru", bidirectional=True)
    verdict = verdict_of(
        Restated(
            layer, weights=lambda w: {n: v * (not n.endswith("reverse")) for n, v in w.items()}
        )
    )
    assert cause_of(verdict) == "parameter"
    assert "all parameters of layer 0, reverse, are zero" in plain(verdict)


def test_a_forward_loop_that_starts_late() -> None:
    layer = layer_of("lstm", num_layers=2)
    candidate = Restated(layer, steps=lambda back, T: range(1, T))
    for verdict in (verdict_of(candidate), rs.compare(called(candidate), layer)):
        assert cause_of(verdict) == "steps_missing"
        assert "the loop leaves out time 0" in plain(verdict)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_end_earlier(kind: str) -> None:
    layer = layer_of(kind, bidirectional=True)
    x, _ = drawn(layer)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([9, 4, 6]), enforce_sorted=False)
    output, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
    verdict = rs.compare(output.detach(), layer, x)
    assert cause_of(verdict) == "ends_earlier"
    text = plain(verdict)
    assert "the output is zero in row 1 from time 4 on, row 2 from time 6 on" in text
    assert "lengths=[9, 4, 6]" in text


def test_numbers_that_are_wiped() -> None:
    layer = layer_of("gru")

    def wiped(y: Any, states: Any) -> Any:
        y = y.copy()
        y[5, 1] = y[2, 0] = 0
        return y, states

    verdict = verdict_of(Restated(layer, returned=wiped))
    assert cause_of(verdict) == "wiped"
    assert "time 2 of row 0; time 5 of row 1" in plain(verdict)


# --- clipping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("limit", [0.61, pytest.param(1.0, marks=SLOW)])
def test_a_cell_state_that_is_clipped(layers: int, carried: bool, limit: float) -> None:
    layer = layer_of("lstm", num_layers=layers, size=1.5)
    candidate = Restated(layer, limit=limit, carried=carried)
    for verdict in (verdict_of(candidate, steps=14), rs.compare(called(candidate), layer)):
        assert cause_of(verdict) == "clipped"
        assert f"c is clipped at {limit:g}" in plain(verdict).replace("±", "")
        assert "weight_hh" not in plain(verdict)


@pytest.mark.parametrize("kind", KINDS)
def test_an_h_that_is_clipped(kind: str) -> None:
    candidate = Restated(layer_of(kind, size=1.5), limit=0.5, cut="h")
    verdict = verdict_of(candidate)
    assert cause_of(verdict) == "clipped"
    assert "h is clipped at 0.5" in plain(verdict).replace("±", "")


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            lambda w: w | {"weight_hh_l1": w["weight_hh_l0"]},
            "weight_hh_l1 holds weight_hh_l0's numbers",
        ),
        (lambda w: w | {"weight_ih_l1": 0 * w["weight_ih_l1"]}, "weight_ih_l1 is zero"),
        (
            lambda w: w | {"bias_ih_l1": w["bias_ih_l0"], "bias_ih_l0": w["bias_ih_l1"]},
            "bias_ih_l0 and bias_ih_l1 are exchanged",
        ),
    ],
)
def test_a_parameter_that_is_another(kind: str, changed: Any, words: str) -> None:
    layer = layer_of(kind, num_layers=2)
    candidate = Restated(layer, weights=changed)
    module = copy.deepcopy(layer)
    numbers = {name: value.numpy() for name, value in layer.state_dict().items()}
    held = {name: torch.tensor(value) for name, value in changed(numbers).items()}
    module.load_state_dict(held)
    for verdict in (verdict_of(candidate), rs.compare(module, layer)):
        assert cause_of(verdict) == "parameter"
        assert words in plain(verdict)


def with_gate(name: str, gate: int, of: Callable[[Any], Any], gates: int = 3) -> Any:
    """The rows of one gate changed in a parameter."""

    def changed(w: dict[str, Any]) -> dict[str, Any]:
        rows = np.split(w[name], gates)
        rows[gate] = of(rows[gate])
        return w | {name: np.concatenate(rows)}

    return changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            lambda w: w | {"weight_hh_l0": w["weight_hh_l0"] * (np.arange(6) < 4)},
            "columns 4 and 5 of weight_hh_l0 are never read",
        ),
        (
            lambda w: w | {"weight_ih_l0": w["weight_ih_l0"] * (np.arange(3) > 0)},
            "column 0 of weight_ih_l0 is never read",
        ),
        (
            lambda w: (
                w
                | {
                    "weight_ih_l0": w["weight_ih_l0"] * (np.arange(3) < 2),
                    "weight_hh_l0": w["weight_hh_l0"] * (np.arange(6) < 5),
                }
            ),
            "column 2 of W_ih and column 5 of W_hh are never read",
        ),
        (with_gate("weight_hh_l0", 2, lambda W: W.T), "W_hn is transposed in weight_hh_l0"),
        (with_gate("bias_ih_l0", 1, lambda b: 0 * b), "b_iz is zero in bias_ih_l0"),
    ],
)
def test_a_part_of_a_parameter(changed: Any, words: str) -> None:
    layer = layer_of("gru", hidden_size=6)
    for verdict in (
        verdict_of(Restated(layer, weights=changed)),
        rs.compare(called(Restated(layer, weights=changed)), layer),
    ):
        assert cause_of(verdict) in ("parameter", "unread")
        assert words in plain(verdict)


@pytest.mark.parametrize(("kind", "layers"), [(nn.LSTM, 1), (nn.GRU, 2), (nn.RNN, 2)])
def test_products_that_leave_out_the_last_columns_of_all_matrices(kind: Any, layers: int) -> None:
    """As a product in blocks of four does, which has no loop for what is behind the last block."""
    layer, x = kind(10, 10, layers), torch.randn(14, 3, 10)
    port = copy.deepcopy(layer)
    with torch.no_grad():
        for name, value in port.named_parameters():
            if name.startswith("weight"):
                value[:, 8:] = 0
    for candidate in (port(x)[0].detach(), lambda x, initial=None: port(x, initial)[0]):
        recorded = isinstance(candidate, torch.Tensor)
        verdict = rs.compare(candidate, layer, *[x] * recorded)
        assert cause_of(verdict) == "unread"
        assert "columns 8 and 9 of W_ih and W_hh are never read" in plain(verdict)


# --- what enters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("entering", "words"),
    [
        (lambda x: x / 2, "x, or weight_ih_l0, is multiplied by 0.5"),
        (
            lambda x: x * np.float32(1 / 0.9),
            "(it may be 1 / (1 - p) of dropout with p = 0.1, left on)",
        ),
        (lambda x: x + np.float32(0.25), "0.25 is added to x"),
        (lambda x: np.roll(x, 1, -1), "x is read one place too early"),
        (lambda x: x[..., ::-1], "the features of x are read in the opposite order"),
        (lambda x: x.swapaxes(0, 1).reshape(x.shape), "x is reshaped from (batch, time)"),
        (lambda x: np.repeat(x[:, :1], x.shape[1], 1), "every row reads the x of row 0"),
        (lambda x: x[np.arange(len(x)) // 2 * 2], "every second step of x is read twice"),
    ],
)
def test_what_is_read_in_place_of_x(kind: str, entering: Any, words: str) -> None:
    layer = layer_of(kind)
    candidate = Restated(layer)

    def mine(x: Any, initial: Any = None) -> Any:
        return candidate(np.ascontiguousarray(entering(np.asarray(x))), initial)

    verdict = rs.compare(mine, layer)
    assert cause_of(verdict) in ("read", "scaled", "moved")
    assert words in plain(verdict)


@pytest.mark.parametrize(
    ("entering", "words"),
    [
        (lambda x: np.concatenate([x[2:], 0 * x[:2]]), "x is read 2 steps early: x[t + 2]"),
        (lambda x: np.concatenate([x[:1], x[:1], x[:-2]]), "2 steps late: x[t - 2] at step t, the"),
        (lambda x: x * np.float32(255), "x, or weight_ih_l0, is multiplied by 255"),
    ],
)
def test_what_a_deep_layer_of_two_directions_reads_in_place_of_x(entering: Any, words: str) -> None:
    """No single step tells its x."""
    layer = layer_of("rnn", num_layers=2, bidirectional=True, size=0.3)
    x, initial = drawn(layer)
    numbers = recorded(Restated(layer), torch.from_numpy(entering(x.numpy())), initial)
    verdict = rs.compare(numbers, layer, x, initial)
    assert cause_of(verdict) in ("read", "scaled")
    assert words in plain(verdict)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (lambda s: s * np.float32(0.9), "h_0 is multiplied by 0.9"),
        (lambda s: np.repeat(s[:, :1], s.shape[1], 1), "every row starts from the h_0 of row 0"),
    ],
)
def test_what_is_read_in_place_of_initial_states(start: Any, words: str) -> None:
    layer = layer_of("gru")
    candidate = Restated(layer)

    def mine(x: Any, initial: Any) -> Any:
        return candidate(x, start(np.asarray(initial)))

    verdict = rs.compare(mine, layer)
    assert cause_of(verdict) in ("read", "scaled")
    assert words in plain(verdict)


# --- units, steps and final states ----------------------------------------------------------------


@pytest.mark.parametrize("carried", [True, False])
def test_units_that_are_never_computed(carried: bool) -> None:
    layer = layer_of("gru", hidden_size=6)
    kept = (np.arange(6) < 4).astype(np.float32)
    candidate = Restated(layer, returned=lambda y, s: (y * kept, s))
    if carried:
        candidate = Restated(layer)
        step = candidate._step

        def short(w: Any, x: Any, state: Any) -> Any:
            after, h = step(w, x, state)
            return {"h": after["h"] * kept}, h * kept

        candidate._step = short  # type: ignore[method-assign]
    verdict = verdict_of(candidate)
    assert cause_of(verdict) == "units_missing"
    assert "units 4 and 5 are zero at every step" in plain(verdict)


def test_a_state_that_stands_still() -> None:
    """A buffer that holds so many steps."""
    layer = layer_of("gru")
    candidate = Restated(layer, steps=lambda back, T: range(min(T, 5)))

    def mine(x: Any, initial: Any = None) -> Any:
        y, states = candidate(x, initial)
        y[5:] = y[4:5]
        return y, states

    x, initial = drawn(layer)
    verdict = rs.compare(recorded(mine, x, initial), layer, x, initial)
    assert cause_of(verdict) == "stands_still"
    assert "the state stands still from time 5 on" in plain(verdict)


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (lambda y, h: y.mean(0)[None], "h_n is the mean of the outputs of all steps"),
        (lambda y, h: y.max(0)[None], "h_n is the largest of the outputs of all steps"),
        (lambda y, h: np.tanh(h), "tanh is applied to h_n"),
    ],
)
def test_what_is_returned_as_h_n(pool: Any, words: str) -> None:
    layer = layer_of("rnn")
    candidate = Restated(layer, returned=lambda y, s: (y, [pool(y, s[0])]))
    verdict = verdict_of(candidate)
    assert cause_of(verdict) in ("pooled", "function_on_top")
    assert words in plain(verdict)


def test_outputs_that_are_summed_up() -> None:
    layer = layer_of("gru")
    candidate = Restated(layer, returned=lambda y, s: (y.cumsum(0), s))
    verdict = verdict_of(candidate)
    assert cause_of(verdict) == "function_on_top"
    assert "the outputs are summed up over time" in plain(verdict)


# --- where it agrees ------------------------------------------------------------------------------


def odd_steps(layer: nn.Module) -> Restated:
    """At times 3 and 8 of every row the state is halved: nothing explains that."""
    candidate = Restated(layer)
    step, count = candidate._step, iter(range(10**6))

    def halving(w: Any, x: Any, state: Any) -> Any:
        if next(count) % 5 == 3:
            state = {name: value / 2 for name, value in state.items()}
        return step(w, x, state)

    candidate._step = halving  # type: ignore[method-assign]
    return candidate


@pytest.mark.parametrize("kind", KINDS)
def test_which_times_agree(kind: str) -> None:
    """Of an LSTM too, of which c is not given."""
    layer = layer_of(kind)
    x, initial = drawn(layer, 12)
    numbers = recorded(odd_steps(layer), x, initial)["output"]
    verdict = rs.compare(numbers, layer, x, initial, effort=0)
    assert not verdict.causes
    assert verdict.agreement == ("times 0 to 2 in every row; wrong from 3, again from 8",)
    assert "weight_" not in plain(verdict)
    assert "4 of 4 units" not in plain(verdict)


def test_which_rows_and_units_agree() -> None:
    layer = layer_of("lstm")
    x, initial = drawn(layer, 9, batch=4)

    def off(y: Any, states: Any) -> Any:
        y = y.copy()
        y[:, 2:, 0] += np.random.default_rng(0).normal(size=y[:, 2:, 0].shape)
        return y, states

    numbers = recorded(Restated(layer, returned=off), x, initial)["output"]
    verdict = rs.compare(numbers, layer, x, initial, effort=0)
    assert "rows 0 and 1, not rows 2 and 3" in verdict.agreement
    assert "units 1 to 3, not unit 0" in verdict.agreement


def test_a_mistake_in_some_rows_alone() -> None:
    """As of a kernel that never comes to the last rows of a large batch."""
    layer = layer_of("gru")
    x, initial = drawn(layer, 7, batch=8)
    biased = recorded(Restated(layer), x, initial)["output"]
    bare = Restated(layer, weights=lambda w: w | {"bias_ih_l0": 0 * w["bias_ih_l0"]})
    biased[:, 5:] = recorded(bare, x, initial)["output"][:, 5:]
    verdict = rs.compare(biased, layer, x, initial, effort=0.1)
    assert cause_of(verdict) == "bias_missing"
    assert "in rows 5 to 7 alone, b_ih is missing" in plain(verdict)
    assert verdict.agreement[0] == "rows 0 to 4, not rows 5 to 7"


def test_what_is_plain_of_ones_own_numbers() -> None:
    layer = layer_of("gru", num_layers=2)
    candidate = Restated(layer, returned=lambda y, s: (0 * y, [np.stack([s[0][0]] * 2)]))
    verdict = verdict_of(candidate, effort=0)
    assert "the output is 0 throughout" in verdict.holds
    assert "h_n is the same in layer 0 and layer 1" in verdict.holds


# --- what has influence ---------------------------------------------------------------------------


class Ported(nn.Module):
    """Two layers of which the second is never used, beside a mistake that is in no list."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(3, 4), nn.GRU(4, 4)
        own = {name: value for name, value in layer.state_dict().items() if name.endswith("l0")}
        self.first.load_state_dict(own)

    def forward(self, x: Tensor, initial: Any = None) -> Tensor:
        output: Tensor = self.first(x * torch.tensor([1.0, 1.0, 0.0]))[0]
        return output - output**2


def test_a_module_whose_layer_is_never_used() -> None:
    layer = layer_of("gru", num_layers=2)
    module = Ported(layer)
    before = copy.deepcopy(module.state_dict())
    verdict = rs.compare(module, layer, effort=0)
    text = plain(verdict)
    assert "second.weight_ih_l0, second.weight_hh_l0, second.bias_ih_l0" in text
    assert "Feature 2 of x has no influence" in text
    assert "h_0 has no influence" in text
    assert "first.weight" not in text
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_function_of_weights_that_reads_late() -> None:
    layer = layer_of("rnn")

    def late(x: Any, initial: Any, weights: Any) -> Any:
        h, outputs = initial[0], []
        for x_t in x:
            outputs.append(h)
            h = torch.tanh(x_t @ weights["weight_ih_l0"].T + h @ weights["weight_hh_l0"].T) ** 3
        return torch.stack(outputs)

    text = plain(rs.compare(late, layer, effort=0))
    assert "bias_ih_l0, bias_hh_l0 have no influence" in text
    assert "the x of time t has influence from time t + 1 on" in text.lower()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "two"), SHAPES)
def test_everything_has_influence_in_what_is_wrong_elsewhere(
    kind: str, layers: int, two: bool
) -> None:
    layer = layer_of(kind, num_layers=layers, bidirectional=two)

    class Odd(type(layer)):  # type: ignore[misc]
        def forward(self, x: Any, initial: Any = None) -> Any:
            output, final = super().forward(x, initial)
            return output + output.sin() ** 2, final

    options = {"num_layers": layers, "bidirectional": two}
    module = Odd(3, 4, **options)
    module.load_state_dict(layer.state_dict())
    assert "influence" not in plain(rs.compare(module, layer, effort=0))


# --- the caller's own sizes, and what the data did not reach --------------------------------------


def test_the_references_own_sizes_are_tried_too() -> None:
    """By a function that tells matrices apart by their shapes."""
    layer = layer_of("rnn", input_size=4, hidden_size=4)

    def by_shape(x: Any, initial: Any, weights: Any) -> Any:
        h, outputs = initial[0], []
        size = x.shape[-1]
        W, *others = (w for w in (weights["weight_hh_l0"], weights["weight_ih_l0"]))
        if W.shape[1] == size:
            W_ih, W_hh = W, others[0]
        else:
            W_ih, W_hh = others[0], W
        for x_t in x:
            h = torch.tanh(
                x_t @ W_ih.T + h @ W_hh.T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
            )
            outputs.append(h)
        return torch.stack(outputs)

    verdict = rs.compare(by_shape, layer)
    assert not verdict
    assert verdict.causes[0].name in ("matrices_exchanged", "flat")
    assert rs.compare(by_shape, layer_of("rnn", input_size=5, hidden_size=4))


def test_what_the_data_did_not_reach() -> None:
    layer = layer_of("lstm")
    x, initial = drawn(layer)
    verdict = rs.compare(layer, layer, x, initial)
    assert verdict
    assert any(word.startswith("what happens where |c| exceeds ") for word in verdict.unseen)
    assert "sequences of unequal length" in verdict.unseen
    lengths = [9, 3, 4]
    far = rs.compare(layer, layer, x, (initial[0], 9 * initial[1]), lengths=lengths)
    assert far
    assert not any("unequal" in word or "exceeds" in word for word in far.unseen)


def test_data_that_can_tell_nothing() -> None:
    layer = nn.GRU(3, 4)
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    assert "all weights of the reference are equal (1)" in plain(rs.compare(layer, layer))
    layer = layer_of("gru")
    text = plain(rs.compare(layer, layer, torch.ones(5, 2, 3)))
    assert "all values of x are equal (1)" in text
    assert "can tell nothing" not in plain(rs.compare(layer, layer))


# --- beside the catalogue -------------------------------------------------------------------------

LISTED = [
    ("rnn_tanh", 1, 2, Mistake("never_carried", direction="reverse")),
    ("gru", 2, 2, Mistake("bias_missing", tensors="b_ih", layer=1, direction="reverse")),
    ("lstm", 2, 1, Mistake("layers_repeated", "0,1")),
    ("lstm", 1, 2, Mistake("directions_repeated", "forward")),
    ("lstm", 1, 1, Mistake("never_carried", "c")),
    ("gru", 1, 1, Mistake("initial_ignored", "all")),
]


@pytest.mark.parametrize(("kind", "layers", "directions", "mistake"), LISTED, ids=str)
def test_a_listed_mistake_comes_first(
    kind: str, layers: int, directions: int, mistake: Mistake
) -> None:
    setting = Setting(kind, layers, directions, dtype="float32")
    result = plant(setting, [mistake], "arrays", effort=1)
    assert result.outcome == "explained", result
    assert [cause.name for cause in result.verdict.causes] == [mistake.name]


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_a_layer_that_was_never_loaded_uses_its_weights(kind: Any) -> None:
    """Zeros in the upper layer: its output is 0 whatever the weights, its lower states are not."""

    def port(x: Any, initial: Any, weights: Any) -> Any:
        mine = kind(3, 4, 2).double()
        zeroed = {n: torch.as_tensor(w) * (0 if "_l1" in n else 1) for n, w in weights.items()}
        mine.load_state_dict(zeroed)
        output, h_n = mine(torch.as_tensor(x).double(), torch.as_tensor(initial).double())
        return output.detach().numpy(), h_n.detach().numpy()

    verdict = rs.compare(port, kind(3, 4, 2))
    assert "weights are never used" not in str(verdict)
    assert "all parameters of layer 1 are zero" in " ".join(str(verdict).split())


def test_one_number_that_differs_is_explained_by_no_number() -> None:
    layer, x = nn.RNN(2, 1), torch.randn(1, 1, 2)
    output = layer(x)[0].detach() + 0.25
    verdict = rs.compare(output, layer, x, effort=0.05)
    assert verdict.causes == ()


@pytest.mark.parametrize("steps", [12, 30])
def test_time_that_runs_backward_in_long_recorded_sequences(steps: int) -> None:
    """The first steps alone tell nothing of it."""
    layer, x = nn.LSTM(4, 5), torch.randn(steps, 3, 4)
    output = layer(x)[0].detach()
    verdict = rs.compare(output.flip(0), layer, x, effort=0.1)
    assert [str(cause) for cause in verdict.causes] == ["time_reversed output"]
    rolled = rs.compare(output.roll(-1, 0), layer, x, effort=0.1)
    assert [str(cause) for cause in rolled.causes] == ["delayed rolled"]


def test_numbers_partly_zero_where_the_reference_gives_nothing_but_zeros() -> None:
    """No factor stands between them."""
    layer, x = nn.RNN(3, 6, nonlinearity="relu"), torch.randn(7, 3, 3)
    with torch.no_grad():
        layer.bias_ih_l0.fill_(-50)
    mine = torch.randn(7, 3, 6) * (torch.rand(7, 3, 6) > 0.3)
    verdict = rs.compare(mine, layer, x, effort=0.1)
    assert not verdict
    assert verdict.causes == ()
