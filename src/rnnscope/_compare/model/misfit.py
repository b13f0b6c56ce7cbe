"""How far models are from what was observed, group by group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation, distance, predicted
from rnnscope._compare.model.simulate import Simulator
from rnnscope._compare.work import GATE, spend

__all__ = ["NumberGroup", "Misfit", "misfits", "worst"]


@dataclass(frozen=True)
class NumberGroup:
    """Some of the numbers that are compared, told apart so that a search sees what fits where."""

    observation: int
    target: str
    place: tuple[object, ...]


@dataclass(frozen=True)
class Misfit:
    """How far many models are from what was observed: (model, group) the root mean square and
    the largest ratio to what rounding allows; ``count`` (group) numbers in each."""

    groups: tuple[NumberGroup, ...]
    squares: Tensor
    ratios: Tensor
    count: Tensor

    @classmethod
    def gathered(cls, found: Iterable[tuple[NumberGroup, Tensor, Tensor]]) -> Misfit:
        """Of differences and of their ratios to what rounding allows, (model, ...), by group."""
        groups, away, ratios = zip(*found, strict=True)
        return cls(
            groups,
            torch.stack([(one.flatten(1) ** 2).mean(1).sqrt() for one in away], 1),
            torch.stack([one.flatten(1).amax(1) for one in ratios], 1),
            torch.tensor([one[0].numel() for one in away], dtype=torch.long, device="cpu"),
        )

    @property
    def total(self) -> Tensor:
        """(model): root mean square over everything."""
        return ((self.squares**2 * self.count).sum(1) / self.count.sum()).sqrt()

    @property
    def worst(self) -> Tensor:
        """(model): the largest ratio to what rounding allows."""
        return self.ratios.amax(1)

    def rows(self, chosen: Sequence[int]) -> Misfit:
        """The misfit of some of the models."""
        index = torch.tensor(chosen, dtype=torch.long, device="cpu")
        return replace(self, squares=self.squares[index], ratios=self.ratios[index])

    def beside(self, other: Misfit) -> Misfit:
        """The misfits of both, one after the other."""
        return replace(
            self,
            squares=torch.cat([self.squares, other.squares]),
            ratios=torch.cat([self.ratios, other.ratios]),
        )

    def closest(self, beam: int, each: int) -> list[int]:
        """The models to go on from: the best by the whole, by the groups that fit, and by each
        group of numbers alone."""
        fits = (self.ratios <= 1).double().sum(1)
        by_count = fits - self.total / self.total.max().clamp_min(1e-300)
        orders = [(by_count.argsort(descending=True), beam), (self.total.argsort(), beam)]
        orders += [(self.squares[:, g].argsort(), each) for g in range(len(self.groups))]
        return list(dict.fromkeys(k for order, count in orders for k in order[:count].tolist()))


def worst(model: Model, shown: Sequence[Observation]) -> float:
    """The largest ratio to what rounding allows; 0 where no number is of use."""
    if not any(one.count for one in shown):
        return 0.0
    return float(misfits(shown, [model], [one.simulator for one in shown]).worst[0])


def misfits(
    observations: Sequence[Observation],
    models: Sequence[Model],
    simulators: Sequence[Simulator],
) -> Misfit:
    """How far each model is from each observation, group by group; inf where it does not fit."""
    groups: list[NumberGroup] = []
    squares: list[Tensor] = []
    ratios: list[Tensor] = []
    counts: list[int] = []
    for k, (observation, simulator) in enumerate(zip(observations, simulators, strict=True)):
        outcomes = simulator.run(models)
        with torch.inference_mode():
            for target, seen in observation.targets().items():
                away = _away(target, seen, outcomes)
                spend(GATE * away.numel())
                tolerance = observation.allowed[target]
                mask = observation.usable(target)
                for place, index in _places(target, seen, models[0]):
                    inside = mask[index]
                    if not bool(inside.any()):
                        continue
                    values = away[(slice(None), *index)] * inside
                    within = tolerance.expand_as(seen)[index]
                    groups.append(NumberGroup(k, target, place))
                    count = int(inside.sum())
                    counts.append(count)
                    squares.append((values.flatten(1) ** 2).sum(1).div(count).sqrt())
                    share = values / torch.where(inside, within, 1)
                    ratios.append(share.flatten(1).amax(1))
    if not groups:  # no number is of use, so nothing is explained
        none = torch.full((len(models), 1), torch.inf, dtype=torch.float64, device="cpu")
        return Misfit(
            (NumberGroup(0, "", ()),), none, none, torch.ones(1, dtype=torch.long, device="cpu")
        )
    return Misfit(
        tuple(groups),
        torch.stack(squares, 1),
        torch.stack(ratios, 1),
        torch.tensor(counts, dtype=torch.long, device="cpu"),
    )


def _away(target: str, seen: Tensor, outcomes: Sequence[Outcome | None]) -> Tensor:
    """Absolute differences, (model, *shape of what was seen)."""
    values: list[Tensor] = []
    for outcome in outcomes:
        value = None if outcome is None else predicted(outcome).get(target)
        fits = value is not None and value.shape == seen.shape
        values.append(value if fits and value is not None else seen.new_full(seen.shape, torch.nan))
    return distance(torch.stack(values), seen)


def _places(
    target: str, seen: Tensor, model: Model
) -> list[tuple[tuple[object, ...], tuple[slice, ...]]]:
    """The groups of one array: of the output each direction's first step in its own order, and
    the rest; of a state or a quantity each layer and direction."""
    whole = slice(None)
    if target != "output":
        return [
            ((layer, d), (slice(layer, layer + 1), slice(d, d + 1), *[whole] * (seen.dim() - 2)))
            for layer in range(seen.shape[0])
            for d in range(seen.shape[1])
        ]
    directions = model.num_directions
    width = seen.shape[-1] // directions if seen.shape[-1] % directions == 0 else seen.shape[-1]
    halves = [slice(k, k + width) for k in range(0, seen.shape[-1], width)]
    found: list[tuple[tuple[object, ...], tuple[slice, ...]]] = []
    for d, half in enumerate(halves):
        backward = d < directions and model.parts[-1][d].backward
        first = slice(-1, None) if backward else slice(0, 1)
        rest = slice(0, -1) if backward else slice(1, None)
        found.append(((d, "first"), (first, whole, half)))
        if seen.shape[0] > 1:
            found.append(((d, "rest"), (rest, whole, half)))
    return found
