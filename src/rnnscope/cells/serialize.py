"""A cell's declaration as plain data, as JSON holds it, and back.

Equations are trees of names and numbers, so nothing in a file needs to run for a cell of one's
own to be whole again.
"""

from __future__ import annotations

import sys
from typing import Any

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
from rnnscope.cells.cells import DECLARED, Cell
from rnnscope.errors import DeclarationError

__all__ = ["cell_of", "data_of", "encoded"]

DEEPEST = 200
"""Operations inside one another, at most, in an equation that is read."""

LARGEST = sys.float_info.max
"""No number of an equation that is read is larger, or NaN."""

_NAMED: dict[str, type[Quantity] | type[Previous] | type[Vector]] = {
    "quantity": Quantity,
    "previous": Previous,
    "vector": Vector,
}


def data_of(cell: Cell) -> str | dict[str, Any]:
    """A cell that is declared here by its name, any other by its equations.

    >>> from rnnscope.cells import GRU, RNN_TANH
    >>> data_of(GRU)
    'gru'
    >>> data_of(RNN_TANH.with_functions({"h": "softsign"}))["equations"]["h"][:2]
    ['apply', 'softsign']

    Raises ``DeclarationError`` where it uses a function of one's own, which is no data.
    """
    for name, candidate in DECLARED.items():
        if candidate is cell:
            return name
    return {
        "name": cell.name,
        "gates": list(cell.gates),
        "equations": {name: _data(expr) for name, expr in cell.equations.items()},
        "words": dict(cell.words),
        "source": cell.source,
        "departures": cell.departures,
    }


def encoded(expr: Expr) -> tuple[Any, ...]:
    """A node of an equation: its operation, and what it is applied to (names, numbers, nodes).

    >>> from rnnscope.cells import GRU
    >>> encoded(GRU.equations["h"])[0]
    '+'
    """
    match expr:
        case Number(value):
            return "number", value
        case Quantity(name) | Previous(name) | Vector(name):
            return type(expr).__name__.lower(), name
        case FromX(gate):
            return "from_x", gate
        case FromH(gate, of):
            return "from_h", gate, of
        case Project(of):
            return "project", of
        case Sum(left, right, negative):
            return "-" if negative else "+", left, right
        case Product(left, right):
            return "*", left, right
        case Apply(name, argument):
            return "apply", name, argument
    raise TypeError(f"not an equation: {expr!r}")


def _data(expr: Expr) -> Any:
    if isinstance(expr, Number):
        return expr.value
    if isinstance(expr, Apply) and expr.custom is not None:
        raise DeclarationError(
            f"{expr.name!r} is a function of one's own: a program, which no file of data holds"
        )
    return [_data(part) if isinstance(part, Expr) else part for part in encoded(expr)]


def cell_of(data: Any) -> Cell:
    """The cell that ``data_of`` gave the data of.

    Raises ``DeclarationError`` for data that is no cell.
    """
    match data:
        case str():
            if data not in DECLARED:
                raise DeclarationError(
                    f"no cell {data[:40]!r} is declared here; there is {', '.join(DECLARED)}"
                )
            return DECLARED[data]
        case {
            "name": str(name),
            "gates": [*gates],
            "equations": {**equations},
            "words": {**words},
            "source": str(source),
            "departures": str(departures),
        }:
            if not all(isinstance(text, str) for text in (*gates, *equations, *words.values())):
                raise DeclarationError("a cell's gates, quantities and words are texts")
            expressions = {str(key): _expr(value) for key, value in equations.items()}
            said = {str(key): str(word) for key, word in words.items()}
            return Cell(name, tuple(gates), expressions, said, source, departures)
    raise DeclarationError(f"no declaration of a cell: {str(data)[:80]}")


def _expr(data: Any, depth: int = 0) -> Expr:
    if depth > DEEPEST:
        raise DeclarationError(
            f"an equation with more than {DEEPEST} operations inside one another"
        )
    inner = depth + 1
    match data:
        case float() | int():
            if not abs(data) <= LARGEST:
                raise DeclarationError(f"an equation with the number {str(data)[:40]}")
            return Number(float(data))
        case ["quantity" | "previous" | "vector" as kind, str(name)]:
            return _NAMED[kind](name)
        case ["from_x", str(gate)]:
            return FromX(gate)
        case ["from_h", str(gate), of]:
            return FromH(gate, _expr(of, inner))
        case ["project", of]:
            return Project(_expr(of, inner))
        case ["+" | "-" as sign, left, right]:
            return Sum(_expr(left, inner), _expr(right, inner), negative=sign == "-")
        case ["*", left, right]:
            return Product(_expr(left, inner), _expr(right, inner))
        case ["apply", str(name), argument]:
            return Apply(name, _expr(argument, inner))
    raise DeclarationError(f"no equation: {str(data)[:80]}")
