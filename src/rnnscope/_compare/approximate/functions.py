"""Fast functions in place of tanh and sigmoid: rational, piecewise, of a fast exp, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from rnnscope._compare.mistakes.entry import changed_cell
from rnnscope.cells import Cell
from rnnscope.cells.algebra import Apply, Expr
from rnnscope.cells.functions import FUNCTIONS, Function

__all__ = ["CURVES", "TABLES", "Curve", "Lookup", "with_functions"]

Scalar = Callable[[Tensor], Tensor]
Lookup = Literal["nearest", "floor", "linear", "middle", "zero"]


_USUAL = 1.2 * torch.special.ndtri(
    torch.linspace(0.01, 0.99, 99, dtype=torch.float64, device="cpu")
)
"""Arguments as they usually are."""


@dataclass(frozen=True)
class Curve:
    """An approximation of tanh, and that of sigmoid which goes with it; ``name`` says how it is
    made. Those of one ``family`` differ little, as in what they are beyond some argument."""

    name: str
    tanh: Function = field(repr=False)
    sigmoid: Function = field(repr=False)
    family: str = ""

    def function(self, name: str) -> Function:
        """The one that stands for a function of torch."""
        return self.tanh if name == "tanh" else self.sigmoid

    @lru_cache(maxsize=8192)  # noqa: B019 - curves are never let go
    def usual_error(self, name: str) -> float:
        """How far it is off for arguments of size 1, as a root mean square."""
        away = self.function(name).forward(_USUAL) - FUNCTIONS[name].forward(_USUAL)
        return float(away.square().mean().sqrt())

    def error(self, name: str, largest: float) -> float:
        """How far it is off for arguments up to this size, at most."""
        at = torch.linspace(-largest, largest, 4001, dtype=torch.float64, device="cpu")
        return float((self.function(name).forward(at) - FUNCTIONS[name].forward(at)).abs().max())


def _function(name: str, forward: Scalar) -> Function:
    """A function that is only ever evaluated."""
    whole = FUNCTIONS[name]
    return Function(
        name=name,
        symbol=whole.symbol,
        latex=whole.latex,
        forward=forward,
        forward_=lambda a: a.copy_(forward(a)),
        derivative=whole.derivative,
        steepest=math.inf,
        range=None,
        through_zero=False,
        script=whole.script,
    )


def _of_tanh(name: str, tanh: Scalar, family: str = "") -> Curve:
    """With sigmoid(a) = (1 + tanh(a / 2)) / 2."""
    sigmoid = _function("sigmoid", lambda a: (1 + tanh(a / 2)) / 2)
    return Curve(name, _function("tanh", tanh), sigmoid, family or name)


def _of_sigmoid(name: str, sigmoid: Scalar, family: str = "") -> Curve:
    """With tanh(a) = 2 sigmoid(2 a) - 1."""
    tanh = _function("tanh", lambda a: 2 * sigmoid(2 * a) - 1)
    return Curve(name, tanh, _function("sigmoid", sigmoid), family or name)


# rational and piecewise ----------------------------------------------------------------------


def _ratio(a: Tensor, above: tuple[float, ...], below: tuple[float, ...]) -> Tensor:
    """An odd ratio: a × above(a²) / below(a²)."""
    square = a * a
    return a * _polynomial(square, above) / _polynomial(square, below)


def _polynomial(a: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = torch.zeros_like(a)
    for coefficient in reversed(coefficients):
        total = total * a + coefficient
    return total


RATIOS = {
    "x (27 + x²) / (27 + 9 x²)": ((27.0, 1.0), (27.0, 9.0), 3.0),
    "x (15 + x²) / (15 + 6 x²)": ((15.0, 1.0), (15.0, 6.0), 0.0),
    "3 x / (3 + x²)": ((3.0,), (3.0, 1.0), 0.0),
    "Padé 5/4": ((945.0, 105.0, 1.0), (945.0, 420.0, 15.0), 3.646738),
    "Padé 7/6": (
        (135135.0, 17325.0, 378.0, 1.0),
        (135135.0, 62370.0, 3150.0, 28.0),
        4.97179,
    ),
    "Padé 7/8": (
        (2027025.0, 270270.0, 6930.0, 36.0),
        (2027025.0, 945945.0, 51975.0, 630.0, 1.0),
        0.0,
    ),
    "Taylor, x - x³ / 3": ((1.0, -1 / 3), (1.0,), 1.0),
    "Taylor, x - x³ / 3 + 2 x⁵ / 15": ((1.0, -1 / 3, 2 / 15), (1.0,), 1.0),
}
"""Numerator and denominator in x², and where the argument is cut."""


def _bounded(a: Tensor, function: Scalar) -> Tensor:
    return function(a).clamp(-1, 1)


def _cut(a: Tensor, function: Scalar, limit: float) -> Tensor:
    return function(a.clamp(-limit, limit))


def _one_beyond(a: Tensor, function: Scalar, limit: float) -> Tensor:
    return torch.where(a.abs() < limit, function(a), a.sign())


def _rational() -> Iterator[Curve]:
    for formula, (above, below, limit) in RATIOS.items():
        ratio = partial(_ratio, above=above, below=below)
        kind = f"a rational approximation, {formula}" if len(below) > 1 else formula
        yield _of_tanh(kind, ratio)
        yield _of_tanh(f"{kind}, cut to ±1", partial(_bounded, function=ratio), kind)
        for cut in sorted({limit, 3.0, 4.0, 5.0} - {0.0}):
            inside = partial(_cut, function=ratio, limit=cut)
            yield _of_tanh(f"{kind}, its argument cut to ±{cut:g}", inside, kind)
            beyond = partial(_one_beyond, function=ratio, limit=cut)
            yield _of_tanh(f"{kind}, ±1 beyond ±{cut:g}", beyond, kind)


def _amp_tanh(a: Tensor) -> Tensor:
    """The fast tanh of Neural Amp Modeler."""
    size, square = a.abs(), a * a
    above = (
        2.45550750702956
        + 2.45550750702956 * size
        + (0.893229853513558 + 0.821226666969744 * size) * square
    )
    below = (
        2.44506634652299 + (2.44506634652299 + square) * (a + 0.814642734961073 * a * size).abs()
    )
    return a * above / below


def _plan(a: Tensor) -> Tensor:
    """The piecewise linear sigmoid of Amin, Curtis and Hayes-Gill, 1997."""
    size = a.abs()
    value = torch.where(size < 1, 0.25 * size + 0.5, 0.125 * size + 0.625)
    value = torch.where(size >= 2.375, 0.03125 * size + 0.84375, value)
    value = torch.where(size >= 5, 1.0, value)
    return torch.where(a < 0, 1 - value, value)


def _parabola(a: Tensor) -> Tensor:
    """A piecewise quadratic sigmoid."""
    inside = 0.5 * (1 - a.abs().clamp_max(4) / 4).square()
    return torch.where(a < 0, inside, 1 - inside)


def _line(a: Tensor, slope: float) -> Tensor:
    return (slope * a + 0.5).clamp(0, 1)


def _piecewise() -> Iterator[Curve]:
    yield _of_tanh("a rational approximation, Neural Amp Modeler's fast tanh", _amp_tanh)
    yield _of_tanh("x / (1 + |x|)", lambda a: a / (1 + a.abs()))
    yield _of_sigmoid("0.5 + 0.5 x / (1 + |x|)", lambda a: 0.5 + 0.5 * a / (1 + a.abs()))
    yield _of_tanh("x / sqrt(1 + x²)", lambda a: a / (1 + a * a).sqrt())
    yield _of_tanh("clip(x, -1, 1)", lambda a: a.clamp(-1, 1))
    yield _of_sigmoid("clip(x / 4 + 0.5, 0, 1)", lambda a: (a / 4 + 0.5).clamp(0, 1))
    yield _of_sigmoid("piecewise linear (PLAN)", _plan)
    yield _of_sigmoid("piecewise quadratic, as x (1 - |x| / 4), ±1 beyond ±2 for tanh", _parabola)
    for slope in (0.2, 1 / 6):
        yield _of_sigmoid(f"clip({slope:.3g} x + 0.5, 0, 1)", partial(_line, slope=slope))


# of an approximate exp -----------------------------------------------------------------------


def _bits_exp(a: Tensor, shift: float) -> Tensor:
    """Exp by writing into the bits of a float, Schraudolph 1999: 2^k (1 + what is left)."""
    whole = a / math.log(2) - shift
    low = torch.floor(whole)
    return torch.exp2(low) * (1 + whole - low)


LIMITS = (4, 8, 16, 32, 64, 256, 1024, 4096)

BIT_SHIFTS = (60801 / 2**20, 366393 / 2**23, 486411 / 2**23, 0.0436775, 0.0450466, 0.0)
"""What is taken off the exponent, so that the error is small on average or at most."""


def _limit_exp(a: Tensor, count: int) -> Tensor:
    return (1 + a / count) ** count


def _taylor_exp(a: Tensor, degree: int) -> Tensor:
    return _polynomial(a, tuple(1 / math.factorial(k) for k in range(degree + 1)))


def _by_exp(a: Tensor, exp: Scalar) -> Tensor:
    return 1 / (1 + exp(-a))


def _mirrored(a: Tensor, sigmoid: Scalar) -> Tensor:
    value = sigmoid(a.abs())
    return torch.where(a < 0, 1 - value, value)


def _exponential() -> Iterator[Curve]:
    exps: dict[str, Scalar] = {f"(1 + x / {n})^{n}": partial(_limit_exp, count=n) for n in LIMITS}
    for shift in BIT_SHIFTS:
        exps[f"written into the bits of a float (Schraudolph, {shift:.3f})"] = partial(
            _bits_exp, shift=shift
        )
    for degree in (3, 4, 5, 6, 8):
        exps[f"a polynomial of degree {degree}"] = partial(_taylor_exp, degree=degree)
    for how, exp in exps.items():
        family = "bits" if "bits" in how else how
        sigmoid = partial(_by_exp, exp=exp)
        yield _of_sigmoid(f"of an approximate exp, {how}", sigmoid, family)
        mirrored = partial(_mirrored, sigmoid=sigmoid)
        yield _of_sigmoid(f"of an approximate exp of |x|, {how}", mirrored, family)


def _stepped(a: Tensor, name: str, steps: int) -> Tensor:
    return torch.round(FUNCTIONS[name].forward(a) * steps) / steps


def _rounded() -> Iterator[Curve]:
    for steps in (*(2**k for k in range(4, 16)), 127, 255, 32767):
        value = partial(_stepped, steps=steps)
        tanh, sigmoid = (_function(f, partial(value, name=f)) for f in ("tanh", "sigmoid"))
        yield Curve(f"rounded to multiples of 1/{steps}", tanh, sigmoid, f"steps {steps}")


CURVES = (*_rational(), *_piecewise(), *_exponential(), *_rounded())
"""Formulas."""


# tables --------------------------------------------------------------------------------------


def _table(a: Tensor, name: str, ends: float, count: int, closed: bool, how: Lookup) -> Tensor:
    """What a table of the function has for each argument: ``count`` entries from -ends to ends, or
    with ``closed`` False to one step before it."""
    function = FUNCTIONS[name].forward
    step = 2 * ends / (count - closed)
    place = ((a + ends) / step).clamp(0, count - 1)
    if how == "zero":
        inside = torch.trunc(a / step).clamp(-(count // 2), count // 2)
        return function(inside * step)
    low = torch.floor(place)
    if how == "linear":
        value = function(low * step - ends)
        above = function((low + 1).clamp_max(count - 1) * step - ends)
        return value + (place - low) * (above - value)
    index = {"nearest": torch.round(place), "floor": low, "middle": low + 0.5}[how]
    return function(index * step - ends)


LOOKUPS: dict[Lookup, str] = {
    "nearest": "the nearest",
    "floor": "the one below",
    "linear": "straight lines between",
    "middle": "the middle of each",
    "zero": "the one towards zero",
}
FEW = (5, 7, 9, 11, 13)
"""Entries between which there are straight lines."""
ROUND = (16, 32, 64, 100, 128, 200, 256, 512, 1000, 1024)
SIZES = (*FEW, *(n + more for n in ROUND for more in (0, 1)), 2048, 4096)
ENDS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


def _tables() -> Iterator[Curve]:
    for count, ends, how, closed in product(SIZES, ENDS, LOOKUPS, (True, False)):
        if count in FEW and (how != "linear" or not closed):
            continue
        if ends < 3 and count not in FEW:
            continue
        if not closed and (count % 2 or how == "zero" or ends > 4):
            continue  # of one entry more, but for what lies beyond the end
        left_out = "" if closed else ", the end left out"
        name = f"a table of {count} entries from {-ends:g} to {ends:g}{left_out}, {LOOKUPS[how]}"
        value = partial(_table, ends=ends, count=count, closed=closed, how=how)
        tanh, sigmoid = (_function(f, partial(value, name=f)) for f in ("tanh", "sigmoid"))
        yield Curve(name, tanh, sigmoid, name)


TABLES = tuple(_tables())
"""Tables of the functions' own values."""


# in equations --------------------------------------------------------------------------------


@lru_cache(maxsize=2048)
def with_functions(cell: Cell, tanh: Function | None, sigmoid: Function | None) -> Cell | None:
    """The cell with these in place of its tanh and sigmoid; None where it has none of them."""
    custom = {"tanh": tanh, "sigmoid": sigmoid}

    def change(expr: Expr) -> Expr | None:
        if isinstance(expr, Apply) and expr.custom is None and custom.get(expr.name) is not None:
            return Apply(expr.name, expr.argument.map(change), custom[expr.name])
        return None

    equations = {name: equation.map(change) for name, equation in cell.equations.items()}
    changed = tuple((n, e) for n, e in equations.items() if e != cell.equations[n])
    return changed_cell(cell, changed) if changed else None
