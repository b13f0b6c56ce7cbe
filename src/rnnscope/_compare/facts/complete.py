"""The one cause that is read off the numbers and explains all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from rnnscope._compare.facts.clipped import of_clipping
from rnnscope._compare.facts.ends import of_ends
from rnnscope._compare.facts.finding import Finding, confirmed_left
from rnnscope._compare.facts.parameters import of_parameters
from rnnscope._compare.facts.restarts import of_restarts
from rnnscope._compare.facts.returned import of_dropout, of_factors, of_functions, of_halves
from rnnscope._compare.mistakes import CATALOGUE, causes
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._compare.search.search import concerns

__all__ = ["explanation_by_facts"]


def explanation_by_facts(
    model: Model, shown: Sequence[Observation]
) -> tuple[Finding, float] | None:
    """The first finding that explains everything to rounding, with what it leaves; None where none
    does, or where a mistake of the catalogue alone explains it too."""
    for finding in _findings(model, shown):
        left = confirmed_left(finding, shown)
        if left is not None:
            return None if _is_listed(model, shown) else (finding, left)
    return None


def _findings(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    yield from chain(
        of_halves(model, shown),
        of_ends(model, shown),
        of_factors(model, shown),
        of_dropout(model, shown),
        of_functions(model, shown),
        of_restarts(model, shown),
        of_clipping(model, shown),
        of_parameters(model),
    )


def _is_listed(model: Model, shown: Sequence[Observation]) -> bool:
    """Whether one mistake of the catalogue explains what was observed."""
    first = [few_steps(one, one.inputs.steps, 2) for one in shown]
    for cause in causes(model):
        if concerns(cause, model, shown):
            changed = CATALOGUE[cause.name].apply(model, cause)
            if (
                changed is not None
                and worst(changed, first[:1]) <= 1
                and worst(changed, first) <= 1
            ):
                return True
    return False
