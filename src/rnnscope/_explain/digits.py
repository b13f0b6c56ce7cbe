"""Arithmetic as it is printed: every result recomputes from the digits that stand above it.

A number is printed with a choice of digits, and what is computed from it is computed from those
digits. An exact ruler prints what a reader finds with them, rounded; any other ruler prints a
result as close to the true value (float64) as it can be while it stays within one unit of its
last digit of what a reader finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from functools import cached_property

import torch

from rnnscope.cells.functions import Function
from rnnscope.cells.notation import Digits, Shape

__all__ = ["MOST_PLACES", "PLACES", "Computation", "Ruler", "Numeral", "apply", "plain"]

PLACES = 6
"""Decimals of a number between 0.001 and 10, where that suffices."""
MOST_PLACES = 14
"""Beyond this float64 itself rounds."""

SIGNIFICANT = 0.4
"""A result keeps a digit while one unit of an operand moves it by no more than 1 / SIGNIFICANT."""

# of its own, so that neither the caller's precision nor traps count, nor are flags set there
_EXACT = Context(prec=400, traps=[])


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number and the digits with which it is printed; ``places`` decimals, None where exact."""

    truth: float
    text: str
    places: int | None

    @property
    def value(self) -> float:
        """The number that the digits say."""
        return float(self.text)

    @property
    def decimal(self) -> Decimal:
        """The same, exactly."""
        return Decimal(self.text)

    @property
    def unit(self) -> float:
        """One unit of the last digit; 0 where the digits are exact."""
        return 0.0 if self.places is None else 10.0**-self.places


def apply(function: Function, argument: float) -> float:
    """An elementwise function at one number, in float64."""
    return float(function.forward(torch.tensor(argument, dtype=torch.float64, device="cpu")))


def plain(value: float) -> float | str:
    """A number as JSON can hold it: NaN and inf as words."""
    return value if math.isfinite(value) else str(value)


@dataclass(frozen=True)
class Ruler:
    """How many digits a number gets: between 0.001 and 10 ``places`` decimals, below 0.001 as many
    significant digits, above 10 one more.

    >>> ruler = Ruler(6)
    >>> [ruler.numeral(value).text for value in (0.1958547234, 3.0, 1.23456789e-9, 1234567.8912)]
    ['0.195855', '3', '1.23457e-09', '1234568']

    With ``exact`` a result is what the printed digits give, rounded to its own last digit; so is a
    state with ``exact_states``. States have ``guard`` digits less than the numbers on the way.
    """

    places: int = PLACES
    exact: bool = False
    exact_states: bool = False
    guard: int = 0

    @cached_property
    def of_states(self) -> Ruler:
        """The ruler of the states."""
        exact = self.exact and self.exact_states
        return replace(self, places=self.places - self.guard, exact=exact, guard=0)

    def natural(self, value: float) -> int:
        """Decimals for a number of this size."""
        size = abs(value)
        if size == 0 or not math.isfinite(size):
            return self.places
        exponent = math.floor(math.log10(size))
        if size >= 10:
            return self.places - exponent
        return self.places if size >= 1e-3 else self.places - 1 - exponent

    def numeral(self, value: float, places: int | None = None) -> Numeral:
        """A number that is not computed here: a weight, an input, a state; with ``places`` at
        least so many decimals."""
        natural = self.natural(value)
        return self._numeral(value, natural if places is None else max(natural, places))

    def to(self, value: float, places: int) -> Numeral:
        """A number to exactly so many decimals, for a column of such numbers."""
        return self._numeral(value, places)

    def _numeral(self, value: float, places: int) -> Numeral:
        if not math.isfinite(value):
            return Numeral(value, str(value), None)
        short = repr(int(value)) if value == int(value) and abs(value) < 1e7 else repr(value)
        decimals = len(short.partition(".")[2])
        if "e" not in short and decimals <= max(0, min(places, 3)):
            return Numeral(value, short, None)
        return Numeral(value, _write(_rounded(value, places), places, self.places), places)

    def factor_places(self, a: float, b: float, places: int | None = None) -> tuple[int, int]:
        """Decimals of two factors with which their product keeps its own digits."""
        needed = self.natural(a * b) if places is None else places
        return (
            max(self.natural(a), _factor_places(needed, b)),
            max(self.natural(b), _factor_places(needed, a)),
        )

    def result(
        self, truth: float, recomputed: float, coarsest: float = 0.0, aim: float | None = None
    ) -> Numeral:
        """A computed number: ``truth`` in float64, ``recomputed`` from printed digits, whose
        own units make an error of ``coarsest``. What is printed comes near to ``aim``, by
        default the truth."""
        if not math.isfinite(recomputed):
            return Numeral(recomputed, str(recomputed), None)
        if truth == 0 == recomputed:
            return Numeral(truth, "0", None)
        if not math.isfinite(truth):
            truth = recomputed
        places = self.natural(truth if truth else recomputed)
        if 0 < coarsest < math.inf:
            places = min(places, math.floor(1e-9 - math.log10(coarsest)))
        recomputed_steps = _EXACT.scaleb(_EXACT.create_decimal_from_float(recomputed), places)
        nearest = _rounded(truth if aim is None else aim, places)
        least = int(_EXACT.subtract(recomputed_steps, 1).to_integral_value(ROUND_CEILING, _EXACT))
        most = int(_EXACT.add(recomputed_steps, 1).to_integral_value(ROUND_FLOOR, _EXACT))
        steps = min(max(nearest, least), most)
        return Numeral(truth, _write(steps, places, self.places), places)

    def total(self, parts: list[tuple[bool, Numeral]]) -> Numeral:
        """A sum; each part with whether it is subtracted. Its digits end where a part's end."""
        truth = _sum((negative, part.truth) for negative, part in parts)
        recomputed = _sum((negative, part.value) for negative, part in parts)
        if self.exact and math.isfinite(recomputed):
            exact = Decimal(0)
            for negative, part in parts:
                exact = (_EXACT.subtract if negative else _EXACT.add)(exact, part.decimal)
            return self._exact(truth, exact, max(_decimals(part.decimal) for _, part in parts))
        return self.result(truth, recomputed, max(part.unit for _, part in parts))

    def product(self, a: Numeral, b: Numeral) -> Numeral:
        """A product of two printed numbers."""
        truth, recomputed = a.truth * b.truth, a.value * b.value
        if self.exact and math.isfinite(recomputed):
            return self._exact(truth, _EXACT.multiply(a.decimal, b.decimal))
        unit = max(abs(a.value) * b.unit, abs(b.value) * a.unit)
        return self.result(truth, recomputed, unit * SIGNIFICANT)

    def apply(self, function: Function, argument: Numeral) -> Numeral:
        """A function of a printed number."""
        truth, recomputed = apply(function, argument.truth), apply(function, argument.value)
        if self.exact and math.isfinite(recomputed):
            return self._exact(truth, _EXACT.create_decimal_from_float(recomputed))
        slope = function.slope(
            torch.tensor(argument.value, dtype=torch.float64, device="cpu"),
            torch.tensor(recomputed, dtype=torch.float64, device="cpu"),
        )
        return self.result(truth, recomputed, abs(float(slope)) * argument.unit * SIGNIFICANT)

    def _exact(self, truth: float, exact: Decimal, most: int | None = None) -> Numeral:
        """What printed digits give, rounded to the digits of the truth, at ``most`` so many; a 5
        is rounded away from 0, as on paper."""
        if truth == 0 == exact:
            return Numeral(truth, "0", None)
        places = self.natural(truth if truth and math.isfinite(truth) else float(exact))
        places = places if most is None else min(places, most)
        steps = int(_EXACT.scaleb(exact, places).to_integral_value(ROUND_HALF_UP, _EXACT))
        return Numeral(truth, _write(steps, places, self.places), places)

    def dot(self, factors: Sequence[tuple[Numeral, Numeral]]) -> list[DotTerm]:
        """The products of weights and inputs. Where the ruler is not exact, each may give way by
        part of a unit, so that their sum is the true one."""
        terms: list[DotTerm] = []
        carry = 0.0
        for weight, value in factors:
            size = weight.truth * value.truth
            if self.exact:
                product = self.product(weight, value)
            else:
                aim = size - carry if math.isfinite(size - carry) else None
                product = self.result(size, weight.value * value.value, aim=aim)
            carry += product.value - size
            terms.append(DotTerm(weight, value, product))
        return terms

    def faithful(self, numeral: Numeral, units: float = 0.501) -> bool:
        """Whether a result is printed to as many digits as wanted, and its true value is so few
        units of the last one away; half a unit is what rounding itself takes."""
        if numeral.places is None:
            return True
        wanted = Ruler(PLACES).natural(numeral.truth)
        wanted = min(wanted, self.natural(numeral.truth))
        if numeral.places < (wanted if wanted <= PLACES else wanted - 1):
            return False
        return abs(numeral.value - numeral.truth) <= units * numeral.unit


@dataclass(frozen=True, slots=True)
class DotTerm:
    """One product of a dot product."""

    weight: Numeral
    input: Numeral
    product: Numeral


def _sum(parts: Iterable[tuple[bool, float]]) -> float:
    total = 0.0
    for negative, value in parts:
        total += -value if negative else value
    return total


def _decimals(number: Decimal) -> int:
    """Decimals with which a number is written."""
    exponent = number.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _factor_places(places: int, cofactor: float) -> int:
    """Decimals of a factor such that its rounding stays below the product's last digit."""
    if cofactor == 0 or not math.isfinite(cofactor):
        return 0
    return places + math.ceil(math.log10(abs(cofactor)))


def _rounded(value: float, places: int) -> int:
    scaled = _EXACT.scaleb(_EXACT.create_decimal_from_float(value), places)
    return int(scaled.to_integral_value(ROUND_HALF_EVEN, _EXACT))


def _write(steps: int, places: int, usual: int) -> str:
    """``steps`` units of 10^-places, in fixed notation where that is short."""
    sign, digits = ("-" if steps < 0 else ""), str(abs(steps))
    if places <= 0 and steps != 0:
        if len(digits) - places <= 8 and places == 0:
            return sign + digits
    elif steps == 0:
        return f"{0:.{max(places, 0)}f}" if places <= usual + 4 else f"0e-{places:02d}"
    elif len(digits) > places - 3 or places <= usual + 1:  # 0.001 and more, or few decimals
        digits = digits.rjust(places + 1, "0")
        return f"{sign}{digits[:-places]}.{digits[-places:]}"
    exponent = len(digits) - 1 - places
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


@dataclass(frozen=True)
class Computation:
    """A part of an equation with its number: written with symbols, or with digits from some
    depth on. With ``keeps_symbol`` the symbol stands among digits: its number is listed
    elsewhere."""

    symbolic: Shape
    numeral: Numeral
    children: tuple[Computation, ...] = ()
    build: Callable[[tuple[Shape, ...]], Shape] | None = None
    keeps_symbol: bool = False

    @property
    def height(self) -> int:
        """Operations from here down to the leaves."""
        return 1 + max(child.height for child in self.children) if self.children else 0

    def at(self, depth: int) -> Shape:
        """Parts up to the height ``depth`` as digits, what is above them as operations."""
        if self.keeps_symbol and depth == 0:
            return self.symbolic
        if self.height <= depth or self.build is None:
            return Digits(self.numeral.text)
        return self.build(tuple(child.at(depth) for child in self.children))

    @property
    def stages(self) -> tuple[Shape, ...]:
        """From the first line of digits to the last before the result."""
        return tuple(self.at(depth) for depth in range(self.height))
