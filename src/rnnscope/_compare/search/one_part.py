"""The search of one layer in one direction by itself, whatever else is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from rnnscope._compare.mistakes import Changed, changed_part
from rnnscope._compare.mistakes.cause import Cause, Causes, excludes
from rnnscope._compare.model.batched import separable
from rnnscope._compare.model.model import Part, Token
from rnnscope._compare.model.steps import FEW, OpenedPart
from rnnscope._compare.search.choices import Choices, formed, units_of
from rnnscope._compare.search.few_steps import FewSteps
from rnnscope._compare.work import is_over, spend
from rnnscope.cells import Cell

__all__ = ["PartSearch", "plain"]

PAIRS = 2

FIRST = 4
"""Units of a large part that tell most sets."""

MOST = 4096
"""Sets that fit the first steps, above which these tell too little."""


class PartSearch:
    """All sets of mistakes of a cell that explain the single steps of a part; those ``in_pairs``
    stand beside one other at most."""

    def __init__(self, mistakes: Sequence[Cause], in_pairs: Sequence[Cause], changed_by: Changed):
        self.choices = Choices(mistakes, in_pairs, changed_by)
        self._every, self._known = [*mistakes, *in_pairs], changed_by
        self._explaining: dict[Token, tuple[list[Causes], bool]] = {}

    def explain(self, witness: OpenedPart, depth: int) -> list[Causes]:
        """The smallest sets of at most so many mistakes; the empty set where nothing is wrong, none
        where nothing explains it."""
        sizes = range(depth + 1)
        return next(filter(None, (self._of_size(witness, size)[0] for size in sizes)), [])

    def excludes(self, witness: OpenedPart, depth: int) -> bool:
        """Whether all sets of at most so many mistakes were tried, and none explains a part."""
        tried = (self._of_size(witness, size) for size in range(depth + 1))
        return all(whole and not sets for sets, whole in tried)

    def beside(
        self, witness: OpenedPart, cells: Sequence[Cell], size: int
    ) -> Iterator[tuple[int, Causes]]:
        """Which of some cells explain the single steps of a part beside so many mistakes in the
        weights."""
        part, choices = witness.part, self.choices if size else Choices((), (), self._known)
        few = FewSteps.of(witness, choices, units_of(part), PAIRS) if plain(part) else None
        if few is None:
            return
        weights, _ = next(choices.sets(part, size, few.units, PAIRS))
        found: list[tuple[int, Causes, Part]] = []
        for which, fits in enumerate(few.fitting(part, cells, weights.variants, most=0)):
            if is_over():
                return
            places = torch.isin(weights.which, fits).nonzero().flatten().tolist()
            for k in places[:FEW]:
                causes = choices.effects(part).named(weights, k)
                changed = changed_part(part, causes, self._known)
                if changed is not None:
                    found.append((which, causes, changed.marked("other", which, cell=cells[which])))
        for calls, most in ((witness.richest, FIRST), (witness, FEW)):
            if found and not is_over():
                worst = calls.misfit([changed for _, _, changed in found], most).worst.tolist()
                found = [each for each, ratio in zip(found, worst, strict=True) if ratio <= 1]
        yield from ((which, causes) for which, causes, _ in found)

    def _of_size(self, witness: OpenedPart, size: int) -> tuple[list[Causes], bool]:
        """The sets of so many mistakes that explain a part, and whether all were tried."""
        key: Token = (size, witness.token)
        if key not in self._explaining:
            sets, whole = ([], True) if witness.few_units else self._sets(witness, size)
            self._explaining[key] = self._fitting(witness, sets), whole
        return self._explaining[key]

    def _sets(self, witness: OpenedPart, size: int) -> tuple[list[Causes], bool]:
        """The sets of so many mistakes that may explain a part, and whether there are no others."""
        if is_over():
            return [], False
        if size == 0:
            return [frozenset()], True
        cheap = size > 1 or self.choices.remembers(witness.part, PAIRS)
        combined = self._combined(witness, size) if cheap else None
        if size == 1 and combined is None:
            return [frozenset({cause}) for cause in self._every], True
        sets = dict.fromkeys(combined or ())
        singular = self.choices.effects(witness.part).singular
        if size == 1:
            sets |= dict.fromkeys(frozenset({cause}) for cause in singular)
        if size == PAIRS:
            pairs = ((a, b) for a in singular for b in self._every if not excludes(a, b))
            sets |= dict.fromkeys(map(frozenset, pairs))
        return list(sets), combined is not None

    def _combined(self, witness: OpenedPart, size: int) -> list[Causes] | None:
        """Of all sets of mistakes in the weights and equations those that fit a few steps; None
        where these tell too little."""
        part, level = witness.part, max(size, PAIRS)
        few = FewSteps.of(witness, self.choices, units_of(part), level) if plain(part) else None
        if few is None:
            return None
        sets: list[Causes] = []
        effects = self.choices.effects(part)
        for weights, cells in self.choices.sets(part, size, few.units, level):
            fitting = few.fitting(part, [cell for cell, _ in cells], weights.variants)
            for (_, equations), fits in zip(cells, fitting, strict=True):
                if len(sets) > MOST or is_over():
                    return None
                if len(fits):
                    places = torch.isin(weights.which, fits).nonzero().flatten().tolist()
                    sets += [equations | effects.named(weights, k) for k in places]
        return sets

    def _fitting(self, witness: OpenedPart, sets: Iterable[Causes]) -> list[Causes]:
        """The sets that explain all steps of a part, told by a few units of one call first."""
        remaining = list(sets)
        spend(sets=len(remaining))
        for calls, most in ((witness.richest, FIRST), (witness, FEW)):
            if not remaining:
                break
            changed = ((s, formed(witness.part, s, self._known)) for s in remaining)
            parts = [(s, calls.few(part, most)) for s, part in changed if part is not None]
            worst = calls.misfit([part for _, part in parts], most).worst.tolist() if parts else ()
            remaining = [s for (s, _), ratio in zip(parts, worst, strict=True) if ratio <= 1]
        return remaining


def plain(part: Part) -> bool:
    """Whether a part is one of which a few steps tell all."""
    carried = part.feeds == "h" and part.ends == "h" and not part.restarts
    if any(part.flipped) or (part.in_place and not separable(part.cell)):
        return False
    return carried and part.first_b_hh is None and part.only is None
