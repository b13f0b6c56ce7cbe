"""What a comparison of gradients found, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.verdict import Explanation

__all__ = ["GradientDifference", "GradientVerdict"]


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become the words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, GradientDifference):
        return {name: _plain(number) for name, number in vars(value).items()}
    return value.to_dict() if isinstance(value, Explanation) else value


@dataclass(frozen=True)
class GradientDifference:
    """Where two gradients differ first, in the order in which a backward pass computes them.

    ``name`` is a parameter, ``x``, ``h_0`` or the name of a quantity; ``time``, ``batch``, ``gate``
    and ``unit`` are None where it has none; ``column`` is the place along the last axis of a
    weight. ``yours`` and ``expected`` are the two.
    """

    name: str
    layer: int
    direction: str
    yours: float
    expected: float
    time: int | None = None
    batch: int | None = None
    gate: str | None = None
    unit: int | None = None
    column: int | None = None


@dataclass(frozen=True)
class GradientVerdict:
    """Whether a candidate's gradients are those of the reference, and if not where and why.

    ``agrees`` is also its truth value; ``forward`` whether the outputs agree, None where none were
    given. ``difference`` is the largest one, of the gradient ``name``; ``allowed`` what rounding
    allows there, ``worst`` the largest ratio of the two anywhere. ``compared`` names all that was
    compared, ``right`` what agrees of it. ``explanations`` are as in a ``Verdict``, ``cannot_show``
    the mistakes that would change nothing in these data. ``undecided`` says why nothing was judged,
    ``apart`` why there is no difference to compute. ``own``: they were judged against the
    candidate's own forward pass, with its mistakes. ``tried`` counts sets of mistakes, and
    ``finished`` is False where its ``effort`` cut the search.
    """

    agrees: bool
    forward: bool | None
    kind: str
    dtype: str = ""
    difference: float = 0.0
    allowed: float = 0.0
    worst: float = 0.0
    name: str = ""
    compared: tuple[str, ...] = ()
    first: GradientDifference | None = None
    explanations: tuple[Explanation, ...] = ()
    nearest: tuple[tuple[Cause, ...], tuple[Words, ...], float] | None = None
    right: tuple[str, ...] = ()
    cannot_show: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    undecided: str = ""
    apart: str = ""
    own: bool = False
    tried: int = 0
    finished: bool = True
    probe: str = ""

    def __bool__(self) -> bool:
        """Whether they agree to rounding."""
        return self.agrees

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The mistakes of the first explanation; empty where there is none."""
        return self.explanations[0].causes if self.explanations else ()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        inner = {"kind", "dtype", "nearest", "probe"}
        return {name: _plain(value) for name, value in vars(self).items() if name not in inner}
