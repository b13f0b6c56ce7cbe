"""g.explain: one gradient as arithmetic; tr.step_jacobian: all states by all states before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope.errors import AddressError

LAYERS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.RNN, {}),
    (nn.GRU, {}),
    (nn.LSTM, {}),
    (nn.LSTM, {"proj_size": 2}),
]


def traced(kind: type[nn.RNNBase], options: dict[str, Any]) -> rs.Trace:
    torch.manual_seed(0)
    layer = kind(3, 4, num_layers=2, bidirectional=True, **options).double()
    return rs.trace(layer, torch.randn(5, 2, 3, dtype=torch.float64))


# --- g.explain ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_the_terms_add_up_to_the_gradient(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    tr = traced(kind, options)
    g = tr.gradients(tr.output.square().sum() + tr.h_n.sum())
    for name in [*tr.cell.equations, *(f"{gate}_pre" for gate in tr.cell.gates)]:
        for place in ((0, "forward", 2), (0, "reverse", 4), (1, "forward", 4), (1, "reverse", 0)):
            layer, direction, time = place
            d = ("forward", "reverse").index(direction)
            explanation = g.explain(
                name, layer=layer, direction=direction, batch=1, time=time, unit=1
            )
            facts = explanation.data()
            expected = float(g[name][layer, d, 1, time, 1])
            assert facts["value"] == pytest.approx(expected, rel=1e-12)
            total = sum(term["value"] for term in facts["terms"])
            assert total == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert "through the other matrices" not in explanation.text()
            for term in facts["terms"]:
                product = 1.0
                for _, value in term["factors"]:
                    product *= value
                assert abs(product) == pytest.approx(abs(term["value"]))


def test_the_sequence_3_4_5_backwards() -> None:
    rnn = nn.RNN(1, 1, bias=False)
    for weight, value in zip(rnn.parameters(), (0.25, 0.5), strict=True):
        nn.init.constant_(weight, value)
    tr = rs.trace(rnn, torch.tensor([[[3.0]], [[4.0]], [[5.0]]]))
    g = tr.gradients(tr.output[-1].sum())
    text = g.explain("h", time=1).text()
    assert "dL/dh_2 = direct_2 + W_hh[:, 0] · dL/da_3" in text
    assert "0 + 0.064512" in text
    assert 'what the next step hands back: g.explain("h", time=2, ...)' in text
    last = g.explain("h", time="last").text()
    assert "This is the step that ran last" in last
    assert "direct" in last
    assert r"\begin{aligned}" in g.explain("h_pre", time=1).latex()


def test_a_gates_gradient_is_a_product_with_its_symbols() -> None:
    tr = traced(nn.LSTM, {})
    g = tr.gradients(tr.output.sum())
    text = g.explain("f", layer=0, direction="forward", batch=0, time=2, unit=3).text()
    assert "dL/df_3 = dL/dc_3 × c_2" in text


def test_where_nothing_of_the_loss_arrives() -> None:
    tr = rs.trace(nn.RNN(1, 1), torch.ones(3, 1, 1))
    g = tr.gradients(tr.output[0].sum())
    assert "0" in g.explain("h", time=2).text()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("q", {"time": 0}, "no equation for 'q'"),
        ("h_from_x", {"time": 0}, r"g.explain is of h, and of the argument of a gate's function"),
        ("h", {}, "choose a step: write time=0 to time=2"),
        ("h", {"time": 7}, "time"),
    ],
)
def test_what_cannot_be_explained(name: str, options: dict[str, Any], words: str) -> None:
    tr = rs.trace(nn.RNN(1, 1), torch.ones(3, 1, 1))
    g = tr.gradients(tr.output.sum())
    with pytest.raises(AddressError, match=words):
        g.explain(name, **options)


# --- tr.step_jacobian -----------------------------------------------------------------------------


def stepped(tr: rs.Trace, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One step by PyTorch's documentation, with the weights of layer 0, reverse."""
    w = tr.weights[0][1]
    of_x, of_h = x @ w.ih.T + w.b_ih, states[0] @ w.hh.T + w.b_hh
    if tr.cell.name == "RNN":
        return (torch.tanh(of_x + of_h),)
    if tr.cell.name == "GRU":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = of_x.chunk(3), of_h.chunk(3)
        z = torch.sigmoid(x_z + h_z)
        return ((1 - z) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n) + z * states[0],)
    i, f, g, o = (of_x + of_h).chunk(4)
    c = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w.hr is None else h @ w.hr.T), c


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_the_matrix_is_autograds(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    tr = traced(kind, options)
    for time in (0, 3):
        jacobian = tr.step_jacobian(time, layer=0, direction="reverse")
        for batch in range(2):
            before = tuple(tr.before(s, 0, "reverse")[batch, time] for s in tr.cell.states)
            x = tr.layer_input(0)[batch, time]
            rows = torch.autograd.functional.jacobian(
                lambda *states, x=x: stepped(tr, x, states), before
            )
            expected = torch.cat([torch.cat(list(row), 1) for row in rows])
            torch.testing.assert_close(jacobian.matrix[batch], expected)
            eigenvalues = torch.linalg.eigvals(expected).abs()
            torch.testing.assert_close(jacobian.spectral_radius[batch], eigenvalues.max())


def test_its_parts_have_names() -> None:
    tr = traced(nn.LSTM, {"proj_size": 2})
    jacobian = tr.step_jacobian(2, layer=1, direction="forward", batch=0)
    assert jacobian.names[:3] == (("h", 0), ("h", 1), ("c", 0))
    assert jacobian.block("h", "c").shape == (2, 4)
    f = tr["f"][1, 0, 0, 2]
    torch.testing.assert_close(jacobian.block("c", "c"), torch.diag(f))
    sizes = jacobian.eigenvalues.abs()
    assert bool((sizes[:-1] >= sizes[1:]).all())
    assert "StepJacobian of (h 2, c 4), shape (6, 6); spectral radius" in repr(jacobian)
    with pytest.raises(AddressError, match="no state 'f'; there is h and c"):
        jacobian.block("f", "c")


def test_each_path_is_counted_once() -> None:
    """Stacked total derivatives count the way from c through the earlier h twice."""
    tr = rs.trace(nn.LSTM(3, 4).double(), torch.randn(5, 1, 3, dtype=torch.float64))
    joint = tr.step_jacobian(3, batch=0).matrix
    stacked = torch.cat(
        [
            torch.cat([tr.jacobian(of, to, batch=0, time=3, to_time=2) for to in "hc"], 1)
            for of in "hc"
        ]
    )
    torch.testing.assert_close(joint[:, :4], stacked[:, :4])
    assert not torch.allclose(joint[:, 4:], stacked[:, 4:])


def test_last_is_each_sequences_own_last_step_and_padding_is_refused() -> None:
    gru = nn.GRU(3, 4).double()
    packed = nn.utils.rnn.pack_padded_sequence(
        torch.randn(4, 2, 3, dtype=torch.float64), [4, 2], enforce_sorted=False
    )
    tr = rs.trace(gru, packed)
    last = tr.step_jacobian()
    torch.testing.assert_close(last.matrix[1], tr.step_jacobian(1, batch=1).matrix)
    with pytest.raises(AddressError, match="time=3 of batch 1 is padding"):
        tr.step_jacobian(3)
