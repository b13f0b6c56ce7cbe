"""The mistakes that explain one layer's gradients in one direction, of which it knows what reaches
its outputs: none, every single one, every pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from rnnscope._compare.backward.evidence import Evidence, allowed_for
from rnnscope._compare.backward.mistakes import BETWEEN_LAYERS, CATALOGUE, ReverseSetting
from rnnscope._compare.backward.reverse import (
    LOOP,
    Pass,
    Slots,
    UpstreamGradients,
    merged,
    parameters,
    reverse,
)
from rnnscope._compare.backward.whole import QUANTITY, quantity
from rnnscope._compare.model.model import PartIndex

__all__ = ["Option", "ReversePartSearch", "Pick", "Picks"]

Pick = tuple[str, str]
"""A mistake by name, and its choice."""

Picks = tuple[Pick, ...]
"""Mistakes that stand together in one part."""

NUMBERS = 1 << 21
"""Of one quantity in a batch of variants."""

MOST = 2
"""Mistakes in one part."""


@dataclass(frozen=True)
class Option:
    """Mistakes that explain a part, and what it then hands down (time, 1, batch, feature)."""

    picks: Picks
    x: Tensor


@dataclass
class ReversePartSearch:
    """The search in one part; ``tried`` counts sets, ``budget`` is the work that is left for it, in
    products of two numbers; ``finished`` is False where it was not enough."""

    evidence: Evidence
    setting: ReverseSetting
    budget: float
    tried: int = 0
    finished: bool = True

    def __post_init__(self) -> None:
        self.slots: dict[Pick, Slots] = {
            (mistake.name, choice): mistake.slots(self.setting, choice)
            for mistake in CATALOGUE.values()
            if mistake.name != BETWEEN_LAYERS
            for choice in mistake.choices(self.setting)
        }
        loop = {pick for pick, slots in self.slots.items() if any(k[0] in LOOP for k in slots)}
        self.inside = [pick for pick in self.slots if pick in loop]
        self.outside = [pick for pick in self.slots if pick not in loop]

    def _merged(self, picks: Sequence[Pick]) -> Slots | None:
        """What several mistakes change; None where they cannot stand together."""
        return merged(*(self.slots[pick] for pick in picks))

    def evident(self, place: PartIndex) -> bool:
        """Whether anything came back of a part."""
        return next(self.evidence.in_part(place), None) is not None

    @property
    def all_evident(self) -> bool:
        """Whether something came back of every part."""
        return all(self.evident(place) for place in self.evidence.forward.parts)

    def options(
        self, place: PartIndex, upstream: UpstreamGradients, spare: int = 1
    ) -> list[Option]:
        """The smallest sets that explain all that came back of a part; where nothing did, that
        nothing is wrong, and with ``spare`` each single mistake that changes what is handed
        down."""
        if not self.evident(place):
            return list(self._without_evidence(place, upstream, spare))
        for count in range(MOST + 1):
            if count == MOST and not self._affordable(place):
                self.finished = False
                break
            options = [
                option
                for inside in range(count, -1, -1)
                for option in self._fitting(place, upstream, inside, count - inside)
            ]
            if options:
                return options
        return []

    def _affordable(self, place: PartIndex) -> bool:
        part = self.evidence.forward.parts[place]
        sets = len(self.inside) ** 2 / 2
        numbers = part.weights.ih.numel() + part.weights.hh.numel() + 40 * len(part.weights.ih)
        work = sets * self.evidence.size * numbers
        self.budget -= work
        return self.budget >= 0

    def _without_evidence(
        self, place: PartIndex, upstream: UpstreamGradients, spare: int
    ) -> Iterator[Option]:
        right = reverse(self.evidence.forward.parts[place], upstream, self.evidence.forward.valid)
        yield Option((), right.x)
        for picks, run in self._runs(place, upstream, 1) if spare else ():
            self.tried += len(picks)
            for k, pick in enumerate(picks):
                if not torch.equal(run.x[:, k], right.x[:, 0]):
                    yield Option(pick, run.variant(k))

    def _runs(
        self, place: PartIndex, upstream: UpstreamGradients, count: int
    ) -> Iterator[tuple[list[Picks], Pass]]:
        """Reverse passes with all sets of so many mistakes that change the loop."""
        part, valid = self.evidence.forward.parts[place], self.evidence.forward.valid
        sets = [
            (picks, slots)
            for picks in combinations(self.inside, count)
            if (slots := self._merged(picks)) is not None
        ]
        most = max(1, NUMBERS // max(1, self.evidence.size * len(part.weights.ih)))
        for start in range(0, len(sets), most):
            chunk = sets[start : start + most]
            run = reverse(part, upstream, valid, [slots for _, slots in chunk])
            yield [picks for picks, _ in chunk], run

    def _fitting(
        self, place: PartIndex, upstream: UpstreamGradients, inside: int, outside: int
    ) -> Iterator[Option]:
        further = list(combinations(self.outside, outside))
        for picks, run in self._runs(place, upstream, inside):
            for outer_picks in further:
                slots = self._merged(outer_picks)
                if slots is None:
                    continue
                self.tried += len(picks)
                ratios = self.ratios(place, run, slots, len(picks))
                for k in (ratios <= 1).nonzero().flatten().tolist():
                    yield Option((*picks[k], *outer_picks), run.variant(k))

    def visible(self, place: PartIndex, upstream: UpstreamGradients, right: Tensor) -> set[Pick]:
        """The single mistakes that would change something of a part that is right, and hands
        ``right`` down (time, 1, batch, feature)."""
        total: set[Pick] = set()
        for picks, run in self._runs(place, upstream, 1):
            off = (run.x - right).abs().amax((0, 2, 3)) > 1e-6 * float(right.abs().max())
            changed = off | (self.ratios(place, run, {}, len(picks)) > 1)
            pairs = zip(picks, changed.tolist(), strict=True)
            total |= {pick for [pick], is_changed in pairs if is_changed}
        for _, run in self._runs(place, upstream, 0):
            for pick in self.outside:
                if float(self.ratios(place, run, self.slots[pick], 1)) > 1:
                    total.add(pick)
        return total

    def ratios(self, place: PartIndex, run: Pass, slots: Slots, count: int) -> Tensor:
        """(variant): how far each is from what came back, in units of what is allowed."""
        worst = torch.zeros(count, dtype=torch.float64, device="cpu")
        predicted = parameters(run, slots)
        valid = self.evidence.forward.valid
        for name, key, gradient, within in self.evidence.in_part(place):
            if name.startswith(QUANTITY):
                value = quantity(run, name.removeprefix(QUANTITY)).permute(1, 2, 0, 3)
            else:
                value = predicted[key]
            allowed = allowed_for(value, self._exact(name, place), within, variants=True)
            ratio = (value - gradient).abs().nan_to_num(math.inf, math.inf) / allowed
            if valid is not None and name.startswith(QUANTITY):
                ratio = torch.where(valid.T.unsqueeze(-1), ratio, 0)
            worst = torch.maximum(worst, ratio.flatten(1).amax(1))
        return worst

    def _exact(self, name: str, place: PartIndex) -> Tensor:
        exact = self.evidence.exact[name]
        whole = name.startswith(QUANTITY) or name.removesuffix("_0") in self.evidence.reached.final
        return exact[place] if whole else exact
