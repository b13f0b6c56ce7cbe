"""Sets of mistakes run whole: which of them give all that was observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.mistakes import CATALOGUE, Changed, applied
from rnnscope._compare.mistakes.cause import Causes
from rnnscope._compare.model.misfit import Misfit, misfits, worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, some_rows
from rnnscope._compare.tolerance import allowed
from rnnscope._compare.work import EFFORT, is_over, spend

__all__ = ["NEAR", "Trials", "larger_tolerance"]

ROWS, MANY_ROWS = 2, 4
"""Rows of the fullest call on which mistakes in cells are tried first, where there are more."""

QUICK = 3
"""A call of so many times fewer steps and rows comes before the fullest."""

CHUNK = 2048
"""Sets that are measured together, at most."""

SHARE = 20
"""Into so many chunks the work of a search is cut where runs are dear."""

NEAR = 1000
"""Up to so many times the tolerance a model is judged by its own rounding; the nearest few are."""

JUDGED = 16
"""Models of a chunk that are judged by their own rounding."""


class Trials:
    """Runs of a model with sets of mistakes, on all observations; ``count`` of them so far."""

    def __init__(self, model: Model, observations: Sequence[Observation]):
        self.model, self.count = model, 0
        # most sets are told from the rest by the fullest observation alone
        self._observations = sorted(
            observations, key=lambda observation: observation.fullness, reverse=True
        )
        fullest = self._observations[0]
        rows = torch.arange(ROWS, device="cpu")
        self._some = [some_rows(fullest, rows)] if fullest.inputs.batch > MANY_ROWS else []
        # more than one mistake is told from the rest by the shortest call that shows all weights
        shortest = min(observations, key=lambda call: (not call.inputs.given, _size(call)))
        self._short = [shortest] if QUICK * _size(shortest) <= _size(fullest) else []
        self._models: dict[Causes, Model | None] = {}
        self._distance: dict[Causes, float] = {}
        self._explaining: set[Causes] = set()
        self.known: Changed = {}

    def of(self, together: Causes) -> Model | None:
        """The model with these mistakes; None where one does not apply."""
        if together not in self._models:
            self._models[together] = applied(self.model, tuple(together), self.known)
        return self._models[together]

    def explaining(self, sets: Iterable[Causes], likely: bool = False) -> list[Causes]:
        """Of some sets those that explain everything, the smallest; ``likely`` where single steps
        told that they are right: then each is judged by its own rounding, however far it seems."""
        wanted = list(dict.fromkeys(sets))
        fresh = [s for s in wanted if s not in self._distance]
        spend(sets=len(fresh))
        # in cells rows do not mix, and some tell most sets
        groups: dict[tuple[bool, bool], list[Causes]] = {}
        for s in fresh:
            of_cells = all(CATALOGUE[cause.name].of_cell for cause in s)
            groups.setdefault((of_cells, len(s) > 1), []).append(s)
        for (of_cells, several), sets_alike in groups.items():
            first = [*(self._short if several else ()), *(self._some if of_cells else ())]
            observations = [*first, *self._observations]
            for chunk in self._chunks(sets_alike, observations[0]):
                if is_over():
                    break
                self._run(chunk, observations, torch.inf if likely else NEAR)
        explaining = [s for s in wanted if s in self._explaining]
        least = min(map(len, explaining), default=0)
        return [s for s in explaining if len(s) == least]

    def _run(self, sets: Sequence[Causes], observations: Sequence[Observation], far: float) -> None:
        """How far sets are from the first of some observations, and which explain all."""
        models = [(s, model) for s in sets if (model := self.of(s)) is not None]
        self._distance |= dict.fromkeys(sets, torch.inf)
        self.count += len(models)
        for k, observation in enumerate(observations):
            if not models:
                break
            misfit = _misfit(observation, [m for _, m in models], far)
            if k == 0:
                pairs = zip(models, misfit.total.tolist(), strict=True)
                self._distance |= {s: total for (s, _), total in pairs}
            ratios = misfit.worst.tolist()
            models = [pair for pair, ratio in zip(models, ratios, strict=True) if ratio <= 1]
        self._explaining |= {s for s, _ in models}

    def nearest(self, explaining: Iterable[Causes] = ()) -> tuple[Causes, float] | None:
        """The set that comes closest of those that do not explain it, and its root mean square."""
        pairs = [
            (s, total)
            for s, total in self._distance.items()
            if s and s not in self._explaining and not any(e <= s for e in explaining)
        ]
        return min(pairs, key=lambda pair: pair[1], default=None)

    def left(self, together: Causes) -> float | None:
        """How much a set leaves of the fullest call, as a root mean square; None of what was not
        run. Without a mistake it is run now."""
        if not together and together not in self._distance:
            self._run([together], [*self._some, *self._observations][:1], NEAR)
        return self._distance.get(together)

    def closest(self, sets: Iterable[Causes]) -> list[Causes]:
        """Sets that were run, the closest first."""
        return sorted(dict.fromkeys(sets), key=lambda s: self._distance.get(s, torch.inf))

    def _chunks(
        self, sets: Sequence[Causes], observation: Observation
    ) -> Iterator[Sequence[Causes]]:
        """As many sets together as cost a small share of the work that there is."""
        inputs = observation.inputs
        weights = [part.stored for row in self.model.parts for part in row]
        numbers = inputs.steps * inputs.batch * sum(w.ih.numel() + w.hh.numel() for w in weights)
        size = max(1, min(CHUNK, int(EFFORT / SHARE / numbers)))
        for start in range(0, len(sets), size):
            yield sets[start : start + size]


def _size(observation: Observation) -> int:
    """How much is computed for a call."""
    return observation.inputs.steps * observation.inputs.batch


def _misfit(observation: Observation, models: Sequence[Model], far: float) -> Misfit:
    """How far models are; a mistake may let numbers grow, and rounding with them, so what comes
    close is judged by what rounding allows the mistaken model itself."""
    simulator = observation.simulator
    misfit = misfits([observation], models, [simulator])
    if bool((misfit.worst <= 1).any()):
        far = min(far, NEAR)  # nothing needs more to be allowed
    near = ((misfit.worst > 1) & (misfit.worst < far)).nonzero().flatten().tolist()
    for k in sorted(near, key=lambda k: float(misfit.worst[k]))[:JUDGED]:
        tolerance = allowed(models[k], observation.inputs, observation.unit, simulator=simulator)
        wider = replace(observation, allowed=larger_tolerance(observation, tolerance))
        # what is of no use by its own rounding tells nothing
        misfit.worst[k] = worst(models[k], [wider])
    return misfit


def larger_tolerance(
    observation: Observation, tolerance: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The elementwise maximum of what rounding allows the reference and a mistaken model; the
    reference's alone where the other's is infinite throughout: rounding takes steps to grow."""
    larger = dict(observation.allowed)
    for name, value in tolerance.items():
        comparable = name in larger and larger[name].shape == value.shape
        if comparable and bool(torch.isfinite(tolerance.get("output", value)).any()):
            larger[name] = torch.maximum(larger[name], value)
    return larger
