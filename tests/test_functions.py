"""The elementwise functions: each fact about one against plain arithmetic and autograd."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

import rnnscope as rs
from rnnscope.cells import GRU, LSTM, LSTM_PROJECTED, RNN_TANH, apply
from rnnscope.cells.algebra import Apply, Quantity
from rnnscope.cells.functions import FAMILIES, FUNCTIONS, Function, function_named

PARAMETRISED = (
    "elu(1.0)",
    "elu(0.5)",
    "elu(-0.7)",
    "leaky_relu(0.01)",
    "leaky_relu(2.0)",
    "leaky_relu(-0.5)",
    "thresholded_relu(1.5)",
    "thresholded_relu(-1.5)",
    "scaled_tanh(1.7159, 0.6667)",
    "scaled_tanh(-0.5, 0.5)",
    "affine(-2.0, 0.5)",
    "affine(0.25, 0.0)",
    "hard_sigmoid(0.2, 0.5)",
    "hard_sigmoid(-0.3, 0.4)",
    "clip(1.0)",
    "clip(2.5)",
)
NAMES = (*FUNCTIONS, *PARAMETRISED)


def by_definition(name: str, x: float) -> float:
    """One number, by the definition."""
    family, _, rest = name.rstrip(")").partition("(")
    p = [float(word) for word in rest.split(",")] if rest else []
    match family, p:
        case "sigmoid", []:
            return 1 / (1 + math.exp(-x))
        case "tanh", []:
            return math.tanh(x)
        case "relu", []:
            return max(x, 0.0)
        case "linear", []:
            return x
        case "hard_sigmoid", []:  # Keras 3, PyTorch: relu6(x + 3) / 6
            return min(max(x + 3, 0.0), 6.0) / 6
        case "softsign", []:
            return x / (1 + abs(x))
        case "softplus", []:
            return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
        case "elu", [alpha]:
            return x if x > 0 else alpha * math.expm1(x)
        case "leaky_relu", [alpha]:
            return x if x > 0 else alpha * x
        case "thresholded_relu", [alpha]:
            return x if x > alpha else 0.0
        case "scaled_tanh", [alpha, beta]:
            return alpha * math.tanh(beta * x)
        case "affine", [alpha, beta]:
            return alpha * x + beta
        case "hard_sigmoid", [alpha, beta]:  # Keras 2, ONNX
            return min(max(alpha * x + beta, 0.0), 1.0)
        case "clip", [limit]:  # hard tanh where the limit is 1
            return min(max(x, -limit), limit)
    raise AssertionError(name)


def by_script(script: str, x: float) -> float:
    """The JavaScript, of which Python knows all but ? : ."""

    class Math:
        exp, tanh, expm1, log1p = math.exp, math.tanh, math.expm1, math.log1p
        max, min, abs = max, min, abs

    python = re.sub(r"^(.*) \? (.*) : (.*)$", r"(\2) if (\1) else (\3)", script)
    return eval(python, {"Math": Math, "x": x})


def grid() -> Tensor:
    """Numbers on both sides of every kink, none on one."""
    return torch.linspace(-30.0021, 30.0013, 3_000, dtype=torch.float64)


def test_every_function_is_here() -> None:
    assert set(FAMILIES) == {name.partition("(")[0] for name in PARAMETRISED}


@pytest.mark.parametrize("name", NAMES)
def test_values(name: str) -> None:
    function, x = function_named(name), grid()
    y = function.forward(x)
    expected = torch.tensor([by_definition(name, float(v)) for v in x], dtype=torch.float64)
    assert (y - expected).abs().max() < 1e-14
    memory = x.clone()
    assert function.forward_(memory).data_ptr() == memory.data_ptr()
    assert (memory - y).abs().max() < 1e-14
    script = [by_script(function.script, float(v)) for v in x]
    assert (y - torch.tensor(script, dtype=torch.float64)).abs().max() < 1e-14
    assert function.name == name


@pytest.mark.parametrize("name", NAMES)
def test_facts(name: str) -> None:
    """The derivative, its largest size, the range, and what error bounds are told."""
    function = function_named(name)
    x = grid().requires_grad_()
    y = function.forward(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    x, y = x.detach(), y.detach()
    assert (function.slope(x, y) - slope).abs().max() < 1e-12
    if function.derivative_at is None:
        assert (function.derivative(y) - slope).abs().max() < 1e-12
    else:
        with pytest.raises(rs.DeclarationError, match="does not follow from"):
            function.derivative(y)
    if math.isfinite(function.steepest):
        assert 0.97 * function.steepest < slope.abs().max() <= function.steepest + 1e-12
    else:
        gaps = (y[1:] - y[:-1]).abs()
        assert gaps.max() > 50 * (x[1] - x[0])  # a jump
    if function.range is not None:
        low, high = function.range
        assert low <= y.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < y.max() <= high
    elif name != "thresholded_relu(1.5)":
        assert y.abs().max() > 7
    assert function.at_zero == pytest.approx(by_definition(name, 0.0), abs=1e-15)
    assert function.through_zero == bool((y.abs() <= x.abs() + 1e-15).all())


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_gradients_of_gradients(name: str) -> None:
    function = function_named(name)
    x = grid()[::50]
    assert function.forward(x.float()).dtype == torch.float32
    assert function.slope(x.float(), function.forward(x.float())).dtype == torch.float32
    x.requires_grad_()
    assert torch.autograd.gradcheck(function.forward, x)
    assert torch.autograd.gradgradcheck(function.forward, x)


def test_softplus_is_exact_where_torchs_is_not() -> None:
    x = torch.tensor([21.0], dtype=torch.float64)
    ours, theirs = FUNCTIONS["softplus"].forward(x), torch.nn.functional.softplus(x)
    assert ours > theirs
    assert abs(float(ours) - (21 + math.log1p(math.exp(-21)))) < 1e-14


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("swish", r"unknown function 'swish'.*sigmoid, tanh.*leaky_relu\(alpha\)"),
        ("tanh(1)", "unknown function"),
        ("leaky_relu", r"expected leaky_relu\(alpha\) with finite numbers"),
        ("leaky_relu(a)", "expected"),
        ("leaky_relu(0.1, 0.2)", "expected"),
        ("affine(nan, 0)", "finite"),
        ("scaled_tanh(0, 1)", "0 everywhere"),
        ("__import__('os')", "unknown function"),
        ("", "unknown function"),
    ],
)
def test_names_that_there_are_not(name: str, says: str) -> None:
    with pytest.raises(rs.DeclarationError, match=says):
        Apply(name, Quantity("a"))


def test_names_are_read_as_they_are_written() -> None:
    for name in PARAMETRISED:
        assert function_named(name).name == name
    assert function_named("hard_sigmoid(.2,5e-1)").name == "hard_sigmoid(0.2, 0.5)"


# ── in cells ─────────────────────────────────────────────────────────────────────────────────


def test_other_activations() -> None:
    cell = LSTM.with_functions({"i": "hard_sigmoid(0.2, 0.5)", "g": "softsign", "h": "relu"})
    assert [cell.equations[k].name for k in "ifgo"] == [
        "hard_sigmoid(0.2, 0.5)",
        "sigmoid",
        "softsign",
        "sigmoid",
    ]
    assert cell.equations["h"] == Quantity("o") * Apply("relu", Quantity("c"))
    assert cell.states == LSTM.states
    assert cell.departures.startswith("i by hard_sigmoid(0.2, 0.5), g by softsign, h by relu; ")
    assert LSTM.equations["i"].name == "sigmoid"
    assert LSTM_PROJECTED.with_functions({"m": "relu"}).projected


def test_the_same_activations_are_the_same_cell() -> None:
    assert GRU.with_functions({"r": "sigmoid", "n": "tanh"}) is GRU
    assert RNN_TANH.with_functions({}) is RNN_TANH


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        ({"k": "tanh"}, "computes no 'k'; it has i, f, g, o, c, h"),
        ({"c": "tanh"}, "the equation of c has no function"),
        ({"i": "tanhh"}, "unknown function 'tanhh'"),
    ],
)
def test_activations_that_cannot_be_replaced(functions: dict[str, str], says: str) -> None:
    with pytest.raises(rs.DeclarationError, match=says):
        LSTM.with_functions(functions)


def test_a_function_of_ones_own() -> None:
    sine = Function(
        name="sin",
        symbol="sin",
        latex=r"\sin",
        forward=torch.sin,
        forward_=torch.sin_,
        derivative=lambda y: (1 - y * y).sqrt(),
        derivative_at=torch.cos,
        steepest=1.0,
        range=(-1.0, 1.0),
        through_zero=True,
        script="Math.sin(x)",
    )
    assert apply(sine, Quantity("a")).function is sine
    cell = RNN_TANH.with_functions({"h": sine})
    layer = rs.Recurrent(cell, 3, 4)
    assert "= sin(W_ih" in str(
        rs.trace(layer, torch.randn(5, 2, 3)).explain("h", batch=0, time=1, unit=2)
    )
