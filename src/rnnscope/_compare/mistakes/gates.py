"""Mistakes in how a step uses its gates: which one scales what, and what is carried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words
from rnnscope._compare.mistakes.equations import (
    blends,
    factors_of,
    first_part,
    with_equations,
)
from rnnscope._compare.mistakes.weights import forget_gates
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

CELL = "c = f * c + i * g; h = o * tanh(c)"
BLEND = "h = (1 - z) * n + z * h"

# the new state and the old one ---------------------------------------------------------------


def _blending(model: Model) -> Iterator[Choice]:
    if blends(first_part(model)) is not None:
        yield from ((choice, "") for choice in ("unused", "both", "added", "new"))


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


def _update_words(cause: Cause, model: Model) -> Words:
    kind = model.structure.kind
    match cause.choice:
        case "unused":
            return Words("the update gate is not used", f"z of {kind} keeps the old state.", BLEND)
        case "added":
            return Words("n is added whole", f"1 - z scales it in {kind}.", BLEND)
        case "new":
            return Words("the old state is not added", f"z of {kind} keeps it.", BLEND)
    return Words("z scales both states", f"1 - z scales the new one in {kind}.", BLEND)


# one gate in place of another ----------------------------------------------------------------

PAIRS = (("f", "i"), ("i", "f"), ("i", "o"), ("f", "o"), ("z", "r"), ("r", "z"))
"""A gate, and that in place of which it is used."""


def _users(part: Part, gate: str) -> list[str]:
    """The quantities in whose equations something is scaled by a gate, or by 1 minus it."""
    scales = Quantity(gate), 1 - Quantity(gate)
    factors = {name: factors_of(equation) for name, equation in part.cell.equations.items()}
    return [name for name in factors if any(scale in factors[name] for scale in scales)]


def _exchangeable(model: Model) -> Iterator[Choice]:
    part = first_part(model)
    for used, gate in PAIRS:
        if used in part.cell.gates and gate in part.cell.gates and _users(part, gate):
            yield f"{used}:{gate}", ""


def _use_other(part: Part, cause: Cause) -> Part | None:
    used, gate = cause.choice.split(":")
    equations = {
        name: part.cell.equations[name].map(
            lambda e: Quantity(used) if e == Quantity(gate) else None
        )
        for name in _users(part, gate)
    }
    return with_equations(part, cause, **equations) if equations else None


def _other_words(cause: Cause, model: Model) -> Words:
    used, gate = cause.choice.split(":")
    part = first_part(model)
    used_word, gate_word = (part.cell.words.get(name, name) for name in (used, gate))
    repair = {"r": "n = tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))", "z": BLEND}
    return Words(
        f"the {used_word} gate is used in place of the {gate_word} gate",
        f"{gate} scales what {_users(part, gate)[0]} is made of.",
        repair.get(gate, CELL),
    )


# 1 minus a gate in place of it ------------------------------------------------------------------

INVERTIBLE = ("f", "i", "o", "r")


def _invertible(model: Model) -> Iterator[Choice]:
    part = first_part(model)
    gates = [gate for gate in INVERTIBLE if gate in part.cell.gates and _users(part, gate)]
    yield from ((gate, "") for gate in gates)


def _invert(part: Part, cause: Cause) -> Part | None:
    gate = Quantity(cause.choice)
    equations = {
        name: part.cell.equations[name].map(_instead(gate, 1 - gate))
        for name in _users(part, cause.choice)
    }
    return with_equations(part, cause, **equations) if equations else None


def _inverted_words(cause: Cause, model: Model) -> Words:
    gate = cause.choice
    right = "n = tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))" if gate == "r" else CELL
    users = _users(first_part(model), gate)
    return Words(
        f"1 - {gate} in place of {gate}", f"{gate} scales what {users[0]} is made of.", right
    )


# a cell state that is carried on as h sees it ------------------------------------------------


def _squashings(model: Model) -> Iterator[Choice]:
    if forget_gates(first_part(model)):
        yield from (("", ""), ("outside", ""))


def _squash_product(part: Part, cause: Cause) -> Part | None:
    """With the function of the cell state around what the gate makes of it."""

    def outside(expr: Expr) -> Expr | None:
        match expr:
            case Product(Quantity() as gate, Apply(_, Quantity() | Previous()) as function):
                return replace(function, argument=gate * function.argument)
        return None

    equations = {
        name: changed
        for name, equation in part.cell.equations.items()
        if (changed := equation.map(outside)) != equation
    }
    return with_equations(part, cause, **equations) if equations else None


def _squash(part: Part, cause: Cause) -> Part | None:
    if cause.choice == "outside":
        return _squash_product(part, cause)
    state = next((s for s in part.cell.states if s != "h"), None)
    if state is None:
        return None
    equations: dict[str, Expr] = {}
    for name, equation in part.cell.equations.items():
        functions: list[Apply] = []

        def unsquashed(expr: Expr, functions: list[Apply] = functions) -> Expr | None:
            if isinstance(expr, Apply) and expr.argument in (Quantity(state), Previous(state)):
                functions.append(expr)
                return expr.argument
            return None

        after = equation.map(unsquashed)
        if len(functions) == 1 and name != state:
            [function] = functions
            equations |= {
                name: after,
                state: replace(function, argument=part.cell.equations[state]),
            }
    return with_equations(part, cause, **equations) if equations else None


def _squashed_words(cause: Cause, model: Model) -> Words:
    if cause.choice == "outside":
        return Words("tanh(o * c) in place of o * tanh(c)", "o scales what tanh makes of c.", CELL)
    return Words("tanh(c) is stored as c", "c is carried on as it is; h alone has its tanh.", CELL)


# one state in place of the other -------------------------------------------------------------


def confusable(model: Model) -> Iterator[Choice]:
    """Which of h and c stand in the other's place, where they can."""
    structure = model.structure
    if forget_gates(first_part(model)) and not structure.cell.projected:
        yield from (("fed", ""), ("carried", ""), ("both", ""))


def confuse(part: Part, cause: Cause) -> Part | None:
    """The part with one state of the step before in place of the other."""
    state = next((s for s in part.cell.states if s != "h"), None)
    if state is None:
        return None
    equations = part.cell.equations

    def fed(expr: Expr) -> Expr | None:
        from_h = isinstance(expr, FromH) and expr.of == Previous("h")
        return FromH(expr.gate, Previous(state)) if from_h else None  # type: ignore[attr-defined]

    changed = dict(equations)
    if cause.choice != "carried":
        changed = {name: equation.map(fed) for name, equation in changed.items()}
    if cause.choice != "fed":
        changed[state] = changed[state].map(_instead(Previous(state), Previous("h")))
    changed = {name: after for name, after in changed.items() if after != equations[name]}
    return with_equations(part, cause, **changed) if changed else None


def _instead(old: Expr, new: Expr) -> Callable[[Expr], Expr | None]:
    return lambda expr: new if expr == old else None


def _confused_words(cause: Cause, model: Model) -> Words:
    if cause.choice == "carried":
        return Words("h is carried on in place of c", "f scales the c of the step before.", CELL)
    if cause.choice == "both":
        return Words(
            "h and c are exchanged at every step",
            "W_hh multiplies the h of the step before, and f scales its c.",
            "h, c = step(x[t], (h, c))   # in this order, in and out",
        )
    return Words("W_hh multiplies c", "it multiplies the h of the step before.", "h @ W_hh.T")


# sums in place of products, and peepholes ----------------------------------------------------


def _summable(model: Model) -> Iterator[Choice]:
    part = first_part(model)
    if forget_gates(part):
        yield from ((name, "") for name in part.cell.equations if _gated(part, name) is not None)


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
    equation = part.cell.equations[cause.choice]
    return with_equations(
        part,
        cause,
        **{cause.choice: equation.map(_instead(product, product.left + product.right))},
    )


def _sum_words(cause: Cause, model: Model) -> Words:
    product = _gated(first_part(model), cause.choice)
    assert product is not None, "what can be chosen is gated"
    assert isinstance(product.left, Quantity), "by a gate"
    gate, inside = product.left.name, product.right
    new = inside.name if isinstance(inside, Quantity) else "tanh(c)"
    title = f"{gate} + {new} in place of {gate} * {new}"
    return Words(title, "a gate multiplies what it lets through.", CELL)


def _peeping(model: Model) -> Iterator[Choice]:
    part = first_part(model)
    if not any(_peepholes(part).values()):
        return
    yield "unused", ""
    yield "outside", ""
    if any(isinstance(state, Quantity) for _, state in _peepholes(part).values()):
        yield "old", ""


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
            equations[name] = equation.map(_instead(product, old))
        if cause.choice in ("unused", "outside"):
            without = equation.map(_without(product))
            equations[name] = without + product if cause.choice == "outside" else without
    return with_equations(part, cause, **equations) if equations else None


def _without(summand: Expr) -> Callable[[Expr], Expr | None]:
    """A change that leaves out what is added last."""
    return lambda expr: expr.left if isinstance(expr, Sum) and expr.right == summand else None


def _peep_words(cause: Cause, model: Model) -> Words:
    right = "c = f * c + i * g; o = sigmoid(a_o + p_o * c)"
    match cause.choice:
        case "unused":
            return Words("the peepholes are not used", "gates see the cell state.", right)
        case "outside":
            return Words(
                "the peepholes are added after the sigmoid", "they are part of its argument.", right
            )
    return Words("the output gate sees the old c", "its peephole sees c_t.", right)


UPDATES = (
    Entry("update", "z and 1 - z", "parts", _blending, _update_words, _update),
    Entry("other_gate", "which gate is used", "parts", _exchangeable, _other_words, _use_other),
    Entry("inverted", "which gate is used", "parts", _invertible, _inverted_words, _invert),
    Entry(
        "squashed",
        "the cell state",
        "parts",
        _squashings,
        _squashed_words,
        _squash,
        exactly="c = tanh(f × c_(t-1) + i × g), h = o × c. `outside`: h = tanh(o × c).",
    ),
    Entry(
        "confused",
        "the cell state",
        "parts",
        confusable,
        _confused_words,
        confuse,
        exactly="`both`: at every step, the first included, h stands in c's place and c in h's.",
    ),
    Entry("summed", "the cell state", "parts", _summable, _sum_words, _sum_up),
    Entry(
        "peepholes",
        "the peepholes",
        "parts",
        _peeping,
        _peep_words,
        _peep,
        exactly="`old`: o = σ(a_o + p_o × c_(t-1)). `outside`: o = σ(a_o) + p_o × c, and so i, f.",
    ),
)
