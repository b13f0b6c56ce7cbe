"""exp, tanh and the logistic function on vectors, with a bound that the proof knows.

The exponential is that of Cephes (Moshier, "Methods and Programs for Mathematical Functions",
1989): x = n ln 2 + r, a polynomial of r, times 2^n. ``tests/test_kernels.py`` holds the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnnscope._kernels.lanes import Lanes, Source

__all__ = ["exponential", "logistic", "tangent"]


@dataclass(frozen=True)
class _Format:
    """What the exponential of a type of number needs: ln 2 in two parts, the first with few bits;
    the numbers that round to whole ones when added; the polynomial; where it over- and underflows.
    """

    high: float
    low: float
    rounding: float
    mantissa: int
    bias: int
    polynomial: tuple[float, ...]  # of r², from the highest power of r
    limits: tuple[float, float]
    odd: tuple[float, ...]  # tanh(x) = x + x z P(z) with z = x², where |x| <= 1


_FORMATS = {
    "float": _Format(
        high=0.693359375,
        low=-2.12194440e-4,
        rounding=1.5 * 2.0**23,
        mantissa=23,
        bias=127,
        polynomial=(
            1.9875691500e-4,
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            5.0000001201e-1,
        ),
        limits=(-87.5, 89.0),
        odd=(
            0.00014279318565968424,
            -0.0009235008619725704,
            0.0032068034633994102,
            -0.008697847835719585,
            0.021829549223184586,
            -0.05396341532468796,
            0.13333310186862946,
            -0.3333333432674408,
        ),
    ),
    "double": _Format(
        high=6.93145751953125e-1,
        low=1.42860682030941723212e-6,
        rounding=1.5 * 2.0**52,
        mantissa=52,
        bias=1023,
        polynomial=tuple(1 / math.factorial(k) for k in range(13, 1, -1)),
        limits=(-708.5, 710.0),
        odd=(
            -8.538161901212156e-09,
            9.364144622965759e-08,
            -5.122767150793262e-07,
            1.9216974143833895e-06,
            -5.777484136865915e-06,
            1.541627724102249e-05,
            -3.8991741215043214e-05,
            9.67910218266933e-05,
            -0.0002390884367049363,
            0.0005900175685254319,
            -0.0014558326516768139,
            0.003592127823422879,
            -0.008863235512566054,
            0.021869488535296695,
            -0.053968253968231523,
            0.1333333333333331,
            -0.3333333333333333,
        ),
    ),
}

SMALL = 1.0
"""Below it tanh is x + x³ P(x²), interpolated at Chebyshev's points; above, 1 - 2 y / (1 + y) with
y = exp(-2 x)."""


def exponential(x: Lanes) -> Lanes:
    """exp(x); 0 where that is smaller than the smallest normal number, inf where it overflows."""
    source = x.source
    facts = _FORMATS[source.element]
    x = x.clamped(*facts.limits)
    # adding this number rounds to a whole one, whose bits are the last of the sum
    shifted = x.times_plus(math.log2(math.e), facts.rounding)
    n = shifted - facts.rounding
    r = n.times_plus(-facts.low, n.times_plus(-facts.high, x))
    value = _polynomial(r, facts.polynomial)
    value = (r * r).times_plus(value, r) + 1.0
    return value * _power_of_two(source, shifted, facts)


def _power_of_two(source: Source, shifted: Lanes, facts: _Format) -> Lanes:
    kind = source.bits_type
    moved = source.new(f"shl {kind} {shifted.bits}, {source.bit_constant(facts.mantissa)}")
    one = source.bit_constant(facts.bias << facts.mantissa)
    return source.of_bits(source.new(f"add {kind} {moved}, {one}"))


def _polynomial(x: Lanes, coefficients: tuple[float, ...]) -> Lanes:
    first, *further = coefficients
    value = x.source.lanes(first)
    for coefficient in further:
        value = value.times_plus(x, coefficient)
    return value


def logistic(x: Lanes) -> Lanes:
    """1 / (1 + exp(-x))."""
    return 1.0 / (exponential(-x) + 1.0)


def tangent(x: Lanes) -> Lanes:
    """tanh(x)."""
    facts = _FORMATS[x.source.element]
    size = abs(x)
    y = exponential(size * -2.0)
    large = 1.0 - (y + y) / (y + 1.0)
    z = x * x
    odd = _polynomial(z, facts.odd)
    small = (z * odd).times_plus(x, x)
    return small.where(size.below(SMALL), large.with_sign_of(x))
