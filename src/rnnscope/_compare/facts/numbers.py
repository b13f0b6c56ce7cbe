"""Numbers that are measured or fitted: a factor, a constant, in as few digits as they allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rnnscope._compare.evidence import differing
from rnnscope._compare.facts.finding import TOLD, Finding, confirmed_left, first_steps
from rnnscope._compare.facts.parameters import NAMES
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Part
from rnnscope._compare.model.observed import Observation

__all__ = [
    "DIGITS",
    "KEPT",
    "Family",
    "ReadAs",
    "few_digits",
    "fitted_affine",
    "fitted_findings",
    "fitted_numbers",
    "mean_within",
    "measured_numbers",
    "shortest",
    "why",
]

DIGITS = 1e-5
"""Up to this relative difference a factor is taken for a number of few digits."""

ROUGH = 3e-3
"""Up to this one it is tried first: numbers of few decimals tell a factor no better."""

KEPT = tuple(k / 100 for k in (95, 90, 85, 80, 75, 70, 65, 60, 50, 40, 30, 25, 20, 10, 5))
"""Shares of numbers that dropout usually keeps: one minus its p."""

SNAP = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
"""How many times its own error a number may be away from one of few digits, one after the other:
that error is no bound, and all data judge each."""

FLAT = 1e-12
"""Of what hardly varies no factor is fitted."""


@dataclass(frozen=True)
class ReadAs:
    """``factor`` × feature ``source`` + ``constant``."""

    source: int
    factor: float = 1.0
    constant: float = 0.0

    def words(self, name: str) -> str:
        """As in 1.8 x + 32, or (x - 0.13) / 0.31, whichever has fewer digits."""
        if self.factor == 0:
            return f"{self.constant:.6g}"
        scaled = name if self.factor == 1 else f"{self.factor:.6g} {name}"
        direct = f"{scaled}{_signed(self.constant)}"
        mean = f"{name}{_signed(self.constant / self.factor)}"
        inverse = f"({mean}) / {1 / self.factor:.6g}" if self.constant else direct
        return min((direct, inverse), key=_digits)


def _digits(text: str) -> int:
    """Digits of all numbers in a text, without zeros at the start and the end of each."""
    numbers = ("".join(filter(str.isdigit, word)) for word in text.split())
    return sum(len(number.strip("0")) for number in numbers)


def _signed(value: float) -> str:
    return "" if value == 0 else f" {'+' if value > 0 else '-'} {abs(value):.6g}"


def shortest(value: float, error: float) -> float:
    """The number of fewest digits that is as near as the error, else the value."""
    return 0.0 if abs(value) <= error else _first_near(value, error, _rounded(value, 7))


def few_digits(value: float, within: float = DIGITS) -> float:
    """A number of few digits, a fraction of small numbers, or what dropout multiplies by, where it
    is one but for rounding, relative to it."""
    fractions = (round(value * whole) / whole for whole in range(2, 11))
    candidates = (*_rounded(value, 4), *fractions, *(1 / kept for kept in KEPT))
    return _first_near(value, within * abs(value), candidates)


def _rounded(value: float, most: int) -> Iterable[float]:
    """A number rounded to one digit, to two, and so on."""
    return (float(f"{value:.{digits}g}") for digits in range(1, most + 1))


def _first_near(value: float, error: float, candidates: Iterable[float]) -> float:
    return next((near for near in candidates if near and abs(near - value) <= error), value)


def measured_numbers(value: float, neutral: float) -> list[float]:
    """What a number that was measured may be, that of the fewest digits first: of coarse numbers it
    is off by more. Each is judged by all numbers; ``neutral`` changes nothing that was seen."""
    numbers = (few_digits(value, ROUGH), few_digits(value), value)
    return [number for number in dict.fromkeys(numbers) if number not in (0.0, neutral)]


def why(factor: float) -> str:
    """What such a factor may come from."""
    kept = [k for k in KEPT if abs(1 / k - factor) <= DIGITS * factor]
    if kept:
        return f" (it may be 1 / (1 - p) of dropout with p = {1 - kept[0]:.3g}, left on)"
    if any(abs(k - factor) <= DIGITS for k in KEPT):
        return f" (it may be 1 - p of dropout with p = {1 - factor:.3g})"
    return ""


def mean_within(values: Tensor, error: Tensor) -> tuple[float, float]:
    """The mean of what is known to some error, and its own error."""
    weight = error**-2
    total = float(weight.sum())
    return float((weight * values).sum()) / total, float(total**-0.5)


def fitted_affine(x: Tensor, y: Tensor, error: Tensor, source: int) -> list[ReadAs]:
    """The factor and the constant that give y of x within its error, as many times as there are
    ways to shorten them, in few digits first, at last as measured; none where there are none."""
    least = float(error.min())
    weight = (error / least) ** -2
    total = float(weight.sum())
    mean_x, mean_y = float((weight * x).sum()) / total, float((weight * y).sum()) / total
    square = float((weight * (x - mean_x) ** 2).sum())
    if not square > FLAT * total * max(1.0, mean_x**2):
        return []
    factor = float((weight * (x - mean_x) * (y - mean_y)).sum()) / square
    exact = ReadAs(source, factor, mean_y - factor * mean_x)
    if factor == 0 or not bool(((x * factor + exact.constant - y).abs() <= error).all()):
        return []
    errors = least / square**0.5, least / total**0.5
    short = [_shortened(exact, mean_x, mean_y, *(snap * e for e in errors)) for snap in SNAP]
    return [*(pair[0] for pair in short), *(pair[1] for pair in short), exact]


def _shortened(
    exact: ReadAs, mean_x: float, mean_y: float, of_factor: float, of_mean: float
) -> list[ReadAs]:
    """With few digits, of the factor and the constant, and of what is subtracted and what divides;
    those of fewer first. ``of_factor`` and ``of_mean`` are errors of the factor and of the mean of
    y."""
    factor = shortest(exact.factor, of_factor)
    direct = replace(exact, factor=factor, constant=shortest(mean_y - factor * mean_x, of_mean))
    divisor = shortest(1 / exact.factor, of_factor / exact.factor**2)
    if divisor == 0 or factor == 0:
        return [exact, exact]
    mean = shortest(mean_x - divisor * mean_y, of_mean * abs(divisor))
    inverse = replace(exact, factor=1 / divisor, constant=-mean / divisor)
    return sorted((direct, inverse), key=lambda affine: _digits(affine.words("")))


# one number that the candidate's output tells ----------------------------------------------------

CLOSE = 0.3
"""Of what is left without a number, how much one may leave after half of the steps to be gone on
with."""

SEVERAL, PROMISING = 2, 24
"""Rounds that all families take, and of how many it is tried after these whether more help."""

STEP = 1e-3
"""By which a number is moved to see what that changes."""

LEAST, LARGEST = 1e-6, 1e4
"""No number is smaller or larger than these."""


@dataclass(frozen=True, eq=False)
class Family:
    """The findings that differ by one number, of which ``neutral`` changes nothing."""

    finding: Callable[[float], Finding]
    neutral: float

    def model(self, number: float) -> Model:
        """The model with that number."""
        model = self.finding(number).model
        assert model is not None, "a number changes the model"
        return model


def fitted_numbers(
    model: Model, families: Sequence[Family], short: Sequence[Observation], rounds: int
) -> list[tuple[Family, float]]:
    """The families whose number makes much of the difference vanish, with it, the best first: by
    so many steps of Gauss and Newton from right numbers on, in one variable each."""
    start = _residuals([model], short)[0]
    if start is None:
        return []
    nothing = float(start.norm())
    numbers = {family: family.neutral for family in families}
    left = dict.fromkeys(families, nothing)
    for turn in range(rounds):
        tried = sorted(numbers.items(), key=lambda pair: left[pair[0]])
        tried = tried if turn < SEVERAL else tried[:PROMISING]
        numbers = dict(tried)
        now: list[Tensor | None] = [start] * len(tried)  # a right number changes nothing
        if turn:
            now = _residuals([family.model(number) for family, number in tried], short)
        moved = _residuals([family.model(number + STEP) for family, number in tried], short)
        for (family, number), residual, after in zip(tried, now, moved, strict=True):
            del numbers[family]
            if residual is None or after is None:
                continue
            slope = (after - residual) / STEP
            square = float(slope @ slope)
            left[family] = float(residual.norm())
            if square == 0 or (turn >= rounds // 2 and left[family] >= CLOSE * nothing):
                continue
            number -= float(slope @ residual) / square
            if abs(number) <= LARGEST:
                numbers[family] = number
    return sorted(numbers.items(), key=lambda pair: left[pair[0]])


def _residuals(models: Sequence[Model], short: Sequence[Observation]) -> list[Tensor | None]:
    """Of each model how far its outputs are from what was observed, in one array; None where it
    gives none."""
    arrays: list[list[Tensor]] = [[] for _ in models]
    for observation in short:
        seen = observation.output
        if seen is None:
            continue
        usable = observation.usable("output") & torch.isfinite(seen)
        for array, outcome in zip(arrays, observation.simulator.run(models), strict=True):
            fits = outcome is not None and outcome.output.shape == seen.shape
            away = outcome.output - seen if outcome and fits else torch.full_like(seen, torch.nan)
            array.append(away[usable])
    residuals = [torch.cat(array) if array else None for array in arrays]
    return [
        None if residual is None or not bool(torch.isfinite(residual).all()) else residual
        for residual in residuals
    ]


# parameters that a number changes -----------------------------------------------------------------

EXCLUDED = 20.0
"""Decimal digits that agreement must prove beside the usual: one number is chosen freely, for some
hundred sets of parameters."""

ROUNDS = 7
"""Steps of Gauss and Newton, after which a number that fits is found to its last digits."""

STEPS, ROWS = 6, 4
"""First steps, where later ones do not reach back, and rows that a number is fitted to."""


def fitted_findings(model: Model, shown: Sequence[Observation]) -> Iterator[tuple[Finding, float]]:
    """The findings of one fitted number that explain everything to rounding, with what they
    leave."""
    if differing(model, shown) < TOLD:
        return
    short = [first_steps(model, observation, STEPS, ROWS) for observation in shown[:2]]
    for family, fitted in fitted_numbers(model, list(_families(model)), short, ROUNDS):
        if abs(fitted) < LEAST:
            continue  # nothing is added, or what is multiplied is missing, which is listed
        for number in measured_numbers(fitted, family.neutral):
            finding = family.finding(number)
            left = confirmed_left(finding, shown, EXCLUDED)
            if left is not None:
                yield finding, left
                break


def _families(model: Model) -> Iterator[Family]:
    """The parameters that are tried, those of all gates first."""
    part = model.parts[0][0]
    gates = tuple(part.cell.gates)
    single = [(field,) for field in NAMES if part.parameter(field) is not None]
    several: list[tuple[str, ...]] = [("ih", "hh")]
    if part.stored.b_ih is not None:
        several += [("b_ih", "b_hh"), ("ih", "b_ih"), ("hh", "b_hh"), tuple(NAMES)]
    for gate in (None, *(gates if len(gates) > 1 else ())):
        yield from (_family(model, fields, gate, False) for fields in (*single, *several))
        yield from (_family(model, fields, gate, True) for fields in single)


def _family(model: Model, fields: Sequence[str], gate: str | None, adds: bool) -> Family:
    """Parameters, with their rows of one gate or of all, that are multiplied or added to."""
    kinds = [NAMES[field] for field in fields]
    names = " and ".join(kinds)
    what = names if gate is None else f"the rows of {gate} in {names}"
    verb = "is" if gate is None and len(fields) == 1 else "are"

    def finding(number: float) -> Finding:
        def changed(part: Part) -> Part:
            values = {}
            for field in fields:
                before = part.parameter(field)
                assert before is not None, "parts are alike"
                rows = slice(None) if gate is None else part.stored.rows(gate)
                values[field] = before.clone()
                values[field][rows] = before[rows] + number if adds else before[rows] * number
            return part.weighted("fitted", names, gate, adds, number, **values)

        shown = f"{number:.6g}"
        words = Words(
            f"{shown} is added to {what}" if adds else f"{what} {verb} multiplied by {shown}",
            "with that the two agree; the number is fitted to your output.",
            f"leave out the {shown}" if adds else f"leave out the factor {shown}",
        )
        cause = Cause("fitted", f"{'+'.join(kinds)}:{gate or 'all'}")
        return Finding(cause, words, model.with_each_part(changed))

    return Family(finding, 0.0 if adds else 1.0)
