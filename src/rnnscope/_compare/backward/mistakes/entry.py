"""What a mistake of a backward pass is: its choices, what it changes, its words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rnnscope._compare.backward.reverse import Slots
from rnnscope._compare.mistakes.words import Words, choices_of, of_choice
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Apply, Expr, Product, Sum, leaves

__all__ = ["BackwardMistake", "ReverseSetting", "outer_leaves", "uses"]


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

    def where_square(self) -> list[str]:
        """The one choice of what needs square blocks of W_hh."""
        return [""] if self.square and self.cell.gates_from_h else []


@dataclass(frozen=True)
class BackwardMistake:
    """One mistake.

    ``changed`` gives the slots that a choice changes, or is the slot that holds the choice itself.
    ``options`` are the choices in a setting, those that have words unless it is told; ``said`` and
    ``facts`` are as in the forward catalogue, and ``words_of`` makes the words where there are
    none.
    """

    name: str
    changed: str | Callable[[ReverseSetting, str], Slots]
    options: Callable[[ReverseSetting], Iterable[str]] | None = None
    said: Mapping[str, Words] = field(default_factory=dict)
    facts: Callable[[ReverseSetting, str], Mapping[str, object]] | None = None
    words_of: Callable[[ReverseSetting, str], Words] | None = None

    def choices(self, setting: ReverseSetting) -> Iterable[str]:
        """What can be chosen in a setting."""
        return choices_of(self.said) if self.options is None else self.options(setting)

    def slots(self, setting: ReverseSetting, choice: str) -> Slots:
        """What a choice changes in the derived reverse pass (see ``reverse``)."""
        if isinstance(self.changed, str):
            return {(self.changed,): choice}
        return self.changed(setting, choice)

    def words(self, setting: ReverseSetting, choice: str) -> Words:
        """What is said of a choice."""
        if self.words_of is not None:
            return self.words_of(setting, choice)
        facts = self.facts(setting, choice) if self.facts else {}
        words = of_choice(self.said, choice)
        return words.filled({"kind": setting.kind, "choice": choice, **facts})


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
