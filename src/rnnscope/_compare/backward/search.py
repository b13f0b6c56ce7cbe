"""The mistakes that explain all gradients: part by part from the last layer to the first.

What reaches the last layer is known, so that each of its parts is searched by itself. What it hands
down, with the mistakes that explain it, is what reaches the layer below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor

from rnnscope._compare.backward.evidence import Evidence, allowed_for
from rnnscope._compare.backward.mistakes import BETWEEN_LAYERS, CATALOGUE, OF_ALL, ReverseSetting
from rnnscope._compare.backward.one_part import Option, Pick, Picks, ReversePartSearch
from rnnscope._compare.backward.reverse import Slots, merged, reverse
from rnnscope._compare.backward.whole import Mistaken, below, part_upstream
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import PartIndex
from rnnscope._compare.work import BACKWARD as EFFORT

__all__ = ["BackwardSearch", "unseen"]

SAME = 1e-11
"""Relative differences of what mistakes hand down that are none."""

WIDE = 6
"""Sets of one part that are followed down, where the numbers do not tell them apart."""

MOST_CAUSES = 4
FEW = 4
"""Numbers that any factor explains."""


@dataclass(frozen=True)
class Found:
    """Mistakes of parts, and what layers hand down wrongly."""

    parts: Mapping[PartIndex, Picks] = field(default_factory=dict)
    down: Mapping[int, str] = field(default_factory=dict)


def _setting_of(evidence: Evidence) -> ReverseSetting:
    """What mistakes depend on, with the limits and the factor that these numbers may hold."""
    forward = evidence.forward
    part = next(iter(forward.parts.values()))
    states = {f"{state}_0" for state in evidence.reached.final}
    names = [n for n in evidence.candidate if n != "x" and "." not in n and n not in states]
    candidate = [evidence.candidate[name].abs() for name in names]
    largest = max((float(value.max()) for value in candidate), default=0.0)
    ties = sum(int((value >= largest * (1 - 1e-7)).sum()) for value in candidate)
    is_cut = any(float(evidence.exact[name].abs().max()) > largest for name in names)
    factor = _factor(evidence, names)
    return ReverseSetting(
        cell=part.cell,
        steps=evidence.inputs.steps,
        batch=evidence.inputs.batch,
        square=part.weights.hh.shape[1] == part.weights.hidden_size,
        biases=part.weights.b_ih is not None,
        directions=forward.directions,
        masks=forward.masks is not None,
        kind=forward.structure.kind,
        limits=(largest,) if ties > 1 and is_cut and largest > 0 else (),
        factors=() if factor in (None, 0.0, 1.0) else (factor,),
    )


def _factor(evidence: Evidence, names: Iterable[str]) -> float | None:
    """The factor that fits these gradients best; None where they are too few."""
    pairs = [(evidence.candidate[name], evidence.exact[name]) for name in names]
    over = sum(float((value * exact).sum()) for value, exact in pairs)
    under = sum(float(exact.square().sum()) for _, exact in pairs)
    few = sum(value.numel() for value, _ in pairs) < FEW
    return None if few or not under else over / under


def _nothing_down(solution: Found) -> Found:
    """One mistake in place of many where no lower layer gets anything, and x no gradient."""
    pick = ("direct_part", "0")
    top = max(layer for layer, _ in solution.parts)
    lower = [picks for (layer, _), picks in solution.parts.items() if layer < top]
    if solution.down.get(0) != "zero" or not lower or any(pick not in picks for picks in lower):
        return solution
    parts = {
        place: picks if place[0] == top else tuple(p for p in picks if p != pick)
        for place, picks in solution.parts.items()
    }
    return Found(parts, dict.fromkeys(range(top + 1), "zero"))


class BackwardSearch:
    """One search, on one call's numbers; what it finds must explain ``all_evidence``."""

    def __init__(self, evidence: Evidence, all_evidence: Sequence[Evidence], effort: float) -> None:
        self.evidence, self.all_evidence = evidence, all_evidence
        self.setting = _setting_of(evidence)
        self._done: dict[tuple[int, int], list[tuple[Tensor, list[Found]]]] = {}
        self.part = ReversePartSearch(evidence, self.setting, EFFORT * effort)

    def run(self) -> list[tuple[Cause, ...]]:
        """The smallest sets of causes that explain everything; empty where there are none."""
        factor = _factor(self.evidence, self.evidence.candidate)
        if factor is not None and math.isfinite(factor):
            scaled = (Cause(OF_ALL, repr(factor)),)
            if self._explains(scaled):
                return [scaled]
        top = self.evidence.reached.h.unsqueeze(1)
        solved = self._solved(self.evidence.forward.layers - 1, top)
        solutions = [self._as_causes(solution) for solution in solved]
        if not solutions and not self.part.all_evident:
            solutions = [(Cause(*pick),) for pick in self.part.slots]
        sets = dict.fromkeys(
            frozenset(causes)
            for causes in solutions
            if causes and len(causes) <= MOST_CAUSES and self._explains(causes)
        )
        least = min(map(len, sets), default=0)
        return [tuple(sorted(s, key=_in_order)) for s in sets if len(s) == least]

    # from the last layer to the first -------------------------------------------------------

    def _solved(self, layer: int, h: Tensor, spare: int = 1) -> list[Found]:
        """All that explains this layer and those below it, given what reaches it; ``spare``: how
        many mistakes may stand in parts of which nothing came back."""
        for before, solutions in self._done.setdefault((layer, spare), []):
            if torch.allclose(before, h, rtol=SAME, atol=0.0):
                return solutions
        solutions = self._solve(layer, h, spare)
        self._done[layer, spare].append((h, solutions))
        return solutions

    def _solve(self, layer: int, h: Tensor, spare: int) -> list[Found]:
        forward, reached = self.evidence.forward, self.evidence.reached
        by_direction: list[list[Option]] = []
        for d in range(forward.directions):
            upstream = part_upstream(reached, h, (layer, d))
            options = self.part.options((layer, d), upstream, spare)
            if not options:
                return []
            by_direction.append(options[:WIDE] if options[0].picks else options)
        solutions: list[Found] = []
        for chosen in product(*by_direction):
            picks = {(layer, d): option.picks for d, option in enumerate(chosen)}
            silent = [d for d in range(len(chosen)) if not self.part.evident((layer, d))]
            used = sum(len(chosen[d].picks) for d in silent)
            if used > spare:
                continue
            lower = self._handed(layer, [option.x for option in chosen], spare - used)
            solutions += [Found({**picks, **solution.parts}, solution.down) for solution in lower]
        return solutions

    def _handed(self, layer: int, xs: list[Tensor], spare: int) -> list[Found]:
        """What explains all below: with what is handed down right, or, if nothing does, wrong."""
        forward = self.evidence.forward
        solutions = self._below(layer, below(forward, layer, xs), spare)
        if solutions:
            return solutions
        wrong: list[Found] = []
        for choice in CATALOGUE[BETWEEN_LAYERS].choices(self.setting):
            if choice != ("zero" if layer else "unmasked"):
                # "zero" of a layer above the first is that the direct part is missing
                lower = self._below(layer, below(forward, layer, xs, choice), spare)
                wrong += [
                    Found(solution.parts, {**solution.down, layer: choice}) for solution in lower
                ]
        return wrong

    def _below(self, layer: int, x: Tensor, spare: int) -> list[Found]:
        if layer:
            return self._solved(layer - 1, x, spare)
        if "x" in self.evidence.candidate:
            handed = x.squeeze(1)
            exact, within = self.evidence.exact["x"], self.evidence.within["x"]
            away = self.evidence.away("x", {"x": handed}) / allowed_for(handed, exact, within)
            return [Found()] if float(away.max()) <= 1 else []
        return [Found()]

    # causes in places -----------------------------------------------------------------------

    def _as_causes(self, solution: Found) -> tuple[Cause, ...]:
        """Mistakes of parts as causes: everywhere where that explains as much."""
        solution = _nothing_down(solution)
        places: dict[Pick, set[PartIndex]] = {}
        for place, picks in solution.parts.items():
            for pick in picks:
                places.setdefault(pick, set()).add(place)
        causes = {pick: self._causes(pick, where) for pick, where in places.items()}
        downs = [
            Cause(BETWEEN_LAYERS, choice, layer=layer) for layer, choice in solution.down.items()
        ]
        layers, choices = self.evidence.forward.layers, set(solution.down.values())
        everywhere = len(downs) == layers - ("unmasked" in choices)
        if len(choices) == 1 and (everywhere or layers == 1):
            downs = [Cause(BETWEEN_LAYERS, choices.pop())]
        for pick, exact in list(causes.items()):
            for wider in self._wider(pick, exact):
                further = [c for other_pick, cs in causes.items() if other_pick != pick for c in cs]
                if self._fits((*further, *wider, *downs), self.evidence):
                    causes[pick] = wider
                    break
        return (*(c for cs in causes.values() for c in cs), *downs)

    def _causes(self, pick: Pick, places: set[PartIndex]) -> list[Cause]:
        names = self.evidence.forward.structure.directions
        return [
            Cause(*pick, layer=layer, direction=names[d] if len(names) > 1 else None)
            for layer, d in sorted(places)
        ]

    def _wider(self, pick: Pick, exact: list[Cause]) -> Iterator[list[Cause]]:
        """The same mistake in fewer, larger places."""
        layers = {cause.layer for cause in exact}
        directions = {cause.direction for cause in exact}
        yield [Cause(*pick)]
        if len(layers) == 1 and len(exact) > 1:
            yield [Cause(*pick, layer=layer) for layer in layers]
        if len(directions) == 1:
            yield [Cause(*pick, direction=direction) for direction in directions]

    def _fits(self, causes: Sequence[Cause], evidence: Evidence) -> bool:
        mistaken = self._mistaken(causes, evidence)
        return mistaken is not None and evidence.worst(evidence.of_mistaken(mistaken)) <= 1

    def _explains(self, causes: Sequence[Cause]) -> bool:
        """Whether all numbers of all calls are explained."""
        return all(self._fits(causes, evidence) for evidence in self.all_evidence)

    def left(self, causes: Sequence[Cause], evidence: Evidence) -> float:
        """The largest difference that is left with some of the mistakes that explain it."""
        mistaken = self._mistaken(causes, evidence)
        assert mistaken is not None, "they can stand together"
        return evidence.largest(evidence.of_mistaken(mistaken))[0]

    def _mistaken(self, causes: Sequence[Cause], evidence: Evidence) -> Mistaken | None:
        """The wrong reverse pass; None where two causes change the same."""
        forward, inputs = evidence.forward, evidence.inputs
        setting = replace(self.setting, steps=inputs.steps, batch=inputs.batch)
        parts: dict[PartIndex, Slots] = {place: {} for place in forward.parts}
        down: dict[int, str] = {}
        for cause in causes:
            if cause.name == OF_ALL:
                return Mistaken(scale=float(cause.choice))
            if cause.name == BETWEEN_LAYERS:
                least = 1 if cause.choice == "unmasked" else 0
                layers = range(least, forward.layers) if cause.layer is None else (cause.layer,)
                down |= dict.fromkeys(layers, cause.choice)
                continue
            slots = CATALOGUE[cause.name].slots(setting, cause.choice)
            for layer, d in forward.parts:
                direction = forward.structure.directions[d]
                if cause.layer in (None, layer) and cause.direction in (None, direction):
                    together = merged(parts[layer, d], slots)
                    if together is None:
                        return None
                    parts[layer, d] = together
        return Mistaken(parts, down)


def _in_order(cause: Cause) -> tuple[int, str]:
    return list(CATALOGUE).index(cause.name), str(cause)


def unseen(evidence: Evidence) -> tuple[str, ...]:
    """Titles of mistakes that would change nothing in right gradients of this call."""
    setting = _setting_of(evidence)
    search = ReversePartSearch(evidence, replace(setting, limits=(), factors=()), EFFORT)
    reached, h = evidence.reached, evidence.reached.h.unsqueeze(1)
    visible: set[Pick] = set()
    for layer in reversed(range(evidence.forward.layers)):
        xs = []
        for d in range(evidence.forward.directions):
            part, upstream = evidence.forward.parts[layer, d], part_upstream(reached, h, (layer, d))
            right = reverse(part, upstream, evidence.forward.valid).x
            visible |= search.visible((layer, d), upstream, right)
            xs.append(right)
        h = below(evidence.forward, layer, xs)
    hidden = [pick for pick in search.slots if pick not in visible]
    titles = [CATALOGUE[name].words(setting, choice).title for name, choice in hidden]
    return tuple(dict.fromkeys(titles))
