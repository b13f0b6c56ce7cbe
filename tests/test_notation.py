"""Equations as text, LaTeX and MathML: as in PyTorch's documentation, and for any declared cell."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch
from test_explain import check_chains

from rnnscope._explain.digits import Ruler
from rnnscope._explain.document import Chain, Chains, Document
from rnnscope._explain.unit_step import Operands, UnitStep
from rnnscope._layers.structure import Weights
from rnnscope.cells import CELLS, Cell, from_h, from_x, project, relu, sigmoid, tanh
from rnnscope.cells.algebra import Expr, Number, Previous, Quantity, Vector
from rnnscope.cells.notation import Digits, Notation, Symbol, Times, Total, latex, mathml, text
from rnnscope.errors import DeclarationError

# as https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html and its siblings write them,
# with t-1 in parentheses
DOCUMENTED = {
    "rnn_tanh": ["h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)"],
    "rnn_relu": ["h_t = relu(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)"],
    "gru": [
        "r_t = σ(W_ir x_t + b_ir + W_hr h_(t-1) + b_hr)",
        "z_t = σ(W_iz x_t + b_iz + W_hz h_(t-1) + b_hz)",
        "n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_(t-1) + b_hn))",
        "h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_(t-1)",
    ],
    "lstm": [
        "i_t = σ(W_ii x_t + b_ii + W_hi h_(t-1) + b_hi)",
        "f_t = σ(W_if x_t + b_if + W_hf h_(t-1) + b_hf)",
        "g_t = tanh(W_ig x_t + b_ig + W_hg h_(t-1) + b_hg)",
        "o_t = σ(W_io x_t + b_io + W_ho h_(t-1) + b_ho)",
        "c_t = f_t ⊙ c_(t-1) + i_t ⊙ g_t",
        "h_t = o_t ⊙ tanh(c_t)",
    ],
}
DOCUMENTED["lstm_projected"] = [*DOCUMENTED["lstm"][:-1], "m_t = o_t ⊙ tanh(c_t)", "h_t = W_hr m_t"]


def lines(cell: Cell, notation: Notation, form=text) -> list[str]:
    return [form(notation.equation(*item)) for item in cell.equations.items()]


@pytest.mark.parametrize("name", CELLS)
def test_text_is_as_in_pytorchs_documentation(name: str) -> None:
    assert lines(CELLS[name], Notation()) == DOCUMENTED[name]


def test_latex_is_as_in_pytorchs_documentation() -> None:
    assert lines(CELLS["gru"], Notation(), latex) == [
        r"r_t = \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr})",
        r"z_t = \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz})",
        r"n_t = \tanh(W_{in} x_t + b_{in} + r_t \odot (W_{hn} h_{t-1} + b_{hn}))",
        r"h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1}",
    ]
    assert lines(CELLS["rnn_relu"], Notation(bias=False), latex) == [
        r"h_t = \operatorname{ReLU}(W_{ih} x_t + W_{hh} h_{t-1})"
    ]


def test_options() -> None:
    gru, lstm = CELLS["gru"], CELLS["lstm"]
    assert lines(gru, Notation(bias=False))[2] == "n_t = tanh(W_in x_t + r_t ⊙ (W_hn h_(t-1)))"
    assert lines(gru, Notation(reverse=True))[3] == "h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_(t+1)"
    assert lines(gru, Notation(reverse=True), latex)[3].endswith(r"z_t \odot h_{t+1}")
    assert lines(lstm, Notation(element=True, step=3))[4] == "c_3 = f_3 × c_2 + i_3 × g_3"
    assert lines(lstm, Notation(reverse=True, step=3))[4] == "c_3 = f_3 ⊙ c_4 + i_3 ⊙ g_3"
    assert lines(lstm, Notation(step=12), latex)[4] == (
        r"c_{12} = f_{12} \odot c_{11} + i_{12} \odot g_{12}"
    )


a, b, c = (Quantity(name) for name in "abc")


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (a - (b + c), "a_t - (b_t + c_t)"),
        (a - (b - c), "a_t - (b_t - c_t)"),
        ((a - b) - c, "a_t - b_t - c_t"),
        (a + (b - c), "a_t + b_t - c_t"),
        (a * (b + c), "a_t ⊙ (b_t + c_t)"),
        ((1 - a) * (1 - b), "(1 - a_t) ⊙ (1 - b_t)"),
        (2 * a - 0.5, "2 × a_t - 0.5"),
        (a + Number(-3.0), "a_t - 3"),
        (a * Number(-3.0), "a_t × (-3)"),
        (Number(-3.0) * a, "-3 × a_t"),
        (a - from_x("k"), "a_t - (W_ik x_t + b_ik)"),
        (a + Vector("w_ci") * Previous("c"), "a_t + w_ci ⊙ c_(t-1)"),
        (from_h("n", Quantity("r") * Previous("h")), "W_hn (r_t ⊙ h_(t-1)) + b_hn"),
        (project(a * tanh(b)), "W_hr (a_t ⊙ tanh(b_t))"),
        (relu(sigmoid(a) * tanh(b)), "relu(σ(a_t) ⊙ tanh(b_t))"),
    ],
)
def test_parentheses_stand_where_they_must(expr: Expr, expected: str) -> None:
    assert text(Notation().shape(expr)) == expected


def test_words_as_names() -> None:
    shape = Notation().shape(Quantity("keep_gate") * Vector("scale"))
    assert text(shape) == "keep_gate_t ⊙ scale"
    assert latex(shape) == r"\mathrm{keep\_gate}_t \odot \mathrm{scale}"


def test_digits_in_every_form() -> None:
    shape = Total(((False, Digits("-0.5")), (False, Digits("-1.2e-09")), (True, Digits("inf"))))
    assert text(shape) == "-0.5 - 1.2e-09 - inf"
    assert latex(shape) == r"-0.5 - 1.2 \cdot 10^{-9} - \infty"
    assert "<msup><mn>10</mn><mn>-9</mn></msup>" in mathml(shape)
    product = Times(Digits("0.5"), Digits("-0.25"))
    assert text(product) == "0.5 × (-0.25)"
    assert latex(product) == r"0.5 \times (-0.25)"
    assert text(Symbol("x", "3", 0)) == "x_3[0]"


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
def test_mathml_is_well_formed_and_says_the_same(name: str, reverse: bool) -> None:
    notation = Notation(reverse=reverse)
    for shape in map(notation.shape, CELLS[name].equations.values()):
        root = ElementTree.fromstring(mathml(shape))
        assert root.tag == "math"
        said = "".join(root.itertext()).replace("\u2061", "").replace("\u2062", "")
        plain = text(shape).replace("_(t-1)", "t-1").replace("_(t+1)", "t+1")
        assert said == plain.replace("_", "").replace(" ", "").replace("-", "−")


# declared cells: printed and worked by hand as torch's own are ------------------------------------

r, z, n, i, f, o = (Quantity(name) for name in "rznifo")
h_prev, c_prev = Previous("h"), Previous("c")

RESET_BEFORE = Cell(
    name="GRU as in the paper",
    gates="rzn",
    equations={
        "r": sigmoid(from_x("r") + from_h("r")),
        "z": sigmoid(from_x("z") + from_h("z")),
        "n": tanh(from_x("n") + from_h("n", of=r * h_prev)),
        "h": h_prev - z * (h_prev - n),
    },
)
PEEPHOLE = Cell(
    name="peephole LSTM",
    gates="ifgo",
    equations={
        "i": sigmoid(from_x("i") + from_h("i") + Vector("w_ci") * c_prev),
        "f": sigmoid(from_x("f") + from_h("f") + Vector("w_cf") * c_prev),
        "c": f * c_prev + i * tanh(from_x("g") + from_h("g")),
        "o": sigmoid(from_x("o") + from_h("o") + Vector("w_co") * c),
        "h": 0.5 * (o * tanh(c)),
    },
)


def operands(cell: Cell, features: int, hidden: int, with_vectors: bool = True) -> Operands:
    draw = torch.Generator().manual_seed(3)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    rows = len(cell.gates) * hidden
    weights = Weights(
        cell, numbers(rows, features), numbers(rows, hidden), numbers(rows), numbers(rows), None, ""
    )
    vectors = {name: numbers(hidden) for name in cell.vectors} if with_vectors else {}
    before = {state: numbers(hidden) for state in cell.states}
    return Operands(weights, numbers(features), before, 0, 4, False, vectors)


@pytest.mark.parametrize("cell", [RESET_BEFORE, PEEPHOLE], ids=lambda cell: cell.name)
@pytest.mark.parametrize(("features", "hidden"), [(1, 1), (3, 4), (12, 11)])
def test_a_declared_cell_is_worked_by_hand(cell: Cell, features: int, hidden: int) -> None:
    at = operands(cell, features, hidden)
    unit_step = UnitStep(at, Ruler(7), cell.quantities)
    chains = tuple(
        Chain(
            at.notation.quantity(name),
            computation.stages,
            computation.numeral.text,
            symbolic=computation.symbolic,
        )
        for name, computation in unit_step.computations.items()
    )
    written = Document((Chains(chains),), {}).text()
    assert check_chains(written) >= 2 * len(cell.equations)
    for name, computation in unit_step.computations.items():
        expected = float(at.all_units.value(Quantity(name))[0])
        assert computation.numeral.truth == pytest.approx(expected, abs=1e-12)
        assert computation.numeral.value == pytest.approx(expected, abs=3e-7)


def test_a_reset_before_the_product_takes_every_unit() -> None:
    at = operands(RESET_BEFORE, 3, 4)
    w, u = at.weights.ih, at.weights.hh
    b, d = at.weights.b_ih, at.weights.b_hh
    h = at.before["h"]
    reset = torch.sigmoid(w[:4] @ at.x + b[:4] + u[:4] @ h + d[:4])
    new = torch.tanh(w[8:] @ at.x + b[8:] + u[8:] @ (reset * h) + d[8:])
    unit_step = UnitStep(at, Ruler(), ["n"])
    assert unit_step.computations["n"].numeral.truth == pytest.approx(float(new[0]), abs=1e-12)
    (dot,) = (dot for dot in unit_step.dots.values() if dot.symbol.vector != Symbol("x", "4"))
    assert text(dot.entry(2)) == "(r_4 × h_3)[2]"


def test_a_parameter_that_is_not_there_is_told() -> None:
    at = operands(PEEPHOLE, 2, 2, with_vectors=False)
    with pytest.raises(DeclarationError, match="uses the parameter w_ci"):
        UnitStep(at, Ruler(), PEEPHOLE.quantities)
