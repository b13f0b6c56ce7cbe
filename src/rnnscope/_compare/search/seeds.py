"""Where a search of several mistakes starts: what explains each part by itself.

Steps are opened with all that is known; then with calls of one step alone, in which nothing that
concerns time shows; then under each mistake around the cells; and where steps are not known, layer
by layer from the states in which whole runs end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from rnnscope._compare.mistakes import CATALOGUE, Changed, applied, changed_part
from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.model.batched import LARGE
from rnnscope._compare.model.model import Model, Part, PartIndex, Token
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.runs import flows_above, run_parts
from rnnscope._compare.model.steps import Flows, OpenedPart, opened_parts
from rnnscope._compare.search.factored import Thorough
from rnnscope._compare.search.parts import FIRST, Witness, explain, merged
from rnnscope._compare.search.stacked import Stacked
from rnnscope._compare.search.two_layers import beneath
from rnnscope._compare.work import is_over

__all__ = ["Seeds"]

PROMISING = 4
"""Mistakes around the cells under which parts are searched for two mistakes."""

Explained = dict[PartIndex, list[Causes]]


@dataclass
class Seeds:
    """Sets of mistakes that explain parts by themselves, the likely ones first."""

    model: Model
    observations: Sequence[Observation]
    every: Sequence[Cause]
    known: Changed
    hopeless: bool = False
    _done: dict[Token, list[Causes]] = field(default_factory=dict)
    _stacked: Stacked | None = None

    def __iter__(self) -> Iterator[list[Causes]]:
        """One way of looking after the other."""
        # what stands in one place alone, as where sizes allow it, is tried in each
        of_cell = (c.everywhere() for c in self.every if CATALOGUE[c.name].of_cell)
        self._cells = list(dict.fromkeys(of_cell))
        self._thorough = Thorough(self._cells)
        self.observations = [_with_own_finals(one) for one in self.observations]
        opened = opened_parts(self.model, self.observations)
        self.hopeless = any(part.few_units for part in opened.values())
        if self.hopeless:
            return
        explained = self._explained(opened, 3)
        yield merged(self.model, explained)
        if self.model.parts[0][0].weights.hh.numel() > LARGE:
            return
        whole = bool(explained) and all(explained.values())
        calls = [] if whole else _one_step(self.observations)
        if calls:
            yield merged(self.model, self._explained(opened_parts(self.model, calls), 2))
        if self.model.num_layers > 1:
            yield self._by_runs(self.model, explained)
        if not whole:
            yield from self._around(calls or self.observations)
        if self.model.num_layers > 1:
            yield from self._by_runs_around()
            if not any(layer for layer, _ in explained):
                yield from self._of_two_layers()

    def tried(self, together: Causes) -> bool:
        """Whether a pair of mistakes was one of those that were tried in two layers."""
        return self._stacked is not None and self._stacked.covers(together)

    def slow(self) -> Iterator[list[Causes]]:
        """Ways of looking that take long, once the others are done."""
        if self.hopeless:
            return
        if self.model.num_layers == 1:
            yield self._by_runs(self.model, {})
        elif self._stacked is not None:
            for size, equations in ((3, 1), (3, 2), (3, 0)):
                yield from self._stacked.fitting(size, equations)
            yield from self._beneath(pairs=True)

    def _explained(self, witnesses: Mapping[PartIndex, OpenedPart], depth: int) -> Explained:
        """What explains each part; what explains one is tried in the others."""
        found: Explained = {}
        for place, witness in witnesses.items():
            found[place] = self._explain(witness, depth, _hints(found))
        return found

    def _explain(self, witness: Witness, depth: int, hints: Sequence[Causes]) -> list[Causes]:
        if is_over():
            return []
        return explain(witness, self._cells, self.known, depth, hints, self._thorough)

    # calls of one step ------------------------------------------------------------------------

    def _around(self, calls: Sequence[Observation]) -> Iterator[list[Causes]]:
        """What explains the parts beside one mistake around the cells."""
        tried: list[tuple[int, Cause, Model, Mapping[PartIndex, OpenedPart]]] = []
        for cause in self.every:
            model = None if CATALOGUE[cause.name].of_cell else applied(self.model, (cause,))
            if model is None or not _reaches_parts(model, self.model):
                continue
            opened = opened_parts(model, calls)
            sets = {place: self._known(part, 1) for place, part in opened.items()}
            count = sum(bool(one) for one in sets.values())
            if count == len(sets) and sets:
                yield [*self._beside(cause, model, sets), frozenset({cause})]
            else:
                tried.append((count, cause, model, opened))
        for _, cause, model, parts in sorted(tried, key=lambda one: -one[0])[:PROMISING]:
            sets = {place: self._known(part, 2) for place, part in parts.items()}
            yield self._beside(cause, model, sets)

    def _beside(self, cause: Cause, model: Model, sets: Explained) -> list[Causes]:
        """What explains the parts of a model with a mistake, and the mistake itself."""
        order = list(CATALOGUE)
        places = {
            (layer, d): part for layer, row in enumerate(model.parts) for d, part in enumerate(row)
        }
        # where weights stand that are those of another part, mistakes in them are that part's
        origins: dict[PartIndex, list[PartIndex]] = {}
        for place in places:
            own = self.model.parts[place[0]][place[1]].stored.ih
            origins[place] = [p for p, one in places.items() if one.stored.ih is own]
        options: Explained = {}
        for place in places:
            before = [
                frozenset(c for c in s if order.index(c.name) < order.index(cause.name))
                for p in origins[place]
                for s in sets.get(p, [])
            ]
            after = [
                frozenset(c for c in s if order.index(c.name) > order.index(cause.name))
                for s in sets.get(place, [])
            ]
            if before or after:
                empty = [frozenset[Cause]()]
                options[place] = list(
                    dict.fromkeys(b | a for b in before or empty for a in after or empty)
                )
        return [s | {cause} for s in merged(self.model, options)]

    def _known(self, part: OpenedPart, depth: int) -> list[Causes]:
        """What explains a part, remembered by all that it is made of."""
        key: Token = (depth, part.place, part.part.token, *map(_bytes, part.steps_known()))
        if key not in self._done:
            self._done[key] = self._explain(part, depth, ())
        return self._done[key]

    # two layers -------------------------------------------------------------------------------

    def _of_two_layers(self) -> Iterator[list[Causes]]:
        """What explains two layers of which only the last is seen."""
        seen = [one for one in self.observations if one.output is not None]
        if seen and not is_over():
            fullest = max(seen, key=lambda one: one.fullness)
            self._stacked = Stacked.of(self._thorough, self.model, fullest, self.known)
        if self._stacked is not None:
            for size, equations in ((1, 0), (2, 1), (2, 0)):
                yield from self._stacked.fitting(size, equations)
        yield from self._beneath(pairs=self._stacked is None)

    def _beneath(self, pairs: bool) -> Iterator[list[Causes]]:
        searched = self.model, self.observations, self.every
        yield from beneath(*searched, self.known, self._thorough, pairs)

    # whole runs -------------------------------------------------------------------------------

    def _by_runs_around(self) -> Iterator[list[Causes]]:
        """The same from other states than the initial ones that were given."""
        started = [c for c in self.every if CATALOGUE[c.name].family == "the initial states"]
        models = [(c, model) for c in started if (model := applied(self.model, (c,))) is not None]
        for depth in (1, 2):  # the likely ones first
            for cause, model in models:
                yield [s | {cause} for s in self._by_runs(model, {}, depth)]

    def _by_runs(self, model: Model, opened: Explained, depth: int = 3) -> list[Causes]:
        """Layer by layer, each reading what the explained one below it hands on."""
        explained: Explained = {}
        flows: Flows = {}
        for layer in range(model.num_layers):
            above = opened_parts(model, self.observations, flows)
            steps = {place: part for place, part in above.items() if place[0] == layer}
            runs = run_parts(model, self.observations, layer, flows)
            here: Explained = {}
            for d in range(model.num_directions):
                place = (layer, d)
                ways: list[Witness | None] = [runs.get(place), steps.get(place)]
                if layer == model.num_layers - 1:
                    ways.reverse()  # of the last layer steps may be known, unless they are changed
                witnesses = [way for way in ways if way is not None]
                if not witnesses:
                    continue
                # what explains its single steps may not explain whole runs
                hints = [*opened.get(place, [])[:FIRST], *_hints({**explained, **here})]
                here[place] = []
                for witness in witnesses:
                    here[place] = here[place] or self._explain(witness, depth, hints)
            explained |= here
            parts = {d: self._with(model.parts[layer][d], sets) for (_, d), sets in here.items()}
            whole = {d: part for d, part in parts.items() if part is not None}
            if len(whole) < model.num_directions or len(runs) < model.num_directions:
                break
            flows = {**flows, **flows_above(model, runs, whole)}
        return merged(model, explained)

    def _with(self, part: Part, sets: Sequence[Causes]) -> Part | None:
        return changed_part(part, sets[0], self.known) if sets else None


def _with_own_finals(one: Observation) -> Observation:
    """Without final states that are the same in every layer: they are not the layers' own."""
    layered = [value for value in one.final.values() if len(value) > 1]
    if any(bool((value == value[:1]).all()) for value in layered):
        return replace(one, final={})
    return one


def _hints(explained: Explained) -> list[Causes]:
    """What explains some parts, to be tried in the others."""
    return [s for sets in explained.values() for s in sets[:FIRST]]


def _one_step(observations: Sequence[Observation]) -> list[Observation]:
    """Calls of one step, with final states in place of the output, if there are any: each layer's
    own, however the output is put together."""
    found = [one for one in observations if one.inputs.steps == 1]
    return [replace(one, output=None) if one.final else one for one in found]


def _reaches_parts(model: Model, plain: Model) -> bool:
    """Whether a change of the model is one of what its parts compute or read."""
    if any(change.undo is not None for change in model.enter):
        return False

    def facts(one: Model) -> tuple[object, ...]:
        tokens = tuple(part.token for row in one.parts for part in row)
        flows = one.reads, one.joins, one.writes, one.enter
        return tokens, flows, one.skipped, one.rows

    return facts(model) != facts(plain)


def _bytes(value: Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()
