"""Mistakes beside approximations: which of the catalogue's leave no more than approximations do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch

from rnnscope._compare.approximate.approximation import Approximation
from rnnscope._compare.approximate.fit import (
    Fit,
    fitted,
    measured,
    short_calls,
    while_work_is_left,
)
from rnnscope._compare.confirmed import proves
from rnnscope._compare.mistakes import CATALOGUE
from rnnscope._compare.mistakes import causes as catalogue
from rnnscope._compare.mistakes.cause import Cause, Causes
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._compare.search.search import concerns
from rnnscope._compare.work import EFFORT, Account, counted, is_over

__all__ = ["Beside", "Data"]

SINGLES = 5
"""So many single mistakes that leave least are tried with approximations."""

SHARE = 0.5
"""A mistake beside an approximation leaves no more than so much of the difference."""

FIRST, LIKELY = 3, 0.25
"""So many that leave no more than so much are tried before any search."""

MEASURED = 0.1
"""Work of single mistakes that are measured, those in all layers first, relative to that of a
search."""

WORK = 0.4
"""Work of all that is fitted, relative to that of a search."""

ONE_OF_TWO = 0.3
"""Of that, what one direction alone has."""

FAR = 0.75
"""A mistake of which a search found that it leaves so much of the difference is not measured."""

ROWS = 2
"""Rows that tell what leaves so much."""

SMALL = 0.1
"""Of the root mean square of all numbers."""

TABLED, TABLES = 2, 0.1
"""Tables are tried beside so many sets of mistakes, which leave so much of the difference."""

CAUSES = 0.05
"""A near miss leaves no more than so much of the difference."""

ALONE = 0.1
"""And approximations without any mistake no more than so much."""

NEXT = 3.0
"""The next best leaves so many times as much."""

SAME = 1e-9
"""Two that leave the same, but for the order of sums."""

FEWEST = 30
"""Numbers from which on there may be a near miss."""


@dataclass
class Data:
    """What a candidate gave: what is searched with, and what the verdict speaks of; ``sliced``:
    the first is part of the second. ``evident`` are approximations that its own parameters show."""

    model: Model
    searched: Sequence[Observation]
    shown: Sequence[Observation]
    sliced: bool
    evident: tuple[Approximation, ...] = ()


@dataclass
class Beside:
    """The fits of approximations, alone and beside mistakes, of one candidate, or of one
    ``direction`` of it; ``exact``: one mistake alone explains what was searched; ``known``: how
    much a search found to be left with some, None where it did not run them."""

    data: Data
    effort: float
    say: Callable[[str], None] | None = None
    fits: dict[tuple[Cause, ...], Fit] = field(default_factory=dict)
    tried: int = 0
    exact: bool = False
    direction: int | None = None
    singles: dict[tuple[Approximation, ...], list[Fit]] = field(default_factory=dict)
    known: Callable[[Causes], float | None] = lambda _: None

    def __post_init__(self) -> None:
        share = 1.0 if self.direction is None else ONE_OF_TWO
        self.work = Account(self.effort * EFFORT * WORK * share)

    @property
    def small(self) -> bool:
        """Whether the difference is so small that it may be an approximation's alone."""
        squares = total = 0.0
        for observation in self.data.searched:
            for name, seen, value in observation.beside(self.data.model):
                if value is None:
                    return False
                inside = observation.usable(name)
                squares += float((seen - value)[inside].square().sum())
                total += float(value[inside].square().sum())
        return squares <= SMALL**2 * total

    @property
    def may_be_all(self) -> bool:
        """Whether one direction may be all that differs: the other half of the output of one layer
        agrees; of more layers each reads both, and nothing tells."""
        model, direction = self.data.model, self.direction
        if model.num_layers > 1 or direction is None:
            return True
        for observation in self.data.searched:
            beyond = dict(observation.beyond(model)).get("output")
            if beyond is not None and bool(beyond.chunk(2, -1)[1 - direction].any()):
                return False
        return True

    # to rounding ---------------------------------------------------------------------------

    def alone(self) -> Fit | None:
        """Approximations that explain everything without a mistake, or None; parameters that
        follow no known rule are no approximation by themselves."""
        if any(approximation.vague for approximation in self.data.evident):
            return None
        self._singles(LIKELY)
        if self.exact:
            return None
        fit = self._proved([()], thorough=False)
        for side in [] if fit is not None else self._sides():
            fit = fit or (side.alone() if side.may_be_all else None)
        return fit

    def with_likely(self) -> Fit | None:
        """The same beside one mistake that by itself leaves little."""
        singles = self._singles(LIKELY)[:FIRST]
        return None if self.exact else self._proved(singles, thorough=False)

    def with_mistakes(self, nearest: tuple[Cause, ...] = ()) -> Fit | None:
        """Mistakes and approximations that together explain everything, or None; ``nearest`` are
        those that left least in a search."""
        singles = self._singles(SHARE)[:SINGLES]
        numbers = sum(observation.count for observation in self.data.searched)
        if numbers < FEWEST or self._left(nearest, ()) >= SHARE * self._left((), ()):
            nearest = ()
        sets = [*dict.fromkeys([(), *singles, nearest])]
        fit = (
            self._proved(sets, thorough=False)
            or self._proved(self._with_one_more(), thorough=False)
            or self._with_tables()
        )
        few = [*dict.fromkeys([(), *singles[:1], nearest])]
        for side in [] if fit is not None else self._sides():
            fit = fit or side._proved(few, thorough=False)
        return fit

    def _sides(self) -> list[Beside]:
        """The same of one direction alone, where there are two."""
        if self.direction is not None or self.data.model.num_directions == 1:
            return []
        # what single mistakes leave is the same for both
        return [replace(self, fits={}, tried=0, direction=d) for d in (0, 1)]

    def _with_one_more(self) -> list[tuple[Cause, ...]]:
        """The mistakes that leave least so far, with another that leaves clearly less."""
        data = self.data
        best = min(self.fits.values(), key=lambda fit: fit.left, default=None)
        if best is None or not best.causes:
            return []
        sets = [(*best.causes, cause) for cause in self._every() if cause not in best.causes]
        self.tried += len(sets)
        with counted(self.work):
            fits = measured(data.model, data.searched, [(s, best.approximations) for s in sets])
        return [fit.causes for fit in fits if fit.left < SHARE * best.left][:FIRST]

    def _every(self) -> list[Cause]:
        """Every single mistake that may show."""
        data = self.data
        return [c for c in catalogue(data.model) if concerns(c, data.model, data.searched)]

    def _with_tables(self) -> Fit | None:
        """The same with tables of functions, where what is left is small."""
        nothing = self._left((), ())
        fits = sorted(self.fits.values(), key=lambda fit: fit.left)
        small = [f.causes for f in fits if self.small or f.left < TABLES * nothing]
        return self._proved(small[:TABLED], thorough=True)

    def _proved(self, sets: Sequence[tuple[Cause, ...]], thorough: bool) -> Fit | None:
        with counted(self.work):
            return self._first(sets, thorough)

    def _first(self, sets: Sequence[tuple[Cause, ...]], thorough: bool) -> Fit | None:
        for causes in sets:
            fit = self.fits.get(causes)
            if fit is not None and (fit.thorough or not thorough):
                continue
            if is_over():
                return None
            self._tell()
            fit = fitted(
                self.data.model,
                self.data.searched,
                causes,
                evident=self.data.evident,
                thorough=thorough,
                direction=self.direction,
                known=fit,
            )
            self.tried += fit.tried
            self.fits[causes] = fit
            if fit.ratio <= 1 and self._holds(fit):
                needed = self._fewer(fit)
                if _says_something(needed):
                    return needed
        return None

    def _fewer(self, fit: Fit) -> Fit:
        """The same without mistakes that change nothing beside the rest."""
        for cause in fit.causes:
            causes = tuple(c for c in fit.causes if c != cause)
            data = self.data
            for less in measured(data.model, data.searched, [(causes, fit.approximations)]):
                if less.ratio <= 1:
                    return self._fewer(less)
        return fit

    def _holds(self, fit: Fit) -> bool:
        """Whether it holds on all data, by so much that chance is excluded."""
        whole, data = fit.model(self.data.model), self.data
        return (
            whole is not None
            and _says_something(fit)
            and proves(whole, data.searched, data.shown, data.sliced, max(1, self.tried))
        )

    def _tell(self) -> None:
        if self.say is not None:
            self.say(f"{self.tried} approximations tried")

    # sets of mistakes ----------------------------------------------------------------------

    @property
    def _start(self) -> list[tuple[Approximation, ...]]:
        """Approximations beside which single mistakes are measured."""
        first = self.fits.get(())
        starts = [self.data.evident, () if first is None else first.approximations]
        return list(dict.fromkeys(starts))

    def _singles(self, share: float) -> list[tuple[Cause, ...]]:
        """The single mistakes that leave no more than a share of it, the least first."""
        data, every = self.data, self._every()
        short = short_calls(data.model, data.searched)
        with counted(self.work):
            for start in [start for start in self._start if start not in self.singles]:
                self.tried += len(every)
                near = every if start else [cause for cause in every if not self._is_far(cause)]
                near = sorted(near, key=lambda cause: cause != cause.everywhere())
                with counted(Account(self.effort * EFFORT * MEASURED)):
                    self.singles[start] = self._close(short, [(), *((c,) for c in near)], start)
            fits = sorted(chain(*map(self.singles.__getitem__, self._start)), key=lambda f: f.rank)
            fitting = [fit for fit in fits if fit.ratio <= 1 and not fit.approximations]
            whole = measured(data.model, data.searched, [(fit.causes, ()) for fit in fitting])
        self.exact = any(fit.ratio <= 1 for fit in whole)
        nothing = max(fit.left for fit in fits if not fit.causes)
        return list(
            dict.fromkeys(fit.causes for fit in fits if fit.causes and fit.left < share * nothing)
        )

    def _close(
        self,
        short: Sequence[Observation],
        sets: Sequence[tuple[Cause, ...]],
        start: tuple[Approximation, ...],
    ) -> list[Fit]:
        """How much is left with each set beside the approximations, the best first; mistakes in
        cells that leave too much of a few rows of the fullest call are measured no further, nor
        those for which no work is left."""
        model, fullest = self.data.model, short[-1]
        few = few_steps(fullest, fullest.inputs.steps, ROWS)
        cells = [s for s in sets if all(CATALOGUE[cause.name].of_cell for cause in s)]
        fits = while_work_is_left(model, few, [(causes, start) for causes in cells])
        most = FAR * next(fit.left for fit in fits if not fit.causes)
        near = {fit.causes for fit in fits if not fit.causes or fit.left <= most}
        far = set(cells) - near
        return measured(model, short, [(causes, start) for causes in sets if causes not in far])

    def _is_far(self, cause: Cause) -> bool:
        """Whether a search found that a mistake leaves too much."""
        left, nothing = self.known(frozenset({cause})), self.known(frozenset())
        return left is not None and nothing is not None and left > FAR * nothing

    # near misses ---------------------------------------------------------------------------

    def near(self) -> Fit | None:
        """The one fit that explains most of the difference where none explains all of it, in what
        was searched and in what the verdict speaks of."""
        fits = sorted(self.fits.values(), key=lambda fit: fit.left)
        if not fits or sum(observation.count for observation in self.data.searched) < FEWEST:
            return None
        best = fits[0]
        most = CAUSES if best.causes else ALONE
        for observations in (self.data.searched, self.data.shown):
            [nothing] = measured(self.data.model, observations, [((), ())])
            [fit] = measured(self.data.model, observations, [(best.causes, best.approximations)])
            if fit.left > most * min(nothing.left, _size(observations)) or fit.ratio <= 1:
                return None  # what explains some of the data to rounding is not merely near
        # what leaves exactly the same is the same on these data, written in another way
        rivals = [
            fit
            for fit in fits[1:]
            if not set(best.causes) <= set(fit.causes) and fit.left > (1 + SAME) * best.left
        ]
        if best.causes and any(fit.left < NEXT * best.left for fit in rivals):
            return None
        return best

    def _left(self, causes: tuple[Cause, ...], approximations: tuple[Approximation, ...]) -> float:
        [fit] = measured(self.data.model, self.data.searched, [(causes, approximations)])
        return fit.left


def _size(observations: Sequence[Observation]) -> float:
    """The root mean square of all numbers that are compared."""
    numbers = [
        value[observation.usable(name)]
        for observation in observations
        for name, value in observation.targets().items()
    ]
    return float(torch.cat(numbers).nan_to_num(0.0).square().mean().sqrt())


def _says_something(fit: Fit) -> bool:
    """Whether it has an approximation, and more than parameters that follow no known rule."""
    return bool(fit.causes and fit.approximations) or any(not a.vague for a in fit.approximations)
