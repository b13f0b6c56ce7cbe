"""Arithmetic as on paper: every result is rounded to the same number of decimals.

Numbers are decimal fractions, so that nothing depends on how a machine rounds: sums and products
are exact before they are rounded, and tanh and σ are computed to far more digits than are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from types import MappingProxyType

from rnnscope.errors import DeclarationError

__all__ = ["Paper"]

# of its own, so that neither the caller's precision nor traps count, nor are flags set there
_EXACT = Context(prec=200, traps=[])
_ONE, _TWO, _HALF = Decimal(1), Decimal(2), Decimal("0.5")


def _tanh(argument: Decimal) -> Decimal:
    if argument.copy_abs() > 200:
        return _ONE.copy_sign(argument)
    grown = _EXACT.exp(_EXACT.multiply(_TWO, argument))
    return _EXACT.divide(_EXACT.subtract(grown, _ONE), _EXACT.add(grown, _ONE))


def _sigmoid(argument: Decimal) -> Decimal:
    return _EXACT.add(_HALF, _EXACT.multiply(_HALF, _tanh(_EXACT.multiply(argument, _HALF))))


FUNCTIONS: Mapping[str, Callable[[Decimal], Decimal]] = MappingProxyType(
    {"tanh": _tanh, "sigmoid": _sigmoid, "relu": lambda argument: max(argument, Decimal(0))}
)
"""No decimal fraction but 0 has a tanh or σ that is one: their rounding is never a tie."""


class Paper:
    """Decimals to which every result is rounded; a 5 behind them is rounded away from zero.

    >>> paper = Paper(3)
    >>> paper.rounded(Decimal("0.1235")), paper.rounded(Decimal("-0.1235"))
    (Decimal('0.124'), Decimal('-0.124'))
    >>> paper.apply("tanh", Decimal("0.588"))
    Decimal('0.528')
    """

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self.unit = Decimal(1).scaleb(-digits)

    def rounded(self, number: Decimal) -> Decimal:
        """The number to so many decimals; zero has no sign."""
        result = number.quantize(self.unit, rounding=ROUND_HALF_UP, context=_EXACT)
        return result.copy_abs() if result == 0 else result

    def number(self, value: float) -> Decimal:
        """A number of the layer, rounded."""
        return self.rounded(_EXACT.create_decimal_from_float(value))

    @staticmethod
    def short(number: Decimal) -> str:
        """A number that is given, without zeros at its end."""
        return f"{number.normalize(_EXACT):f}"

    def product(self, left: Decimal, right: Decimal) -> Decimal:
        """A product, rounded."""
        return self.rounded(_EXACT.multiply(left, right))

    def total(self, terms: list[tuple[bool, Decimal]]) -> Decimal:
        """A sum, rounded; each term with whether it is subtracted."""
        result = Decimal(0)
        for negative, term in terms:
            result = (_EXACT.subtract if negative else _EXACT.add)(result, term)
        return self.rounded(result)

    def apply(self, function: str, argument: Decimal) -> Decimal:
        """A function, rounded.

        Raises ``DeclarationError`` for one that a pocket calculator does not have.
        """
        if function not in FUNCTIONS:
            names = ", ".join(FUNCTIONS)
            raise DeclarationError(f"a worksheet knows {names}; this cell uses {function}")
        return self.rounded(FUNCTIONS[function](argument))
