"""A cell's declaration as data for the page's script: equations as trees, functions as JavaScript.

The page evaluates and explains these trees; it knows no cell by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rnnscope.cells import Cell
from rnnscope.cells.algebra import Apply, Expr, FromH, Previous, nodes
from rnnscope.cells.notation import Notation, mathml, text
from rnnscope.cells.serialize import encoded

__all__ = ["equations", "functions", "runnable", "tree"]


_NODES = {
    "number": ("number", "value"),
    "quantity": ("quantity", "name"),
    "previous": ("previous", "name"),
    "vector": ("vector", "name"),
    "from_x": ("from_x", "gate"),
    "from_h": ("from_h", "gate", "of"),
    "project": ("project", "of"),
    "+": ("plus", "left", "right"),
    "-": ("minus", "left", "right"),
    "*": ("times", "left", "right"),
    "apply": ("apply", "name", "of"),
}
"""What the page calls an operation of ``encoded``, and the names of what it is applied to."""


def tree(expr: Expr) -> dict[str, Any]:
    """An equation as plain data: ``op`` tells the node.

    >>> from rnnscope.cells import GRU
    >>> tree(GRU.equations["h"])["left"]["right"]
    {'op': 'quantity', 'name': 'n'}
    """
    operation, *parts = encoded(expr)
    op, *fields = _NODES[operation]
    data: dict[str, Any] = {"op": op}
    for name, part in zip(fields, parts, strict=True):
        data[name] = tree(part) if isinstance(part, Expr) else part
    if isinstance(expr, Apply):
        data["symbol"] = expr.function.symbol
    if isinstance(expr, FromH) and expr.of == Previous("h"):
        del data["of"]  # the page takes the state of the step before by itself
    return data


def functions(cell: Cell) -> dict[str, str]:
    """The functions that a cell's equations apply, as JavaScript of x; an empty text for one
    without."""
    return {
        node.function.name: node.function.script
        for equation in cell.equations.values()
        for node in nodes(equation)
        if isinstance(node, Apply)
    }


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
