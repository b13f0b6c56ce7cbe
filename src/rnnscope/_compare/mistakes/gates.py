"""Mistakes in how a step uses its gates: which one scales what, and what is carried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Entry
from rnnscope._compare.mistakes.equations import (
    blends,
    factors_of,
    instead,
    rewritten,
    with_equations,
)
from rnnscope._compare.mistakes.weights import forget_gates
from rnnscope._compare.mistakes.words import LINES, declared
from rnnscope._compare.model.model import Model, Part
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    Previous,
    Product,
    Quantity,
    Sum,
    Vector,
    linear_recurrence,
    nodes,
)

__all__ = ["PAIRS", "UPDATES", "confusable", "confuse"]

# the new state and the old one ---------------------------------------------------------------


def _update(part: Part, cause: Cause) -> Part | None:
    """Also where z and 1 - z are exchanged already."""
    match linear_recurrence(part.cell.equations["h"], "h"):
        case (old, Product(factor, new)) if 1 - old == factor or 1 - factor == old:
            h: dict[str, Expr] = {
                "unused": new,
                "both": old * new + old * Previous("h"),
                "added": new + old * Previous("h"),
                "new": factor * new,
            }
            return with_equations(part, cause, h=h[cause.choice])
    return None


# one gate in place of another, and 1 minus a gate ---------------------------------------------

PAIRS = (("f", "i"), ("i", "f"), ("i", "o"), ("f", "o"), ("z", "r"), ("r", "z"))
"""A gate, and that in place of which it is used."""

INVERTIBLE = ("f", "i", "o", "r")


def _users(part: Part, gate: str) -> list[str]:
    """The quantities in whose equations something is scaled by a gate, or by 1 minus it."""
    scales = Quantity(gate), 1 - Quantity(gate)
    factors = {name: factors_of(equation) for name, equation in part.cell.equations.items()}
    return [name for name in factors if any(scale in factors[name] for scale in scales)]


def _exchangeable(model: Model) -> Iterator[str]:
    part, gates = model.first, model.first.cell.gates
    for used, gate in PAIRS:
        if used in gates and gate in gates and _users(part, gate):
            yield f"{used}:{gate}"


def _invertible(model: Model) -> Iterator[str]:
    part = model.first
    return (gate for gate in INVERTIBLE if gate in part.cell.gates and _users(part, gate))


def _use_other(part: Part, cause: Cause) -> Part | None:
    used, _, gate = cause.choice.rpartition(":")
    old = Quantity(gate)
    new = Quantity(used) if used else 1 - old
    return rewritten(part, cause, instead(old, new), _users(part, gate))


def _gate_facts(cause: Cause, model: Model) -> dict[str, object]:
    used, _, gate = cause.choice.rpartition(":")
    words = model.first.cell.words
    return {
        "used": words.get(used, used),
        "word": words.get(gate, gate),
        "gate": gate,
        "user": next(iter(_users(model.first, gate)), ""),
        "line": LINES[{"r": "RESET", "z": "BLEND"}.get(gate, "CELL")],
    }


# a cell state that is carried on as h sees it ------------------------------------------------


def _squash(part: Part, cause: Cause) -> Part | None:
    state, equations = part.cell_state, part.cell.equations
    if cause.choice == "outside":
        # the function of the cell state around what the gate makes of it
        return rewritten(part, cause, _function_outside)
    if state is None:
        return None
    changed: dict[str, Expr] = {}
    for name, equation in equations.items():
        functions = [
            node
            for node in nodes(equation)
            if isinstance(node, Apply) and node.argument in (Quantity(state), Previous(state))
        ]
        if len(functions) == 1 and name != state:
            [function] = functions
            changed[name] = equation.map(instead(function, function.argument))
            changed[state] = replace(function, argument=equations[state])
    return with_equations(part, cause, **changed) if changed else None


def _function_outside(expr: Expr) -> Expr | None:
    match expr:
        case Product(Quantity() as gate, Apply(_, Quantity() | Previous()) as function):
            return replace(function, argument=gate * function.argument)
    return None


# one state in place of the other -------------------------------------------------------------


def confusable(model: Model) -> bool:
    """Whether h and c can stand in each other's place."""
    return bool(forget_gates(model.first)) and not model.structure.cell.projected


def confuse(part: Part, cause: Cause) -> Part | None:
    """The part with one state of the step before in place of the other."""
    state, equations = part.cell_state, part.cell.equations
    if state is None:
        return None

    def fed(expr: Expr) -> Expr | None:
        from_h = isinstance(expr, FromH) and expr.of == Previous("h")
        return FromH(expr.gate, Previous(state)) if from_h else None  # type: ignore[attr-defined]

    changed = dict(equations)
    if cause.choice != "carried":
        changed = {name: equation.map(fed) for name, equation in changed.items()}
    if cause.choice != "fed":
        changed[state] = changed[state].map(instead(Previous(state), Previous("h")))
    changed = {name: after for name, after in changed.items() if after != equations[name]}
    return with_equations(part, cause, **changed) if changed else None


# sums in place of products, and peepholes ----------------------------------------------------


def _summable(model: Model) -> Iterator[str]:
    part = model.first
    return (name for name in part.cell.equations if _gated(part, name) is not None)


def _gated(part: Part, name: str) -> Product | None:
    """What a gate scales newly in an equation: i * g in that of c, o * tanh(c) in that of h."""
    kept = name in part.cell.states and name != "h"  # its old value is scaled by another gate
    for node in nodes(part.cell.equations[name]):
        match node:
            case Product(Quantity(gate), factor) if gate in part.cell.gates:
                if not (kept and isinstance(factor, Previous)):
                    return node
    return None


def _sum_up(part: Part, cause: Cause) -> Part | None:
    product = _gated(part, cause.choice) if cause.choice in part.cell.equations else None
    if product is None:
        return None
    return rewritten(part, cause, instead(product, product.left + product.right), (cause.choice,))


def _sum_facts(cause: Cause, model: Model) -> dict[str, object]:
    product = _gated(model.first, cause.choice)
    assert product is not None, "what can be chosen is gated"
    gate, inside = product.left, product.right
    return {
        "gate": gate.name if isinstance(gate, Quantity) else "",
        "new": inside.name if isinstance(inside, Quantity) else "tanh(c)",
    }


def _peeping(model: Model) -> Iterator[str]:
    peepholes = _peepholes(model.first).values()
    if peepholes:
        yield from ("unused", "outside")
    if any(isinstance(state, Quantity) for _, state in peepholes):
        yield "old"


def _peepholes(part: Part) -> dict[str, tuple[Product, Expr]]:
    """Gates that see a state through a vector of weights, with that product and what is seen."""
    peepholes: dict[str, tuple[Product, Expr]] = {}
    for name in part.cell.gates:
        equation = part.cell.equations.get(name)
        for node in () if equation is None else nodes(equation):
            match node:
                case Product(Vector(), (Quantity() | Previous()) as state):
                    peepholes[name] = (node, state)
    return peepholes


def _peep(part: Part, cause: Cause) -> Part | None:
    equations: dict[str, Expr] = {}
    for name, (product, state) in _peepholes(part).items():
        equation = part.cell.equations[name]
        if cause.choice == "old" and isinstance(state, Quantity):
            old = Product(product.left, Previous(state.name))
            equations[name] = equation.map(instead(product, old))
        if cause.choice in ("unused", "outside"):
            without = equation.map(_without(product))
            equations[name] = without + product if cause.choice == "outside" else without
    return with_equations(part, cause, **equations) if equations else None


def _without(summand: Expr) -> Callable[[Expr], Expr | None]:
    """A change that leaves out what is added last."""
    return lambda expr: expr.left if isinstance(expr, Sum) and expr.right == summand else None


UPDATES = declared(
    """
    update unused
        the update gate is not used
        z of {kind} keeps the old state.
        {BLEND}
    update both
        z scales both states
        1 - z scales the new one in {kind}.
        {BLEND}
    update added
        n is added whole
        1 - z scales it in {kind}.
        {BLEND}
    update new
        the old state is not added
        z of {kind} keeps it.
        {BLEND}
    other_gate
        the {used} gate is used in place of the {word} gate
        {gate} scales what {user} is made of.
        {line}
    inverted
        1 - {gate} in place of {gate}
        {gate} scales what {user} is made of.
        {line}
    squashed
        tanh(c) is stored as c
        c is carried on as it is; h alone has its tanh.
        {CELL}
    squashed outside
        tanh(o * c) in place of o * tanh(c)
        o scales what tanh makes of c.
        {CELL}
    confused fed
        W_hh multiplies c
        it multiplies the h of the step before.
        h @ W_hh.T
    confused carried
        h is carried on in place of c
        f scales the c of the step before.
        {CELL}
    confused both
        h and c are exchanged at every step
        W_hh multiplies the h of the step before, and f scales its c.
        h, c = step(x[t], (h, c))   # in this order, in and out
    summed
        {gate} + {new} in place of {gate} * {new}
        a gate multiplies what it lets through.
        {CELL}
    peepholes unused
        the peepholes are not used
        gates see the cell state.
        c = f * c + i * g; o = sigmoid(a_o + p_o * c)
    peepholes outside
        the peepholes are added after the sigmoid
        they are part of its argument.
        c = f * c + i * g; o = sigmoid(a_o + p_o * c)
    peepholes old
        the output gate sees the old c
        its peephole sees c_t.
        c = f * c + i * g; o = sigmoid(a_o + p_o * c)
    """,
    Entry("update", "z and 1 - z", "parts", _update, where=lambda model: blends(model.first)),
    Entry("other_gate", "which gate is used", "parts", _use_other, options=_exchangeable),
    Entry("inverted", "which gate is used", "parts", _use_other, options=_invertible),
    Entry(
        "squashed",
        "the cell state",
        "parts",
        _squash,
        where=lambda model: forget_gates(model.first),
        exactly="c = tanh(f × c_(t-1) + i × g), h = o × c. `outside`: h = tanh(o × c).",
    ),
    Entry(
        "confused",
        "the cell state",
        "parts",
        confuse,
        where=confusable,
        exactly="`both`: at every step, the first included, h stands in c's place and c in h's.",
    ),
    Entry(
        "summed",
        "the cell state",
        "parts",
        _sum_up,
        options=_summable,
        where=lambda model: forget_gates(model.first),
        facts=_sum_facts,
    ),
    Entry(
        "peepholes",
        "the peepholes",
        "parts",
        _peep,
        options=_peeping,
        exactly="`old`: o = σ(a_o + p_o × c_(t-1)). `outside`: o = σ(a_o) + p_o × c, and so i, f.",
    ),
    facts=_gate_facts,
)
