"""How x was prepared: what is read in place of x is named, as each step tells what it read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from restated import Restated, layer_of
from torch import nn

import rnnscope as rs
from rnnscope._compare.candidate.inputs import given_inputs
from rnnscope._compare.candidate.recorded import OfArrays
from rnnscope._compare.facts.finding import confirmed_left
from rnnscope._compare.facts.prepared import of_another_x, of_prepared
from rnnscope._layers.adopt import adopt

SLOW = pytest.mark.slow
KINDS = ["rnn", "gru", "lstm"]
DTYPES = [torch.float32, torch.float64]
Array = np.ndarray[Any, Any]


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


def read_as(
    of: Callable[[Array], Array],
    kind: str,
    dtype: torch.dtype = torch.float32,
    *,
    x: torch.Tensor | None = None,
    layer: Any = None,
    effort: float = 1.0,
) -> rs.Verdict:
    """Of numbers that were recorded with a function of x, of 4 features and 7 units."""
    layer = layer_of(kind, input_size=4, hidden_size=7, size=0.6) if layer is None else layer
    layer = layer.to(dtype)
    if x is None:
        x = torch.randn(12, 3, layer.input_size, generator=torch.Generator().manual_seed(3))
    x = x.to(dtype)
    output, _ = Restated(layer)(np.ascontiguousarray(of(x.numpy())).astype(x.numpy().dtype))
    return rs.compare({"output": output}, layer, x, effort=effort)


def named(verdict: rs.Verdict) -> str:
    """The title of what is named, where that is one cause that leaves rounding."""
    assert not verdict
    assert len(verdict.explanations) == 1, plain(verdict)
    [explanation] = verdict.explanations
    assert explanation.left < 1e-4
    [words] = explanation.words
    return words.title


def with_feature(k: int, of: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def changed(x: Array) -> Array:
        y = x.copy()
        y[..., k] = of(x[..., k])
        return y

    return changed


def with_steps(steps: Any, value: float = 0.0) -> Callable[[Array], Array]:
    def changed(x: Array) -> Array:
        y = x.copy()
        y[steps] = value
        return y

    return changed


def standardised(axes: tuple[int, ...]) -> Callable[[Array], Array]:
    return lambda x: (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


def early(x: Array, end: Array) -> Array:
    return np.concatenate([x[1:], end])


EOS = np.array([1, 0, 0, 0], np.float32)

READ: list[tuple[str, Callable[[Array], Array], str]] = [
    ("twice", lambda x: (x - 0.1307) / 0.3081, "x is read as (x - 0.1307) / 0.3081"),
    ("range", lambda x: 2 * x - 1, "x is read as 2 x - 1"),
    ("units", with_feature(2, lambda v: 1.8 * v + 0.32), "feature 2 as 1.8 x + 0.32"),
    (
        "raw",
        lambda x: x * [1.5, 0.2, 1, 0.7] + [0.5, -1, 0, 0.25],
        "feature 1 as 0.2 x - 1, feature 3",
    ),
    ("order", lambda x: x[..., [2, 0, 3, 1]], "the features of x are read in another order"),
    ("swapped", lambda x: x[..., [0, 2, 1, 3]], "features 1 and 2 of x are exchanged"),
    ("dead", with_feature(2, lambda v: 0 * v), "feature 2 of x is zero"),
    ("last dead", with_feature(3, lambda v: 0 * v), "column 3 of weight_ih_l0 is never read"),
    ("constant", with_feature(1, lambda v: 0 * v + 0.5), "feature 1 as 0.5"),
    ("copied", lambda x: x[..., [0, 1, 1, 3]], "x[..., [0, 1, 1, 3]]"),
    ("look ahead", lambda x: early(x, 0 * x[:1]), "one step early: x[t + 1] at step t, zeros"),
    ("around", lambda x: early(x, x[:1]), "one step early: x[t + 1] at step t, x[0]"),
    ("held", lambda x: early(x, x[-1:]), "one step early: x[t + 1] at step t, the last once more"),
    (
        "ended",
        lambda x: early(x, 0 * x[:1] + EOS),
        "1 in feature 0, else 0, in all rows at the end",
    ),
    (
        "far",
        lambda x: np.concatenate([x[2:], 0 * x[:2]]),
        "2 steps early: x[t + 2] at step t, zeros",
    ),
    ("late", lambda x: np.concatenate([x[:1], x[:-1]]), "one step late"),
    ("row", standardised((0,)), "standardised once more, each feature of each row, over time"),
    ("whole row", standardised((0, 2)), "standardised once more, each row"),
    ("set", standardised((0, 1)), "standardised once more, each feature, over all rows and steps"),
    ("norm", standardised((2,)), "standardised once more, each step, over its features"),
    ("clipped", lambda x: x.clip(-1, 1), "x is clipped at ±1"),
    ("above", lambda x: x.clip(None, 0.8), "x is clipped at 0.8"),
    ("relu", lambda x: x.clip(0, None), "x is read through relu"),
    ("uint8", lambda x: np.trunc(x * 127) / 127, "x is truncated to multiples of 1/127"),
    ("half", lambda x: x.astype(np.float16), "x is read through float16"),
    ("hot", lambda x: np.concatenate([0 * x[..., :1], x[..., :-1]], -1), "one place too late"),
    ("holes", with_steps(([2, 5, 9], [0, 2, 2])), "x is zero at time 2 of row 0, time 5 of row 2"),
    ("unread", with_steps(slice(0, 2)), "x is zero at times 0 and 1"),
    ("start", with_steps(0, 0.5), "x is (0.5, 0.5, 0.5, 0.5) at time 0"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("of", "words"), [pytest.param(*r[1:], id=r[0]) for r in READ])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=SLOW)])
def test_what_is_read_in_place_of_x(kind: str, of: Any, words: str, dtype: torch.dtype) -> None:
    verdict = read_as(of, kind, dtype)
    named(verdict)
    assert words in plain(verdict)


def port(of: Callable[[Array], Array], layer: Any) -> Callable[..., Any]:
    candidate = Restated(layer)

    def mine(x: Any, initial: Any = None) -> Any:
        x = np.asarray(x)
        return candidate(np.ascontiguousarray(of(x)).astype(x.dtype), initial)

    return mine


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("of", "words"),
    [
        (lambda x: 2 * x - 1, "x is read as 2 x - 1"),
        (lambda x: x[..., [1, 0, 2]], "features 0 and 1 of x are exchanged"),
        (lambda x: early(x, 0 * x[:1]), "one step early"),
        (lambda x: x.clip(-1, 1), "x is clipped at ±1"),
        (with_steps(0), "x is zero at time 0"),
    ],
)
def test_a_function_that_prepares_x(kind: str, of: Any, words: str) -> None:
    layer = layer_of(kind, hidden_size=5)
    assert words in named(rs.compare(port(of, layer), layer))


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"nonlinearity": "relu"}])
def test_x_of_two_directions_and_of_relu(options: Any) -> None:
    layer = layer_of("rnn", input_size=4, hidden_size=9, size=0.5, **options)
    assert named(read_as(lambda x: 2 * x - 1, "rnn", layer=layer)) == "x is read as 2 x - 1"


def test_x_of_two_layers_whose_states_are_known() -> None:
    layer: Any = layer_of("gru", input_size=4, hidden_size=7, num_layers=2, size=0.6)
    x = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(3))
    lower = layer_of("gru", input_size=4, hidden_size=7)
    lower.load_state_dict({k: v for k, v in layer.state_dict().items() if k.endswith("l0")})
    read = (2 * x - 1).numpy()
    states = np.stack([Restated(lower)(read)[0], Restated(layer)(read)[0]])
    states = np.expand_dims(states, 1).swapaxes(2, 3)  # (layer, direction, batch, time, unit)
    verdict = rs.compare({"output": states[1, 0].swapaxes(0, 1), "h": states}, layer, x)
    assert named(verdict) == "x is read as 2 x - 1"


def test_x_in_raw_units_that_saturate_some_gates() -> None:
    words = "feature 0 as 7.3 x + 12.5"
    layer = layer_of("gru", input_size=4, hidden_size=20, size=0.3)
    of = lambda x: x * [7.3, 0.09, 0.17, 2.2] + [12.5, 10.13, 0.61, 3.4]  # noqa: E731
    assert words in plain(read_as(of, "gru", torch.float64, layer=layer))


def test_targets_in_place_of_inputs() -> None:
    """The last token of each row is one that x has nowhere."""
    ids = np.random.default_rng(0).integers(0, 6, (3, 13))
    tokens = np.eye(6, dtype=np.float32)[ids].swapaxes(0, 1)
    layer = layer_of("lstm", input_size=6, hidden_size=12, size=0.6)
    x = torch.from_numpy(tokens[:-1].copy())
    verdict = read_as(lambda _: tokens[1:], "lstm", x=x, layer=layer)
    assert "one step early: x[t + 1] at step t, numbers that your x has nowhere" in named(verdict)


@pytest.mark.parametrize("kind", KINDS)
def test_an_x_that_nothing_describes(kind: str) -> None:
    other = np.random.default_rng(1).standard_normal((3, 2)).astype(np.float32)

    def of(x: Array) -> Array:
        y = x.copy()
        y[4:7, 1, 1:3] = other
        return y

    verdict = read_as(of, kind, effort=0.02)
    assert not verdict.explanations
    sentence = "for an x that differs in times 4 to 6, row 1, features 1 and 2 alone"
    assert sentence in plain(verdict)
    assert f"at time 4, row 1, feature 1 it is {other[0, 0]:.4g}, not" in plain(verdict)


def test_not_all_is_right_where_another_direction_is_wrong() -> None:
    layer = layer_of("gru", input_size=4, hidden_size=7, bidirectional=True, size=0.6)
    x = torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(3))
    other = torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(4)).numpy()
    output, _ = Restated(layer)(other)
    seen = subject_of(layer, x, output).shown()[0]
    assert "All is right but x" in of_another_x(subject_of(layer, x, output).model, seen)
    output[..., 7:] += 0.01
    subject = subject_of(layer, x, output)
    assert of_another_x(subject.model, subject.shown()[0]) == ""


def weights_with(name: str, of: Callable[[Array], Array]) -> Callable[..., Any]:
    return lambda w: {k: of(v) if k.startswith(name) else v for k, v in w.items()}


def noisy(size: float) -> Callable[[Array], Array]:
    def of(value: Array) -> Array:
        noise = np.random.default_rng(0).standard_normal(value.shape)
        return (value + size * noise).astype(value.dtype)

    return of


def one_number(value: Array) -> Array:
    value = value.copy()
    value.flat[4] += 0.3
    return value


NOT_OF_X: list[tuple[str, Callable[[Array], Array]]] = [
    *(
        (name, noisy(s))
        for name in ("weight_ih", "weight_hh", "bias_ih")
        for s in (1e-4, 0.01, 0.3)
    ),
    ("bias_hh", noisy(0.1)),
    *((name, one_number) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    *((name, lambda v: v[::-1].copy()) for name in ("weight_ih", "weight_hh", "bias_ih")),
    ("bias_ih", lambda v: 0 * v),
    ("bias_hh", lambda v: 0 * v),
    ("weight_hh", lambda v: v / 2),
]


def subject_of(layer: nn.Module, x: torch.Tensor, output: Array) -> OfArrays:
    adopted = adopt(layer)
    return OfArrays({"output": output}, adopted, given_inputs(adopted, x, None, None), None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "of"), NOT_OF_X)
@pytest.mark.parametrize("units", [5, 7, 20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_of_x(kind: str, name: str, of: Any, units: int, dtype: torch.dtype) -> None:
    """Candidates with other weights: nothing is said of x."""
    layer = layer_of(kind, input_size=4, hidden_size=units, size=0.6).to(dtype)
    x = torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(3)).to(dtype)
    output, _ = Restated(layer, weights=weights_with(name, of))(x.numpy())
    subject = subject_of(layer, x, output)
    [seen] = subject.shown()
    findings = of_prepared(subject.model, [seen])
    assert all(confirmed_left(finding, [seen]) is None for finding in findings)
    assert of_another_x(subject.model, seen) == ""


@pytest.mark.parametrize(
    ("kind", "name", "of", "words"),
    [
        ("gru", "gate order", lambda x: 2 * x - 1, "x is read as 2 x - 1"),
        ("lstm", "gate order", lambda x: x.clip(-1, 1), "x is clipped at ±1"),
        ("gru", "b_hh is missing", lambda x: x[..., [1, 0, 2, 3]], "features 0 and 1 of x are"),
    ],
)
def test_x_beside_a_mistake(kind: str, name: str, of: Any, words: str) -> None:
    layer = layer_of(kind, input_size=4, hidden_size=9, size=0.6)
    gates = {"gru": [1, 0, 2], "lstm": [0, 1, 3, 2]}[kind]

    def ordered(value: Array) -> Array:
        return np.concatenate([np.split(value, len(gates))[k] for k in gates])

    weights = weights_with("", ordered)
    if name == "b_hh is missing":
        weights = weights_with("bias_hh", lambda v: 0 * v)
    x = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(3))
    read = np.ascontiguousarray(of(x.numpy())).astype(np.float32)
    output, _ = Restated(layer, weights=weights)(read)
    verdict = rs.compare({"output": output}, layer, x)
    [explanation] = verdict.explanations
    first, second = (each.title for each in explanation.words)
    assert first == name
    assert words in second


def test_where_features_are_as_many_as_units() -> None:
    layer = layer_of("gru", input_size=5, hidden_size=5)
    x = torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(3))
    output, _ = Restated(layer)((x + torch.randn(8, 2, 5)).numpy())
    verdict = rs.compare({"output": output}, layer, x, effort=0.02)
    assert not verdict.explanations
    assert "All is right but x" not in plain(verdict)


@pytest.mark.parametrize("seed", [5, 30, 37])
def test_where_functions_saturate_no_other_x_is_told(seed: int) -> None:
    """Any large x gives the same numbers there."""
    torch.manual_seed(seed)
    layer, x = nn.RNN(3, 8), torch.randn(14, 2, 3)
    other = x[..., [2, 0, 1]] * torch.tensor([1.8, 1.0, 1.0]) + torch.tensor([32.0, 0.0, 0.0])
    verdict = rs.compare(layer(other)[0].detach(), layer, x)
    assert not verdict
    assert "All is right but x" not in str(verdict)
