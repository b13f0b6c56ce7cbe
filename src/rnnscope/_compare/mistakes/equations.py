"""Mistakes in the equations of a step."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import replace

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Entry, changed_cell
from rnnscope._compare.mistakes.weights import forget_gates
from rnnscope._compare.mistakes.words import LINES, Words, declared
from rnnscope._compare.model.model import Model, Part
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    Number,
    Previous,
    Product,
    Quantity,
    Sum,
    leaves,
    linear_recurrence,
)

__all__ = [
    "EQUATIONS",
    "applied_gates",
    "blends",
    "factors_of",
    "instead",
    "rewritten",
    "with_equations",
]


def with_equations(part: Part, cause: Cause, **equations: Expr) -> Part:
    """The part with some equations replaced by a cause."""
    cell = changed_cell(part.cell, tuple(equations.items()))
    return part.marked(cause.name, cause.choice, cell=cell)


def rewritten(
    part: Part,
    cause: Cause,
    change: Callable[[Expr], Expr | None],
    where: Container[str] | None = None,
) -> Part | None:
    """The part with each expression in its equations, or in some of them, changed; None where
    nothing is."""
    equations = {
        name: changed
        for name, equation in part.cell.equations.items()
        if (where is None or name in where) and (changed := equation.map(change)) != equation
    }
    return with_equations(part, cause, **equations) if equations else None


def instead(old: Expr, new: Expr) -> Callable[[Expr], Expr | None]:
    """A change of one expression to another."""
    return lambda expr: new if expr == old else None


def factors_of(equation: Expr) -> list[Expr]:
    """What stands on the left of every product."""
    factors: list[Expr] = []

    def note(expr: Expr) -> None:
        if isinstance(expr, Product):
            factors.append(expr.left)

    equation.map(note)
    return factors


# a gate that scales what W_h gives: the reset of a GRU ---------------------------------------


def _resets(part: Part) -> tuple[str, Product, Quantity, FromH] | None:
    """The quantity, the product and its two factors, where a gate scales W_hk h + b_hk."""
    for name, equation in part.cell.equations.items():
        argument = equation.argument if isinstance(equation, Apply) else equation
        if isinstance(argument, Sum) and isinstance(argument.right, Product):
            product = argument.right
            match product:
                case Product(Quantity() as gate, FromH(_, Previous("h")) as leaf):
                    return name, product, gate, leaf
    return None


def _resetting(model: Model) -> bool:
    return _resets(model.first) is not None


def _reset(part: Part, cause: Cause) -> Part | None:
    reset = _resets(part)
    if reset is None:
        return None
    name, product, gate, leaf = reset
    if cause.name == "reset_before":
        change = instead(product, FromH(leaf.gate, Product(gate, leaf.of)))
    elif cause.name == "no_reset":
        change = instead(product, leaf)
    else:

        def change(expr: Expr) -> Expr | None:
            if not (isinstance(expr, Sum) and expr.right == product):
                return None
            whole = cause.name == "reset_whole"
            return gate * (expr.left + leaf) if whole else gate * expr.left + leaf

    return rewritten(part, cause, change, (name,))


# the new state and the old one ---------------------------------------------------------------


def blends(part: Part) -> tuple[Quantity, Expr] | None:
    """Z and the new value, where h = (1 - z) × new + z × h_(t-1)."""
    split = linear_recurrence(part.cell.equations["h"], "h")
    match split:
        case (Quantity() as z, Product(Sum(Number(1.0), factor, True), new)) if factor == z:
            return z, new
    return None


def _renews(part: Part) -> tuple[Quantity, Expr] | None:
    """Z and the new value, where h = (1 - z) × h_(t-1) + z × new, as in minGRU."""
    split = linear_recurrence(part.cell.equations["h"], "h")
    match split:
        case (Sum(Number(1.0), Quantity() as z, True), Product(factor, new)) if factor == z:
            return z, new
    return None


def _exchange_update(part: Part, cause: Cause) -> Part | None:
    h_prev = Previous("h")
    if (blending := blends(part)) is not None:
        z, new = blending
        return with_equations(part, cause, h=z * new + (1 - z) * h_prev)
    if (renewing := _renews(part)) is not None:
        z, new = renewing
        return with_equations(part, cause, h=(1 - z) * new + z * h_prev)
    return None


def _update_facts(cause: Cause, model: Model) -> dict[str, object]:
    renewing = _renews(model.first)
    if renewing is None:
        return {"z": "z", "role": "keeps the old state; 1 - z takes the new", "h": LINES["BLEND"]}
    z = renewing[0].name
    role = f"takes the new state; 1 - {z} keeps the old"
    return {"z": z, "role": role, "h": f"h = (1 - {z}) * h + {z} * new"}


# activations ---------------------------------------------------------------------------------

TURNS = {"tanh": ("relu", "sigmoid", "linear"), "relu": ("tanh", "linear")}
NEGATED = "sigmoid(-a)"
DOUBLED = "sigmoid(2a)"
HARD = {
    "hard_sigmoid": "clip(a / 6 + 0.5, 0, 1)",
    "hard_sigmoid(0.2, 0.5)": "clip(0.2 a + 0.5, 0, 1)",
    "hard_sigmoid(0.25, 0.5)": "clip(a / 4 + 0.5, 0, 1)",
    "hard_sigmoid(0.5, 0.5)": "clip(a / 2 + 0.5, 0, 1)",
}
SOFT = {"hard_tanh": "clip(a, -1, 1)", "softsign": "a / (1 + abs(a))"}
"""In place of tanh, with what they compute."""
FUNCTIONS = {"hard_tanh": "clip(1.0)"}
"""Names in which a function is chosen, with that by which the algebra knows it."""
EXCHANGED = "exchanged"
"""Each function where the other stands."""
OTHER = {"tanh": "sigmoid", "sigmoid": "tanh"}


def _outermost(expr: Expr) -> Apply | None:
    """The function of an equation that stands outside of any other, if there is one only."""
    match expr:
        case Apply():
            return expr
        case Sum(left, right) | Product(left, right):
            functions = [f for f in (_outermost(left), _outermost(right)) if f is not None]
            return functions[0] if len(functions) == 1 else None
    return None


def _activations(model: Model) -> Iterator[str]:
    names: list[str] = []
    for quantity, equation in model.first.cell.equations.items():
        function = _outermost(equation)
        if function is not None:
            names.append(function.name)
            yield from (f"{quantity}:{name}" for name in TURNS.get(function.name, ()))
    if names.count("tanh") > 1:
        yield "tanh:relu"
    if "tanh" in names:
        yield from (f"tanh:{name}" for name in SOFT)
    if {"tanh", "sigmoid"} <= set(names):
        yield EXCHANGED
    if "sigmoid" in names:
        yield from (f"sigmoid:{name}" for name in (*HARD, "tanh", NEGATED, DOUBLED))


def _turned(function: Apply, choice: str) -> Expr:
    """What stands in the place of a function."""
    if choice == NEGATED:
        return 1 - function
    if choice == DOUBLED:
        return replace(function, argument=2 * function.argument)
    name = OTHER[function.name] if choice == EXCHANGED else FUNCTIONS.get(choice, choice)
    return Apply(name, function.argument)


def _activate(part: Part, cause: Cause) -> Part | None:
    place, _, choice = cause.choice.rpartition(":")
    equations: dict[str, Expr] = {}
    for quantity, equation in part.cell.equations.items():
        function = _outermost(equation)
        if function is None:
            continue
        if function.name in OTHER if choice == EXCHANGED else place in (quantity, function.name):
            equations[quantity] = equation.map(instead(function, _turned(function, choice)))
    return with_equations(part, cause, **equations) if equations else None


SIGMOID = "1 / (1 + np.exp(-a))"


def _activation_words(cause: Cause, model: Model) -> Words:
    kind = model.structure.kind
    place, _, choice = cause.choice.rpartition(":")
    if choice == EXCHANGED:
        return Words(
            "tanh and sigmoid are exchanged",
            f"the gates of {kind} have the sigmoid, what they scale has tanh.",
            "activation=np.tanh, recurrent_activation=sigmoid   # in this order",
        )
    if place == "sigmoid":
        titles = {
            "tanh": "tanh in place of sigmoid",
            NEGATED: "the sigmoid has a wrong sign, 1 / (1 + exp(a))",
            DOUBLED: "the sigmoid is twice as steep, (1 + tanh(a)) / 2",
        }
        right = "which is (1 + tanh(a / 2)) / 2" if choice == DOUBLED else "1 / (1 + exp(-a))"
        return Words(
            titles.get(choice) or f"hard sigmoid, {HARD[choice]}, in place of sigmoid",
            f"the gates of {kind} have σ(a){',' if choice == DOUBLED else ' ='} {right}.",
            SIGMOID,
        )
    if choice in SOFT:
        name = choice.replace("_", " ")
        title = f"{name}, {SOFT[choice]}, in place of tanh"
        return Words(title, f"{kind} has tanh.", "np.tanh(a)")
    if place == "tanh":
        return Words("relu in place of tanh", f"both are tanh in {kind}.", "np.tanh(a)")
    equation = model.first.cell.equations[place]
    function = _outermost(equation)
    right = function.name if function is not None else "tanh"
    inside = isinstance(equation, Apply)
    argument = function.argument if function is not None else None
    of = argument.name if isinstance(argument, Quantity) else place
    where = f"of {place if inside else of}"
    if choice == "linear":
        title = f"the {right} {where} is missing"
    else:
        title = f"{choice} in place of the {right} {where}"
    repair = f"{place} = {right}(a_{place})" if inside else f"o * {right}({of})"
    return Words(title, f"{kind} has {right} there.", repair)


# the cell state ------------------------------------------------------------------------------


def _forgetting(model: Model) -> list[str]:
    return forget_gates(model.first)


def _old_cell(part: Part, cause: Cause) -> Part | None:
    state = part.cell_state
    if state is None:
        return None
    read = part.cell.equations.keys() - {state}
    return rewritten(part, cause, instead(Quantity(state), Previous(state)), read)


def _couple(part: Part, cause: Cause) -> Part | None:
    forget = forget_gates(part)
    if not forget or "i" not in part.cell.equations:
        return None
    gate = "i" if cause.choice == forget[0] else forget[0]
    if Quantity(cause.choice) in leaves(part.cell.equations[gate]):
        return None  # each would be made from the other
    return with_equations(part, cause, **{cause.choice: 1 - Quantity(gate)})


# gates that are computed, and then not used ---------------------------------------------------


def _scaling(part: Part) -> list[str]:
    """Gates from 0 to 1 that scale something, in a cell with a forget gate."""
    if not forget_gates(part):
        return []
    factors = [
        factor for equation in part.cell.equations.values() for factor in factors_of(equation)
    ]
    return [name for name in part.cell.gates if Quantity(name) in factors]


def _leave_out(part: Part, cause: Cause) -> Part | None:
    if cause.choice not in _scaling(part):
        return None
    gate = Quantity(cause.choice)

    def without(expr: Expr) -> Expr | None:
        return expr.right if isinstance(expr, Product) and expr.left == gate else None

    return rewritten(part, cause, without)


def _unused_facts(cause: Cause, model: Model) -> dict[str, object]:
    cell, gate = model.first.cell, Quantity(cause.choice)
    users = [name for name, equation in cell.equations.items() if gate in factors_of(equation)]
    return {"word": cell.words.get(cause.choice, cause.choice), "user": users[0]}


# gates that are recorded before their function -----------------------------------------------


def applied_gates(part: Part) -> tuple[str, ...]:
    """The gates that are a function of a sum, and no states."""
    equations = part.cell.equations
    gates = (name for name in part.cell.gates if name not in part.cell.states)
    return tuple(name for name in gates if isinstance(equations.get(name), Apply))


def _appliable(model: Model) -> Iterator[str]:
    gates = applied_gates(model.first)
    yield from gates
    if len(gates) > 1:
        yield "all"


def _unapply(part: Part, cause: Cause) -> Part | None:
    gates = applied_gates(part)
    chosen = gates if cause.choice == "all" else (cause.choice,)
    if not set(chosen) <= set(gates):
        return None
    return part.marked(cause.name, cause.choice, unapplied=part.unapplied | set(chosen))


def _unapplied_facts(cause: Cause, model: Model) -> dict[str, object]:
    gates = applied_gates(model.first) if cause.choice == "all" else (cause.choice,)
    function = model.first.cell.equations[gates[0]]
    assert isinstance(function, Apply), "gates that are chosen are functions"
    several = len(gates) > 1
    are = "are recorded before their functions" if several else "is recorded before its function"
    return {
        "names": ", ".join(gates),
        "are": are,
        "these": "these are" if several else "this is",
        "arguments": ", ".join(f"{name}_pre" for name in gates),
        "line": f"{gates[0]} = {function.name}(a_{gates[0]})",
    }


EQUATIONS = declared(
    """
    reset_before
        the reset comes before the product
        you multiply h by r, then by W_hn, as in the paper; {kind} multiplies W_hn h + b_hn by r.
        {RESET}
    reset_whole
        the reset scales the whole sum
        r scales W_hn h + b_hn, and not W_in x + b_in.
        {RESET}
    reset_input
        the reset scales the input's part
        r scales W_hn h + b_hn, and not W_in x + b_in.
        {RESET}
    no_reset
        the reset gate is not used
        r scales W_hn h + b_hn.
        {RESET}
    update_exchanged
        {z} and 1 - {z} are exchanged
        {z} of {kind} {role}.
        {h}
    old_cell
        h is made from the old c
        h_t comes from c_t.
        {CELL}
    coupled f
        f = 1 - i
        the input and the forget gate of {kind} each have their own rows.
        f = sigmoid(a_f)
    coupled i
        i = 1 - f
        the input and the forget gate of {kind} each have their own rows.
        i = sigmoid(a_i)
    gate_unused
        the {word} gate is not used
        {choice} scales what {user} is made of.
        {CELL}
    unapplied
        {names} {are}
        {these} {arguments}.
        {line}
    """,
    Entry("reset_before", "the reset", "parts", _reset, where=_resetting),
    Entry("reset_whole", "the reset", "parts", _reset, where=_resetting),
    Entry("reset_input", "the reset", "parts", _reset, where=_resetting),
    Entry("no_reset", "the reset", "parts", _reset, where=_resetting),
    Entry(
        "update_exchanged",
        "z and 1 - z",
        "parts",
        _exchange_update,
        where=lambda model: blends(model.first) or _renews(model.first),
        facts=_update_facts,
    ),
    Entry(
        "activation",
        "the activations",
        "parts",
        _activate,
        options=_activations,
        words_of=_activation_words,
    ),
    Entry("old_cell", "the cell state", "parts", _old_cell, where=_forgetting),
    Entry("coupled", "the cell state", "parts", _couple, where=_forgetting),
    Entry(
        "gate_unused",
        "the cell state",
        "parts",
        _leave_out,
        options=lambda model: _scaling(model.first),
        facts=_unused_facts,
    ),
    Entry(
        "unapplied",
        "the recorded gates",
        "parts",
        _unapply,
        options=_appliable,
        facts=_unapplied_facts,
    ),
)
