"""Which approximations remove what is left: fitted one after the other, the best first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from rnnscope._compare.approximate.approximation import (
    Approximation,
    Kind,
    Names,
    applied,
    in_one_direction,
    of_curve,
    of_inputs,
    of_outputs,
    of_products,
    of_states,
    of_weights,
)
from rnnscope._compare.approximate.functions import CURVES, TABLES, Curve
from rnnscope._compare.approximate.rounding import FIXED, SCALED, Quantiser
from rnnscope._compare.mistakes import applied as mistaken
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import misfits
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._compare.work import is_over
from rnnscope.cells.algebra import Apply, nodes

__all__ = ["Fit", "changed", "fitted", "measured", "short_calls", "while_work_is_left"]

STEPS, ROWS = 2, 8
"""What is tried is measured on so many steps and rows."""

COARSE_STEPS, DISTINCT = 16, 0.8
"""Steps where of all numbers no more than such a share are distinct."""

FULLEST = 2
"""And on so many calls."""

BETTER = 0.9
"""An approximation is kept where no more than so much of the difference is left."""

MUCH = 0.5
"""What is known without tables is gone on with where it leaves no more than so much."""

LEAST, LARGEST = 0.3, 15.0
"""A function is off by so many times what is left in the output, where it explains some of it."""

MOST = 4
"""Approximations beside each other."""

BESIDE = 6
"""Of those that come closest so many are varied."""

MATRICES: Names = ("ih", "hh", "hr")
EVERYTHING: Names = ("ih", "hh", "hr", "b_ih", "b_hh")
WHOLE: tuple[Kind, ...] = ("x", "returned")
FAST: tuple[Kind, ...] = ("tanh", "sigmoid")
VARIED: tuple[Names, ...] = (EVERYTHING, ("ih",), ("hh",))

STATE: dict[Kind, Names] = {"state": (), "before": ("h",), "operand": ("h",)}
SHORT = ("float16", "bfloat16")
KEPT = {*(f"{n} decimals" for n in range(2, 6)), *SHORT}
"""What states are rounded to where they are stored between steps."""
PARTLY: tuple[tuple[Kind, Names], ...] = (
    ("kept", ("h",)),
    ("kept", ("c",)),
    ("kept", ("h", "c")),
    ("before", ("c",)),
    ("before", ("h", "c")),
    ("state", ("c",)),
)
"""Where states are stored, and which of them."""

Set = tuple[tuple[Cause, ...], tuple[Approximation, ...]]
"""Mistakes and approximations."""

TOGETHER = 48
"""Sets that are measured before it is asked whether work is left."""


@dataclass(frozen=True)
class Fit:
    """Mistakes and approximations together, with what is left of the difference: its root mean
    square, and the largest ratio to what rounding allows; ``tried`` how many were, ``thorough``
    whether tables were among them."""

    causes: tuple[Cause, ...]
    approximations: tuple[Approximation, ...]
    left: float
    ratio: float
    tried: int = 0
    thorough: bool = False

    @property
    def rank(self) -> float:
        """What is left; nothing where that is rounding, so that the first of a list counts."""
        return 0.0 if self.ratio <= 1 else self.left

    def model(self, model: Model) -> Model | None:
        """A model with all of it."""
        return changed(model, self.causes, self.approximations)


def changed(
    model: Model, causes: Sequence[Cause], approximations: Sequence[Approximation]
) -> Model | None:
    """The model with approximations and mistakes; None where one does not apply."""
    early = applied(model, approximations, late=False)
    wrong = None if early is None else mistaken(early, tuple(causes))
    return None if wrong is None else applied(wrong, approximations, late=True)


def measured(
    model: Model,
    observations: Sequence[Observation],
    sets: Iterable[Set],
) -> list[Fit]:
    """How much is left with each, the best first."""
    chosen = [(c, a, m) for c, a in sets if (m := changed(model, c, a)) is not None]
    if not chosen or not observations:
        return []
    models = [m for _, _, m in chosen]
    misfit = misfits(observations, models, [observation.simulator for observation in observations])
    numbers = zip(misfit.total.tolist(), misfit.worst.tolist(), strict=True)
    fits = [Fit(c, a, *left) for (c, a, _), left in zip(chosen, numbers, strict=True)]
    return sorted(fits, key=lambda fit: fit.rank)


def short_calls(model: Model, observations: Sequence[Observation]) -> list[Observation]:
    """The first steps of the fullest calls, on which what is tried is measured; more of coarse
    numbers, of which each tells little; all steps where later ones reach back."""
    fullest = sorted(observations, key=lambda observation: observation.fullness)[-FULLEST:]
    one_way = model.num_directions == 1 and not model.parts[0][0].backward
    steps = COARSE_STEPS if any(map(_is_coarse, fullest)) else STEPS
    return [few_steps(o, steps if one_way else o.inputs.steps, ROWS) for o in fullest]


def _is_coarse(observation: Observation) -> bool:
    """Whether many numbers of the output are the same ones."""
    if observation.output is None:
        return False
    numbers = observation.output[observation.usable("output")]
    return len(torch.unique(numbers)) < DISTINCT * len(numbers)


def fitted(
    model: Model,
    observations: Sequence[Observation],
    causes: tuple[Cause, ...],
    *,
    evident: tuple[Approximation, ...] = (),
    thorough: bool = False,
    direction: int | None = None,
    known: Fit | None = None,
) -> Fit:
    """The approximations that together leave the least beside these mistakes, those that are
    ``evident`` among them; ``thorough``: tables are tried too, beside what is ``known`` without;
    of one ``direction`` alone, if one is given."""
    short = short_calls(model, observations)
    [best] = measured(model, short, [(causes, evident)])
    if known is not None:
        # what removed little was chosen for want of tables
        [with_known] = measured(model, short, [(causes, known.approximations)])
        best = with_known if with_known.rank < MUCH * best.rank else best
    tried = 0
    for k in range(2 * MOST):
        if best.ratio <= 1 or is_over():
            break
        better = best
        for stage in _stages(model, thorough)[1 if known and k == 0 else 0 :]:
            every = _of_direction(stage, direction)
            for fit in _variants(model, short, best, every, evident):
                tried += 1
                better = fit if fit.rank < better.rank else better
            if better.left < best.left * BETTER / 2:
                break
        if better.left > best.left * BETTER or len(better.approximations) > MOST:
            break
        best = better
    exact = tuple(a.with_exact_end or a for a in best.approximations)
    ends = dict.fromkeys((best.approximations, exact))  # what was measured has no final states
    whole, *_ = measured(model, observations, [(causes, end) for end in ends])
    return replace(whole, tried=tried, thorough=thorough)


def _stages(model: Model, thorough: bool) -> list[list[Approximation]]:
    """What is tried, and what only where that is not enough."""
    functions = {
        node.name
        for equation in model.structure.cell.equations.values()
        for node in nodes(equation)
        if isinstance(node, Apply)
    }
    kinds: list[Kind] = [name for name in FAST if name in functions]
    both: list[Kind] = ["functions"] if len(kinds) == len(FAST) else []
    families = tuple({curve.family: curve for curve in reversed(CURVES)}.values())
    plain = [*_roundings_tried(), *_curves(families, (*both, *kinds))]
    return [plain, _curves(TABLES, tuple(kinds))] if thorough else [plain]


def _of_direction(every: Sequence[Approximation], direction: int | None) -> list[Approximation]:
    """The same in one direction alone, of those that are made in one; all where none is given."""
    if direction is None:
        return list(every)
    return [in_one_direction(a, direction) for a in every if a.kind not in WHOLE]


def _variants(
    model: Model,
    short: Sequence[Observation],
    best: Fit,
    every: Sequence[Approximation],
    evident: tuple[Approximation, ...],
) -> list[Fit]:
    """The best with one approximation more, or one replaced by another of its kind."""
    keys = {a.key for a in best.approximations}
    free = [
        a
        for a in every
        if a.key not in keys and not any(a.excludes(k) for k in evident) and _matters(a, best)
    ]
    # what comes no closer in the first step of the fullest call, or in that, is measured no further
    closer = [(best.causes, _joined(best, a)) for a in free]
    fullest = short[-1]
    steps = 1 if fullest.inputs.steps <= STEPS else fullest.inputs.steps
    for observation in (few_steps(fullest, steps, ROWS), fullest):
        if observation.count:
            [alone] = measured(model, [observation], [(best.causes, best.approximations)])
            every_fit = while_work_is_left(model, observation, closer)
            closer = [(f.causes, f.approximations) for f in every_fit if f.rank <= alone.left]
    fits = measured(model, short, closer)
    near = [fit.approximations[-1] for fit in fits[:BESIDE] if fit.left < best.left]
    siblings = [each for a in near for each in _of_direction(_siblings(a), a.direction)]
    more = [(best.causes, _joined(best, sibling)) for sibling in siblings]
    return fits + measured(model, short, more)


def while_work_is_left(model: Model, observation: Observation, sets: Sequence[Set]) -> list[Fit]:
    """How much is left with each, the best first; of some of them, where no work is left."""
    fits: list[Fit] = []
    for start in range(0, len(sets), TOGETHER):
        if fits and is_over():
            break
        fits += measured(model, [observation], sets[start : start + TOGETHER])
    return sorted(fits, key=lambda fit: fit.rank)


def _matters(approximation: Approximation, best: Fit) -> bool:
    """Whether an approximation is as far off as what is left; others are not tried."""
    if approximation.curve is None or any(approximation.excludes(a) for a in best.approximations):
        return True
    names = FAST if approximation.kind == "functions" else (approximation.kind,)
    error = max(approximation.curve.usual_error(name) for name in names)
    return LEAST * best.left < error < LARGEST * best.left


def _joined(best: Fit, more: Approximation) -> tuple[Approximation, ...]:
    return (*(a for a in best.approximations if not more.excludes(a)), more)


@cache
def _by_name() -> dict[str, Quantiser]:
    return {rounding.name: rounding for rounding in (*SCALED, *FIXED)}


def _siblings(approximation: Approximation) -> list[Approximation]:
    """The same rounding of other parameters, or the other functions of a family."""
    if approximation.curve is not None:
        return [
            of_curve(curve, approximation.kind)
            for curve in CURVES
            if curve.family == approximation.curve.family
        ]
    if approximation.kind != "weights" or approximation.name not in _by_name():
        return []
    return [of_weights(_by_name()[approximation.name], names) for names in VARIED]


@cache
def _roundings_tried() -> list[Approximation]:
    fixed = [rounding for rounding in FIXED if rounding.verb == "rounded"]
    whole = [rounding for rounding in SCALED if "row" not in rounding.name]
    kinds: tuple[Kind, ...] = ("state", "before", "operand")
    return [
        *(of_products(rounding) for rounding in fixed if rounding.name in SHORT),
        *(of_weights(rounding, MATRICES) for rounding in (*FIXED, *SCALED)),
        *(of_inputs(rounding) for rounding in (*fixed, *whole)),
        *(of_states(rounding, kind, STATE[kind]) for rounding in fixed for kind in kinds),
        *(
            of_states(rounding, *which)
            for rounding in fixed
            if rounding.name in KEPT
            for which in PARTLY
        ),
        *(of_outputs(rounding) for rounding in FIXED),
    ]


@cache
def _curves(curves: tuple[Curve, ...], kinds: tuple[Kind, ...]) -> list[Approximation]:
    return [of_curve(curve, kind) for curve in curves for kind in kinds]
