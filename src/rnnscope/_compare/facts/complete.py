"""The causes that are read off the numbers and explain all of them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, islice

import torch

from rnnscope._compare.evidence import differing
from rnnscope._compare.facts.agreement import wrong_rows
from rnnscope._compare.facts.clipped import of_clipping, of_missing_units
from rnnscope._compare.facts.ends import of_ends, of_held_steps, of_lags
from rnnscope._compare.facts.entering import of_entering
from rnnscope._compare.facts.finding import TOLD, Finding, confirmed_left, first_steps
from rnnscope._compare.facts.parameters import of_memory, of_parameters
from rnnscope._compare.facts.places import of_finals, of_places
from rnnscope._compare.facts.prepared import of_prepared
from rnnscope._compare.facts.restarts import of_restarts
from rnnscope._compare.facts.returned import of_final_states, of_halves, of_numbers
from rnnscope._compare.facts.row_lengths import of_row_lengths
from rnnscope._compare.facts.rows import of_rows
from rnnscope._compare.facts.slots import of_final_slots
from rnnscope._compare.facts.streamed import of_chunks, of_windows
from rnnscope._compare.mistakes import CATALOGUE, Changed, applied
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.weights import WEIGHTS
from rnnscope._compare.model.misfit import misfits
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, few_steps, some_rows
from rnnscope._compare.search.search import concerns
from rnnscope._compare.search.trials import NEAR

__all__ = [
    "explaining_mistakes",
    "explanations_by_facts",
    "findings_explaining",
    "mistakes_of",
]

TOGETHER = 32
"""Changed models that are run together on the first row, to see which come close."""

OF_WEIGHTS = {"parameter", "unread"}
"""Causes that may stand in one layer or direction."""

OF_ROWS = {"rows", "first_row", "ends_earlier", "other_lengths"}
"""Causes, and a choice, that say of whole rows what they hold or where they end."""

UNITS = 16
"""Of a layer in which a step that works in place is run whole."""

FIRST = 32
"""Steps of that row, where later ones do not reach back."""


def explanations_by_facts(
    model: Model, shown: Sequence[Observation]
) -> tuple[list[tuple[Finding, float]], bool]:
    """The findings each of which explains everything to rounding, with what it leaves; and whether
    a mistake of the catalogue alone explains it too, which then comes first."""
    explaining = list(findings_explaining(model, shown))
    names = {finding.cause.name for finding, _ in explaining}
    scoped = {entry.name for entry in WEIGHTS} if names & OF_WEIGHTS else set[str]()
    if "places" in names:
        scoped.add("directions_order")
    first = [_two_rows(model, observation) for observation in shown]
    return explaining, bool(names) and bool(explaining_mistakes(model, first, scoped))


def _two_rows(model: Model, observation: Observation) -> Observation:
    """Two rows that differ; all of them where they are padded."""
    wrong = wrong_rows(model, observation)
    if wrong and observation.inputs.lengths is None:
        return some_rows(observation, torch.tensor(wrong[:2], dtype=torch.long, device="cpu"))
    return few_steps(observation, observation.inputs.steps, 2)


def findings_explaining(
    model: Model, shown: Sequence[Observation], more: float = 0.0
) -> Iterator[tuple[Finding, float]]:
    """Of each kind the finding that explains everything to rounding, with what it leaves; ``more``
    decimal digits must be proved where many models were tried."""
    if differing(model, shown) < TOLD:
        return
    first = first_steps(model, shown[0], FIRST, 1)
    for kind in _kinds(model, shown):
        for finding in _close(kind, first):
            left = confirmed_left(finding, shown, more)
            if left is not None:
                yield finding, left
                if {finding.cause.name, finding.cause.choice} & OF_ROWS:
                    return  # what else explains it names steps of each of these rows
                break  # what else of its kind explains it says the same in other words


def _kinds(model: Model, shown: Sequence[Observation]) -> Iterator[Iterable[Finding]]:
    yield of_rows(model, shown)
    yield chain(of_halves(model, shown), of_row_lengths(model, shown), of_ends(model, shown))
    yield of_numbers(model, shown)
    yield of_held_steps(model, shown)
    yield of_restarts(model, shown)
    yield chain(of_chunks(model, shown), of_windows(model, shown))
    yield of_clipping(model, shown)
    yield chain(of_parameters(model), of_missing_units(model, shown), of_memory(model))
    yield chain(
        of_entering(model, shown),
        of_prepared(model, shown),
        of_final_states(model, shown),
    )
    yield chain(of_finals(model, shown), of_final_slots(model, shown))
    yield chain(of_places(model, shown), of_lags(model, shown))


def _close(findings: Iterable[Finding], first: Observation) -> Iterator[Finding]:
    """Those that come close on the first row; what depends on the numbers of a call, or on other
    rows, is not tried there."""
    waiting = iter(findings)
    while chunk := list(islice(waiting, TOGETHER)):
        alone = [finding for finding in chunk if not finding.mixes_rows]
        models = [finding.model for finding in alone if finding.model is not None]
        ratios = iter(_ratios(models, first))
        yield from (f for f in chunk if f.mixes_rows or f.model is None or next(ratios) <= NEAR)


def _ratios(models: Sequence[Model], first: Observation) -> list[float]:
    if not models or not first.count:
        return [0.0] * len(models)
    ratios: list[float] = misfits([first], models, [first.simulator]).worst.tolist()
    return ratios


def explaining_mistakes(
    model: Model, observations: Sequence[Observation], scoped: Container[str]
) -> list[tuple[Cause, Model]]:
    """The single mistakes each of which explains everything, with the model that has it; those that
    are ``scoped`` in any layer and direction, others the same in all."""
    left = mistakes_of(model, observations, scoped)
    for observation in observations:
        if left and observation.count:
            models = [changed for _, changed in left]
            ratios = misfits([observation], models, [observation.simulator]).worst.tolist()
            left = [pair for pair, ratio in zip(left, ratios, strict=True) if ratio <= 1]
    return left


def mistakes_of(
    model: Model, observations: Sequence[Observation], scoped: Container[str]
) -> list[tuple[Cause, Model]]:
    """Every single mistake that may show, with the model that has it; but for a step that works in
    place in a large layer, which is run unit by unit: the search tells it from single steps."""
    known: Changed = {}
    dear = "in_place" if model.structure.hidden_size > UNITS else ""
    every = [
        cause
        for entry in CATALOGUE.values()
        if entry.name != dear
        for cause in entry.causes(model, entry.name in scoped)
        if concerns(cause, model, observations)
    ]
    return [(c, changed) for c in every if (changed := applied(model, (c,), known)) is not None]
