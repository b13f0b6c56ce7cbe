"""How far two sets of numbers are, and how much their agreement proves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import MISSING, Observation, distance

__all__ = ["beyond", "differing", "evidence", "largest", "left_by"]


def largest(model: Model, shown: Sequence[Observation]) -> tuple[float, float]:
    """The largest difference, before rounding takes over, and what is allowed there; or, where that
    is rounding and another is not, the one that is the most beyond what is allowed."""
    best = (0.0, 0.0)
    beyond = (1.0, best)  # the ratio of the two, and both
    least = 0.0
    for observation in shown:
        for name, observed, value in observation.beside(model):
            tolerance = observation.allowed[name]
            if value is None:
                return math.inf, float(tolerance[torch.isfinite(tolerance)].max())
            inside = observation.usable(name)
            away = torch.where(inside, distance(value, observed), 0.0)
            within = tolerance.expand_as(away)
            least = max(least, float(torch.where(inside, within, 0.0).max()))
            k = int(away.argmax())
            if float(away.flatten()[k]) > best[0]:
                best = (float(away.flatten()[k]), float(within.flatten()[k]))
            ratio = torch.where(inside, away / within, 0.0)
            k = int(ratio.argmax())
            if float(ratio.flatten()[k]) > beyond[0]:
                place = (float(away.flatten()[k]), float(within.flatten()[k]))
                beyond = (float(ratio.flatten()[k]), place)
    if best[0] >= MISSING:  # a number against none
        return math.inf, best[1]
    if best[0] <= best[1] and beyond[0] > 1:
        return beyond[1]
    return best if best[1] else (best[0], least)


def left_by(model: Model | None, shown: Sequence[Observation]) -> float:
    """The largest difference that a changed model leaves; infinite of none."""
    return math.inf if model is None else largest(model, shown)[0]


def evidence(observations: Sequence[Observation]) -> float:
    """Decimal digits of agreement: for every number, how much smaller than their spread the
    tolerance is."""
    total = 0.0
    for observation in observations:
        for name, observed in observation.targets().items():
            if name in ("h", "h_n") and observation.output is not None:
                if observed.shape[0] == 1:
                    continue  # the last numbers of the output once more, or all of them
                observed = observed[:-1]
            finite = observed[torch.isfinite(observed)]
            if finite.numel() == 0:
                continue
            spread = float(finite.std()) if finite.numel() > 1 else float(finite.abs().max())
            tolerance = observation.allowed[name][: len(observed)].expand_as(observed)
            usable = torch.isfinite(tolerance) & torch.isfinite(observed)
            if (real := observation.inside(name)) is not None:
                usable = usable & real
            if spread > 0 and bool(usable.any()):
                total += float((spread / tolerance[usable]).log10().clamp_min(0).sum())
    return total


def differing(model: Model, observations: Sequence[Observation]) -> float:
    """How many numbers are not the model's; infinitely many where one has another shape."""
    count = 0.0
    for observation in observations:
        for _, beyond in observation.beyond(model):
            count += math.inf if beyond is None else int(beyond.sum())
    return count


def beyond(model: Model, observations: Sequence[Observation]) -> float:
    """Decimal digits by which numbers are off: for every number, how much more than the tolerance;
    infinitely many where one has another shape."""
    total = 0.0
    for observation in observations:
        for name, observed, value in observation.beside(model):
            if value is None:
                return math.inf
            ratio = distance(value, observed) / observation.allowed[name]
            ratio = torch.where(observation.usable(name), ratio, 1.0)
            total += float(ratio.log10().clamp_min(0).nan_to_num(0.0).sum())
    return total
