"""Mistakes within a step: slopes, factors, ways that are missing or have the wrong sign."""

from __future__ import annotations

from collections.abc import Iterator

from rnnscope._compare.backward.mistakes.entry import (
    BackwardMistake,
    ReverseSetting,
    outer_leaves,
)
from rnnscope._compare.backward.reverse import Slots
from rnnscope._compare.mistakes.words import Words, declared
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Apply, Expr, FromH, Previous, Product, Quantity, nodes

__all__ = ["WITHIN_A_STEP"]


SLOPE_RULES = ("missing", "at_argument", "of_output", "value")


def _places(cell: Cell) -> dict[str, list[tuple[str, str, str]]]:
    """Where there is a function: (equation, "outer" or "inner", function) by the name of a choice,
    for single ones and for all of one name."""
    single: dict[str, list[tuple[str, str, str]]] = {}
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, equation in cell.equations.items():
        for node in nodes(equation):
            if isinstance(node, Apply):
                depth = "outer" if node is equation else "inner"
                argument = node.argument
                inner = argument.name if isinstance(argument, Quantity) else name
                choice = name if depth == "outer" else f"{node.name}({inner})"
                single[choice] = [(name, depth, node.name)]
                groups.setdefault(node.name, []).append((name, depth, node.name))
    several = {f"every {name}": places for name, places in groups.items() if len(places) > 1}
    if len(groups) > 1:
        several["every function"] = [place for places in groups.values() for place in places]
    return single | several


def _slopes(setting: ReverseSetting) -> Iterator[str]:
    for choice, places in _places(setting.cell).items():
        functions = {function for _, _, function in places}
        for rule in SLOPE_RULES:
            if rule == "value" and functions != {"sigmoid"}:
                continue
            if functions == {"relu"} and rule != "missing":
                continue
            yield f"{rule} {choice}"


def _slope(setting: ReverseSetting, choice: str) -> Slots:
    rule, _, where = choice.partition(" ")
    return {("slope", name, depth): rule for name, depth, _ in _places(setting.cell)[where]}


def _slope_words(setting: ReverseSetting, choice: str) -> Words:
    rule, _, where = choice.partition(" ")
    functions = {function for _, _, function in _places(setting.cell)[where]}
    rights = {"tanh": "(1 - y * y)", "sigmoid": "y * (1 - y)", "relu": "(a > 0)"}
    if len(functions) == 1:
        f = functions.pop()
        right, derivative = (
            rights.get(f, "f'(a)"),
            f"with y = {f}(a) it is {rights.get(f, 'its slope')}",
        )
    else:
        f, right = "f", "slope"
        derivative = "; ".join(
            f"of y = {f}(a) it is {rights[f]}" for f in sorted(functions & {*rights})
        )
    place = where if where.startswith("every") or "(" in where else f"the {f} of {where}"
    title, wrong = {
        "missing": (f"the derivative of {place} is missing", "the gradient passes as it is"),
        "at_argument": (
            f"the derivative of {place} is taken at the pre-activation",
            "it takes the function's value y, and is given its argument a",
        ),
        "of_output": (
            f"the derivative of {place} is taken of the output",
            "it is computed of y as if y were the argument: the function is applied twice",
        ),
        "value": (f"the derivative of {place} is the function itself", "σ' = σ(a) is used"),
    }[rule]
    y = "" if where.startswith("every") else f"   # y = {where}"
    return Words(title, f"{wrong}; {derivative}.", f"da = dy * {right}{y}")


def _named(leaf: Expr) -> str:
    if isinstance(leaf, Previous):
        return f"{leaf.name}_(t-1)"
    if isinstance(leaf, FromH):
        return f"W_h{leaf.gate} h"
    return leaf.name if isinstance(leaf, Quantity) else ""


def _factored(cell: Cell) -> dict[str, tuple[str, Expr]]:
    """Leaves that an equation multiplies with something, by the name of a choice."""
    total: dict[str, tuple[str, Expr]] = {}
    for name, equation in cell.equations.items():
        outer = list(outer_leaves(equation))
        for node in nodes(equation):
            if isinstance(node, Product):
                for leaf in outer_leaves(node):
                    if _named(leaf) and outer.count(leaf) == 1:
                        total.setdefault(f"{name} to {_named(leaf)}", (name, leaf))
    return total


def _factor_facts(setting: ReverseSetting, choice: str) -> dict[str, object]:
    name, leaf = _factored(setting.cell)[choice]
    return {"name": name, "leaf": _named(leaf), "line": _line(name, _named(leaf))}


LINES = {
    ("c", "c_(t-1)"): "dc_prev = dc * f",
    ("c", "f"): "df = dc * c_prev",
    ("c", "i"): "di = dc * g",
    ("c", "g"): "dg = dc * i",
    ("h", "o"): "do = dh * tanh(c)",
    ("h", "c"): "dc = dc_next + dh * o * (1 - tanh(c)**2)",
    ("m", "o"): "do = dm * tanh(c)",
    ("m", "c"): "dc = dc_next + dm * o * (1 - tanh(c)**2)",
    ("n", "r"): "dr = dn * (1 - n**2) * (W_hn h + b_hn)",
    ("n", "W_hn h"): "da_hn = dn * (1 - n**2) * r   # of W_hn, b_hn and h_(t-1)",
    ("h", "n"): "dn = dh * (1 - z)",
    ("h", "z"): "dz = dh * (h_prev - n)",
    ("h", "h_(t-1)"): "dh_prev = dh * z + da @ W_hh",
}
"""The right line of an equation and what it uses, in the cells of torch."""


def _line(name: str, used: str) -> str:
    return LINES.get((name, used), f"d{used} = d{name} * (the derivative of {name} by {used})")


def _ways(setting: ReverseSetting) -> Iterator[str]:
    for name, equation in setting.cell.equations.items():
        for leaf in dict.fromkeys(outer_leaves(equation)):
            if isinstance(leaf, Quantity):
                yield f"{name} to {leaf.name}"


def _way_facts(setting: ReverseSetting, choice: str) -> dict[str, object]:
    name, _, leaf = choice.partition(" to ")
    return {"name": name, "leaf": leaf, "line": _line(name, leaf)}


def _of_ways(name: str, rule: str) -> BackwardMistake:
    """A mistake of one way within a step."""

    def slots(setting: ReverseSetting, choice: str) -> Slots:
        equation, _, leaf = choice.partition(" to ")
        return {("edge", equation, Quantity(leaf)): rule}

    return BackwardMistake(name, slots, _ways, facts=_way_facts)


WITHIN_A_STEP = declared(
    """
    factor
        a factor is missing from {name} to {leaf}
        in the equation of {name}, {leaf} stands beside a factor, by which its gradient is \
        multiplied.
        {line}
    way_missing
        no gradient goes from {name} to {leaf}
        {name} is computed from {leaf}, so the gradient of {name} goes on to it.
        {line}
    sign
        the gradient from {name} to {leaf} has the wrong sign
        {leaf} enters the equation of {name} with the other sign.
        {line}
    """,
    BackwardMistake("slope", _slope, _slopes, words_of=_slope_words),
    BackwardMistake(
        "factor",
        lambda setting, choice: {("edge", *_factored(setting.cell)[choice]): "bare"},
        lambda setting: _factored(setting.cell),
        facts=_factor_facts,
    ),
    _of_ways("way_missing", "cut"),
    _of_ways("sign", "negated"),
)
"""Mistakes within a step."""
