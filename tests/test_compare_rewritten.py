"""Equations that nobody has listed: each bug is written out here as its author would write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope import cells
from rnnscope._compare.facts.rewritten import rewritings_of
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.simulate import Simulator
from rnnscope._layers.adopt import adopt
from rnnscope.cells import CELLS, Function, from_h, from_x, previous, quantity, sigmoid, tanh

sig = torch.sigmoid
Step = Callable[[list[Tensor], list[Tensor], tuple[Tensor, ...], Tensor], tuple[Tensor, ...]]


def port(step: Step, layer: nn.RNNBase) -> Callable[..., Tensor]:
    """A function that runs a step over time and layers; it gets the gates' parts of x and of h,
    each with its bias, the states before, and the rows of the last gate in W_hh."""
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode.partition("_")[0], 1)
    count = 2 if gates == 4 else 1

    def run(x: Tensor, initial: Any = None) -> Tensor:
        given = initial if isinstance(initial, tuple) else (initial,)
        flow = x
        for k in range(layer.num_layers):
            w_ih, w_hh, b_ih, b_hh = (
                getattr(layer, f"{name}_l{k}").detach().to(x.dtype)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            zeros = torch.zeros(x.shape[1], layer.hidden_size, dtype=x.dtype)
            states = tuple(zeros if initial is None else given[j][k] for j in range(count))
            outputs = []
            for t in range(len(flow)):
                of_x = list((flow[t] @ w_ih.T + b_ih).chunk(gates, -1))
                of_h = list((states[0] @ w_hh.T + b_hh).chunk(gates, -1))
                states = step(of_x, of_h, states, w_hh[-layer.hidden_size :])
                outputs.append(states[0])
            flow = torch.stack(outputs)
        return flow

    return run


def lstm(change: Callable[..., tuple[Tensor, Tensor]]) -> Step:
    def step(
        of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
    ) -> tuple[Tensor, ...]:
        return change([a + b for a, b in zip(of_x, of_h, strict=True)], *states)

    return step


def forget_all(a: list[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    c = sig(a[1]) * (c + sig(a[0]) * a[2].tanh())
    return sig(a[3]) * c.tanh(), c


def sigmoid_twice(a: list[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    c = sig(sig(a[1])) * c + sig(sig(a[0])) * a[2].tanh()
    return sig(sig(a[3])) * c.tanh(), c


def clipped(a: list[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    a = [one.clamp(-1, 1) for one in a]
    c = sig(a[1]) * c + sig(a[0]) * a[2].tanh()
    return sig(a[3]) * c.tanh(), c


def forgets_of_new(a: list[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    c = sig(a[1]) * (c - a[2].tanh()) + sig(a[0]) * a[2].tanh()
    return sig(a[3]) * c.tanh(), c


def mixed_cell(a: list[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    c = 0.1 * c + 0.9 * (sig(a[1]) * c + sig(a[0]) * a[2].tanh())
    return sig(a[3]) * c.tanh(), c


def gru_tanh_of_x(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    r, z = sig(of_x[0] + of_h[0]), sig(of_x[1] + of_h[1])
    return ((1 - z) * (of_x[2].tanh() + r * of_h[2]) + z * states[0],)


def gru_tanh_of_sigmoid(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    r, z = sig(of_x[0] + of_h[0]), sig(of_x[1] + of_h[1])
    return ((1 - z) * sig(of_x[2] + r * of_h[2]).tanh() + z * states[0],)


def gru_z_first(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    r, z = sig(of_x[0] + of_h[0]), sig(of_x[1] + of_h[1])
    bias = of_h[2] - states[0] @ last.T
    n = (of_x[2] + r * ((z * states[0]) @ last.T + bias)).tanh()
    return ((1 - z) * n + z * states[0],)


def gru_old_reset(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    r, z = sig(of_x[0] + of_h[0]), sig(of_x[1] + of_h[1])
    return ((1 - z) * (of_x[2] + r * of_h[2]).tanh() + z * (r * states[0]),)


def gru_overwritten(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    r, z = sig(of_x[0] + of_h[0]), sig(of_x[1] + of_h[1])
    bias, h = of_h[2] - states[0] @ last.T, r * states[0]
    return ((1 - z) * (of_x[2] + h @ last.T + bias).tanh() + z * h,)


def symmetric(a: list[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o = (1 / (1 + (-one.abs()).exp()) for one in (a[0], a[1], a[3]))
    c = f * c + i * a[2].tanh()
    return o * c.tanh(), c


def one_buffer_of_h(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    a = [one + other for one, other in zip(of_x, of_h, strict=True)]
    c = sig(a[1]) * states[1] + sig(a[0]) * a[2].tanh()
    bias = of_h[3] - states[0] @ last.T
    return sig(of_x[3] + c.tanh() @ last.T + bias) * c.tanh(), c


def residual(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    return (states[0] + (of_x[0] + of_h[0]).tanh(),)


def lecun(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    return (1.7159 * (2 / 3 * (of_x[0] + of_h[0])).tanh(),)


def input_through_w_hh(
    of_x: list[Tensor], of_h: list[Tensor], states: tuple[Tensor, ...], last: Tensor
) -> tuple[Tensor, ...]:
    return ((of_h[0] + of_x[0] @ last.T).tanh(),)


BUGS: dict[str, tuple[Any, Step, str]] = {
    "forget all": (nn.LSTM, lstm(forget_all), "c_t = f_t ⊙ (c_(t-1) + i_t ⊙ g_t);"),
    "sigmoid twice": (nn.LSTM, lstm(sigmoid_twice), "i_t = σ(σ(W_ii x_t + b_ii + W_hi h_(t-1)"),
    "clipped": (nn.LSTM, lstm(clipped), "i_t = σ(clip[1](W_ii x_t + b_ii + W_hi h_(t-1)"),
    "mixed cell": (nn.LSTM, lstm(mixed_cell), "c_t = 0.1 × c_(t-1) + 0.9 × (f_t ⊙ c_(t-1) +"),
    "tanh of x": (nn.GRU, gru_tanh_of_x, "n_t = tanh(W_in x_t + b_in) + r_t ⊙ (W_hn"),
    "z first": (nn.GRU, gru_z_first, "+ r_t ⊙ (W_hn (z_t ⊙ h_(t-1)) + b_hn));"),
    "old reset": (nn.GRU, gru_old_reset, "h_t = (1 - z_t) ⊙ n_t + z_t ⊙ (r_t ⊙ h_(t-1));"),
    "overwritten": (nn.GRU, gru_overwritten, "b_hn), and h_t = (1 - z_t) ⊙ n_t + z_t ⊙ (r_t ⊙"),
    "tanh of sigmoid": (nn.GRU, gru_tanh_of_sigmoid, "n_t = tanh(σ(W_in x_t + b_in + r_t ⊙"),
    "symmetric": (nn.LSTM, lstm(symmetric), "i_t = σ(abs(W_ii x_t + b_ii + W_hi h_(t-1)"),
    "one buffer": (nn.LSTM, one_buffer_of_h, "o_t = σ(W_io x_t + b_io + W_ho tanh(c_t) + b_ho);"),
    "residual": (nn.RNN, residual, "h_t = h_(t-1) + tanh(W_ih x_t + b_ih + W_hh h_(t-1)"),
    "lecun": (nn.RNN, lecun, "h_t = scaled_tanh[1.7159, 0.666667](W_ih x_t + b_ih + W_hh h_(t-1)"),
    "w_hh": (nn.RNN, input_through_w_hh, "h_t = tanh(W_hh (h_(t-1) + W_ih x_t + b_ih) + b_hh);"),
}


def words(verdict: rs.Verdict) -> str:
    return " ".join(str(verdict).split())


@pytest.mark.parametrize("name", BUGS)
def test_the_equation_is_named(name: str) -> None:
    kind, step, said = BUGS[name]
    layer = kind(3, 5)
    verdict = rs.compare(port(step, layer), layer)
    assert {cause.name for cause in verdict.causes} == {"rewritten"}
    assert said in words(verdict)
    assert f"nn.{kind.__name__} computes" in words(verdict)


def test_a_function_around_the_projection() -> None:
    layer = nn.LSTM(3, 6, proj_size=4)
    W_ih, W_hh, b_ih, b_hh, W_hr = (value.detach() for value in layer.state_dict().values())

    def mine(x: Tensor, initial: Any) -> Tensor:
        (h, c), outputs = (state[0] for state in initial), []
        for x_t in x:
            i, f, g, o = (x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh).chunk(4, -1)
            c = sig(f) * c + sig(i) * g.tanh()
            h = ((sig(o) * c.tanh()) @ W_hr.T).tanh()
            outputs.append(h)
        return torch.stack(outputs)

    layer = layer.requires_grad_(False)
    assert "you compute h_t = tanh(W_hr m_t);" in words(rs.compare(mine, layer))


@pytest.mark.parametrize("name", ["forget all", "tanh of x"])
@pytest.mark.parametrize("layers", [1, 2])
def test_of_recorded_outputs(name: str, layers: int) -> None:
    kind, step, said = BUGS[name]
    layer, x = kind(3, 5, num_layers=layers), torch.randn(8, 3, 3)
    verdict = rs.compare(port(step, layer)(x), layer, x=x)
    assert {cause.name for cause in verdict.causes} == {"rewritten"}
    assert said in words(verdict)


def test_beside_rows_in_another_order() -> None:
    layer = nn.LSTM(3, 5)

    def other_order(a: list[Tensor], h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return forget_all([a[0], a[1], a[3], a[2]], h, c)

    verdict = rs.compare(port(lstm(other_order), layer), layer)
    assert {cause.name for cause in verdict.causes} == {"rewritten", "gate_order"}


def test_of_a_declared_cell() -> None:
    cell = cells.Cell(
        name="leaky",
        gates="zn",
        equations={
            "z": sigmoid(from_x("z") + from_h("z")),
            "n": tanh(from_x("n") + from_h("n")),
            "h": quantity("z") * previous("h") + quantity("n"),
        },
    )
    wrong = cells.Cell(
        name="wrong",
        gates="zn",
        equations={
            "z": sigmoid(from_x("z") + from_h("z")),
            "n": tanh(from_x("n") + from_h("n")),
            "h": quantity("z") * (previous("h") + quantity("n")),
        },
    )
    layer = rs.Recurrent(cell, 3, 4)
    mine = rs.Recurrent(wrong, 3, 4)
    mine.load_state_dict(layer.state_dict())
    x = torch.randn(8, 3, 3)
    with torch.no_grad():
        verdict = rs.compare(mine(x)[0], layer, x=x)
    assert "you compute h_t = z_t ⊙ (h_(t-1) + n_t); " in words(verdict)


def test_two_changes_are_not_one() -> None:
    layer = nn.LSTM(3, 5)
    verdict = rs.compare(port(lstm(forgets_of_new), layer), layer)
    assert not verdict.agrees
    assert not verdict.explanations


@pytest.mark.parametrize("name", CELLS)
def test_no_change_is_the_equation_itself(name: str) -> None:
    """Computed with drawn numbers in every place, none gives what the cell gives."""
    cell = CELLS[name]
    torch.manual_seed(0)
    known: dict[Any, Tensor] = {}

    class Drawn:
        def value(self, leaf: Any) -> Tensor:
            # small ones, and some beyond every limit
            drawn = torch.randn(200, dtype=torch.float64) * torch.tensor([0.5, 60.0]).repeat(100)
            return known.setdefault(leaf, drawn)

        def products(self, leaves: tuple[Any, ...], out: Tensor | None) -> Tensor:
            return sum((self.value(leaf) for leaf in leaves[1:]), self.value(leaves[0]))

    rewritings = rewritings_of(cell)
    assert len(rewritings) > 25
    for rewriting in rewritings:
        for changed_name, equation in rewriting.equations:
            own = cells.algebra.evaluate(cell.equations[changed_name], Drawn())
            value = cells.algebra.evaluate(equation, Drawn())
            assert not torch.allclose(value, own, rtol=1e-13, atol=1e-25), equation


@pytest.mark.parametrize("name", CELLS)
def test_every_change_can_be_computed(name: str) -> None:
    """In sizes all of which differ: x, h and the units of a projected layer."""
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[name.partition("_")[0]]
    options = {"proj_size": 3} if name == "lstm_projected" else {}
    layer = kind(2, 5, num_layers=2, bidirectional=True, **options)
    model = Model.of(adopt(layer), torch.float64)
    zeros = {name: torch.zeros(2, 2, 3, 5).double() for name in CELLS[name].states}
    if name == "lstm_projected":
        zeros["h"] = torch.zeros(2, 2, 3, 3).double()
    simulator = Simulator(Inputs(torch.randn(4, 3, 2).double(), zeros, given=False))
    models = [model.with_each_part(rewriting.of) for rewriting in rewritings_of(CELLS[name])]
    size = 6 if name == "lstm_projected" else 10
    for outcome in simulator.run(models):
        assert outcome is not None
        assert outcome.output.shape == (4, 3, size)


def test_of_a_cell_with_a_function_of_its_own() -> None:
    cube = Function(
        "cube",
        "cube",
        r"\operatorname{cube}",
        forward=lambda a: a**3,
        forward_=lambda a: a.pow_(3),
        derivative=lambda y: 3 * (y * y) ** (1 / 3),
        steepest=float("inf"),
        range=None,
        through_zero=False,
        script="x * x * x",
    )

    def cell(h: Any) -> cells.Cell:
        n = cells.apply(cube, from_x("n") + from_h("n"))
        return cells.Cell(name="cubed", gates="n", equations={"n": n, "h": h})

    layer = rs.Recurrent(cell(tanh(quantity("n"))), 3, 4)
    mine = rs.Recurrent(cell(tanh(1 - quantity("n"))), 3, 4)
    mine.load_state_dict(layer.state_dict())
    x = torch.randn(8, 3, 3)
    with torch.no_grad():
        verdict = rs.compare(mine(x)[0], layer, x=x)
    assert "you compute h_t = tanh(1 - n_t); " in words(verdict)


@pytest.mark.parametrize(("layers", "bidirectional"), [(1, True), (2, False)])
def test_in_one_direction_or_layer_alone(layers: int, bidirectional: bool) -> None:
    """The last cell of several is written with f around the sum."""
    layer = nn.LSTM(3, 4, num_layers=layers, bidirectional=bidirectional)
    suffix = "l0_reverse" if bidirectional else "l1"
    w_ih, w_hh, b_ih, b_hh = (
        getattr(layer, f"{name}_{suffix}").detach()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    first = nn.LSTM(3, 4)
    first.load_state_dict({n: p for n, p in layer.state_dict().items() if n.endswith("_l0")})

    def mine(x: Tensor, initial: Any = None) -> Any:
        zeros = torch.zeros(2, x.shape[1], 4)
        h_0, c_0 = initial or (zeros, zeros)
        with torch.no_grad():
            below, (h_n, c_n) = first(x, (h_0[:1].contiguous(), c_0[:1].contiguous()))
        h, c, outputs = h_0[1], c_0[1], []
        for x_t in x.flip(0) if bidirectional else below:
            a = (x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)
            h, c = forget_all(list(a), h, c)
            outputs.append(h)
        output = torch.stack(outputs)
        output = torch.cat([below, output.flip(0)], -1) if bidirectional else output
        return output, (torch.stack([h_n[0], h]), torch.stack([c_n[0], c]))

    verdict = rs.compare(mine, layer)
    [cause] = verdict.causes
    assert cause.name == "rewritten"
    assert (cause.layer, cause.direction) == ((None, "reverse") if bidirectional else (1, None))
    assert "c_t = f_t ⊙ (c_(t" in words(verdict)
