"""The algebra of equations, and the declarations made in it: each against plain arithmetic."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rnnscope as rs
from rnnscope.cells import Cell, cells, from_h, from_x, project, relu, sigmoid, tanh
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    FromX,
    Number,
    Previous,
    Product,
    Project,
    Quantity,
    Sum,
    Vector,
    evaluate,
    leaves,
    linear_recurrence,
    nodes,
    ordered,
    terms,
)

UNITS = 3
a, b, c = Quantity("a"), Quantity("b"), Quantity("c")
c_prev = Previous("c")


class Plain:
    """Values of leaves, drawn once; a product is W·(what it multiplies) + a bias."""

    def __init__(self) -> None:
        self.values: dict[Expr, Tensor] = {}

    def value(self, leaf: Expr) -> Tensor:
        if leaf not in self.values:
            self.values[leaf] = torch.randn(2, UNITS, dtype=torch.float64)
        return self.values[leaf]

    def matrix(self, kind: str) -> Tensor:
        if kind not in self.values:
            self.values[kind] = torch.randn(UNITS, UNITS, dtype=torch.float64)  # type: ignore[index]
        return self.values[kind]  # type: ignore[index]

    def products(self, every: tuple[Expr, ...], out: Tensor | None) -> Tensor:
        total = torch.stack([by_hand(leaf, self) for leaf in every]).sum(0)
        return total if out is None else out.copy_(total)


PLAIN = {
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "tanh": torch.tanh,
    "relu": lambda x: x.clamp(min=0),
    "linear": lambda x: 1 * x,
    "hard_sigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
    "softsign": lambda x: x / (1 + x.abs()),
    "softplus": lambda x: x.clamp(min=0) + (1 + (-x.abs()).exp()).log(),
    "affine(-2.0, 0.5)": lambda x: -2 * x + 0.5,
}


def by_hand(expr: Expr, env: Plain) -> Tensor:
    """An equation by the definition of each node, with nothing merged and nothing in place."""
    match expr:
        case Number(number):
            return torch.full((2, UNITS), number, dtype=torch.float64)
        case Sum(left, right, negative):
            one, other = by_hand(left, env), by_hand(right, env)
            return one - other if negative else one + other
        case Product(left, right):
            return by_hand(left, env) * by_hand(right, env)
        case Apply(name, argument):
            return PLAIN[name](by_hand(argument, env))
        case FromX(gate):
            return env.value(Vector(f"x {gate}")) @ env.matrix(f"W_i{gate}")
        case FromH(gate, of):
            return by_hand(of, env) @ env.matrix(f"W_h{gate}")
        case Project(of):
            return by_hand(of, env) @ env.matrix("W_hr")
        case _:
            return env.value(expr)


LEAVES = st.sampled_from(
    [a, b, c_prev, Vector("p"), Number(2.0), Number(-1.0), from_x("a"), from_h("a"), from_h("b")]
)
EQUATIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Sum, inner, inner, st.booleans()),
        st.builds(Product, inner, inner),
        st.builds(Apply, st.sampled_from(list(PLAIN)), inner),
        st.builds(lambda of: from_h("c", of), inner),
        st.builds(project, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=400)
@given(EQUATIONS)
def test_evaluation(expr: Expr) -> None:
    """With and without memory to write to, every leaf as it was before."""
    torch.manual_seed(0)
    env = Plain()
    expected = by_hand(expr, env)
    before = {leaf: value.clone() for leaf, value in env.values.items()}
    size = 1 + float(expected.abs().max())
    alone = evaluate(expr, env)
    out = torch.full((2, UNITS), torch.nan, dtype=torch.float64)
    written = evaluate(expr, env, out)
    assert written.data_ptr() == out.data_ptr()
    # sums in another order; the largest intermediate stands for its size
    assert (alone - expected).abs().max() < 1e-10 * size
    assert (written - expected).abs().max() < 1e-10 * size
    assert all(torch.equal(value, env.values[leaf]) for leaf, value in before.items())


@settings(max_examples=200)
@given(EQUATIONS)
def test_gradients_flow_without_memory_to_write_to(expr: Expr) -> None:
    torch.manual_seed(0)
    env = Plain()
    by_hand(expr, env)
    for value in env.values.values():
        value.requires_grad_()
    inputs = list(env.values.values())
    if not inputs:
        return
    found, expected = evaluate(expr, env), by_hand(expr, env)
    if not expected.requires_grad:
        return
    one = torch.autograd.grad(found.sum(), inputs, allow_unused=True)
    other = torch.autograd.grad(expected.sum(), inputs, allow_unused=True)
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert (mine - theirs).abs().max() < 1e-8 * (1 + theirs.abs().max())


@given(EQUATIONS)
def test_terms_sum_to_the_whole(expr: Expr) -> None:
    torch.manual_seed(0)
    env = Plain()
    every = list(terms(expr))
    total = sum(-by_hand(term, env) if negative else by_hand(term, env) for negative, term in every)
    expected = by_hand(expr, env)
    assert (total - expected).abs().max() < 1e-10 * (1 + expected.abs().max())
    assert not any(isinstance(term, Sum) for _, term in every)


def same(value: Tensor, expected: Tensor) -> None:
    """Bit for bit; a softplus of a large number may be inf, and its product with 0 NaN."""
    torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)


@given(EQUATIONS)
def test_map_replaces_a_leaf_wherever_it_stands(expr: Expr) -> None:
    """a in the place of b computes what the equation does where b has the numbers of a."""
    torch.manual_seed(0)
    env = Plain()
    replaced = by_hand(expr.map(lambda node: a if node == b else None), env)
    env.values[b] = env.value(a)
    same(replaced, by_hand(expr, env))


@given(EQUATIONS)
def test_map_that_changes_nothing_and_all(expr: Expr) -> None:
    visited: list[Expr] = []
    assert expr.map(visited.append) == expr
    assert visited == list(nodes(expr))
    assert expr.map(lambda _: c) == c


def test_map_keeps_signs_and_functions_of_ones_own() -> None:
    cubed = replace(cells.FUNCTIONS["tanh"], name="cubed", forward=lambda x: x**3)
    expr = cells.apply(cubed, a - project(b))
    changed = expr.map(lambda node: c if node == b else None)
    assert changed == cells.apply(cubed, a - project(c))
    assert torch.equal(changed.function.forward(torch.tensor(2.0)), torch.tensor(8.0))


@given(EQUATIONS)
def test_ordered_operands_round_to_the_same_number(expr: Expr) -> None:
    torch.manual_seed(0)
    env = Plain()
    same(by_hand(ordered(expr), env), by_hand(expr, env))
    swapped = expr.map(lambda node: type(node)(node.right, node.left) if _commutes(node) else None)
    assert ordered(swapped) == ordered(expr)


def _commutes(node: Expr) -> bool:
    return isinstance(node, Product) or (isinstance(node, Sum) and not node.negative)


def test_terms_keep_their_order_and_sign() -> None:
    assert list(terms(a - (b + c))) == [(False, a), (True, b), (True, c)]
    assert list(terms(a - (b - c))) == [(False, a), (True, b), (False, c)]
    assert list(terms(1 - a)) == [(False, Number(1.0)), (True, a)]
    assert list(terms(a * (b + c))) == [(False, a * (b + c))]


def test_operators_build_what_they_say() -> None:
    assert 2 * a == Product(Number(2.0), a)
    assert a * 2 == Product(a, Number(2.0))
    assert 1 + a == Sum(Number(1.0), a)
    assert a - 1 == Sum(a, Number(1.0), negative=True)
    assert a + b != b + a
    assert hash(a + b) == hash(Quantity("a") + Quantity("b"))


def test_leaves_from_left_to_right() -> None:
    expr = tanh(from_x("n") + a * from_h("n", b * c_prev)) - project(c)
    found = [from_x("n"), a, from_h("n", b * c_prev), b, c_prev, project(c), c]
    assert list(leaves(expr)) == found


# ── linear recurrences ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "expr",
    [
        a * c_prev + b * a,
        b * a + c_prev * a,
        a * c_prev + b - a * b,
        (1 - a) * c_prev + a * tanh(b),
        b + a * c_prev + from_x("a"),
        cells.LSTM.equations["c"],
    ],
)
def test_split_of_a_linear_recurrence(expr: Expr) -> None:
    split = linear_recurrence(expr, "c")
    assert split is not None
    factor, addend = split
    env = Plain()
    again = by_hand(factor, env) * env.value(c_prev) + by_hand(addend, env)
    assert (by_hand(expr, env) - again).abs().max() < 1e-14
    assert c_prev not in [*leaves(factor), *leaves(addend)]


@pytest.mark.parametrize(
    "expr",
    [
        tanh(c_prev) + a,
        a * tanh(c_prev) + b,
        c_prev * c_prev + a,
        a * c_prev + b * c_prev + a,
        b - a * c_prev,
        (a + c_prev) * c_prev + b,
        a * b + a,
        a * (b * c_prev) + a,
    ],
)
def test_what_is_no_linear_recurrence(expr: Expr) -> None:
    assert linear_recurrence(expr, "c") is None


# ── declarations ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cell", "states", "parts", "projected"),
    [
        ("rnn_tanh", "h", "h", False),
        ("rnn_relu", "h", "h", False),
        ("gru", "h", "rzn", False),
        ("lstm", "hc", "ifgo", False),
        ("lstm_projected", "hc", "ifgo", True),
    ],
)
def test_declared_cells(cell: str, states: str, parts: str, projected: bool) -> None:
    declared = cells.CELLS[cell]
    assert declared.states == tuple(states)
    assert declared.gates == tuple(parts)
    assert set(declared.parts) == {
        f"{gate}_{part}" for gate, part in itertools.product(parts, ("pre", "from_x", "from_h"))
    }
    assert declared.projected is projected
    assert declared.vectors == ()
    assert declared.source
    assert set(declared.words) == set(declared.equations)


def cell_of(**equations: Expr) -> Cell:
    return Cell(name="mine", gates="ab", equations=equations)


@pytest.mark.parametrize(
    ("equations", "says"),
    [
        ({"a": sigmoid(from_x("a"))}, "cell mine: no equation for h"),
        ({}, "no equation for h.*got none"),
        ({"h": tanh(a)}, "uses a, which is not computed before it"),
        ({"h": tanh(from_x("a")) + Quantity("x")}, r"uses x itself.*write from_x\(k\)"),
        ({"h": tanh(a), "a": tanh(a)}, r"move the equation of a up, or write previous\('a'\)"),
        ({"h": tanh(from_x("a") + b), "b": relu(from_x("b"))}, "move the equation of b up"),
        ({"h": from_x("a") + Previous("s")}, "uses s of the step before, which no equation"),
        ({"h": tanh(from_x("k"))}, "weights of gate k; gates is 'ab'"),
        ({"h": tanh(from_h("k", from_x("a")))}, "weights of gate k"),
        ({"h": from_h("a", b * Previous("h"))}, "uses b, which is not computed"),
    ],
)
def test_declarations_that_do_not_fit(equations: dict[str, Any], says: str) -> None:
    with pytest.raises(rs.DeclarationError, match=says):
        cell_of(**equations)


def test_a_declared_cell_knows_its_parts() -> None:
    p = Vector("p")
    peephole = cell_of(
        a=sigmoid(from_x("a") + p * Previous("s")),
        s=Quantity("a") * Previous("s") + from_h("b"),
        h=tanh(Quantity("s")),
    )
    assert peephole.states == ("h", "s")
    assert peephole.vectors == ("p",)
    assert peephole.parts == ("a_from_x", "a_pre", "b_from_h", "h_pre")
    assert peephole.quantities == ("a", "s", "h")
