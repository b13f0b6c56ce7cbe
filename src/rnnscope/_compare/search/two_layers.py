"""Two layers where only the last one's steps are seen: under every mistake of the layer below.

Where that is right, the last layer's steps are known, and searched as any others. Else what it
reads is known under each hypothesis for the layer below: its single steps are opened for all of
them at once, on a few numbers; what fits these is tried as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from rnnscope._compare.mistakes import CATALOGUE, Changed, applied, changed_part
from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.mistakes.compatible import excludes
from rnnscope._compare.model.model import Model, PartIndex
from rnnscope._compare.model.observed import Observation, distance
from rnnscope._compare.model.single_steps import opened
from rnnscope._compare.model.steps import OpenedPart, opened_parts, tolerances
from rnnscope._compare.search.factored import Thorough
from rnnscope._compare.search.few_rows import SLACK
from rnnscope._compare.search.parts import FIRST, explain, merged
from rnnscope._compare.work import is_over

__all__ = ["beneath"]

STEPS = 2
ROWS = 2
"""Steps and rows that are looked at."""

CHUNK = 256
"""Pairs of mistakes that are looked at together."""

PARTLY = 16
"""Hypotheses that explain one of two directions, under which the other is searched further."""


def beneath(
    model: Model,
    observations: Sequence[Observation],
    every: Sequence[Cause],
    known: Changed,
    thorough: Thorough,
    pairs: bool = True,
) -> Iterator[list[Causes]]:
    """Sets of mistakes that explain the last layer's steps: one below it, with one, then with
    ``pairs`` of its own, or more in one of its directions."""
    last = model.num_layers - 1
    seen = [one for one in observations if one.output is not None and one.inputs.lengths is None]
    if last == 0 or not seen:
        return
    cells = list(dict.fromkeys(c.everywhere() for c in every if _of_cell(c)))
    yield _with_nothing_wrong_below(model, seen, cells, known, thorough)
    below = [c for c in every if c.layer is not None and c.layer < last and _of_cell(c)]
    hypotheses = _Hypotheses.of(
        model, max(seen, key=lambda one: one.fullness), [frozenset({c}) for c in below]
    )
    if hypotheses is None:
        return
    fits = [
        _Fits.of(hypotheses, d, [frozenset(), *(frozenset({c}) for c in cells)], known)
        for d in range(model.num_directions)
    ]
    yield from _together(model, hypotheses, fits)
    if model.num_directions > 1:
        yield from _partly(hypotheses, fits, cells, known, thorough)
        return
    two = [frozenset(pair) for pair in combinations(cells, 2) if pairs and not excludes(*pair)]
    for start in range(0, len(two), CHUNK):
        if is_over():
            return
        more = _Fits.of(hypotheses, 0, two[start : start + CHUNK], known)
        yield from _together(model, hypotheses, [more])


def _partly(
    hypotheses: _Hypotheses,
    fits: Sequence[_Fits],
    cells: Sequence[Cause],
    known: Changed,
    thorough: Thorough,
) -> Iterator[list[Causes]]:
    """The hypotheses that explain one of two directions, the other searched for more mistakes."""
    some = [k for k in range(len(hypotheses.sets)) if any(one.sets[k] for one in fits)]
    for k in some[:PARTLY]:
        every = [one.sets[k] for one in fits]
        below = frozenset(c.everywhere() for c in hypotheses.sets[k])
        hints = [below, *(s for sets in every for s in sets[:FIRST])]
        parts = hypotheses.opened(k)
        found = [
            sets or explain(part, cells, known, hints=hints, thorough=thorough)
            for sets, part in zip(every, parts, strict=True)
        ]
        if all(found):
            yield _merged(hypotheses.model, hypotheses.sets[k], found)


def _with_nothing_wrong_below(
    model: Model,
    seen: Sequence[Observation],
    cells: Sequence[Cause],
    known: Changed,
    thorough: Thorough,
) -> list[Causes]:
    """What explains the last layer where those below it are right."""
    last = model.num_layers - 1
    flows: dict[tuple[int, int], Tensor] = {}
    for k, one in enumerate(seen):
        [outcome] = one.simulator.run([model])
        if outcome is not None and len(outcome.layers) > last:
            flows[k, last] = outcome.layers[last - 1]
    parts = {p: part for p, part in opened_parts(model, seen, flows).items() if p[0] == last}
    explained = {p: explain(part, cells, known, thorough=thorough) for p, part in parts.items()}
    return merged(model, explained)


def _of_cell(cause: Cause) -> bool:
    return CATALOGUE[cause.name].of_cell


@dataclass(frozen=True)
class _Hypotheses:
    """Mistakes below the last layer, with what that reads under each; ``parts``, its first steps by
    direction, of every hypothesis in turn along ``rows`` rows each."""

    model: Model
    seen: Observation
    sets: tuple[Causes, ...]
    flows: tuple[Tensor, ...]
    parts: tuple[OpenedPart, ...]
    rows: int
    allowed: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: Model, seen: Observation, sets: Sequence[Causes]) -> _Hypotheses | None:
        """None where the last layer's steps cannot be opened."""
        last = model.num_layers - 1
        models = [(s, other) for s in sets if (other := applied(model, tuple(s))) is not None]
        outcomes = seen.simulator.run([other for _, other in models])
        flows = [
            (s, outcome.layers[last - 1])
            for (s, _), outcome in zip(models, outcomes, strict=True)
            if outcome is not None and len(outcome.layers) > last
        ]
        found: list[list[OpenedPart]] = []
        for _, flow in flows:
            parts = opened_parts(model, [seen], {(0, last): flow})
            own = [parts[last, d] for d in range(model.num_directions) if (last, d) in parts]
            if len(own) < model.num_directions:
                return None
            found.append([_first(part) for part in own])
        if not found:
            return None
        rows = found[0][0].steps[0].known.x.shape[1]
        whole = tuple(_along([parts[d] for parts in found]) for d in range(model.num_directions))
        allowed = tuple(SLACK * tolerances(p.part, p.steps[0])["h"] for p in whole)
        reads = tuple(flow for _, flow in flows)
        return cls(model, seen, tuple(s for s, _ in flows), reads, whole, rows, allowed)

    def opened(self, k: int) -> list[OpenedPart]:
        """All steps of the last layer under one of them."""
        last = self.model.num_layers - 1
        parts = opened_parts(self.model, [self.seen], {(0, last): self.flows[k]})
        return [parts[last, d] for d in range(self.model.num_directions)]


@dataclass(frozen=True)
class _Fits:
    """Of one direction of the last layer the sets of mistakes that fit, by hypothesis."""

    sets: list[list[Causes]]

    @classmethod
    def of(cls, hypotheses: _Hypotheses, d: int, tried: Iterable[Causes], known: Changed) -> _Fits:
        """Of these sets."""
        witness = hypotheses.parts[d]
        made = [(s, p) for s in tried if (p := changed_part(witness.part, s, known)) is not None]
        steps = witness.steps[0]
        values = opened([part for _, part in made], steps.known, ["h"])["h"]
        ratio = distance(values, steps.after["h"]) / hypotheses.allowed[d]
        shape = (*ratio.shape[:2], len(hypotheses.sets), hypotheses.rows, ratio.shape[-1])
        worst = ratio.reshape(shape).amax((1, 3, 4))  # (set, hypothesis)
        return cls(
            [
                [made[k][0] for k in fitting.nonzero().flatten().tolist()]
                for fitting in (worst <= 1).T
            ]
        )


def _together(
    model: Model, hypotheses: _Hypotheses, fits: Sequence[_Fits]
) -> Iterator[list[Causes]]:
    """Each hypothesis under which every direction is explained, with what explains it."""
    for k, below in enumerate(hypotheses.sets):
        if all(one.sets[k] for one in fits):
            yield _merged(model, below, [one.sets[k] for one in fits])


def _merged(model: Model, below: Causes, above: Sequence[Sequence[Causes]]) -> list[Causes]:
    """Mistakes below the last layer with those of each direction of it."""
    last = model.num_layers - 1
    options: dict[PartIndex, Sequence[Causes]] = {(last, d): s for d, s in enumerate(above)}
    for layer in range(last):
        for d, name in enumerate(model.structure.directions):
            here = [c for c in below if c.layer == layer and c.direction in (None, name)]
            options[layer, d] = [frozenset(c.everywhere() for c in here)]
    return merged(model, options)


# the steps that are looked at ----------------------------------------------------------------


def _first(part: OpenedPart) -> OpenedPart:
    """The first steps of the first rows."""
    [steps] = part.steps
    known = steps.known
    fewer = replace(
        known,
        x=known.x[:STEPS, :ROWS],
        before={name: value[:STEPS, :ROWS] for name, value in known.before.items()},
        initial={name: value[:ROWS] for name, value in known.initial.items()},
    )
    after = {name: value[:STEPS, :ROWS] for name, value in steps.after.items()}
    return replace(part, steps=(replace(steps, known=fewer, after=after),))


def _along(parts: Sequence[OpenedPart]) -> OpenedPart:
    """The steps of many, side by side along the rows."""
    every = [part.steps[0] for part in parts]

    def joined(values: Sequence[Mapping[str, Tensor]], dim: int) -> dict[str, Tensor]:
        return {name: torch.cat([value[name] for value in values], dim) for name in values[0]}

    known = replace(
        every[0].known,
        x=torch.cat([one.known.x for one in every], 1),
        before=joined([one.known.before for one in every], 1),
        initial=joined([one.known.initial for one in every], 0),
    )
    after = joined([one.after for one in every], 1)
    return replace(parts[0], steps=(replace(every[0], known=known, after=after),))
