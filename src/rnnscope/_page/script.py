"""A cell's declaration as data for the page's script: equations as trees, functions as JavaScript.

The page evaluates and explains these trees; it knows no cell by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rnnscope.cells import Cell
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
)
from rnnscope.cells.functions import Function
from rnnscope.cells.notation import Notation, mathml, text

__all__ = ["equations", "functions", "runnable", "tree"]


def tree(expr: Expr) -> dict[str, Any]:
    """An equation as plain data: ``op`` tells the node.

    >>> from rnnscope.cells import GRU
    >>> tree(GRU.equations["h"])["left"]["right"]
    {'op': 'quantity', 'name': 'n'}
    """
    match expr:
        case Number(value):
            return {"op": "number", "value": value}
        case Quantity(name):
            return {"op": "quantity", "name": name}
        case Previous(name):
            return {"op": "previous", "name": name}
        case Vector(name):
            return {"op": "vector", "name": name}
        case FromX(gate):
            return {"op": "from_x", "gate": gate}
        case FromH(gate, of):
            node: dict[str, Any] = {"op": "from_h", "gate": gate}
            return node if of == Previous("h") else node | {"of": tree(of)}
        case Project(of):
            return {"op": "project", "of": tree(of)}
        case Product(left, right):
            return {"op": "times", "left": tree(left), "right": tree(right)}
        case Sum(left, right, negative):
            op = "minus" if negative else "plus"
            return {"op": op, "left": tree(left), "right": tree(right)}
        case Apply(name, argument):
            symbol = expr.function.symbol
            return {"op": "apply", "name": name, "symbol": symbol, "of": tree(argument)}
    raise TypeError(f"not an equation: {expr!r}")


def _applied(expr: Expr) -> Iterator[Function]:
    match expr:
        case Sum(left, right) | Product(left, right):
            yield from _applied(left)
            yield from _applied(right)
        case Apply(_, argument):
            yield expr.function
            yield from _applied(argument)
        case FromH(_, of) | Project(of):
            yield from _applied(of)


def functions(cell: Cell) -> dict[str, str]:
    """The functions that a cell's equations apply, as JavaScript of x; an empty text for one
    without."""
    applied = (f for equation in cell.equations.values() for f in _applied(equation))
    return {f.name: f.script for f in applied}


def runnable(functions: Mapping[str, str]) -> str:
    """These functions as a line of JavaScript: pairs of name and function. One whose text would
    end the script's element is left out, as one without a text is."""
    safe = {
        name: text
        for name, text in functions.items()
        if text and "</" not in text and "<!--" not in text and "\n" not in text
    }
    pairs = (
        f"[{json.dumps(name).replace('<', chr(92) + 'u003c')}, (x) => {text}]"
        for name, text in safe.items()
    )
    return f"rnnscope.functions = [{', '.join(pairs)}];"


def equations(cell: Cell, bias: bool) -> list[dict[str, Any]]:
    """Every equation: its tree, and how it is written for one unit, by direction."""
    facts = []
    for name, expr in cell.equations.items():
        written = {}
        for direction in ("forward", "reverse"):
            notation = Notation(bias=bias, reverse=direction == "reverse", element=True)
            equation = notation.equation(name, expr)
            written[direction] = {"text": text(equation), "mathml": mathml(equation)}
        facts.append({"name": name, "tree": tree(expr), **written})
    return facts
