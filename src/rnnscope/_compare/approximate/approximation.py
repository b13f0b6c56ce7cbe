"""An approximation as a change of the model, with its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

from rnnscope._compare.approximate.functions import Curve, with_functions
from rnnscope._compare.approximate.rounding import Quantiser
from rnnscope._compare.mistakes.entry import changed_cell
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome, Part
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Apply, Expr, FromH, Previous, Quantity
from rnnscope.cells.functions import FUNCTIONS, Function

__all__ = [
    "Approximation",
    "Kind",
    "Names",
    "applied",
    "in_one_direction",
    "of_curve",
    "of_inputs",
    "of_outputs",
    "of_parameters",
    "of_products",
    "of_states",
    "of_weights",
]

Kind = Literal[
    "weights",
    "products",
    "functions",
    "tanh",
    "sigmoid",
    "x",
    "state",
    "before",
    "kept",
    "operand",
    "returned",
]
"""What is approximated. Of ``functions`` it is both tanh and sigmoid."""

Names = tuple[str, ...]
"""Fields of ``Weights``."""

MATRICES: dict[Names, str] = {
    ("ih", "hh", "hr"): "weights",
    ("ih", "hh", "hr", "b_ih", "b_hh"): "weights and biases",
    ("ih",): "W_ih",
    ("hh",): "W_hh",
}


PRODUCTS: Names = ("ih", "hh", "hr")
"""The matrices, which stand in products."""

STATES: dict[Kind, str] = {
    "state": "after every step",
    "before": "before every step",
    "kept": "between two steps",
    "operand": "before it meets W_hh",
}

EXACT = {"h": "h_exact", "c": "c_exact"}
"""What a state is before it is rounded."""


@dataclass(frozen=True)
class Approximation:
    """One approximation: ``change`` makes it in a model, None where it does not apply. One that is
    ``late`` is made after all mistakes, as it changes the form of an equation. ``title`` and
    ``name`` say it, ``key`` tells it from others, ``curve`` is that of a function; ``vague``: no
    rule is known that gives it. ``direction``: it is made in that one alone.
    ``with_exact_end``: the same where the final h is not rounded, if it may not be."""

    kind: Kind
    key: tuple[Any, ...]
    name: str
    title: str
    change: Callable[[Model], Model | None]
    late: bool = False
    curve: Curve | None = None
    vague: bool = False
    direction: int | None = None
    with_exact_end: Approximation | None = None

    def excludes(self, second: Approximation) -> bool:
        """Whether the two approximate the same."""
        both = {self.kind, second.kind}
        return self.kind == second.kind or (
            "functions" in both and bool(both & {"tanh", "sigmoid"})
        )


def applied(model: Model, approximations: Sequence[Approximation], late: bool) -> Model | None:
    """The model with those that are made before the mistakes, or after them; None where one does
    not apply."""
    changed: Model | None = model
    for approximation in approximations:
        if changed is not None and approximation.late == late:
            changed = approximation.change(changed)
    return changed


def _each_part(model: Model, change: Callable[[Part], Part | None]) -> Model | None:
    parts = {
        (layer, d): changed
        for layer, row in enumerate(model.parts)
        for d, part in enumerate(row)
        if (changed := change(part)) is not None
    }
    return model.with_parts(parts) if len(parts) == sum(map(len, model.parts)) else None


def in_one_direction(approximation: Approximation, direction: int) -> Approximation:
    """The same in the parts of one direction alone."""

    def change(model: Model) -> Model | None:
        changed = approximation.change(model)
        if changed is None:
            return None
        return model.with_parts(
            {(layer, direction): row[direction] for layer, row in enumerate(changed.parts)}
        )

    key, end = (*approximation.key, direction), approximation.with_exact_end
    end = end and in_one_direction(end, direction)
    return replace(approximation, key=key, change=change, direction=direction, with_exact_end=end)


# weights -------------------------------------------------------------------------------------


def of_weights(rounding: Quantiser, names: Names) -> Approximation:
    """Weights that are rounded."""
    which = MATRICES[names]
    title = f"{which} {rounding.verb} to {rounding.name}"
    change = partial(_each_part, change=partial(_weighted, rounding=rounding, names=names))
    return Approximation("weights", (rounding.name, names), rounding.name, title, change)


def _weighted(part: Part, rounding: Quantiser, names: Names) -> Part:
    weights = part.weights
    values: dict[str, Any] = {
        name: rounding(value, weights.hidden_size)
        for name in names
        if (value := getattr(weights, name)) is not None
    }
    token = (part.token, "rounded", rounding.name, names)
    return part.with_weights(replace(weights, **values), token=token)


def of_parameters(model: Model, rounding: Quantiser | None, names: Names) -> Approximation:
    """The weights that a candidate's own parameters are, which ``rounding`` gives."""
    which = "weights" if rounding is None else MATRICES[names]
    how = "near the reference's" if rounding is None else f"{rounding.verb} to {rounding.name}"

    def change(right: Model) -> Model:
        return right.with_parts(
            {
                (layer, d): right.parts[layer][d].with_weights(
                    part.weights, token=(right.parts[layer][d].token, "its own")
                )
                for layer, row in enumerate(model.parts)
                for d, part in enumerate(row)
            }
        )

    name = "its own parameters" if rounding is None else rounding.name
    title = f"{which} {how}"
    return Approximation("weights", ("its own",), name, title, change, vague=rounding is None)


def of_products(rounding: Quantiser) -> Approximation:
    """Products of which both operands are rounded: the matrices with x, or what the layer below
    hands on, and with h."""
    name = rounding.name
    token, operand = ("products", name), of_states(rounding, "operand", ("h",))

    def change(model: Model) -> Model | None:
        weighted = _each_part(model, partial(_weighted, rounding=rounding, names=PRODUCTS))
        whole = None if weighted is None else operand.change(weighted)
        whole = None if whole is None else of_inputs(rounding).change(whole)
        if whole is None:
            return None
        for layer in range(1, model.num_layers):
            read = Change((*token, layer), lambda x, _: rounding.together(x))
            whole = whole.adding("reads", read, layer)
        return whole

    title = f"the operands of every product {rounding.verb} to {name}"
    return Approximation("products", token, name, title, change, late=True)


# functions -----------------------------------------------------------------------------------


def of_curve(curve: Curve, kind: Kind) -> Approximation:
    """Tanh, sigmoid or both by a fast function."""
    tanh = curve.tanh if kind != "sigmoid" else None
    sigmoid = curve.sigmoid if kind != "tanh" else None
    change = partial(
        _each_part, change=partial(_curved, tanh=tanh, sigmoid=sigmoid, name=curve.name)
    )
    which = "tanh and sigmoid" if kind == "functions" else kind
    return Approximation(
        kind, (curve.name, kind), curve.name, f"a fast {which}", change, curve=curve
    )


def _curved(part: Part, tanh: Function | None, sigmoid: Function | None, name: str) -> Part | None:
    cell = with_functions(part.cell, tanh, sigmoid)
    return (
        None
        if cell is None
        else part.marked("curve", name, tanh is None, sigmoid is None, cell=cell)
    )


# inputs and states ---------------------------------------------------------------------------


def of_inputs(rounding: Quantiser) -> Approximation:
    """An x that is rounded."""

    def rounded(inputs: Inputs) -> Inputs:
        return replace(inputs, x=rounding.together(inputs.x))

    def change(model: Model) -> Model:
        entered = Change(("rounded", rounding.name), rounded)
        return replace(model, enter=(entered, *model.enter))

    title = f"x {rounding.verb} to {rounding.name}"
    return Approximation("x", (rounding.name,), rounding.name, title, change)


def of_outputs(rounding: Quantiser) -> Approximation:
    """What is returned, rounded."""

    def leave(outcome: Outcome, inputs: Inputs) -> Outcome:
        final, steps = (
            {name: rounding.together(value) for name, value in values.items()}
            for values in (outcome.final, outcome.steps)
        )
        return replace(outcome, output=rounding.together(outcome.output), final=final, steps=steps)

    def change(model: Model) -> Model:
        return model.adding("leave", Change(("rounded", rounding.name), leave))

    title = f"what is returned is {rounding.verb} to {rounding.name}"
    return Approximation("returned", (rounding.name,), rounding.name, title, change, late=True)


def of_states(
    rounding: Quantiser, kind: Kind, names: Names = (), exact_end: bool = False
) -> Approximation:
    """States that are rounded after every step, or before it, the initial ones too, or between two
    steps, where the output and what the step itself uses are not; or h where W_hh meets it.
    ``names`` are those that are rounded, all if empty; ``exact_end``: the final h is not."""
    which = " and ".join(names) or "the state"
    title = f"{which}, {STATES[kind]}, {rounding.verb} to {rounding.name}"
    if kind == "state" and not names:
        title = f"the state {rounding.verb} to {rounding.name}"
    change = partial(
        _each_part,
        change=partial(_stated, rounding=rounding, kind=kind, names=names, exact_end=exact_end),
    )
    key = (rounding.name, kind, names, exact_end)
    end = None
    if kind == "kept" and "h" in names and not exact_end:
        end = of_states(rounding, kind, names, exact_end=True)
    return Approximation(kind, key, rounding.name, title, change, late=True, with_exact_end=end)


def _stated(
    part: Part, rounding: Quantiser, kind: Kind, names: Names, exact_end: bool
) -> Part | None:
    if part.feeds != "h" and kind != "state":
        return None
    if not set(names) <= set(part.cell.states):
        return None
    token = ("rounded", kind, rounding.name, names, exact_end)
    if kind == "kept":
        return _kept(part, rounding, names or part.cell.states, exact_end, token)
    cell = _rounded_states(part.cell, rounding, kind, names or part.cell.states)
    return part.marked(*token, cell=cell)


def _kept(
    part: Part, rounding: Quantiser, names: Names, exact_end: bool, token: tuple[Any, ...]
) -> Part | None:
    """The step goes on with exact states, and the next one starts from rounded ones."""
    if (part.emits, part.ends) != ("h", "h"):
        return None
    cell = _rounded_at_end(part.cell, rounding, names)
    if "h" not in names:
        return part.marked(*token, cell=cell)
    return part.marked(*token, cell=cell, emits=EXACT["h"], ends=EXACT["h"] if exact_end else "h")


@lru_cache(maxsize=512)
def _rounded_at_end(cell: Cell, rounding: Quantiser, names: Names) -> Cell:
    exact: dict[Expr, Expr] = {Quantity(name): Quantity(EXACT[name]) for name in names}
    function = _of_rounding(rounding)
    equations = {name: equation.map(exact.get) for name, equation in cell.equations.items()}
    for name in names:
        equations[EXACT[name]] = equations[name]
        equations[name] = Apply("linear", Quantity(EXACT[name]), function)
    return changed_cell(cell, tuple(equations.items()))


@lru_cache(maxsize=512)
def _rounded_states(cell: Cell, rounding: Quantiser, kind: Kind, names: Names) -> Cell:
    function = _of_rounding(rounding)
    if kind == "state":
        equations = {name: Apply("linear", cell.equations[name], function) for name in names}
        return changed_cell(cell, tuple(equations.items()))

    def change(expr: Expr) -> Expr | None:
        if isinstance(expr, FromH) and expr.of == Previous("h") and "h" in names:
            return FromH(expr.gate, Apply("linear", expr.of, function))
        if kind == "before" and isinstance(expr, Previous) and expr.name in names:
            return Apply("linear", expr, function)
        return None

    mapped = {name: equation.map(change) for name, equation in cell.equations.items()}
    return changed_cell(cell, tuple(mapped.items()))


@lru_cache(maxsize=512)
def _of_rounding(rounding: Quantiser) -> Function:
    forward = rounding.together
    return replace(FUNCTIONS["linear"], forward=forward, forward_=lambda a: a.copy_(forward(a)))
