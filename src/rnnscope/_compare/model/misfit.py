"""How far models are from what was observed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation, distance, predicted
from rnnscope._compare.model.simulate import Simulator
from rnnscope._compare.work import GATE, spend

__all__ = ["Misfit", "misfits", "worst"]


@dataclass(frozen=True)
class Misfit:
    """How far many models are from what was observed, (model): the root mean square over ``count``
    numbers in ``total``, and in ``worst`` the largest ratio to what rounding allows."""

    total: Tensor
    worst: Tensor
    count: int

    @classmethod
    def of(cls, differences: Iterable[tuple[Tensor, Tensor, int]]) -> Misfit:
        """Of arrays of differences and of their ratios to what rounding allows, (model, ...), zero
        where nothing is compared, and how many numbers are."""
        away, ratios, counts = zip(*differences, strict=True)
        squares = torch.stack([array.flatten(1).square().sum(1) for array in away]).sum(0)
        worst = torch.stack([array.flatten(1).amax(1) for array in ratios]).amax(0)
        return cls((squares / sum(counts)).sqrt(), worst, sum(counts))

    @classmethod
    def none(cls, models: int) -> Misfit:
        """Of so many models nothing can be compared, so none explains anything."""
        infinite = torch.full((models,), torch.inf, dtype=torch.float64, device="cpu")
        return cls(infinite, infinite, 0)

    def at(self, places: Sequence[int], second: Misfit) -> Misfit:
        """The same with that of other models put in their places."""
        index = torch.tensor(places, dtype=torch.long, device="cpu")
        total = self.total.index_copy(0, index, second.total)
        return replace(self, total=total, worst=self.worst.index_copy(0, index, second.worst))


def worst(model: Model, shown: Sequence[Observation]) -> float:
    """The largest ratio to what rounding allows; 0 where no number is of use."""
    if not any(each.count for each in shown):
        return 0.0
    return float(misfits(shown, [model], [each.simulator for each in shown]).worst[0])


def misfits(
    observations: Sequence[Observation],
    models: Sequence[Model],
    simulators: Sequence[Simulator],
) -> Misfit:
    """How far each model is from all observations; inf where no number is of use, so that nothing
    is explained."""
    differences: list[tuple[Tensor, Tensor, int]] = []
    for observation, simulator in zip(observations, simulators, strict=True):
        outcomes = simulator.run(models)
        with torch.inference_mode():
            for target, seen in observation.targets().items():
                usable = observation.usable(target)
                count = int(usable.sum())
                if count:
                    away = _away(target, seen, outcomes) * usable
                    spend(GATE * away.numel())
                    differences.append((away, away / observation.allowed[target], count))
    return Misfit.of(differences) if differences else Misfit.none(len(models))


def _away(target: str, seen: Tensor, outcomes: Sequence[Outcome | None]) -> Tensor:
    """Absolute differences, (model, *shape of what was seen)."""
    values: list[Tensor] = []
    for outcome in outcomes:
        value = None if outcome is None else predicted(outcome).get(target)
        fits = value is not None and value.shape == seen.shape
        values.append(value if fits and value is not None else seen.new_full(seen.shape, torch.nan))
    return distance(torch.stack(values), seen)
