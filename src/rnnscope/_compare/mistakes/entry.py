"""What an entry of the catalogue is: a mistake as a change of the model, with its words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from textwrap import dedent
from typing import Literal

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Part, Token
from rnnscope._compare.model.observed import Observation
from rnnscope._layers.structure import DIRECTIONS
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Expr, Quantity, leaves

__all__ = [
    "LINES",
    "Changed",
    "Choice",
    "Entry",
    "Scope",
    "Words",
    "changed_cell",
    "declared",
    "phrases",
]

Scope = Literal["parts", "layer", "global"]
Choice = tuple[str, str]
"""What an entry leaves open, and the parameters it concerns; either may be empty."""

Changed = dict[tuple[Token, str, str, str], Part | None]
"""Parts that mistakes have changed, by the token of the part, the entry, its choice and tensors."""


@dataclass(frozen=True)
class Words:
    """``title`` names the mistake, ``sentence`` says what differs, ``repair`` is the line to
    write; ``brief`` names it where no sentence follows."""

    title: str
    sentence: str
    repair: str = ""
    short: str = ""

    @property
    def brief(self) -> str:
        """The title, with the choice where the title alone does not tell it."""
        return self.short or self.title

    def filled(self, facts: Mapping[str, object]) -> Words:
        """The same with facts in the place of their names in braces."""
        texts = (self.title, self.sentence, self.repair, self.short)
        return Words(*(text.format_map(facts) for text in texts))


OTHERS = "*"
"""Stands for every choice that has no words of its own."""

LINES = {
    "CELL": "c = f * c + i * g; h = o * tanh(c)",
    "BLEND": "h = (1 - z) * n + z * h",
    "RESET": "n = tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))",
}
"""Right lines of the cells of torch, by their names in words."""


def phrases(text: str) -> dict[str, Words]:
    """Words by what they are the words of: below each such line stand, indented, the title, the
    sentence, the line to write, and where there is one the short name.

    >>> phrases("too_high\\n  too high\\n  it should be lower.\\n  x - 1")["too_high"].repair
    'x - 1'
    """
    lines: dict[str, list[str]] = {}
    for line in dedent(text).strip().splitlines():
        if not line.startswith(" "):
            lines[line] = under = []
        else:  # what goes on in the line below has its indent in the middle
            under.append(re.sub(" {4,}", " ", line.strip()))
    return {name: Words(*texts) for name, texts in lines.items()}


@dataclass(frozen=True)
class Entry:
    """One mistake.

    ``said`` holds the words of each choice, or of all others of "*", with ``facts`` that they name
    in braces beside ``{kind}``, ``{choice}``, ``{tensors}`` and ``LINES``; ``words_of`` makes them where there are none.
    ``options`` gives what can be chosen, those that have words unless it is told, for models of
    which ``where`` holds. ``part`` changes one layer in one direction, ``model`` the whole, at one layer or
    everywhere; each returns None where it does not apply. It applies to a place only where it
    applies to every part there, but for those that are ``reverse_only``. ``scope`` tells in which
    places it can stand; ``family`` groups entries for what is right, and ``concerns`` names other
    families of which nothing is said to be right while this mistake is there. ``measured`` gives
    choices whose numbers are read from what was observed, of which the page shows ``examples``.
    With ``only_seen`` a mistake is searched only where by itself it changes something that was
    observed; with ``alone`` it is tried by itself and, where it changes a cell, in pairs with what
    else changes it or stands around it, but in no larger set. ``exactly`` tells readers of the page
    what the words leave open.
    """

    name: str
    family: str
    scope: Scope
    part: Callable[[Part, Cause], Part | None] | None = None
    model: Callable[[Model, Cause], Model | None] | None = None
    options: Iterable[str] | Callable[[Model], Iterable[str | Choice]] | None = None
    where: Callable[[Model], object] = lambda model: True
    facts: Callable[[Cause, Model], Mapping[str, object]] = lambda cause, model: {}
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
        words = self.said.get(cause.choice) or self.said.get(OTHERS) or self.said[""]
        return words.filled({**LINES, **facts, **self.facts(cause, model)})

    def choices(self, model: Model) -> Iterator[Choice]:
        """What can be chosen for a model."""
        options = self.options
        if options is None:
            options = [choice for choice in self.said or [""] if choice != OTHERS]
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


def declared(text: str, *entries: Entry) -> tuple[Entry, ...]:
    """Entries with their words, which stand in a text below the name of each and its choice."""
    said: dict[str, dict[str, Words]] = {}
    for line, words in phrases(text).items():
        name, _, choice = line.partition(" ")
        said.setdefault(name, {})[choice] = words
    return tuple(replace(entry, said=said.get(entry.name, {})) for entry in entries)


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
