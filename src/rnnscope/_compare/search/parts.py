"""The search of one layer in one direction by itself, whatever else is wrong; and what the parts
have in common, as few mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product

from rnnscope._compare.mistakes import CATALOGUE, Changed, changed_part
from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.mistakes.compatible import excludes, scrambles
from rnnscope._compare.model.batched import LARGE
from rnnscope._compare.model.model import Model, Part, PartIndex
from rnnscope._compare.model.runs import RunPart
from rnnscope._compare.model.steps import OpenedPart
from rnnscope._compare.search.factored import Thorough
from rnnscope._compare.work import is_over, spend

__all__ = [
    "BEAM",
    "EACH",
    "FIRST",
    "Witness",
    "explain",
    "merged",
]

BEAM = 8
EACH = 2
"""How many sets are extended: of the best by the whole, and by each group of numbers."""

FIRST = 8
MOST = 256
"""Of the sets that explain a part those that are combined with others' sets, and the combinations
that are tried as a whole."""


Witness = OpenedPart | RunPart
"""What tells how far a part with mistakes is from what was observed of it."""


def explain(
    witness: Witness,
    every: Sequence[Cause],
    known: Changed,
    depth: int = 3,
    hints: Iterable[Causes] = (),
    thorough: Thorough | None = None,
) -> list[Causes]:
    """The smallest sets of mistakes of one part that explain what was observed of it; the empty
    set where nothing is wrong there, none where nothing explains it. ``hints`` are sets that
    explain other parts; ``thorough`` tries every set of mistakes in weights and equations, and
    leaves those that come close, with one more, to the others."""
    if witness.few_units:
        return []
    large = witness.part.weights.hh.numel() > LARGE
    beam, each = (4, EACH) if large else (BEAM, EACH)
    bases: list[Causes] = [frozenset()]
    tried: set[Causes] = set()
    covered = False
    for size in range(depth + 1):
        wanted = bases if size == 0 else _extended(bases, every)
        if size == 1:
            wanted = chain(wanted, hints)
        if size > 1 and thorough is not None:
            sets = thorough.fitting(witness, size, known)
            found = [] if sets is None else _fitting(witness, sets, known)[0]
            if found:
                return found
            covered = sets is not None
        fresh = [s for s in dict.fromkeys(wanted) if s not in tried]
        if size == depth and thorough is not None and covered:
            fresh = [s for s in fresh if not thorough.covers(witness.part, s)]
        tried.update(fresh)
        spend(sets=len(fresh))
        found, made = _fitting(witness, fresh, known)
        if found:
            return found
        if size == 2 and not large:
            pairs = [frozenset(pair) for pair in scrambles(every)]
            if thorough is not None and covered:
                pairs = [s for s in pairs if not thorough.covers(witness.part, s)]
            found, _ = _fitting(witness, pairs, known)
            if found:
                return found
        if size == depth == 1 and thorough is not None:
            # pairs of which one is in the weights cost no more than that
            return _fitting(witness, thorough.fitting(witness, 2, known, 1) or [], known)[0]
        if not made or size == depth or is_over():
            return []
        bases = [made[k][0] for k in witness.misfit([p for _, p in made]).closest(beam, each)]
    return []


def _extended(bases: Iterable[Causes], every: Sequence[Cause]) -> Iterator[Causes]:
    for base in bases:
        for cause in every:
            if not any(excludes(c, cause) for c in base):
                yield base | {cause}


def _fitting(
    witness: Witness, sets: Iterable[Causes], known: Changed
) -> tuple[list[Causes], list[tuple[Causes, Part]]]:
    """The sets that explain a part, told by one call first, and all that apply."""
    made = [
        (s, witness.few(p)) for s in sets if (p := changed_part(witness.part, s, known)) is not None
    ]
    if not made:
        return [], []
    worst = witness.richest.misfit([p for _, p in made]).worst.tolist()
    likely = [pair for pair, ratio in zip(made, worst, strict=True) if ratio <= 1]
    if not likely:
        return [], made
    worst = witness.misfit([p for _, p in likely]).worst.tolist()
    return [s for (s, _), ratio in zip(likely, worst, strict=True) if ratio <= 1], made


# what parts have in common -------------------------------------------------------------------


def merged(model: Model, options: Mapping[PartIndex, Sequence[Causes]]) -> list[Causes]:
    """The mistakes of every part together, as few: one that all parts have stands for all."""
    known = {place: sets for place, sets in options.items() if sets}
    if not known:
        return []
    few = {place: sets[:FIRST] for place, sets in known.items()}
    # what may be the same mistake everywhere comes before every other combination
    alike = [
        [(place, s if s in sets else sets[0]) for place, sets in few.items()]
        for s in dict.fromkeys(s for sets in few.values() for s in sets)
    ]
    combined = product(*([(place, s) for s in sets] for place, sets in few.items()))
    found: dict[Causes, None] = {}
    for k, combination in enumerate(chain(alike, combined)):
        if k >= MOST:
            break
        for s in _together(model, dict(combination), set(known)):
            found[s] = None
    return sorted((s for s in found if s), key=len)


def _together(
    model: Model, combination: dict[PartIndex, Causes], places: set[PartIndex]
) -> Iterator[Causes]:
    """The mistakes of every part as few, where nothing is known the same as elsewhere; and only
    where they are known."""
    where: dict[Cause, set[PartIndex]] = {}
    for place, s in combination.items():
        for cause in s:
            where.setdefault(cause, set()).add(place)
    every = {(layer, d) for layer in range(model.num_layers) for d in range(model.num_directions)}
    for free in (every - places, set[PartIndex]()):
        yield frozenset(
            chain.from_iterable(
                _covering(model, cause, here, every, free) for cause, here in where.items()
            )
        )


def _covering(
    model: Model, cause: Cause, here: set[PartIndex], every: set[PartIndex], free: set[PartIndex]
) -> set[Cause]:
    """One mistake for all the places where it stands, if there is a scope that has them and no
    others but ``free`` ones, where it may stand or not."""
    names = model.structure.directions
    scopes: list[tuple[Cause, set[PartIndex]]] = [(cause, every)]
    if model.num_directions > 1 and CATALOGUE[cause.name].scope == "parts":
        scopes += [
            (_at(cause, None, name), {p for p in every if p[1] == d})
            for d, name in enumerate(names)
        ]
    if model.num_layers > 1:
        scopes += [
            (_at(cause, layer, None), {p for p in every if p[0] == layer})
            for layer in range(model.num_layers)
        ]
    for scope, places in scopes:
        if here <= places and places <= here | free:
            return {scope}
    several = model.num_directions > 1
    return {
        _at(cause, layer if model.num_layers > 1 else None, names[d] if several else None)
        for layer, d in here
    }


def _at(cause: Cause, layer: int | None, direction: str | None) -> Cause:
    return Cause(cause.name, cause.choice, cause.tensors, layer, direction)
