"""What an entry of the catalogue is: a mistake as a change of the model, with its words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.words import Words, choices_of, of_choice
from rnnscope._compare.model.model import Model, Part, Token
from rnnscope._compare.model.observed import Observation
from rnnscope._layers.structure import DIRECTIONS
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Expr, Quantity, leaves

__all__ = ["Changed", "Choice", "Entry", "Scope", "Words", "changed_cell"]

Scope = Literal["parts", "layer", "global"]
Choice = tuple[str, str]
"""What an entry leaves open, and the parameters it concerns; either may be empty."""

Changed = dict[tuple[Token, str, str, str], Part | None]
"""Parts that mistakes have changed, by the token of the part, the entry, its choice and tensors."""


@dataclass(frozen=True)
class Entry:
    """One mistake.

    ``said`` holds the words of each choice, or of all others of "*", with ``facts`` that they name
    in braces beside ``{kind}``, ``{choice}``, ``{tensors}`` and ``LINES``; ``words_of`` makes them
    where there are none. ``options`` gives what can be chosen, those that have words unless it is
    told, for models of which ``where`` holds. ``part`` changes one layer in one direction,
    ``model`` the whole, at one layer or everywhere; each returns None where it does not apply. It
    applies to a place only where it applies to every part there, but for those that are
    ``reverse_only``. ``scope`` tells in which places it can stand; ``family`` groups entries for
    what is right, and ``concerns`` names other families of which nothing is said to be right while
    this mistake is there. ``measured`` gives choices whose numbers are read from what was observed,
    of which the page shows ``examples``. With ``only_seen`` a mistake is searched only where by
    itself it changes something that was observed; with ``alone`` it is tried by itself and, where
    it changes a cell, in pairs with what else changes it or stands around it, but in no larger set.
    ``exactly`` tells readers of the page what the words leave open.
    """

    name: str
    family: str
    scope: Scope
    part: Callable[[Part, Cause], Part | None] | None = None
    model: Callable[[Model, Cause], Model | None] | None = None
    options: Iterable[str] | Callable[[Model], Iterable[str | Choice]] | None = None
    where: Callable[[Model], object] = lambda model: True
    facts: Callable[[Cause, Model], Mapping[str, object]] | None = None
    said: Mapping[str, Words] = field(default_factory=dict)
    words_of: Callable[[Cause, Model], Words] | None = None
    reverse_only: bool = False
    measured: Callable[[Model, Sequence[Observation]], Iterator[Choice]] | None = None
    only_seen: bool = False
    concerns: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    alone: bool = False
    exactly: str = ""

    @property
    def of_cell(self) -> bool:
        """Whether it changes what one layer computes in one direction, and nothing else."""
        return self.part is not None and self.scope == "parts"

    def words(self, cause: Cause, model: Model) -> Words:
        """What is said of a cause."""
        if self.words_of is not None:
            return self.words_of(cause, model)
        facts = {"kind": model.structure.kind, "choice": cause.choice, "tensors": cause.tensors}
        more = self.facts(cause, model) if self.facts else {}
        return of_choice(self.said, cause.choice).filled({**facts, **more})

    def choices(self, model: Model) -> Iterator[Choice]:
        """What can be chosen for a model."""
        options = choices_of(self.said) if self.options is None else self.options
        if self.where(model):
            for option in options(model) if callable(options) else options:
                yield (option, "") if isinstance(option, str) else option

    def causes(
        self, model: Model, scoped: bool = True, observations: Sequence[Observation] = ()
    ) -> Iterator[Cause]:
        """Every cause of this entry that may apply to a model, with what is measured on data."""
        measured = self.measured(model, observations) if self.measured and observations else ()
        for choice, tensors in (*self.choices(model), *measured):
            for layer, direction in _places(model, self.scope, scoped):
                yield Cause(self.name, choice, tensors, layer, direction)

    def apply(self, model: Model, cause: Cause, known: Changed | None = None) -> Model | None:
        """The model with the mistake; None where it does not apply or changes nothing. ``known``
        gathers changed parts, to be used again."""
        if self.model is not None:
            return self.model(model, cause)
        changed: dict[tuple[int, int], Part] = {}
        for place, part in model.places(cause.layer, cause.direction):
            after = self.changed(part, cause, {} if known is None else known)
            if after is not None:
                changed[place] = after
            elif not self.reverse_only:
                return None
        return model.with_parts(changed) if changed else None

    def changed(self, part: Part, cause: Cause, known: Changed) -> Part | None:
        """One part with the mistake; None where it does not apply. ``known`` as in ``apply``."""
        key = (part.token, cause.name, cause.choice, cause.tensors)
        if key not in known:
            assert self.part is not None, f"entry {self.name} changes parts or models"
            known[key] = self.part(part, cause)
        return known[key]


def _places(model: Model, scope: Scope, scoped: bool) -> Iterator[tuple[int | None, str | None]]:
    yield None, None
    if not scoped or scope == "global":
        return
    layers = range(model.num_layers) if model.num_layers > 1 else ()
    yield from ((layer, None) for layer in layers)
    if scope == "parts" and model.num_directions > 1:
        yield from ((None, direction) for direction in DIRECTIONS)
        yield from ((layer, direction) for layer in layers for direction in DIRECTIONS)


@lru_cache(maxsize=4096)
def _shared(equation: Expr) -> Expr:
    """One object for equal equations, of which each is computed once."""
    return equation


@lru_cache(maxsize=512)
def changed_cell(cell: Cell, changes: tuple[tuple[str, Expr], ...]) -> Cell:
    """The cell with some equations replaced, each computed as soon as what it uses is."""
    waiting = {**cell.equations, **{name: _shared(equation) for name, equation in changes}}
    ordered: dict[str, Expr] = {}
    while waiting:
        ready = [
            name
            for name, equation in waiting.items()
            if all(leaf.name in ordered for leaf in leaves(equation) if isinstance(leaf, Quantity))
        ]
        ordered[ready[0]] = waiting.pop(ready[0])
    return replace(cell, equations=ordered)
