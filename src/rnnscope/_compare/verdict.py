"""What a comparison found, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause

if TYPE_CHECKING:
    from rnnscope._compare.backward.verdict import GradientVerdict

__all__ = ["Explanation", "FirstDifference", "Verdict"]


APPROXIMATE = "approximate"
"""The name of a cause that is an approximation on purpose."""

APPROXIMATIONS = (APPROXIMATE, "precision")
"""Causes that are no mistakes."""


def _plain(value: Any) -> Any:
    """As JSON has it: a record is a dict, and NaN and infinities, which it has not, are words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, FirstDifference | Cause):
        return {name: _plain(item) for name, item in vars(value).items()}
    return value.to_dict() if hasattr(value, "to_dict") else value


@dataclass(frozen=True)
class FirstDifference:
    """Where two numbers differ first: ``name`` is a quantity or a final state, time None where it
    has none; ``yours`` and ``expected`` are the two."""

    name: str
    layer: int
    direction: str
    batch: int
    time: int | None
    unit: int
    yours: float
    expected: float
    seen_in_output: bool = False


@dataclass(frozen=True)
class Explanation:
    """Mistakes that together explain everything; ``left`` is the largest difference that is left
    with all of them, ``alone`` with each alone. The first ``read`` of them had to be undone before
    any numbers could be compared: every difference assumes them."""

    causes: tuple[Cause, ...]
    words: tuple[Words, ...]
    left: float
    alone: tuple[float, ...]
    read: int = 0

    @property
    def needs_no_mistake(self) -> bool:
        """Whether an approximation by itself leaves as little on these data: what stands beside it
        was shown by other inputs."""
        pairs = zip(self.causes[self.read :], self.alone, strict=False)
        return self.read == 0 and any(
            cause.name in APPROXIMATIONS and remainder <= 2 * self.left
            for cause, remainder in pairs
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "causes": [
                _plain(cause)
                | {"title": words.title, "sentence": words.sentence, "repair": words.repair}
                for cause, words in zip(self.causes, self.words, strict=True)
            ],
            "left": _plain(self.left),
            "alone": _plain(self.alone),
        }


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate computes what the reference computes, and if not where and why.

    ``agrees`` is also its truth value. ``difference`` is the largest one, inf where ``apart`` says
    why there is none (another shape, NaN), ``allowed`` what rounding allows at that place, both of
    a single step (``of_step``) where only single steps differ by more than rounding; ``worst`` is
    the largest ratio of the two anywhere. ``explanations`` are all sets of mistakes of
    the smallest size that explain everything to rounding: more than one where the data cannot tell
    them apart. ``agreement`` says where the two agree, where no listed mistake explains it;
    ``right`` names what is excluded, ``cannot_show`` mistakes that would change nothing
    in these data, ``unseen`` the same in fewer words, ``holds`` what can be said where nothing
    explains it, ``unread`` which final states came back in an unknown shape, or which recorded
    arrays have a name that nearly is a known one, so that the two do not agree. ``undecided`` says
    why, where no number can be compared; ``few`` that there are too few numbers to prove any
    explanation. ``tried`` counts the sets of mistakes that a search tried, ``work`` what it
    computed, and ``finished`` is False where its ``effort`` cut it. ``horizon`` is the step from
    which rounding alone may differ by more than a hundredth, or (``overflow``) the reference's own
    numbers are NaN or infinite, or None; ``stepwise`` tells whether single steps are compared from
    there on, and ``uncompared`` names the final states that are not compared at all. ``within`` is
    the size of an approximation that was to be accepted, ``approximation`` that of one that was
    named, and ``near`` what explains most of the difference where nothing explains all of it.
    ``gradients`` is the verdict on them, where they were compared: both must agree.

    >>> import torch, rnnscope as rs
    >>> lstm = torch.nn.LSTM(3, 4)
    >>> verdict = rs.compare(lstm, lstm)
    >>> verdict.agrees, verdict.causes
    (True, ())
    """

    agrees: bool
    difference: float
    allowed: float
    worst: float
    dtype: str
    kind: str
    first: FirstDifference | None = None
    explanations: tuple[Explanation, ...] = ()
    nearest: tuple[tuple[Cause, ...], tuple[Words, ...], float] | None = None
    agreement: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    cannot_show: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    probe: str = ""
    steps: int = 0
    horizon: int | None = None
    overflow: bool = False
    stepwise: bool = True
    of_step: bool = False
    uncompared: tuple[str, ...] = ()
    given: bool = False
    tried: int = 0
    finished: bool = True
    apart: str = ""
    undecided: str = ""
    few: bool = False
    effort: float = 1.0
    work: float = 0.0
    within: float | None = None
    near: Explanation | None = None
    approximation: float = 0.0
    gradients: GradientVerdict | None = None

    def __bool__(self) -> bool:
        """Whether the two agree to rounding."""
        return self.agrees

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The mistakes of the first explanation, and of that of the gradients; empty where there is
        none."""
        causes = self.explanations[0].causes if self.explanations else ()
        return causes if self.gradients is None else (*causes, *self.gradients.causes)

    def approximate(self, within: float) -> bool:
        """Whether all that differs is an approximation of this size, as far as is known: no number
        differs by more, and no mistake was named."""
        named = [*self.explanations, *([self.near] if self.near is not None else [])]
        mistakes = [
            cause
            for explanation in named
            for cause in explanation.causes
            if cause.name not in APPROXIMATIONS and not explanation.needs_no_mistake
        ]
        unknown = self.apart or self.undecided or self.unread or self.overflow
        return not mistakes and not unknown and self.difference <= within

    def __str__(self) -> str:
        """The verdict as a text, for a terminal."""
        from rnnscope._compare.report import report
        from rnnscope._escaping import lines

        return lines(report(self))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        values = {_IN_JSON.get(name, name): _plain(getattr(self, name)) for name in _TOLD}
        if self.nearest is not None:
            values["nearest"] = {"causes": _plain(self.nearest[0]), "left": _plain(self.nearest[2])}
        if self.gradients is not None:
            values["gradients"] = self.gradients.to_dict()
        return values


_TOLD = (
    *("agrees", "difference", "allowed", "dtype", "kind", "apart", "first", "explanations"),
    *("near", "within", "nearest", "worst", "tried", "finished", "agreement", "right"),
    *("cannot_show", "holds", "notes", "unread", "undecided", "few", "probe", "horizon"),
    "uncompared",
)
"""What is told as plain values."""

_IN_JSON = {"kind": "reference"}
"""What is told under another name."""
