"""Mistakes in the equations of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words, changed_cell
from rnnscope._compare.mistakes.weights import forget_gates
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
    "NEGATED",
    "applied_gates",
    "blends",
    "celled",
    "with_equations",
    "factors_of",
    "first_part",
]


def with_equations(part: Part, cause: Cause, **equations: Expr) -> Part:
    """The part with some equations replaced by a cause."""
    cell = changed_cell(part.cell, tuple(equations.items()))
    return part.marked(cause.name, cause.choice, cell=cell)


def first_part(model: Model) -> Part:
    """The part from which choices and words are read."""
    return model.parts[0][0]


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


def _resetting(model: Model) -> Iterator[Choice]:
    if _resets(first_part(model)) is not None:
        yield "", ""


def _reset_before(part: Part, cause: Cause) -> Part | None:
    reset = _resets(part)
    if reset is None:
        return None
    name, product, gate, leaf = reset
    inside = FromH(leaf.gate, Product(gate, leaf.of))
    equation = part.cell.equations[name]
    return with_equations(
        part, cause, **{name: equation.map(lambda e: inside if e == product else None)}
    )


def _reset_whole(part: Part, cause: Cause) -> Part | None:
    return _with_sum(part, cause, lambda of_x, gate, of_h: gate * (of_x + of_h))


def _reset_input(part: Part, cause: Cause) -> Part | None:
    return _with_sum(part, cause, lambda of_x, gate, of_h: gate * of_x + of_h)


def _with_sum(part: Part, cause: Cause, change: Callable[[Expr, Expr, Expr], Expr]) -> Part | None:
    """The part with another sum of the input's part and the state's, which a gate scales."""
    reset = _resets(part)
    if reset is None:
        return None
    name, product, gate, leaf = reset

    def changed(expr: Expr) -> Expr | None:
        of_both = isinstance(expr, Sum) and expr.right == product
        return change(expr.left, gate, leaf) if of_both else None  # type: ignore[attr-defined]

    return with_equations(part, cause, **{name: part.cell.equations[name].map(changed)})


def _no_reset(part: Part, cause: Cause) -> Part | None:
    reset = _resets(part)
    if reset is None:
        return None
    name, product, _, leaf = reset
    equation = part.cell.equations[name]
    return with_equations(
        part, cause, **{name: equation.map(lambda e: leaf if e == product else None)}
    )


def _reset_words(cause: Cause, model: Model) -> Words:
    right = "n = tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))"
    if cause.name == "no_reset":
        return Words("the reset gate is not used", "r scales W_hn h + b_hn.", right)
    if cause.name == "reset_input":
        return Words(
            "the reset scales the input's part",
            "r scales W_hn h + b_hn, and not W_in x + b_in.",
            right,
        )
    if cause.name == "reset_whole":
        return Words(
            "the reset scales the whole sum",
            "r scales W_hn h + b_hn, and not W_in x + b_in.",
            right,
        )
    return Words(
        "the reset comes before the product",
        f"you multiply h by r, then by W_hn, as in the paper; {model.structure.kind} multiplies "
        f"W_hn h + b_hn by r.",
        right,
    )


def blends(part: Part) -> tuple[Quantity, Expr] | None:
    """Z and the new value, where h = (1 - z) × new + z × h_(t-1)."""
    split = linear_recurrence(part.cell.equations["h"], "h")
    match split:
        case (Quantity() as z, Product(Sum(Number(1.0), other, True), new)) if other == z:
            return z, new
    return None


def _renews(part: Part) -> tuple[Quantity, Expr] | None:
    """Z and the new value, where h = (1 - z) × h_(t-1) + z × new, as in minGRU."""
    split = linear_recurrence(part.cell.equations["h"], "h")
    match split:
        case (Sum(Number(1.0), Quantity() as z, True), Product(other, new)) if other == z:
            return z, new
    return None


def _blending(model: Model) -> Iterator[Choice]:
    part = first_part(model)
    if blends(part) is not None or _renews(part) is not None:
        yield "", ""


def _exchange_update(part: Part, cause: Cause) -> Part | None:
    h_prev = Previous("h")
    if (found := blends(part)) is not None:
        z, new = found
        return with_equations(part, cause, h=z * new + (1 - z) * h_prev)
    if (found := _renews(part)) is not None:
        z, new = found
        return with_equations(part, cause, h=(1 - z) * new + z * h_prev)
    return None


def _update_words(cause: Cause, model: Model) -> Words:
    kind = model.structure.kind
    if (renewing := _renews(first_part(model))) is not None:
        z = renewing[0].name
        return Words(
            f"{z} and 1 - {z} are exchanged",
            f"{z} of {kind} takes the new state; 1 - {z} keeps the old.",
            f"h = (1 - {z}) * h + {z} * new",
        )
    return Words(
        "z and 1 - z are exchanged",
        f"z of {kind} keeps the old state; 1 - z takes the new.",
        "h = (1 - z) * n + z * h",
    )


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


def _outermost(expr: Expr) -> Apply | None:
    """The function of an equation that stands outside of any other, if there is one only."""
    match expr:
        case Apply():
            return expr
        case Sum(left, right) | Product(left, right):
            functions = [
                function
                for function in (_outermost(left), _outermost(right))
                if function is not None
            ]
            return functions[0] if len(functions) == 1 else None
    return None


EXCHANGED = "exchanged"
"""Each function where the other stands."""


def _activations(model: Model) -> Iterator[Choice]:
    names: list[str] = []
    for quantity, equation in first_part(model).cell.equations.items():
        function = _outermost(equation)
        if function is not None:
            names.append(function.name)
            yield from (
                (f"{quantity}:{replacement}", "") for replacement in TURNS.get(function.name, ())
            )
    if names.count("tanh") > 1:
        yield "tanh:relu", ""
    if "tanh" in names:
        yield from ((f"tanh:{replacement}", "") for replacement in SOFT)
    if {"tanh", "sigmoid"} <= set(names):
        yield EXCHANGED, ""
    if "sigmoid" in names:
        yield from (
            (f"sigmoid:{replacement}", "") for replacement in (*HARD, "tanh", NEGATED, DOUBLED)
        )


def _activate(part: Part, cause: Cause) -> Part | None:
    if cause.choice == EXCHANGED:
        return _exchange_functions(part, cause)
    place, replacement = cause.choice.split(":")
    equations: dict[str, Expr] = {}
    for quantity, equation in part.cell.equations.items():
        function = _outermost(equation)
        if function is None or place not in (quantity, function.name):
            continue

        def turned(expr: Expr, function: Apply = function) -> Expr | None:
            if expr != function:
                return None
            if replacement == NEGATED:
                return 1 - function
            if replacement == DOUBLED:
                return replace(function, argument=2 * function.argument)
            return Apply(FUNCTIONS.get(replacement, replacement), function.argument)

        equations[quantity] = equation.map(turned)
    return with_equations(part, cause, **equations) if equations else None


def _exchange_functions(part: Part, cause: Cause) -> Part | None:
    """With each of tanh and sigmoid where the other stands."""
    instead = {"tanh": "sigmoid", "sigmoid": "tanh"}
    equations: dict[str, Expr] = {}
    other: dict[Expr, Expr]
    for quantity, equation in part.cell.equations.items():
        function = _outermost(equation)
        if function is None or function.name not in instead:
            continue
        other = {function: Apply(instead[function.name], function.argument)}
        equations[quantity] = equation.map(other.get)
    return with_equations(part, cause, **equations) if equations else None


def _activation_words(cause: Cause, model: Model) -> Words:
    if cause.choice == EXCHANGED:
        return Words(
            "tanh and sigmoid are exchanged",
            f"the gates of {model.structure.kind} have the sigmoid, what they scale has tanh.",
            "activation=np.tanh, recurrent_activation=sigmoid   # in this order",
        )
    place, replacement = cause.choice.split(":")
    equations = first_part(model).cell.equations
    if (place, replacement) == ("sigmoid", "tanh"):
        return Words(
            "tanh in place of sigmoid",
            f"the gates of {model.structure.kind} have σ(a) = 1 / (1 + exp(-a)).",
            "1 / (1 + np.exp(-a))",
        )
    if replacement == NEGATED:
        return Words(
            "the sigmoid has a wrong sign, 1 / (1 + exp(a))",
            f"the gates of {model.structure.kind} have σ(a) = 1 / (1 + exp(-a)).",
            "1 / (1 + np.exp(-a))",
        )
    if replacement == DOUBLED:
        return Words(
            "the sigmoid is twice as steep, (1 + tanh(a)) / 2",
            f"the gates of {model.structure.kind} have σ(a), which is (1 + tanh(a / 2)) / 2.",
            "1 / (1 + np.exp(-a))",
        )
    if place == "sigmoid":
        return Words(
            f"hard sigmoid, {HARD[replacement]}, in place of sigmoid",
            f"the gates of {model.structure.kind} have σ(a) = 1 / (1 + exp(-a)).",
            "1 / (1 + np.exp(-a))",
        )
    if replacement in SOFT:
        name = replacement.replace("_", " ")
        return Words(
            f"{name}, {SOFT[replacement]}, in place of tanh",
            f"{model.structure.kind} has tanh.",
            "np.tanh(a)",
        )
    if place == "tanh":
        return Words(
            "relu in place of tanh", f"both are tanh in {model.structure.kind}.", "np.tanh(a)"
        )
    function = _outermost(equations[place])
    right = function.name if function is not None else "tanh"
    inside = isinstance(equations[place], Apply)
    argument = function.argument if function is not None else None
    of = argument.name if isinstance(argument, Quantity) else place
    where = f"of {place if inside else of}"
    if replacement == "linear":
        title = f"the {right} {where} is missing"
    else:
        title = f"{replacement} in place of the {right} {where}"
    repair = f"{place} = {right}(a_{place})" if inside else f"o * {right}({of})"
    return Words(title, f"{model.structure.kind} has {right} there.", repair)


# cell states ---------------------------------------------------------------------------------


def celled(model: Model) -> Iterator[Choice]:
    """The one choice, in cells with a forget gate."""
    if forget_gates(first_part(model)):
        yield "", ""


def _old_cell(part: Part, cause: Cause) -> Part | None:
    state = next((s for s in part.cell.states if s != "h"), None)
    if state is None:
        return None
    equations = {
        name: equation.map(lambda e: Previous(state) if e == Quantity(state) else None)
        for name, equation in part.cell.equations.items()
        if name != state
    }
    return with_equations(part, cause, **equations)


def _old_words(cause: Cause, model: Model) -> Words:
    return Words(
        "h is made from the old c", "h_t comes from c_t.", "c = f * c + i * g; h = o * tanh(c)"
    )


def _coupled(model: Model) -> Iterator[Choice]:
    if forget_gates(first_part(model)):
        yield from (("f", ""), ("i", ""))


def _couple(part: Part, cause: Cause) -> Part | None:
    forget = forget_gates(part)
    if not forget or "i" not in part.cell.equations:
        return None
    gate = "i" if cause.choice == forget[0] else forget[0]
    if Quantity(cause.choice) in leaves(part.cell.equations[gate]):
        return None  # each would be made from the other
    return with_equations(part, cause, **{cause.choice: 1 - Quantity(gate)})


def _coupled_words(cause: Cause, model: Model) -> Words:
    gate = "i" if cause.choice == "f" else "f"
    return Words(
        f"{cause.choice} = 1 - {gate}",
        f"the input and the forget gate of {model.structure.kind} each have their own rows.",
        f"{cause.choice} = sigmoid(a_{cause.choice})",
    )


# gates that are computed, and then not used ---------------------------------------------------


def _scaling(part: Part) -> Iterator[str]:
    """Gates from 0 to 1 that scale something, in a cell with a forget gate."""
    if not forget_gates(part):
        return
    factors = [
        factor for equation in part.cell.equations.values() for factor in factors_of(equation)
    ]
    yield from (name for name in part.cell.gates if Quantity(name) in factors)


def _unused(model: Model) -> Iterator[Choice]:
    yield from ((name, "") for name in _scaling(first_part(model)))


def _leave_out(part: Part, cause: Cause) -> Part | None:
    if cause.choice not in _scaling(part):
        return None
    gate = Quantity(cause.choice)

    def without(expr: Expr) -> Expr | None:
        return expr.right if isinstance(expr, Product) and expr.left == gate else None

    equations = {
        name: changed
        for name, equation in part.cell.equations.items()
        if (changed := equation.map(without)) != equation
    }
    return with_equations(part, cause, **equations)


def _unused_words(cause: Cause, model: Model) -> Words:
    cell = first_part(model).cell
    word = cell.words.get(cause.choice, cause.choice)
    users = [
        name
        for name, equation in cell.equations.items()
        if Quantity(cause.choice) in factors_of(equation)
    ]
    return Words(
        f"the {word} gate is not used",
        f"{cause.choice} scales what {users[0]} is made of.",
        "c = f * c + i * g; h = o * tanh(c)",
    )


def factors_of(equation: Expr) -> list[Expr]:
    """What stands on the left of every product."""
    factors: list[Expr] = []

    def note(expr: Expr) -> None:
        if isinstance(expr, Product):
            factors.append(expr.left)

    equation.map(note)
    return factors


# gates that are recorded before their function -----------------------------------------------


def applied_gates(part: Part) -> tuple[str, ...]:
    """The gates that are a function of a sum, and no states."""
    equations = part.cell.equations
    gates = (name for name in part.cell.gates if name not in part.cell.states)
    return tuple(name for name in gates if isinstance(equations.get(name), Apply))


def _appliable(model: Model) -> Iterator[Choice]:
    gates = applied_gates(first_part(model))
    yield from ((name, "") for name in gates)
    if len(gates) > 1:
        yield "all", ""


def _unapply(part: Part, cause: Cause) -> Part | None:
    gates = applied_gates(part)
    chosen = gates if cause.choice == "all" else (cause.choice,)
    if not set(chosen) <= set(gates):
        return None
    return part.marked(cause.name, cause.choice, unapplied=part.unapplied | set(chosen))


def _unapplied_words(cause: Cause, model: Model) -> Words:
    part = first_part(model)
    gates = applied_gates(part) if cause.choice == "all" else (cause.choice,)
    names = ", ".join(gates)
    first = part.cell.equations[gates[0]]
    assert isinstance(first, Apply), "gates that are chosen are functions"
    several = len(gates) > 1
    return Words(
        f"{names} {'are' if several else 'is'} recorded before {'their' if several else 'its'} "
        f"function{'s' * several}",
        f"{'these are' if several else 'this is'} {', '.join(f'{name}_pre' for name in gates)}.",
        f"{gates[0]} = {first.name}(a_{gates[0]})",
    )


EQUATIONS = (
    Entry(
        "reset_before",
        "the reset",
        "parts",
        _resetting,
        _reset_words,
        _reset_before,
    ),
    Entry("reset_whole", "the reset", "parts", _resetting, _reset_words, _reset_whole),
    Entry("reset_input", "the reset", "parts", _resetting, _reset_words, _reset_input),
    Entry("no_reset", "the reset", "parts", _resetting, _reset_words, _no_reset),
    Entry("update_exchanged", "z and 1 - z", "parts", _blending, _update_words, _exchange_update),
    Entry("activation", "the activations", "parts", _activations, _activation_words, _activate),
    Entry("old_cell", "the cell state", "parts", celled, _old_words, _old_cell),
    Entry("coupled", "the cell state", "parts", _coupled, _coupled_words, _couple),
    Entry("gate_unused", "the cell state", "parts", _unused, _unused_words, _leave_out),
    Entry("unapplied", "the recorded gates", "parts", _appliable, _unapplied_words, _unapply),
)
