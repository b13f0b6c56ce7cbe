"""Which of the sets of mistakes that a search found are proved by all data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from rnnscope._compare.evidence import differing, evidence
from rnnscope._compare.mistakes import CATALOGUE
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.steps import worst_step
from rnnscope._compare.search.search import SearchOutcome
from rnnscope._compare.search.trials import larger_tolerance
from rnnscope._compare.tolerance import allowed, most_allowed

__all__ = ["EVIDENCE", "beside", "by_own_rounding", "confirmed", "needed", "proved", "proves"]

EVIDENCE = 6.0
"""Decimal digits by which the agreement of an explanation must exceed what chance would give."""


def confirmed(
    model: Model,
    result: SearchOutcome,
    searched: Sequence[Observation],
    shown: Sequence[Observation],
    sliced: bool,
) -> list[tuple[Cause, ...]]:
    """The explanations that hold on all data, by so much that chance is excluded; ``sliced``:
    what was searched is part of what is shown."""
    order = {name: k for k, name in enumerate(CATALOGUE)}
    independent, least = beside(searched, shown, sliced), needed(result)
    proven: list[tuple[Cause, ...]] = []
    for s in result.sets:
        changed = model
        together = tuple(sorted(s, key=lambda c: (order[c.name], str(c))))
        for cause in together:
            changed = CATALOGUE[cause.name].apply(changed, cause) or changed
        if _measured(model, together) >= differing(model, [*independent, *shown]):
            continue  # a number that was measured on one number explains that one
        if _holds(changed, independent, shown, least) and _each_step(changed, shown):
            proven.append(together)
    return sorted(proven, key=lambda t: (_spread(t), [str(c) for c in t]))


def _measured(model: Model, together: Sequence[Cause]) -> int:
    """How many numbers in these mistakes were measured on the data."""
    entries = [(CATALOGUE[cause.name], cause) for cause in together]
    return sum(
        entry.measured is not None
        and all(choice != cause.choice for choice, _ in entry.choices(model))
        for entry, cause in entries
    )


def proves(
    changed: Model,
    searched: Sequence[Observation],
    shown: Sequence[Observation],
    sliced: bool,
    tried: int,
) -> bool:
    """Whether a changed model gives all data, each single step too, by so much that chance is
    excluded after so many were tried."""
    others = beside(searched, shown, sliced)
    least = EVIDENCE + math.log10(max(1, tried))
    return _holds(changed, others, shown, least) and _each_step(changed, shown)


def _holds(
    changed: Model, independent: Sequence[Observation], shown: Sequence[Observation], least: float
) -> bool:
    """Whether a mistaken model gives all that was observed, by as much as must be proved."""
    # where the reference's tolerances hold and the widest prove enough, the mistaken model's own,
    # which are dearer, would too
    if worst(changed, [*independent, *shown]) <= 1:
        widest = _either_way(most_allowed, changed, shown)
        if evidence([*independent, *widest]) >= least:
            return True
    widened = by_own_rounding(changed, [*independent, *shown])
    return worst(changed, widened) <= 1 and evidence(widened) >= least


def _each_step(changed: Model, shown: Sequence[Observation]) -> bool:
    """Whether every single step fits, which is compared where rounding grows beyond use too; True
    of a mistake after which steps are not what they were, as its own numbers tell."""
    if worst_step(changed, shown) <= 1:
        return True
    return worst_step(changed, [observation.as_given_by(changed) for observation in shown]) > 1


def proved(model: Model, shown: Sequence[Observation]) -> bool:
    """Whether a model that was not searched for gives all that was observed, each single step too,
    and there is so much of it that chance is excluded."""
    enough = evidence(shown) >= EVIDENCE
    return enough and worst(model, shown) <= 1 and worst_step(model, shown) <= 1


def needed(result: SearchOutcome) -> float:
    """How much must be proved, after so many sets of mistakes were tried."""
    return EVIDENCE + math.log10(max(1, result.tried))


def beside(
    searched: Sequence[Observation], shown: Sequence[Observation], sliced: bool
) -> list[Observation]:
    """What was searched beside what is shown, of which a slice counts once."""
    fresh = [call for call in searched if all(call is not each for each in shown)]
    return [] if sliced else fresh


def by_own_rounding(model: Model, shown: Sequence[Observation]) -> list[Observation]:
    """What is shown, with what rounding allows the reference or this model, whichever is more."""
    return _either_way(allowed, model, shown)


def _either_way(
    of: Callable[..., dict[str, Tensor]], model: Model, shown: Sequence[Observation]
) -> list[Observation]:
    """What is shown, with tolerances by the reference or by another model, whichever is more."""
    tolerances = (of(model, call.inputs, call.unit, simulator=call.simulator) for call in shown)
    return [
        replace(call, allowed=larger_tolerance(call, tolerance))
        for call, tolerance in zip(shown, tolerances, strict=True)
    ]


def _spread(together: tuple[Cause, ...]) -> int:
    """Explanations that name fewer places come first."""
    return sum((c.layer is not None) + (c.direction is not None) for c in together)
