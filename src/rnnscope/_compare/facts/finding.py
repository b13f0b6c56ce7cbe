"""A cause that is read off the numbers, and how it is confirmed by computing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from rnnscope._compare.confirmed import EVIDENCE, by_own_rounding
from rnnscope._compare.evidence import evidence, largest
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome
from rnnscope._compare.model.observed import Observation, distance, few_steps, predicted
from rnnscope._compare.search.trials import NEAR

__all__ = [
    "TOLD",
    "Finding",
    "Gives",
    "confirmed_left",
    "entering",
    "first_steps",
    "leaving",
    "left_by_model",
    "of_each_call",
    "returning",
    "runs_forward",
]

Fact = TypeVar("Fact")
Gives = Callable[[Observation], Outcome | None]
"""What a cause makes of a call; None where it cannot be."""


def runs_forward(model: Model) -> bool:
    """Whether later steps do not reach back."""
    return model.num_directions == 1 and not model.parts[0][0].backward


def first_steps(model: Model, observation: Observation, steps: int, rows: int) -> Observation:
    """Some first steps of some rows; all steps where later ones reach back."""
    steps = steps if runs_forward(model) else observation.inputs.steps
    return few_steps(observation, steps, rows)


def returning(model: Model, change: Callable[[Outcome, Observation], Outcome | None]) -> Gives:
    """What a model gives, changed once all of a call is computed."""

    def gives(observation: Observation) -> Outcome | None:
        [outcome] = observation.simulator.run([model])
        return None if outcome is None else change(outcome, observation)

    return gives


def entering(
    model: Model,
    cause: Cause,
    words: Words,
    enter: Callable[[Inputs], Inputs | None],
    measured: float = 0.0,
) -> Finding:
    """The finding that inputs are changed before anything is read of them."""
    changed = replace(model, enter=(Change((enter,), enter), *model.enter))
    # what reads other steps or rows shows in whole calls alone
    return Finding(cause, words, changed, mixes_rows=True, measured=measured)


def leaving(
    model: Model, cause: Cause, words: Words, leave: Callable[[Outcome, Inputs], Outcome | None]
) -> Finding:
    """The finding that what is returned is changed once all is computed."""
    return Finding(cause, words, model.adding("leave", Change((leave,), leave)))


def of_each_call(
    shown: Sequence[Observation],
    facts: Sequence[Fact],
    of: Callable[[Observation, Fact], Outcome | None],
) -> Gives:
    """What a function makes of a call and of what is known of that call."""
    by_inputs = {id(o.inputs): fact for o, fact in zip(shown, facts, strict=True)}
    return lambda observation: of(observation, by_inputs[id(observation.inputs)])


CHANCE = 2.0
"""Decimal digits that agreement must prove beside ``EVIDENCE``: some hundred causes are tried."""


TOLD = 2
"""Numbers that differ, at least: one alone is explained by any number that is added to it."""


@dataclass(frozen=True)
class Finding:
    """A cause with its words, and what it gives: as a changed model, or as a function of a call
    where it depends on the numbers of that call. ``scale`` is how much it enlarges roundings;
    ``mixes_rows``: what a row gives depends on others. ``measured``: decimal digits of numbers that
    were chosen so that it fits, which must be proved beside."""

    cause: Cause
    words: Words
    model: Model | None = None
    gives: Gives | None = None
    scale: float = 1.0
    mixes_rows: bool = False
    measured: float = 0.0


def confirmed_left(
    finding: Finding, shown: Sequence[Observation], more: float = 0.0
) -> float | None:
    """The largest difference that a cause leaves of everything that was observed, if that is
    rounding and there are enough numbers to exclude chance; else None. ``more`` decimal digits are
    needed where it stands beside others."""
    if not any(observation.count for observation in shown):
        return None
    more += finding.measured
    if finding.model is not None:
        return left_by_model(finding.model, shown, more)
    assert finding.gives is not None, "a finding has a model or a function"
    wider = [_widened(observation, finding.scale) for observation in shown]
    largest_left = 0.0
    for observation in wider:
        outcome = finding.gives(observation)
        left = None if outcome is None else _left_within(outcome, observation)
        if left is None:
            return None
        largest_left = max(largest_left, left)
    return largest_left if evidence(wider) >= EVIDENCE + CHANCE + more else None


def left_by_model(model: Model, shown: Sequence[Observation], more: float) -> float | None:
    """The same of a changed model."""
    first = worst(model, shown[:1])
    if first > NEAR or worst(model, shown) > NEAR:
        return None
    by_own = by_own_rounding(model, shown)
    if worst(model, by_own) > 1 or evidence(by_own) < EVIDENCE + CHANCE + more:
        return None
    return largest(model, by_own)[0]


def _widened(observation: Observation, scale: float) -> Observation:
    """The same with more rounding allowed."""
    if scale <= 1:
        return observation
    return replace(
        observation, allowed={name: scale * value for name, value in observation.allowed.items()}
    )


def _left_within(outcome: Outcome, observation: Observation) -> float | None:
    """The largest difference; None where one is more than rounding allows, or shapes differ."""
    values, largest_left = predicted(outcome), 0.0
    for name, target in observation.targets().items():
        value, usable = values.get(name), observation.usable(name)
        if value is None or value.shape != target.shape:
            return None
        away = torch.where(usable, distance(value, target), 0.0)
        if bool((away > observation.allowed[name]).any()):
            return None
        largest_left = max(largest_left, float(away.max()) if away.numel() else 0.0)
    return largest_left
