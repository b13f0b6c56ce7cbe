"""The search of one layer in one direction by itself, whatever else is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.mistakes import Changed, changed_part
from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.mistakes.compatible import excludes
from rnnscope._compare.model.batched import separable
from rnnscope._compare.model.model import Part, Token
from rnnscope._compare.model.steps import OpenedPart
from rnnscope._compare.search.choices import Choices
from rnnscope._compare.search.few_steps import FewSteps, units_of
from rnnscope._compare.work import is_over, spend

__all__ = ["PartSearch", "plain"]

MOST = 4096
"""Sets that fit the first steps, above which these tell too little."""


class PartSearch:
    """All sets of mistakes of a cell that explain the single steps of a part."""

    def __init__(self, mistakes: Sequence[Cause], changed_by: Changed):
        self.choices = Choices(mistakes, changed_by)
        self._every, self._known = mistakes, changed_by
        self._explained: dict[Token, list[Causes]] = {}

    def explain(self, witness: OpenedPart, depth: int) -> list[Causes]:
        """The smallest sets of at most so many mistakes; the empty set where nothing is wrong, none
        where nothing explains it."""
        key: Token = (depth, witness.place, witness.part.token, *map(_bytes, witness.tensors()))
        if key not in self._explained:
            sizes = () if witness.few_units else range(depth + 1)
            fitting = (self._fitting(witness, self._sets(witness, size)) for size in sizes)
            self._explained[key] = next(filter(None, fitting), [])
        return self._explained[key]

    def _sets(self, witness: OpenedPart, size: int) -> list[Causes]:
        """The sets of so many mistakes that may explain a part."""
        if is_over():
            return []
        if size == 0:
            return [frozenset()]
        if size == 1:
            return [frozenset({cause}) for cause in self._every]
        sets = self._combined(witness, size)
        if size == 2:
            singular = self.choices.effects(witness.part).singular
            pairs = ((a, b) for a in singular for b in self._every if not excludes(a, b))
            sets += [frozenset(pair) for pair in pairs]
        return list(dict.fromkeys(sets))

    def _combined(self, witness: OpenedPart, size: int) -> list[Causes]:
        """Of all sets of mistakes in the weights and equations those that fit a few steps; none
        where these tell too little."""
        part = witness.part
        if not plain(part):
            return []
        units = units_of(part)
        steps: dict[bool, FewSteps | None] = {}
        sets: list[Causes] = []
        for cell, equations, weights in self.choices.sets(part, size, units):
            if len(sets) > MOST or is_over():
                return []
            whole = units is None or not separable(cell)
            if whole not in steps:
                steps[whole] = FewSteps.of(witness, self.choices, None if whole else units, size)
            few = steps[whole]
            if few is None:
                return []
            fits = few.fitting(replace(part, cell=cell), weights.variants)
            chosen = torch.isin(weights.which, fits).nonzero().flatten().tolist()
            effects = self.choices.effects(part)
            sets += [equations | effects.named(weights, k) for k in chosen]
        return sets

    def _fitting(self, witness: OpenedPart, sets: Iterable[Causes]) -> list[Causes]:
        """The sets that explain all steps of a part, told by one call first."""
        parts = [
            (s, witness.few(changed))
            for s in sets
            if (changed := changed_part(witness.part, s, self._known)) is not None
        ]
        spend(sets=len(parts))
        for calls in (witness.richest, witness):
            if parts:
                worst = calls.misfit([part for _, part in parts]).worst.tolist()
                parts = [pair for pair, ratio in zip(parts, worst, strict=True) if ratio <= 1]
        return [s for s, _ in parts]


def plain(part: Part) -> bool:
    """Whether a part is one of which a few steps tell all."""
    carried = part.feeds == "h" and part.ends == "h" and not part.restarts
    if any(part.flipped) or part.in_place:
        return False
    return carried and part.first_b_hh is None and part.only is None


def _bytes(value: Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()
