"""The search for the mistakes that explain what a candidate returned.

Single mistakes come first; then two, then three: inside each part by itself, beside one mistake or
a pair of mistakes outside the cells, and in a layer whose steps are not seen. What explains the
parts is run whole.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

from rnnscope._compare.mistakes import CATALOGUE, causes
from rnnscope._compare.mistakes.cause import Cause, Causes, excludes, in_order
from rnnscope._compare.mistakes.equations import applied_gates
from rnnscope._compare.mistakes.limits import shares_beside
from rnnscope._compare.model.model import Model, PartIndex
from rnnscope._compare.model.observed import Observation, distance, predicted
from rnnscope._compare.model.steps import OpenedPart, opened_parts
from rnnscope._compare.model.undone import undo
from rnnscope._compare.search.lower_layer import in_two_layers
from rnnscope._compare.search.merging import Explained, merged
from rnnscope._compare.search.one_part import PartSearch, plain
from rnnscope._compare.search.trials import Trials
from rnnscope._compare.work import EFFORT, Account, counted, is_over

__all__ = ["PAIRS", "SIMPLE", "SINGLES", "Search", "SearchOutcome", "concerns"]

CLOSE = 3
"""Of the sets that explain parts those that are tried with one more mistake."""

PROMISING, FEW = 8, 4
"""Mistakes that come closest alone, beside which one more is searched for, and two more."""

SINGLES, SIMPLE, PAIRS, ALL = 3, 4, 5, 6
"""Stages of a search in which single mistakes are tried; and pairs in one part; and all pairs; and
sets of three."""

FEWEST = 30
"""Numbers from which on one that fits them beside a mistake is measured."""

USUAL = ("initial_ignored all",)
"""Mistakes of so many ports that two more are searched for beside them, close or not."""

OFTEN = ("gate_order", "transposed", "bias_missing", "bias_doubled", "reset_before")
"""Mistakes in cells that are made so often that they are tried first beside what is around."""

MANY = 600
"""Mistakes above which pairs are tried of those in all layers and directions alone, and no run is
made of what single steps exclude."""


Opened = Mapping[PartIndex, OpenedPart]


@dataclass(frozen=True)
class SearchOutcome:
    """Sets of mistakes that explain all that was searched, each of the same size; ``tried`` sets
    in all; the ``nearest`` set that does not explain it, with its root mean square."""

    sets: tuple[Causes, ...]
    tried: int
    nearest: tuple[Causes, float] | None
    finished: bool = True


class Search:
    """A search over the sets of mistakes that one model may have."""

    def __init__(
        self,
        model: Model,
        observations: Sequence[Observation],
        effort: float = 1.0,
        progress: Callable[[str], None] | None = None,
        parts: PartSearch | None = None,
    ):
        """``parts``: of an earlier search with the same model, what it has computed."""
        self.model, self.progress = model, progress
        self.observations = observations
        self._shown = [_with_own_finals(observation) for observation in observations]
        self.work = Account(effort * EFFORT)
        self._trials = Trials(model, observations)
        concerning = [
            cause
            for cause in causes(model, observations=observations)
            if concerns(cause, model, observations)
            and (not CATALOGUE[cause.name].only_seen or self.shows(cause))
        ]
        self.every = [cause for cause in concerning if not CATALOGUE[cause.name].alone]
        self.alone = [cause for cause in concerning if CATALOGUE[cause.name].alone]
        cells = [c.everywhere() for c in self.every if _of_cell(c)]
        more = [c.everywhere() for c in self.alone if _of_cell(c)]
        # what stands in one place alone, as where sizes allow it, is tried in each
        known = self._trials.known
        self.parts = parts or PartSearch(_distinct(cells), _distinct(more), known)
        self._around = [c for c in self.every if not _of_cell(c)]
        self._calls = _one_step(self._shown)
        self._opened = opened_parts(model, self._shown)
        self._stage = 0
        self._no_pair = False
        self._no_cell_beside: set[Cause] = set()

    def of(self, together: Causes) -> Model | None:
        """The model with these mistakes; None where one does not apply."""
        return self._trials.of(together)

    def left(self, together: Causes) -> float | None:
        """How much these mistakes leave, as a root mean square; None of what was not run whole."""
        return self._trials.left(together)

    def opened(self) -> Opened:
        """Every part of which single steps are known: by calls of one step, if there are any."""
        return opened_parts(self.model, self._calls or self._shown)

    def of_some_parts(self) -> list[Causes]:
        """What explains the single steps of some parts; empty where all of them are explained."""
        explained = self._explained(self.opened(), 2)
        return [] if all(explained.values()) else merged(self.model, explained)

    def shows(self, cause: Cause, data: Sequence[Observation] | None = None) -> bool:
        """Whether a mistake would change anything that was observed, or in these data."""
        model = self.of(frozenset({cause}))
        if model is None:
            return False
        for observation in self.observations if data is None else data:
            right, wrong = observation.simulator.run([self.model, model])
            if right is None or wrong is None:
                continue
            for name in observation.targets():
                value, expected = predicted(wrong).get(name), predicted(right)[name]
                if value is None or value.shape != expected.shape:
                    return True
                if bool((distance(value, expected) > observation.allowed[name]).any()):
                    return True
        return False

    def run(self, stages: int = ALL) -> SearchOutcome:
        """The smallest sets that explain everything, or none; by so many stages, of which those of
        an earlier call are not run again."""
        sets: list[Causes] = []
        with _no_collection(), counted(self.work):
            while not sets and self._stage < stages:
                self._stage += 1
                sets = next(filter(None, self._of_stage(self._stage)), [])
            nearest = self._trials.nearest(sets)
        return SearchOutcome(tuple(sets), self._trials.count, nearest, not self.work.cut)

    def _of_stage(self, stage: int) -> Iterator[list[Causes]]:
        """What explains everything by a stage, step by step."""
        if any(part.few_units for part in self._opened.values()):
            return  # each mistake of the catalogue concerns all units
        if stage < SINGLES:
            every_part = len(self._opened) == self.model.num_layers * self.model.num_directions
            singles = [c for c in self.every if not every_part or c in self._around]
            everywhere = [frozenset({c}) for c in singles if c == c.everywhere()]
            if stage == 1:
                parts = self._explained(self._opened, 1)
                yield self._explaining([*merged(self.model, parts), *everywhere])
            else:
                yield self._explaining(frozenset({c}) for c in singles)
        elif stage == SINGLES:
            # some show in whole runs alone
            many = len(self.every) > MANY
            excluded = many and any(self.parts.excludes(p, 1) for p in self._opened.values())
            whole = [c for c in (*self.every, *self.alone) if not (excluded and _of_cell(c))]
            yield self._explaining(frozenset({c}) for c in whole)
        elif stage == SIMPLE:
            yield self._in_parts(2)
        elif stage == PAIRS:
            self._no_pair = any(self.parts.excludes(part, 2) for part in self._opened.values())
            yield from self._beside()
            yield from self._pairs()
        else:
            yield self._in_parts(3)
            yield self._of_three()
        self._say()

    def _in_parts(self, depth: int) -> list[Causes]:
        """So many mistakes, which explain every part."""
        explained = self._explained_whole(self._opened, depth)
        return self._explaining(merged(self.model, explained), likely=True)

    def _of_three(self) -> list[Causes]:
        """Two mistakes in the cells beside one around them that comes close, and one beside two."""
        around = self._trials.closest(frozenset({c}) for c in self._around)[:FEW]
        around += [
            s for c in self._around if str(c) in USUAL and (s := frozenset({c})) not in around
        ]
        pairs = self._trials.closest(map(frozenset, self._structural))[: 3 * PROMISING]
        sets = [s for mistakes in around for s in self._beside_these([*mistakes], 2)]
        sets += [s for mistakes in pairs for s in self._beside_these(in_order(mistakes), 1)]
        return self._explaining(sets, likely=True)

    def _explaining(self, sets: Iterable[Causes], likely: bool = False) -> list[Causes]:
        """Of some sets those that explain everything, without a mistake that is not needed; and
        others of the same size that the data cannot tell from them. What is ``likely`` comes from
        parts, of which every mistake was tried."""
        explaining = self._trials.explaining(sets, likely)
        for s in explaining[:CLOSE]:
            fewer = [s - {c} for c in s if len(s) > 1]
            explaining = self._trials.explaining(fewer) or explaining
        instead = (
            s - {c} | {substitute}
            for s in explaining[:CLOSE]
            for c in in_order(s)
            for substitute in self.every
            if substitute.everywhere() == c.everywhere()
            or (not likely and (substitute.layer, substitute.direction) == (c.layer, c.direction))
        )
        return self._trials.explaining([*explaining, *instead])

    # parts ------------------------------------------------------------------------------------

    def _explained(self, opened: Opened, depth: int) -> Explained:
        return {place: self.parts.explain(part, depth) for place, part in opened.items()}

    def _explained_whole(self, opened: Opened, depth: int) -> Explained:
        """The same where every part is explained; where one is not, nothing."""
        explained: dict[PartIndex, list[Causes]] = {}
        for place, part in opened.items():
            explained[place] = self.parts.explain(part, depth)
            if not explained[place]:
                return {}
        return explained

    def _beside(self) -> Iterator[list[Causes]]:
        """Mistakes in the cells beside one outside."""
        if self._calls:
            bases = merged(self.model, self._explained(opened_parts(self.model, self._calls), 2))
            yield self._explaining(bases, likely=True)
            close = self._trials.closest(bases)[:CLOSE]
            yield self._explaining(self._with(close, ([c] for c in self.every)))
            yield self._explaining(self._with(close[:1], self._structural))
        alone = [c for c in self.alone if not _of_cell(c)]
        sets = [s for c in (*self._around, *alone) for s in self._beside_these([c], 1)]
        yield self._explaining(sets, likely=True)
        pairs = ((a, c) for c in alone for a in self._around if a == a.everywhere())
        sets = [s for pair in pairs for s in self._beside_these(pair, 0)]
        yield self._explaining(sets, likely=True)

    def _beside_these(self, causes: Sequence[Cause], depth: int) -> list[Causes]:
        """What explains all parts of a model with mistakes around the cells, and these."""
        model = self.of(frozenset(causes))
        if model is None or is_over():
            return []
        opened = self._undone(model, self._calls or self._shown)
        explained = self._explained_whole(opened, depth)
        if not explained:
            excluded = any(self.parts.excludes(part, depth) for part in opened.values())
            if len(causes) == 1 and excluded and self._opens(model):
                self._no_cell_beside |= {*causes}
            return []
        return self._merged_beside(causes, explained)

    def _undone(self, model: Model, observations: Sequence[Observation]) -> Opened:
        """Every part of a model of which single steps are known, what it changes around the cells
        undone."""
        undone = [undo(model, observation) for observation in observations]
        plain = replace(model, enter=(), leave=())
        return opened_parts(plain, [call for call in undone if call is not None])

    def _opens(self, model: Model) -> bool:
        """Whether steps of a model are what they seem: those of its own numbers are its own."""
        observed = self._calls or self._shown
        calls = [observation.as_given_by(model) for observation in observed]
        for call, observation in zip(calls, observed, strict=True):
            targets = observation.targets()
            if any(value.shape != targets[name].shape for name, value in call.targets().items()):
                return False
        parts = self._undone(model, calls).values()
        return all(float(part.misfit([part.part]).worst[0]) <= 1 for part in parts)

    def _merged_beside(self, causes: Sequence[Cause], explained: Explained) -> list[Causes]:
        """What explains the parts of a model with mistakes, and these themselves."""
        model = self.of(frozenset(causes))
        assert model is not None, "what was opened applies"
        order = list(CATALOGUE)
        first = min(order.index(c.name) for c in causes)
        places = {
            (layer, d): part for layer, row in enumerate(model.parts) for d, part in enumerate(row)
        }
        options: dict[PartIndex, list[Causes]] = {}
        for place in places:
            # where weights stand that are those of another part, mistakes in them are that part's
            weights = self.model.parts[place[0]][place[1]].stored.ih
            origins = [p for p, part in places.items() if part.stored.ih is weights]
            before = [
                frozenset(c for c in s if order.index(c.name) < first)
                for p in origins
                for s in explained.get(p, [])
            ]
            after = [
                frozenset(c for c in s if order.index(c.name) > first)
                for s in explained.get(place, [])
            ]
            if before or after:
                empty = [frozenset[Cause]()]
                pairs = (b | a for b in before or empty for a in after or empty)
                options[place] = list(dict.fromkeys(pairs))
        sets = [frozenset[Cause](), *merged(self.model, options)]
        return [s | frozenset(causes) for s in sets]

    # pairs that no part tells -----------------------------------------------------------------

    def _pairs(self) -> Iterator[list[Causes]]:
        """Two mistakes around the cells; two in layers whose steps are not seen; and one around
        the cells, under which nothing else comes closer, with any other."""
        if not self._no_pair and not is_over():
            both = in_two_layers(self.model, self._shown, self.parts, self.work.most)
            yield self._explaining(both, True)
        self._say()
        few = len(self.every) <= MANY
        partners = [c for c in self.every if few or c == c.everywhere()]
        around = [frozenset({c}) for c in self._around if c == c.everywhere()]
        often = [c for c in partners if _is_often(c)]
        yield self._explaining(s for c in often for s in self._with(around, [[c]]))
        yield self._explaining(map(frozenset, self._structural))
        self._say()
        yield self._explaining(self._with(around, ([c] for c in partners)))
        # beside these mistakes in cells were searched in single steps
        alone = [frozenset({c}) for c in self.alone if not _of_cell(c)]
        outside = [c for c in partners if c in self._around]
        yield self._explaining(self._with(alone, ([c] for c in outside)))
        yield self._explaining(self._shares_beside())
        for single in self._trials.closest(frozenset({c}) for c in self.every)[: 3 * PROMISING]:
            yield self._explaining(self._with([single], ([c] for c in self.every)))

    def _shares_beside(self) -> list[Causes]:
        """Every mistake in the last layer or around all, with a share of the old h that shows once
        that mistake is known."""
        richest = max(self.observations, key=lambda observation: observation.fullness)
        if richest.count < FEWEST or is_over():
            return []
        everywhere = [c for c in self.every if c == c.everywhere()]
        models = [(c, model) for c in everywhere if (model := self.of(frozenset({c}))) is not None]
        last = [(c, model) for c, model in models if self._differs_in_last_layer(model)]
        shares = shares_beside([model for _, model in last], [richest]) if last else ()
        found = [(last[k][0], share) for k, share in shares]
        for cause, model in models:
            seen = undo(model, richest) if model.enter or model.leave else None
            if seen is not None:
                plain_model = replace(model, enter=(), leave=())
                found += [(cause, share) for _, share in shares_beside([plain_model], [seen])]
        pairs = ((c, s) for cause, share in found for c, s in self._placed(cause, share))
        return [frozenset({c, s}) for c, s in pairs if not _clash(c, s)]

    def _placed(self, cause: Cause, share: Cause) -> Iterator[tuple[Cause, Cause]]:
        """A mistake and a share of one direction of the last layer: there alone, or elsewhere
        too."""
        last = self.model.num_layers - 1
        layers = (None, last) if last else (None,)
        directions = (None, share.direction) if self.model.num_directions > 1 else (None,)
        places = list(product(layers, directions))
        for (layer, d), (share_layer, share_d) in product(places, places):
            placed = replace(cause, layer=layer, direction=d)
            if placed == cause or placed in self.every:
                yield placed, replace(share, layer=share_layer, direction=share_d)

    def _differs_in_last_layer(self, model: Model) -> bool:
        """Whether a model may be right but for the parts of its last layer."""
        ours = self.model
        around = (ours.enter, ours.leave, ours.inner, ours.reads, ours.joins, ours.writes)
        theirs = (model.enter, model.leave, model.inner, model.reads, model.joins, model.writes)
        same_size = model.parts[-1][0].stored.ih.shape == ours.parts[-1][0].stored.ih.shape
        return around == theirs and same_size and all(plain(part) for part in model.parts[-1])

    @cached_property
    def _structural(self) -> list[tuple[Cause, ...]]:
        """Pairs of mistakes around the cells, in all layers and directions: of two changes of time,
        rows or layers neither may come closer alone."""
        singular = ("first_bias", "never_carried")
        around = [c for c in self.every if c.name in singular or c in self._around]
        return [
            pair
            for pair in combinations([c for c in around if c == c.everywhere()], 2)
            if not _clash(*pair)
        ]

    def _with(self, bases: Iterable[Causes], more: Iterable[Sequence[Cause]]) -> list[Causes]:
        """Each set with one or two more mistakes that may stand beside it."""
        additions = [tuple(several) for several in more]
        return [
            base | frozenset(several)
            for base in bases
            for several in additions
            if not any(_clash(a, b) for a in base for b in several) and not base & set(several)
            if not self._excluded(base | frozenset(several))
        ]

    def _excluded(self, together: Causes) -> bool:
        """Whether single steps have told that a pair explains nothing."""
        if len(together) > 2:
            return False
        around = [cause for cause in together if not _of_cell(cause)]
        if len(around) > 1:
            return False
        return self._no_cell_beside.issuperset(around) if around else self._no_pair

    def _say(self) -> None:
        if self.progress is not None:
            self.progress(f"{self._trials.count} sets of mistakes tried")


def _of_cell(cause: Cause) -> bool:
    return CATALOGUE[cause.name].of_cell


def _is_often(cause: Cause) -> bool:
    """Whether a mistake is made often: in all layers, and an order of gates in all parameters."""
    everywhere = cause == cause.everywhere() and cause.name in OFTEN
    return everywhere and (cause.name != "gate_order" or cause.tensors == "all")


def _distinct(causes: Iterable[Cause]) -> list[Cause]:
    return list(dict.fromkeys(causes))


def _clash(first: Cause, second: Cause) -> bool:
    """Whether two mistakes are choices of what can be chosen once in one place."""
    if None not in (first.layer, second.layer) and first.layer != second.layer:
        return False
    if None not in (first.direction, second.direction) and first.direction != second.direction:
        return False
    return excludes(first, second)


def concerns(cause: Cause, model: Model, observations: Sequence[Observation]) -> bool:
    """Whether a mistake is one of what was given: of padding, of recorded gates, of states."""
    if cause.name == "padding":
        return any(observation.inputs.lengths is not None for observation in observations)
    if cause.name == "carried_exchanged":  # from zeros it is another mistake too
        starts = [value for call in observations for value in call.inputs.initial.values()]
        return any(bool(value.any()) for value in starts)
    if cause.name == "unapplied":
        recorded = {name for observation in observations for name in observation.quantities}
        if cause.choice != "all":
            return cause.choice in recorded
        return len(recorded & set(applied_gates(model.parts[0][0]))) > 1
    return True


def _with_own_finals(observation: Observation) -> Observation:
    """Without final states that are the same in every layer: they are not the layers' own."""
    layered = [value for value in observation.final.values() if len(value) > 1]
    if any(bool((value == value[:1]).all()) for value in layered):
        return replace(observation, final={})
    return observation


def _one_step(observations: Sequence[Observation]) -> list[Observation]:
    """Calls of one step, with final states in place of the output, if there are any: each layer's
    own, however the output is put together."""
    calls = [observation for observation in observations if observation.inputs.steps == 1]
    return [
        replace(observation, output=None) if observation.final else observation
        for observation in calls
    ]


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
