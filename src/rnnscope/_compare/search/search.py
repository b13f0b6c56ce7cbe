"""The search for the mistakes that explain what a candidate returned.

Single mistakes are tried one and all. Then every part is searched by itself, whatever else is wrong
(``seeds``); what that finds, and the sets that come closest in any group of numbers, are extended
one mistake at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations, product

import torch
from torch import Tensor

from rnnscope._compare.mistakes import CATALOGUE, Changed, applied, causes
from rnnscope._compare.mistakes.cause import Cause, Causes, in_order
from rnnscope._compare.mistakes.compatible import excludes, scrambles, scrambling_alone
from rnnscope._compare.mistakes.equations import applied_gates
from rnnscope._compare.model.batched import LARGE
from rnnscope._compare.model.misfit import Misfit, misfits
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, distance, predicted
from rnnscope._compare.model.simulate import Simulator
from rnnscope._compare.search.parts import BEAM, EACH
from rnnscope._compare.search.seeds import Seeds
from rnnscope._compare.tolerance import allowed
from rnnscope._compare.work import EFFORT, Account, counted, is_over, spend

__all__ = ["SearchOutcome", "Search", "concerns", "either"]

DEPTH = 3

NEAREST = 3
"""Of the sets that explain parts those that are extended before another way of looking."""

WIDER = 4 * BEAM
"""Pairs that are extended at last, where work is left."""

CHUNK = 512
"""Sets that are measured together, at most."""

SHARE = 20
"""Into so many chunks the work of a search is cut where runs are dear."""

NEAR = 1000
"""Up to so many times the tolerance a model is judged by its own rounding; the nearest few are."""


@dataclass(frozen=True)
class SearchOutcome:
    """Sets of mistakes that explain all that was searched, each of the same size; ``tried`` sets
    in all; the ``nearest`` set that does not explain it, with its root mean square."""

    sets: tuple[Causes, ...]
    tried: int
    nearest: tuple[Causes, float] | None
    finished: bool = True


@dataclass
class Search:
    """A search over the sets of mistakes that one model may have."""

    model: Model
    observations: Sequence[Observation]
    effort: float = 1.0
    progress: Callable[[str], None] | None = None
    _models: dict[Causes, Model | None] = field(default_factory=dict)
    _changed: Changed = field(default_factory=dict)
    _simulators: list[Simulator] = field(default_factory=list)
    _scores: dict[Causes, tuple[float, float]] = field(default_factory=dict)
    _places: dict[Causes, int] = field(default_factory=dict)
    _close: list[tuple[float, Causes]] = field(default_factory=list)
    _misfits: Misfit | None = None
    tried: int = 0

    def __post_init__(self) -> None:
        self._simulators = [one.simulator for one in self.observations]
        # most sets are told from the rest by the fullest observation alone
        richest = max(
            range(len(self.observations)),
            key=lambda k: self.observations[k].fullness,
        )
        self._quick = [richest]
        self._every = list(range(len(self.observations)))
        every = causes(self.model, observations=self.observations)
        self.every = [
            cause
            for cause in every
            if concerns(cause, self.model, self.observations)
            and (not CATALOGUE[cause.name].only_seen or self.shows(cause))
        ]
        self.alone = [cause for cause in self.every if CATALOGUE[cause.name].alone]
        self.every = [cause for cause in self.every if not CATALOGUE[cause.name].alone]
        self._seeds = Seeds(self.model, self.observations, self.every, self._changed)
        self.work = Account(self.effort * EFFORT)

    # models and how far they are -------------------------------------------------------------

    def shows(self, cause: Cause, data: Sequence[Observation] | None = None) -> bool:
        """Whether a mistake would change anything that was observed, or in these data."""
        model = self.of(frozenset({cause}))
        if model is None:
            return False
        for one in self.observations if data is None else data:
            exact, other = one.simulator.run([self.model, model])
            if exact is None or other is None:
                continue
            for name in one.targets():
                value, wanted = predicted(other).get(name), predicted(exact)[name]
                if value is None or value.shape != wanted.shape:
                    return True
                if bool((distance(value, wanted) > one.allowed[name]).any()):
                    return True
        return False

    def of(self, together: Causes) -> Model | None:
        """The model with these mistakes; None where one does not apply."""
        if together not in self._models:
            self._models[together] = applied(self.model, tuple(together), self._changed)
        return self._models[together]

    def _explaining_quickly(self, wanted: Sequence[Causes]) -> list[Causes]:
        """The sets that explain everything, measured where most is seen first."""
        fresh = [s for s in wanted if s not in self._scores]
        spend(sets=len(fresh))
        found: list[Causes] = []
        for some in self._chunks(fresh):
            if is_over():
                break
            chunk = [(s, model) for s in some if (model := self.of(s)) is not None]
            if not chunk:
                continue
            self.tried += len(chunk)
            misfit = self._misfit([model for _, model in chunk], self._quick)
            left = [s for (s, _), worst in zip(chunk, misfit.worst, strict=True) if worst <= 1]
            totals = zip(misfit.total.tolist(), (s for s, _ in chunk), strict=True)
            self._close += sorted(totals, key=lambda pair: pair[0])[:BEAM]
            found += self._explaining(self._measure(left)[0])
            if found and max(map(len, wanted)) > 1:
                break  # the others of this size are found from these
        return self._explaining(found)

    def _misfit(self, models: Sequence[Model], which: Sequence[int], far: float = NEAR) -> Misfit:
        observations = [self.observations[k] for k in which]
        simulators = [self._simulators[k] for k in which]
        misfit = misfits(observations, models, simulators)
        # a mistake may let numbers grow, and rounding with them: what comes close is judged by
        # what rounding allows the mistaken model itself
        if bool((misfit.worst <= 1).any()):
            far = NEAR  # nothing needs more to be allowed
        near = ((misfit.worst > 1) & (misfit.worst < far)).nonzero().flatten().tolist()
        for k in sorted(near, key=lambda k: float(misfit.worst[k]))[:16]:
            own = [
                replace(
                    one,
                    allowed=either(
                        one, allowed(models[k], one.inputs, one.unit, simulator=simulator)
                    ),
                )
                for one, simulator in zip(observations, simulators, strict=True)
            ]
            again = misfits(own, [models[k]], simulators)
            known = dict(zip(again.groups, again.ratios[0].tolist(), strict=True))
            # what is of no use by its own rounding tells nothing
            ratios = [known.get(group, 0.0) for group in misfit.groups]
            misfit.ratios[k] = torch.tensor(ratios, dtype=misfit.ratios.dtype, device="cpu")
        return misfit

    def _measure(
        self, sets: Iterable[Causes], own: bool = False
    ) -> tuple[list[Causes], Misfit | None]:
        """The sets that apply, and how far they are; ``own``: by what rounding allows each, however
        far they seem, as single steps told that they are right."""
        wanted = list(dict.fromkeys(sets))
        fresh = [s for s in wanted if s not in self._scores]
        for some in self._chunks(fresh):
            if self._misfits is not None and is_over():
                break
            chunk = [(s, model) for s in some if (model := self.of(s)) is not None]
            applies = {s for s, _ in chunk}
            self._scores |= {s: (torch.inf, torch.inf) for s in some if s not in applies}
            if not chunk:
                continue
            self.tried += len(chunk)
            far = torch.inf if own else NEAR
            misfit = self._misfit([model for _, model in chunk], self._every, far)
            start = 0 if self._misfits is None else len(self._misfits.squares)
            ratios = zip(misfit.worst.tolist(), misfit.total.tolist(), strict=True)
            for k, ((s, _), pair) in enumerate(zip(chunk, ratios, strict=True)):
                self._scores[s] = pair
                self._places[s] = start + k
            self._misfits = misfit if self._misfits is None else self._misfits.beside(misfit)
        known = [s for s in wanted if s in self._places]
        if not known or self._misfits is None:
            return [], None
        return known, self._misfits.rows([self._places[s] for s in known])

    def _explains(self, s: Causes) -> bool:
        return self._scores[s][0] <= 1

    # the search ------------------------------------------------------------------------------

    def run(self) -> SearchOutcome:
        """The smallest sets that explain everything, or none."""
        with _no_collection(), counted(self.work):
            return self._run()

    def _run(self) -> SearchOutcome:
        singles = [frozenset({cause}) for cause in (*self.every, *self.alone)]
        if self._large:
            return self._run_large(singles)
        found = self._explaining_quickly(singles)
        if found:
            return self._found(found)
        sets, misfit = self._measure([frozenset(), *singles])
        beam = self._best(sets, misfit)
        found, seeds = self._from_seeds(self._seeds)
        if found:
            return self._found(self._alternatives(found))
        return self._extend([*dict.fromkeys(seeds), *beam])

    def _from_seeds(self, every: Iterable[list[Causes]]) -> tuple[list[Causes], list[Causes]]:
        """Sets that explain everything, from those that explain parts, alone or with more; and the
        nearest of these where there are none."""
        seeds: list[Causes] = []
        for some in every:
            sets, misfit = self._measure(some, own=True)
            found = self._explaining(sets)
            if not found and sets:
                near = self._best(sets, misfit)
                seeds += near
                found = self._explaining_quickly(self._with_one_more(near[:NEAREST]))
                found = found or self._explaining_quickly(self._with_pairs(near[:1]))
            if found:
                return found, seeds
        return [], seeds

    def _with_one_more(self, bases: Iterable[Causes]) -> list[Causes]:
        extended = [base | {cause} for base in bases for cause in self.every]
        return [s for s in dict.fromkeys(extended) if self._sensible(s)]

    def _with_pairs(self, bases: Iterable[Causes]) -> list[Causes]:
        """Each with two mistakes around the cells."""
        extended = (base | pair for base in bases for pair in self._structural())
        return [s for s in dict.fromkeys(extended) if self._sensible(s)]

    def _extend(self, beam: list[Causes]) -> SearchOutcome:
        """The search from sets that come close, one more mistake at a time."""
        rest: list[Causes] = []
        for size in range(2, DEPTH + 1):
            if self._seeds.hopeless or is_over():
                return self._found([])
            self._say()
            extended = self._with_one_more(beam)
            found = self._explaining_quickly(extended)
            if found:
                return self._found(self._alternatives(found))
            if size == 2:
                pairs = self._structural()
                found = self._explaining_quickly(pairs)
                alone = [s for s in beam[:NEAREST] if len(s) == 1]
                found = found or self._explaining_quickly(self._with_pairs(alone))
                for more in (self._scrambled, self._through, self._scrambled_beside):
                    wanted = [s for s in more() if not self._seeds.tried(s)] if not found else []
                    found = found or self._explaining_quickly(wanted)
                found = found or self._from_seeds(self._seeds.slow())[0]
                if found:
                    return self._found(self._alternatives(found))
                extended += pairs
                # the closest of those that were measured where most is seen alone
                close = sorted(self._close, key=lambda pair: pair[0])
                extended += [s for _, s in close if len(s) == size][: 4 * BEAM]
            if size < DEPTH:
                sets, misfit = self._measure(extended)
                beam = self._best(sets, misfit)
                rest = [s for s in self._best(sets, misfit, WIDER) if s not in beam]
        found = self._explaining_quickly(self._with_one_more(rest)) or self._to_the_end()
        return self._found(self._alternatives(found))

    def _to_the_end(self) -> list[Causes]:
        """Three mistakes, in all layers and directions, one of them around the cells, as long as
        work is left."""
        everywhere = [c for c in self.every if c == c.everywhere()]
        around = [c for c in everywhere if not CATALOGUE[c.name].of_cell]
        pairs = dict.fromkeys(
            frozenset(pair) for pair in (*combinations(around, 2), *product(around, everywhere))
        )
        for pair in pairs:
            if is_over():
                break
            wanted = (pair | {c} for c in everywhere if c not in pair)
            found = self._explaining_quickly([s for s in wanted if self._sensible(s)])
            if found:
                return found
        return []

    @property
    def _large(self) -> bool:
        """Whether a run is so dear that parts are searched by themselves first."""
        weights = self.model.parts[0][0].weights
        return weights.hh.numel() > LARGE

    def _run_large(self, singles: Sequence[Causes]) -> SearchOutcome:
        """Mistakes of cells part by part, of which a few units are computed; whole runs only for
        what that leaves over."""
        around = [s for s in singles if not all(CATALOGUE[c.name].of_cell for c in s)]
        seeds = [s for some in self._seeds for s in some]
        sets, _ = self._measure([frozenset(), *seeds], own=True)
        found = self._explaining(sets)
        if found or self._seeds.hopeless:
            return self._found(found)
        self._say()
        found = self._explaining_quickly(around)
        if found:
            return self._found(found)
        for wanted in ([s | a for s in seeds[:4] for a in around], singles):
            for some in self._chunks(wanted):
                self._say()
                found = self._explaining_quickly(some)
                if found or is_over():
                    return self._found(found)
        close = [s for _, s in sorted(self._close, key=lambda pair: pair[0])]
        return self._extend([*seeds[:BEAM], *dict.fromkeys(close[: 2 * BEAM])])

    def _scrambled(self) -> list[Causes]:
        """Pairs of mistakes that scramble the same matrices, in all layers and directions."""
        everywhere = [c for c in self.every if c == c.everywhere()]
        return [frozenset(pair) for pair in scrambles(everywhere)]

    def _scrambled_beside(self) -> list[Causes]:
        """A mistake that scrambles matrices with any other of the cell, in all layers and
        directions; then two that scramble those of one part, layer or direction."""
        cells = [c for c in self.every if CATALOGUE[c.name].of_cell and c == c.everywhere()]
        scrambling = [c for c in cells if scrambling_alone(c)]
        scrambling.sort(key=lambda c: c.tensors not in ("", "all"))  # the likely ones first
        found = [
            frozenset({one, other})
            for one, other in product(scrambling, cells)
            if not scrambling_alone(other)
        ]
        places = dict.fromkeys((c.layer, c.direction) for c in self.every if c != c.everywhere())
        for place in places:
            here = [c for c in self.every if (c.layer, c.direction) == place]
            found += [frozenset(pair) for pair in scrambles(here)]
        return [s for s in found if self._sensible(s)]

    def _structural(self) -> list[Causes]:
        """Pairs of mistakes around the cells: of two changes of time, rows or layers neither may
        come closer alone."""
        around = [
            c
            for c in self.every
            if c == c.everywhere()
            and (not CATALOGUE[c.name].of_cell or c.name in ("first_bias", "never_carried"))
        ]
        pairs = (frozenset(pair) for pair in combinations(around, 2))
        return [s for s in pairs if self._sensible(s)]

    def _through(self) -> list[Causes]:
        """A mistake around the cells, under which nothing else comes closer, with any other."""
        few = len(self.every) <= 600
        others = [c for c in self.every if few or c == c.everywhere()]
        around = [c for c in others if c == c.everywhere() and not CATALOGUE[c.name].of_cell]
        pairs = dict.fromkeys(frozenset({a, c}) for a in around for c in others if a != c)
        return [s for s in pairs if self._sensible(s)]

    def _chunks(self, sets: Sequence[Causes]) -> Iterator[Sequence[Causes]]:
        """As many sets together as cost a small share of the work that there is."""
        inputs = self.observations[self._quick[0]].inputs
        every = [part.stored for row in self.model.parts for part in row]
        numbers = inputs.steps * inputs.batch * sum(w.ih.numel() + w.hh.numel() for w in every)
        size = max(1, min(CHUNK, int(EFFORT / SHARE / numbers)))
        for start in range(0, len(sets), size):
            yield sets[start : start + size]

    def _say(self) -> None:
        if self.progress is not None:
            self.progress(f"{self.tried} sets of mistakes tried")

    def _sensible(self, s: Causes) -> bool:
        """Not two choices of what can be chosen once in one place."""
        for one, other in combinations(s, 2):
            if one.layer not in (None, other.layer) and other.layer is not None:
                continue
            if one.direction not in (None, other.direction) and other.direction is not None:
                continue
            if excludes(one, other):
                return False
        return True

    def _explaining(self, sets: Sequence[Causes]) -> list[Causes]:
        found = [s for s in sets if self._explains(s)]
        if not found:
            return []
        least = min(map(len, found))
        return [s for s in found if len(s) == least]

    def _found(self, sets: Sequence[Causes]) -> SearchOutcome:
        explaining = set(sets)
        others = [
            (s, total)
            for s, (worst, total) in self._scores.items()
            if s and worst > 1 and not any(e <= s for e in explaining)
        ]
        nearest = min(others, key=lambda pair: pair[1], default=None)
        return SearchOutcome(tuple(sets), self.tried, nearest, not self.work.cut)

    def _alternatives(self, found: Sequence[Causes]) -> list[Causes]:
        """All sets of the same size that explain as well, one mistake replaced by another."""
        known = list(self._fewer(found) or found)
        for s in known[:4]:
            for cause in in_order(s):
                rest = s - {cause}
                sets, _ = self._measure(
                    rest | {other} for other in self.every if self._sensible(rest | {other})
                )
                known += self._explaining(sets)
                smaller, _ = self._measure([rest])
                if self._explaining(smaller):
                    return smaller
        if not known:
            return []
        while True:
            least = min(map(len, known))
            known = [s for s in dict.fromkeys(known) if len(s) == least]
            joined = self._explaining(self._measure(self._joined(known))[0])
            if not joined:
                return known
            known = joined

    def _fewer(self, found: Sequence[Causes]) -> list[Causes]:
        """Sets in which one mistake stands for two: of a kind, and in the first set for any."""
        wanted = [
            (s - {one, other}) | {instead}
            for k, s in enumerate(found[:4])
            for one, other in combinations(in_order(s), 2)
            if len(s) > 2 and (k == 0 or one.name == other.name)
            for instead in self.every
        ]
        return self._explaining_quickly(list(filter(self._sensible, dict.fromkeys(wanted))))

    def _joined(self, found: Sequence[Causes]) -> Iterable[Causes]:
        """Two of a kind as one: of W and of b is of all, of both directions is of the layer."""
        for s in found:
            for one, other in combinations(in_order(s), 2):
                if (one.name, one.choice) == (other.name, other.choice):
                    for cause in self.every:
                        if (cause.name, cause.choice) == (one.name, one.choice):
                            yield (s - {one, other}) | {cause}

    def _best(
        self, sets: Sequence[Causes], misfit: Misfit | None, beam: int = BEAM
    ) -> list[Causes]:
        return [] if misfit is None else [sets[k] for k in misfit.closest(beam, EACH)]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the collection of cycles: a search makes none, and to look for them among all that it
    remembers takes a third of its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def concerns(cause: Cause, model: Model, observations: Sequence[Observation]) -> bool:
    """Whether a mistake is one of what was given: of padding, of recorded gates."""
    if cause.name == "padding":
        return any(one.inputs.lengths is not None for one in observations)
    if cause.name == "unapplied":
        recorded = {name for one in observations for name in one.quantities}
        if cause.choice != "all":
            return cause.choice in recorded
        return len(recorded & set(applied_gates(model.parts[0][0]))) > 1
    return True


def either(one: Observation, other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What rounding allows by the reference or by the explanation, whichever is more: what is of no
    use by one of them is of none, but not everything: rounding takes steps to grow."""
    found = dict(one.allowed)
    for name, value in other.items():
        known = name in found and found[name].shape == value.shape
        if known and bool(torch.isfinite(other.get("output", value)).any()):
            found[name] = torch.maximum(found[name], value)
    return found
