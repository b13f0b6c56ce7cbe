"""Sets of up to three mistakes of one part, told by its first steps or a whole run: all of those in
the weights and equations of which no more than two are in the equations, or in the biases.

What mistakes in the weights do to W_ih x, to W_hh h and to the biases is computed once for each; a
set of mistakes is three indices into that, so that hundreds of thousands are tried as a few batches
of sums (``few_rows``). What fits a few rows there is judged by all that is known elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.mistakes import Changed, changed_part
from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.mistakes.compatible import compatible, excludes
from rnnscope._compare.model.batched import separable
from rnnscope._compare.model.model import Part, Token
from rnnscope._compare.model.runs import RunPart
from rnnscope._compare.model.steps import OpenedPart
from rnnscope._compare.search.few_rows import FirstSteps, WholeRun
from rnnscope._compare.work import SUM, is_cut, is_over, spend
from rnnscope.cells import Cell

__all__ = ["Kinds", "Thorough", "Variants", "plain", "tensors_of"]

GROUPS = (("ih",), ("hh",), ("b_ih", "b_hh"))
DEPTHS = (3, 3, 2)
"""Parameters that a mistake may change together, and how many mistakes in them are combined."""

MOST = 4096
"""Sets that fit the first steps, above which these tell too little."""

NUMBERS = 2**14
"""Numbers in the matrices of a part above which its variants would take too much memory."""

EQUATIONS = 2
"""Mistakes in the equations that are combined."""

PARTS = 6
"""Parts of which the variants are remembered."""

WIDE = 12
"""Units above which others, which need all of them, are not looked at."""


class Thorough:
    """All these sets of mistakes of a cell, for any of its parts."""

    def __init__(self, every: Sequence[Cause]):
        self.every = every
        self._kinds: dict[Token, Kinds] = {}
        self._variants: dict[Token, tuple[Variants, ...]] = {}

    def fitting(
        self,
        witness: OpenedPart | RunPart,
        size: int,
        known: Changed,
        equations: int = EQUATIONS,
    ) -> list[Causes] | None:
        """The sets of so many mistakes in the weights and equations, at most some of them in
        ``equations``, under which a few rows come out as they were observed; None where these tell
        too little."""
        part = witness.part
        if not plain(part):
            return None
        kinds = self.kinds(part, known)
        variants = self.variants(part, kinds)
        tensors = tensors_of(variants)
        rows: FirstSteps | WholeRun | None = None
        if isinstance(witness, OpenedPart):
            rows = FirstSteps.of(witness, tensors)
        elif part.stored.hidden_size <= WIDE:
            rows = WholeRun.of(witness, tensors)
        if rows is None:
            return None
        found: list[Causes] = []
        for used in range(max(0, size - equations), size + 1):
            sets = kinds.sets(used, variants)
            for cell, together in kinds.cells(part, size - used, known):
                if len(found) > MOST or is_over():
                    return None
                if part.stored.hidden_size <= WIDE or separable(cell):
                    fits = rows.fitting(replace(part, cell=cell), sets.variants)
                    chosen = torch.isin(sets.which, fits).nonzero().flatten().tolist()
                    found += [together | kinds.named(sets, k) for k in chosen]
        return None if is_cut() else found

    def covers(self, part: Part, together: Causes) -> bool:
        """Whether a set of mistakes is one of those that are tried."""
        kinds = self._kinds[_kind(part)]
        return kinds.covers(together, EQUATIONS) and part.stored.hidden_size <= WIDE

    def kinds(self, part: Part, known: Changed) -> Kinds:
        """What the mistakes change of a part."""
        key = _kind(part)
        if key not in self._kinds:
            self._kinds[key] = Kinds.of(part, self.every, known)
        return self._kinds[key]

    def variants(self, part: Part, kinds: Kinds) -> tuple[Variants, ...]:
        """What each group of parameters of a part may be."""
        if part.token not in self._variants:
            if len(self._variants) == PARTS:
                self._variants.clear()
            self._variants[part.token] = tuple(
                Variants.of(part, kinds, group) for group in range(len(GROUPS))
            )
        return self._variants[part.token]


def tensors_of(variants: Sequence[Variants]) -> dict[str, Tensor | None]:
    """All variants of every parameter."""
    return {name: each for one in variants for name, each in one.tensors.items()}


def _kind(part: Part) -> Token:
    return id(part.cell), part.stored.ih.shape, part.stored.hh.shape


def plain(part: Part) -> bool:
    """Whether a part is one of which a few steps tell all, and small enough."""
    plain = part.feeds == "h" and not part.restarts and part.first_b_hh is None
    small = part.stored.ih.numel() + part.stored.hh.numel() <= NUMBERS
    narrow = separable(part.cell) or part.stored.hidden_size <= WIDE
    return plain and small and narrow and part.only is None and part.ends == "h"


# mistakes by what they change ------------------------------------------------------------------


@dataclass(frozen=True)
class _Sets:
    """Sets of mistakes in the weights: ``members`` (set, size) their places in a list; ``variants``
    (distinct, group) what they come to, and ``which`` (set) of these each has."""

    members: Tensor
    variants: Tensor
    which: Tensor


@dataclass
class Kinds:
    """Mistakes told apart by what they change: numbers of the weights, or equations.

    ``effects`` holds for each group of parameters the mistakes that do something different to it,
    ``effect`` (mistake, group) which of them each is, 0 for none; ``compatible`` (mistake, mistake)
    which may stand together. Held with the ``cell``, by whose identity they are known.
    """

    cell: Cell
    weights: list[Cause]
    equations: list[Cause]
    effects: tuple[list[Cause], ...]
    effect: Tensor
    compatible: Tensor
    _sets: dict[int, _Sets] = field(default_factory=dict)
    _cells: dict[int, list[tuple[Cell, Causes]]] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[Cause, int]:
        """Where each mistake in the weights stands."""
        return {cause: k for k, cause in enumerate(self.weights)}

    def covers(self, together: Collection[Cause], equations: int) -> bool:
        """Whether mistakes are all of those in the weights and equations, at most so many of them
        in ``equations``, and no more of the biases than are combined."""
        rest = [c for c in together if c not in self.equations]
        if len(together) - len(rest) > equations or not all(c in self.places for c in rest):
            return False
        return sum(bool(self.effect[self.places[c], -1]) for c in rest) <= DEPTHS[-1]

    @classmethod
    def of(cls, part: Part, every: Sequence[Cause], known: Changed) -> Kinds:
        """Of one part, for all of its shape and equations."""
        weights: list[Cause] = []
        equations: list[Cause] = []
        effects: tuple[dict[Any, tuple[int, Cause]], ...] = tuple({} for _ in GROUPS)
        rows: list[list[int]] = []
        for cause in every:
            changed = changed_part(part, {cause}, known)
            what = set() if changed is None else _changes(part, changed)
            if changed is None or not what:
                continue
            if what == {"cell"}:
                equations.append(cause)
            elif what <= {"stored", "pending"} and not _across(part, changed, cause):
                weights.append(cause)
                touched = _touched(part, changed)
                row: list[int] = []
                for group, names in enumerate(GROUPS):
                    here = touched & set(names)
                    key = (cause.name, cause.choice, frozenset(here))
                    if not here:
                        row.append(0)
                        continue
                    known_as = effects[group].setdefault(key, (len(effects[group]) + 1, cause))
                    row.append(known_as[0])
                rows.append(row)
        count = len(weights)
        beside = torch.zeros(count, count, dtype=torch.bool, device="cpu")
        for (a, one), (b, other) in combinations(enumerate(weights), 2):
            beside[a, b] = beside[b, a] = not excludes(one, other)
        representatives = tuple([cause for _, cause in group.values()] for group in effects)
        effect = torch.tensor(rows, dtype=torch.long, device="cpu").reshape(count, len(GROUPS))
        return cls(part.cell, weights, equations, representatives, effect, beside)

    def cells(self, part: Part, size: int, known: Changed) -> list[tuple[Cell, Causes]]:
        """The cell with each set of so many mistakes in the equations."""
        if size not in self._cells:
            found: list[tuple[Cell, Causes]] = []
            for together in combinations(self.equations, size):
                changed = changed_part(part, together, known) if compatible(together) else None
                if changed is not None:
                    found.append((changed.cell, frozenset(together)))
            self._cells[size] = found
        return self._cells[size]

    def sets(self, size: int, variants: Sequence[Variants]) -> _Sets:
        """All sets of so many mistakes in the weights."""
        if size not in self._sets:
            members = self.members(size)
            none = torch.zeros(len(members), len(GROUPS), dtype=torch.long, device="cpu")
            spend(SUM * len(members))
            at = self.with_these(none, members, variants)
            kept = (at >= 0).all(1)
            distinct, which = torch.unique(at[kept], dim=0, return_inverse=True)
            self._sets[size] = _Sets(members[kept], distinct, which)
        return self._sets[size]

    def with_these(self, at: Tensor, members: Tensor, variants: Sequence[Variants]) -> Tensor:
        """Variants (set, group) with more mistakes (set, count); -1 where there is none."""
        columns = list(at.unbind(1))
        for group, one in enumerate(variants):
            for k in range(members.shape[1]):
                effect = self.effect[members[:, k], group]
                before = columns[group]
                after = one.after[before.clamp_min(0), effect]
                columns[group] = torch.where(before < 0, before, after)
        return torch.stack(columns, 1)

    def members(self, size: int) -> Tensor:
        """The places of the mistakes of every set of so many, (set, size)."""
        count = len(self.weights)
        if size == 0:
            return torch.zeros(1, 0, dtype=torch.long, device="cpu")
        found = torch.arange(count, device="cpu").unsqueeze(1)
        for _ in range(size - 1):
            # one more after the last, that may stand beside each
            fits = torch.arange(count, device="cpu") > found[:, -1:]
            for k in range(found.shape[1]):
                fits &= self.compatible[found[:, k]]
            where, more = fits.nonzero(as_tuple=True)
            found = torch.cat([found[where], more.unsqueeze(1)], 1)
            spend(SUM * len(found))
        return found

    def named(self, sets: _Sets, k: int) -> Causes:
        """The mistakes of a set."""
        return frozenset(self.weights[m] for m in sets.members[k].tolist())


def _changes(part: Part, changed: Part) -> set[str]:
    """What differs of a part."""
    names = (one.name for one in fields(part) if one.name != "token")
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
    others = {"hr", "vectors", "suffix"}
    if any(getattr(part.stored, n) is not getattr(changed.stored, n) for n in others):
        return True
    touched = _touched(part, changed)
    for group in GROUPS:
        if not touched & set(group):
            continue
        zeros: dict[str, Any] = {
            name: None if value is None else torch.zeros_like(value)
            for other in GROUPS
            if other != group
            for name in other
            for value in [part.parameter(name)]
        }
        alone = changed_part(part.weighted("zeros", **zeros), {cause}, {})
        if alone is None:
            return True
        for name in group:
            one, other_one = alone.parameter(name), changed.parameter(name)
            if (one is None) != (other_one is None):
                return True
            if one is not None and other_one is not None and not torch.equal(one, other_one):
                return True
    return False


@dataclass(frozen=True)
class Variants:
    """What one group of parameters may be: ``tensors`` by name, (variant, ...), or None; ``after``
    (variant, effect) is the variant with one more effect, -1 where there is none."""

    tensors: Mapping[str, Tensor | None]
    after: Tensor

    @classmethod
    def of(cls, part: Part, kinds: Kinds, group: int) -> Variants:
        """Of a part with no mistake, and every few that may stand together."""
        effects = kinds.effects[group]
        known: Changed = {}
        sets: list[frozenset[int]] = [frozenset()]
        parts: list[Part] = [part]
        for depth in range(1, DEPTHS[group] + 1):
            for several in combinations(range(1, len(effects) + 1), depth):
                together = [effects[k - 1] for k in several]
                changed = changed_part(part, together, known) if compatible(together) else None
                if changed is not None:
                    sets.append(frozenset(several))
                    parts.append(changed)
        numbers = sum(
            v.numel() for name in GROUPS[group] if (v := part.parameter(name)) is not None
        )
        spend(len(sets) * (numbers + SUM * len(effects)))
        places = {chosen: k for k, chosen in enumerate(sets)}
        after = torch.full((len(sets), len(effects) + 1), -1, dtype=torch.long, device="cpu")
        for k, chosen in enumerate(sets):
            after[k, 0] = k
            for effect in range(1, len(effects) + 1):
                if effect not in chosen:
                    after[k, effect] = places.get(chosen | {effect}, -1)
        return cls({name: _all_of(parts, name) for name in GROUPS[group]}, after)


def _all_of(parts: Sequence[Part], name: str) -> Tensor | None:
    """One parameter of many parts, zeros in place of none; None where none has it."""
    values = [part.parameter(name) for part in parts]
    known = next((value for value in values if value is not None), None)
    if known is None:
        return None
    return torch.stack([torch.zeros_like(known) if v is None else v for v in values])
