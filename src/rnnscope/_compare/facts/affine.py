"""A factor and a constant, fitted to numbers that are known to some error, in as few digits as they
allow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["ReadAs", "fitted_affine", "mean_within", "shortest"]

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
    if abs(value) <= error:
        return 0.0
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 8))
    return next((near for near in candidates if abs(near - value) <= error), value)


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
