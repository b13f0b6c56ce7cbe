"""Mistakes by which the first steps depend on later ones, as where time is turned round: of what is
cut to its first steps they show nothing, so they are undone in whole sequences first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.mistakes.time import TIME
from rnnscope._compare.model.misfit import misfits
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._compare.model.undone import undo
from rnnscope._compare.search.search import Search
from rnnscope._compare.work import is_over

__all__ = ["turned_time"]

ROWS = 2
"""Whole sequences in which these mistakes are tried alone."""

STAGES = 1
"""Of a search beside each of them: one more mistake, the same everywhere or in a part that is
seen."""


def turned_time(
    search: Search,
    whole: Sequence[Observation],
    cut: Callable[[Observation], Observation],
    effort: float,
) -> list[Causes]:
    """The smallest sets with such a mistake that explain whole sequences, alone or beside one
    other; ``cut`` to their first steps for the search of that. Nothing
    beside what exchanges axes."""
    names = {entry.name for entry in TIME}
    causes = [cause for cause in (*search.every, *search.alone) if cause.name in names]
    models = {cause: model for cause in causes if (model := search.of(frozenset({cause})))}
    alone = _explaining(models, [few_steps(call, call.inputs.steps, ROWS) for call in whole])
    if alone:
        return [frozenset({cause}) for cause in alone]
    found: list[Causes] = []
    for cause, model in models.items():
        if is_over():
            break
        undone = [(undo(model, call), call.inputs.x.shape) for call in whole]
        same = [call for call, shape in undone if call is not None and call.inputs.x.shape == shape]
        calls = [cut(call) for call in same]
        plain = replace(model, enter=(), leave=())
        if calls and plain.parts == search.model.parts:
            beside = Search(search.model, calls, effort, None, search.parts).run(STAGES)
            found += [s | {cause} for s in beside.sets]
    return found


def _explaining(models: dict[Cause, Model], calls: Sequence[Observation]) -> list[Cause]:
    """Those that give all calls."""
    left = list(models)
    for call in calls:
        if left and call.count:
            ratios = misfits([call], [models[c] for c in left], [call.simulator]).worst.tolist()
            left = [cause for cause, ratio in zip(left, ratios, strict=True) if ratio <= 1]
    return left
