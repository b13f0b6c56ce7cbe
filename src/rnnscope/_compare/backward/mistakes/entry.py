"""What a mistake of a backward pass is: its choices, what it changes, its words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rnnscope._compare.backward.reverse import Slots
from rnnscope._compare.mistakes.entry import Words
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Apply, Expr, Product, Sum, leaves

__all__ = ["BackwardMistake", "ReverseSetting", "of_table", "outer_leaves", "uses", "where_square"]


@dataclass(frozen=True)
class ReverseSetting:
    """What a mistake depends on: the cell, the sizes of the call, and numbers that were measured.

    ``square``: h has as many units as a gate; ``biases``: the layer has them; ``masks``: dropout's
    masks are known; ``limits`` at which what came back is clipped, ``factors`` that it may hold.
    """

    cell: Cell
    steps: int
    batch: int
    square: bool
    biases: bool
    directions: int
    masks: bool
    kind: str
    limits: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class BackwardMistake:
    """One mistake: its choices in a setting, the slots that a choice changes, and its words."""

    name: str
    choices: Callable[[ReverseSetting], Iterator[str]]
    slots: Callable[[ReverseSetting, str], Slots]
    words: Callable[[ReverseSetting, str], Words]


def of_table(name: str, slot: str, words: Mapping[str, Words]) -> BackwardMistake:
    """A mistake of these choices in every setting, each of which is what the slot holds."""
    return BackwardMistake(
        name,
        lambda setting: iter(words),
        lambda setting, choice: {(slot,): choice},
        lambda setting, choice: words[choice],
    )


def outer_leaves(expr: Expr) -> Iterator[Expr]:
    """The leaves of an equation, without those to which a matrix is applied."""
    match expr:
        case Sum(left, right, _) | Product(left, right):
            yield from outer_leaves(left)
            yield from outer_leaves(right)
        case Apply(_, argument):
            yield from outer_leaves(argument)
        case _:
            yield expr


def uses(cell: Cell, wanted: type[Expr]) -> Iterator[tuple[str, Expr]]:
    """(equation, leaf) of every occurrence of a kind of leaf, each once."""
    for name, equation in cell.equations.items():
        yield from dict.fromkeys((name, e) for e in leaves(equation) if isinstance(e, wanted))


def where_square(setting: ReverseSetting) -> Iterator[str]:
    """The one choice of what needs square blocks of W_hh."""
    if setting.square and setting.cell.gates_from_h:
        yield ""
