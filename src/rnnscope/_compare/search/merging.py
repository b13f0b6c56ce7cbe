"""What the mistakes of single parts have in common, as few mistakes of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product

from rnnscope._compare.mistakes import CATALOGUE
from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.model.model import Model, PartIndex

__all__ = ["Explained", "merged"]

FIRST = 8
MOST = 256
"""Of the sets that explain a part those that are combined with others' sets, and the combinations
that are tried as a whole."""

Explained = Mapping[PartIndex, Sequence[Causes]]
"""Sets of mistakes that explain each part."""


def merged(model: Model, options: Explained) -> list[Causes]:
    """The mistakes of every part together, as few: one that all parts have stands for all."""
    explained_parts = {place: sets for place, sets in options.items() if sets}
    if not explained_parts:
        return []
    few = {place: sets[:FIRST] for place, sets in explained_parts.items()}
    # what may be the same mistake everywhere comes before every other combination
    alike = [
        [(place, s if s in sets else sets[0]) for place, sets in few.items()]
        for s in dict.fromkeys(s for sets in few.values() for s in sets)
    ]
    combined = product(*([(place, s) for s in sets] for place, sets in few.items()))
    sets_found: dict[Causes, None] = {}
    for k, combination in enumerate(chain(alike, combined)):
        if k >= MOST:
            break
        for s in _together(model, dict(combination), set(explained_parts)):
            sets_found[s] = None
    return sorted((s for s in sets_found if s), key=len)


def _together(
    model: Model, combination: dict[PartIndex, Causes], places: set[PartIndex]
) -> Iterator[Causes]:
    """The mistakes of every part as few, where nothing is known the same as elsewhere; and only
    where they are known."""
    where: dict[Cause, set[PartIndex]] = {}
    for place, s in combination.items():
        for cause in s:
            where.setdefault(cause, set()).add(place)
    whole = {(layer, d) for layer in range(model.num_layers) for d in range(model.num_directions)}
    for free in (whole - places, set[PartIndex]()):
        covering = {
            cause: _covering(model, cause, standing, whole, free)
            for cause, standing in where.items()
        }
        yield frozenset(chain.from_iterable(covering.values()))
        for cause, standing in where.items():
            # another mistake may hide it in some places: it stands in most of them
            if cause not in covering[cause] and 2 * len(standing) > len(places):
                yield frozenset(chain.from_iterable((covering | {cause: {cause}}).values()))


def _covering(
    model: Model,
    cause: Cause,
    standing: set[PartIndex],
    whole: set[PartIndex],
    free: set[PartIndex],
) -> set[Cause]:
    """One mistake for all the places where it stands, if there is a scope that has them and no
    others but ``free`` ones, where it may stand or not."""
    names = model.structure.directions
    scopes: list[tuple[Cause, set[PartIndex]]] = [(cause, whole)]
    if model.num_directions > 1 and CATALOGUE[cause.name].scope == "parts":
        scopes += [
            (_at(cause, None, name), {p for p in whole if p[1] == d})
            for d, name in enumerate(names)
        ]
    if model.num_layers > 1:
        scopes += [
            (_at(cause, layer, None), {p for p in whole if p[0] == layer})
            for layer in range(model.num_layers)
        ]
    for scope, places in scopes:
        if standing <= places and places <= standing | free:
            return {scope}
    several = model.num_directions > 1
    return {
        _at(cause, layer if model.num_layers > 1 else None, names[d] if several else None)
        for layer, d in standing
    }


def _at(cause: Cause, layer: int | None, direction: str | None) -> Cause:
    return Cause(cause.name, cause.choice, cause.tensors, layer, direction)
