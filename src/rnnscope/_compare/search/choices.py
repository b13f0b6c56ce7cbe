"""All sets of up to three mistakes in the weights and equations of one part, as choices.

What a mistake does to W_ih x, to W_hh h and to the biases is computed once; a set of mistakes is
three indices into that and a set of equations, so that hundreds of thousands are a few batches of
sums (``few_steps``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.mistakes import Changed, changed_part
from rnnscope._compare.mistakes.cause import Cause, Causes, compatible, excludes
from rnnscope._compare.model.batched import separable
from rnnscope._compare.model.model import Part, Token
from rnnscope._compare.model.single_steps import restricted
from rnnscope._compare.work import COPY, SUM, spend
from rnnscope.cells import Cell

__all__ = [
    "Choices",
    "Effects",
    "Level",
    "Variants",
    "WeightSets",
    "formed",
    "tensors_of",
    "unique_rows",
    "units_of",
]

GROUPS = (("ih",), ("hh",), ("b_ih", "b_hh"))
"""Parameters that a mistake may change together."""

DEPTHS = (3, 3, 2)
"""How many mistakes in each group are combined; in a large part two."""

Level = int
"""What is combined: pairs of mistakes that are not alone (1), all pairs (2), sets of three (3)."""

TWO = 2

LARGE = 2**14
"""Numbers in the matrices of a large part."""

EQUATIONS = 2
"""Mistakes in the equations that are combined."""

PARTS = 12
"""Parts of which the variants are remembered."""

UNITS = 4
"""Units that are computed where a step of each needs no other unit of the same step."""


@dataclass(frozen=True)
class WeightSets:
    """Sets of mistakes in the weights: ``members`` (set, size) their places in a list; ``variants``
    (distinct, group) what they come to, and ``which`` (set) of these each has."""

    members: Tensor
    variants: Tensor
    which: Tensor


@dataclass
class Effects:
    """The mistakes of a cell by what they change: numbers of the weights, or equations.

    ``kinds`` holds for each group of parameters the mistakes that do something different to it,
    ``effect`` (mistake, group) which of them each is, 0 for none; ``compatible`` (mistake, mistake)
    which may stand together. ``singular`` mistakes change anything else. Those that are ``alone``
    stand beside one other at most, and after all others. Held with the ``cell``, by whose identity
    they are remembered.
    """

    cell: Cell
    weights: list[Cause]
    equations: list[Cause]
    singular: list[Cause]
    kinds: tuple[list[Cause], ...]
    effect: Tensor
    compatible: Tensor
    alone: Causes
    _sets: dict[tuple[int, bool], WeightSets] = field(default_factory=dict)
    _cells: dict[int, list[tuple[Cell, Causes]]] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[Cause, int]:
        """Where each mistake in the weights stands."""
        return {cause: k for k, cause in enumerate(self.weights)}

    @classmethod
    def of(
        cls, part: Part, mistakes: Sequence[Cause], alone: Causes, changed_by: Changed
    ) -> Effects:
        """Of one part, for all of its shape and equations."""
        weights: list[Cause] = []
        equations: list[Cause] = []
        singular: list[Cause] = []
        kinds: tuple[dict[Any, int], ...] = tuple({} for _ in GROUPS)
        changing: tuple[list[tuple[int, Cause]], ...] = tuple([] for _ in GROUPS)
        rows: list[list[int]] = []
        for cause in mistakes:
            changed = changed_part(part, {cause}, changed_by)
            changes = set() if changed is None else _changes(part, changed)
            if changed is None or not changes:
                continue
            if changes == {"cell"}:
                equations.append(cause)
            elif changes <= {"stored", "pending"} and not _across(part, changed, cause):
                weights.append(cause)
                rows.append([])
                touched = _touched(part, changed)
                for names, numbers, least in zip(GROUPS, kinds, changing, strict=True):
                    kind = cause.name, cause.choice, frozenset(touched & set(names))
                    number = numbers.setdefault(kind, len(numbers) + 1) if kind[-1] else 0
                    rows[-1].append(number)
                    if number > len(least):
                        least.append((len(touched), cause))
                    elif number and len(touched) < least[number - 1][0]:
                        # what changes nothing else costs least
                        least[number - 1] = len(touched), cause
            else:
                singular.append(cause)
        count = len(weights)
        allowed = ~torch.eye(count, dtype=torch.bool, device="cpu")
        for (a, cause), (b, second) in combinations(enumerate(weights), 2):
            if cause.name == second.name and excludes(cause, second):
                allowed[a, b] = allowed[b, a] = False
        representatives = tuple([cause for _, cause in group] for group in changing)
        effect = torch.tensor(rows, dtype=torch.long, device="cpu").reshape(count, len(GROUPS))
        return cls(part.cell, weights, equations, singular, representatives, effect, allowed, alone)

    def cells(
        self, part: Part, size: int, pairs: bool, changed_by: Changed
    ) -> list[tuple[Cell, Causes]]:
        """The cell with each set of so many mistakes in the equations, in ``pairs`` those that are
        alone too."""
        if size not in self._cells:
            cells: list[tuple[Cell, Causes]] = []
            for together in combinations(self.equations, size):
                changed = changed_part(part, together, changed_by) if compatible(together) else None
                if changed is not None:
                    cells.append((changed.cell, frozenset(together)))
            self._cells[size] = cells
        return [pair for pair in self._cells[size] if pairs or not pair[1] & self.alone]

    def sets(self, size: int, pairs: bool, variants: Sequence[Variants]) -> WeightSets:
        """All sets of so many mistakes in the weights, in ``pairs`` those that are alone too."""
        if (size, pairs) not in self._sets:
            members = self.members(size, pairs)
            spend(SUM * len(members))
            variants_of = self.variants_of(members, variants)
            kept = (variants_of >= 0).all(1)
            distinct, which = unique_rows(variants_of[kept])
            self._sets[size, pairs] = WeightSets(members[kept], distinct, which)
        return self._sets[size, pairs]

    def variants_of(self, members: Tensor, variants: Sequence[Variants]) -> Tensor:
        """The variants (set, group) that sets of mistakes come to; -1 where there is none."""
        columns: list[Tensor] = []
        for group, variant in enumerate(variants):
            column = torch.zeros(len(members), dtype=torch.long, device="cpu")
            for k in range(members.shape[1]):
                after = variant.after[column.clamp_min(0), self.effect[members[:, k], group]]
                column = torch.where(column < 0, column, after)
            columns.append(column)
        return torch.stack(columns, 1)

    def members(self, size: int, pairs: bool) -> Tensor:
        """The places of the mistakes of every set of so many, (set, size)."""
        count = sum(pairs or cause not in self.alone for cause in self.weights)
        if size == 0:
            return torch.zeros(1, 0, dtype=torch.long, device="cpu")
        places = torch.arange(count, device="cpu")
        members = places.unsqueeze(1)
        for _ in range(size - 1):
            # one more after the last, that may stand beside each
            fits = places > members[:, -1:]
            for k in range(members.shape[1]):
                fits &= self.compatible[members[:, k], :count]
            where, more = fits.nonzero(as_tuple=True)
            members = torch.cat([members[where], more.unsqueeze(1)], 1)
            spend(SUM * len(members))
        return members

    def named(self, sets: WeightSets, k: int) -> Causes:
        """The mistakes of a set."""
        return frozenset(self.weights[m] for m in sets.members[k].tolist())


def unique_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a table of whole numbers, none below zero, and which each row is."""
    sizes = [int(column.max()) + 1 if len(table) else 1 for column in table.unbind(1)]
    keys = torch.zeros(len(table), dtype=torch.long, device="cpu")
    for column, size in zip(table.unbind(1), sizes, strict=True):
        keys = keys * size + column
    distinct, which = torch.unique(keys, return_inverse=True)
    columns: list[Tensor] = []
    for size in reversed(sizes):
        columns.insert(0, distinct % size)
        distinct = distinct // size
    return torch.stack(columns, 1), which


def _changes(part: Part, changed: Part) -> set[str]:
    """What differs of a part."""
    names = (entry.name for entry in fields(part) if entry.name != "token")
    return {name for name in names if getattr(part, name) is not getattr(changed, name)}


def _touched(part: Part, changed: Part) -> set[str]:
    """The parameters that differ."""
    return {
        name
        for group in GROUPS
        for name in group
        if getattr(part.stored, name) is not getattr(changed.stored, name)
        or part.pending.get(name) is not changed.pending.get(name)
    }


def _across(part: Part, changed: Part, cause: Cause) -> bool:
    """Whether a mistake makes parameters of one group from those of another, or changes others."""
    names = {"hr", "vectors", "suffix"}
    if any(getattr(part.stored, n) is not getattr(changed.stored, n) for n in names):
        return True
    touched = _touched(part, changed)
    for group in GROUPS:
        if not touched & set(group):
            continue
        zeros: dict[str, Any] = {
            name: None if value is None else torch.zeros_like(value)
            for names in GROUPS
            if names != group
            for name in names
            for value in [part.parameter(name)]
        }
        alone = changed_part(part.weighted("zeros", **zeros), {cause}, {})
        if alone is None:
            return True
        for name in group:
            value, whole = alone.parameter(name), changed.parameter(name)
            if (value is None) != (whole is None):
                return True
            if value is not None and whole is not None and not torch.equal(value, whole):
                return True
    return False


@dataclass(frozen=True)
class Variants:
    """What one group of parameters may be: the ``sets`` of mistakes in it, and the parameters'
    ``tensors`` by name, (variant, ...), or None; ``after`` (variant, effect) is the variant with
    one more effect, -1 where there is none."""

    sets: Sequence[Sequence[Cause]]
    tensors: Mapping[str, Tensor | None]
    after: Tensor

    @classmethod
    def of(
        cls, part: Part, effects: Effects, group: int, units: Tensor | None, level: Level
    ) -> Variants:
        """Of a part with no mistake, and with those that may stand together; of some units, or of
        all."""
        kinds = effects.kinds[group]
        changed_by: Changed = {}
        sets: list[frozenset[int]] = [frozenset()]
        parts: list[Part] = [part if units is None else restricted(part, units)]
        for several in _combined(part, effects, group, level):
            together = [kinds[k - 1] for k in several]
            changed = formed(part, together, changed_by) if compatible(together) else None
            if changed is not None:
                sets.append(frozenset(several))
                parts.append(changed if units is None else restricted(changed, units))
        numbers = sum(
            v.numel() for name in GROUPS[group] if (v := parts[0].parameter(name)) is not None
        )
        spend(len(sets) * (numbers + SUM * len(kinds)))
        places = {chosen: k for k, chosen in enumerate(sets)}
        after = torch.full((len(sets), len(kinds) + 1), -1, dtype=torch.long, device="cpu")
        after[:, 0] = torch.arange(len(sets), device="cpu")
        steps = [
            (places[chosen - {effect}], effect, k)
            for k, chosen in enumerate(sets)
            for effect in chosen
            if chosen - {effect} in places
        ]
        if steps:
            before, effect, number = torch.tensor(steps, dtype=torch.long, device="cpu").unbind(1)
            after[before, effect] = number
        causes = [[kinds[k - 1] for k in chosen] for chosen in sets]
        return cls(causes, {name: _all_of(parts, name) for name in GROUPS[group]}, after)


def _combined(part: Part, effects: Effects, group: int, level: Level) -> Iterator[tuple[int, ...]]:
    """The numbers of mistakes in a group that are combined at a level, those of lower ones
    first."""
    kinds = effects.kinds[group]
    numbers = range(1, len(kinds) + 1)
    free = [k for k in numbers if kinds[k - 1] not in effects.alone]
    yield from (several for size in (1, 2) for several in combinations(free, size))
    if level > 1:
        # of those that are alone come pairs too
        every = (several for size in (1, 2) for several in combinations(numbers, size))
        yield from (several for several in every if not set(several) <= set(free))
    if level > TWO and DEPTHS[group] > TWO and _numbers(part) <= LARGE:
        yield from combinations(free, level)


def _numbers(part: Part) -> int:
    return part.stored.ih.numel() + part.stored.hh.numel()


def _all_of(parts: Sequence[Part], name: str) -> Tensor | None:
    """One parameter of many parts, zeros in place of none; None where none has it."""
    values = [part.parameter(name) for part in parts]
    present = next((value for value in values if value is not None), None)
    if present is None:
        return None
    return torch.stack([torch.zeros_like(present) if v is None else v for v in values])


class Choices:
    """Mistakes of cells, as choices for any part; those that are ``alone`` stand beside one other
    at most."""

    def __init__(self, mistakes: Sequence[Cause], alone: Sequence[Cause], changed_by: Changed):
        self.every, self.alone, self.known = mistakes, alone, changed_by
        self.combined = (*mistakes, *alone)
        self._effects: dict[Token, Effects] = {}
        # by the weights, whose identity the part keeps
        self._variants: dict[Token, tuple[Part, tuple[Variants, ...]]] = {}
        self._biases: dict[Token, tuple[Part, Variants]] = {}

    def effects(self, part: Part) -> Effects:
        """What the mistakes change of a part."""
        key = id(part.cell), part.stored.ih.shape, part.stored.hh.shape
        if key not in self._effects:
            every = self.combined
            self._effects[key] = Effects.of(part, every, frozenset(self.alone), self.known)
        return self._effects[key]

    def _key(self, part: Part, units: Tensor | None, level: Level) -> Token:
        order = tuple((name, id(rows)) for name, rows in part.pending.items())
        some = None if units is None else tuple(units.tolist())
        return id(part.cell), id(part.stored), order, level, some

    def remembers(self, part: Part, level: Level) -> bool:
        """Whether the variants of a part were computed."""
        return self._key(part, units_of(part), level) in self._variants

    def _level(self, part: Part, level: Level) -> Level:
        return min(level, TWO) if _numbers(part) > LARGE else level

    def variants(self, part: Part, units: Tensor | None, level: Level) -> tuple[Variants, ...]:
        """What each group of parameters of a part may be; of some units, or of all."""
        effects, level = self.effects(part), self._level(part, level)
        key = self._key(part, units, level)
        if key not in self._variants:
            if len(self._variants) == PARTS:
                self._variants.clear()
            variants = (
                Variants.of(part, effects, group, units, level) for group in range(len(GROUPS))
            )
            self._variants[key] = part, tuple(variants)
        return self._variants[key][1]

    def multiplied(self, part: Part, group: int, level: Level, value: Tensor) -> Tensor:
        """Vectors (batch, feature) times every variant of a matrix, (variant, batch, row)."""
        (name, *_), changed_by = GROUPS[group], dict[Any, Any]()
        # many have the rows of one matrix in another order
        product_of: dict[int, tuple[Tensor, Tensor]] = {}
        products: list[Tensor] = []
        for causes in self.variants(part, units_of(part), level)[group].sets:
            changed = formed(part, causes, changed_by) or part
            matrix, rows = getattr(changed.stored, name), changed.pending.get(name)
            if id(matrix) not in product_of:
                product_of[id(matrix)] = matrix, value @ matrix.mT
                spend(len(value) * matrix.numel())
            product = product_of[id(matrix)][1]
            products.append(product if rows is None else product[..., rows])
        return torch.stack(products)

    def biases(self, part: Part, level: Level) -> Mapping[str, Tensor | None]:
        """Every variant of the biases of all units."""
        level = self._level(part, level)
        key = self._key(part, None, level)
        if key not in self._biases:
            if len(self._biases) == PARTS:
                self._biases.clear()
            biases = Variants.of(part, self.effects(part), len(GROUPS) - 1, None, level)
            self._biases[key] = part, biases
        return self._biases[key][1].tensors

    def sets(
        self, part: Part, size: int, units: Tensor | None, level: Level
    ) -> Iterator[tuple[WeightSets, list[tuple[Cell, Causes]]]]:
        """All sets of so many mistakes: the sets of those in the weights, and beside these the
        cells with each set of those in the equations."""
        effects, pairs = self.effects(part), level == TWO
        for count in range(min(size, EQUATIONS) + 1):
            sets = effects.sets(size - count, pairs, self.variants(part, units, level))
            yield sets, effects.cells(part, count, pairs, self.known)


def formed(part: Part, causes: Iterable[Cause], changed_by: Changed) -> Part | None:
    """A part with mistakes, of which each matrix that is another one counts."""
    changed = changed_part(part, causes, changed_by)
    if changed is None:
        return None
    for name in ("ih", "hh"):
        matrix: Tensor = getattr(changed.stored, name)
        if matrix is not getattr(part.stored, name):
            spend(COPY * matrix.numel())
    return changed


def units_of(part: Part) -> Tensor | None:
    """The units that are computed of a part whose units need no other; None where it is all."""
    size = part.stored.hidden_size
    if size <= UNITS or not separable(part.cell):
        return None
    return torch.linspace(0, size - 1, UNITS, dtype=torch.float32, device="cpu").long()


def tensors_of(variants: Sequence[Variants]) -> dict[str, Tensor | None]:
    """All variants of every parameter."""
    return {name: values for variant in variants for name, values in variant.tensors.items()}
