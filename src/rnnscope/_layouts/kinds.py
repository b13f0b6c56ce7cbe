"""From a cell to the kind under which layouts store it, and back."""

from __future__ import annotations

from rnnscope._layouts.layout import KINDS
from rnnscope.cells import DECLARED, Cell
from rnnscope.cells.algebra import Apply, Expr, ordered
from rnnscope.errors import DeclarationError, RefusedError

__all__ = ["cell_of", "kind_of", "nonlinearity_of", "storage_kind"]

_KIND_OF = {"rnn_tanh": "rnn", "rnn_relu": "rnn", "lstm_projected": "lstm"}


def storage_kind(kind: str) -> str:
    """The kind of a layout that a cell's name means: ``rnn_relu`` is stored as ``rnn`` is."""
    storage = _KIND_OF.get(kind, kind)
    if storage not in KINDS:
        names = ", ".join((*KINDS, *_KIND_OF))
        raise DeclarationError(f"unknown kind of cell {kind!r}; expected one of {names}")
    return storage


def cell_of(kind: str, projected: bool = False, nonlinearity: str = "tanh") -> Cell:
    """The cell of a kind; ``rnn`` alone is the one with this nonlinearity."""
    if kind == "rnn":
        return DECLARED[f"rnn_{nonlinearity}"]
    return DECLARED["lstm_projected" if kind == "lstm" and projected else kind]


def nonlinearity_of(cell: Cell) -> str | None:
    """The activation of an ``rnn``: tanh, relu or another; None for any other cell."""
    if tuple(cell.gates) != ("h",) or not isinstance(cell.equations["h"], Apply):
        return None
    return cell.equations["h"].name


def kind_of(cell: Cell) -> str:
    """The kind under which a cell is stored: activations do not matter, the structure does.

    Raises ``RefusedError`` for a cell that no layout knows.
    """
    for name, declared in DECLARED.items():
        if tuple(cell.gates) == tuple(declared.gates) and _skeleton(cell) == _skeleton(declared):
            return storage_kind(name)
    raise RefusedError(
        f"cell {cell.name} is stored by no layout: its equations are not those of "
        f"{', '.join(DECLARED)}"
    )


def _skeleton(cell: Cell) -> dict[str, Expr]:
    return {
        name: ordered(_without_activations(equation)) for name, equation in cell.equations.items()
    }


def _without_activations(expr: Expr) -> Expr:
    def tanh_instead(expr: Expr) -> Expr | None:
        return Apply("tanh", expr.argument.map(tanh_instead)) if isinstance(expr, Apply) else None

    return expr.map(tanh_instead)
