"""How a comparison is decided: whether it agrees, cannot be compared, or differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from rnnscope._compare.candidate.subject import Subject
from rnnscope._compare.candidate.tensors import short
from rnnscope._compare.differing import Difference, Settings
from rnnscope._compare.evidence import largest
from rnnscope._compare.explaining import not_shown_by, told
from rnnscope._compare.facts import all_equal
from rnnscope._compare.first_difference import no_difference
from rnnscope._compare.model.lengths import ends
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import MISSING, Observation, distance
from rnnscope._compare.model.steps import opened_parts, worst_step
from rnnscope._compare.tolerance import LEAST, beyond_type
from rnnscope._compare.undetectable import unseen
from rnnscope._compare.verdict import Verdict

__all__ = ["Decision", "Settings"]

UNDECIDED = (
    "Nothing here can be compared: rounding alone may change every number by more than 1%, and no "
    "layer's steps are known one by one. Give a callable, fewer steps, or h of every layer."
)

NOTHING = (
    "Nothing was compared: {0} itself gives NaN or infinite numbers wherever it could be. Look at "
    "its weights and at the size of x."
)


class Decision:
    """One comparison, of numbers or calls; with ``within`` an approximation of that size agrees."""

    def __init__(self, subject: Subject, settings: Settings, within: float | None = None):
        self.subject, self.settings, self.within = subject, settings, within
        self.model = subject.model

    @classmethod
    def again(cls, subject: Subject, settings: Settings) -> Verdict:
        """The verdict on a part of what is compared, or on the same in another way."""
        return cls(subject, settings).verdict()

    def verdict(self) -> Verdict:
        """What it comes to."""
        verdict = self._verdict()
        if self.within is None or verdict.agrees:
            return verdict
        return replace(verdict, within=self.within, agrees=verdict.approximate(self.within))

    def _verdict(self) -> Verdict:
        shown = self.subject.shown()
        doubtful = any(
            _grown(self.model, observation) or _other_ends(observation) for observation in shown
        )
        if doubtful and not self.subject.sliced:
            # the caller's own inputs do not tell all: short ones may
            shown = [*shown, *self.subject.searched()]
        ratio = max(worst(self.model, shown), worst_step(self.model, shown))
        more: list[Observation] = []
        if ratio <= 1:
            # a unit that is off for some inputs, as of relu, may show with others
            more = self.subject.others()
            ratio = max(ratio, worst(self.model, more) if more else 0.0)
            shown = [*shown, *more] if ratio > 1 else shown
        direct = self.subject.direct()
        base = replace(self._facts(shown), worst=ratio)
        if ratio > 1 or direct or self.subject.raised:
            difference = Difference(self.subject, self.settings, self.again, base, shown)
            return difference.verdict(direct)
        silent = unseen(self.model, [*shown, *more])
        hidden = not_shown_by(self.subject, silent, shown)
        base = replace(base, cannot_show=silent.titles, unseen=hidden)
        if read := self.subject.read():
            left = largest(self.model, shown)[0]
            return replace(base, explanations=(told(read, left, len(read)),))
        if not _comparable(self.model, shown):
            kind = base.kind
            return replace(base, undecided=NOTHING.format(kind) if base.overflow else UNDECIDED)
        if unread := (*self.subject.unread, *_other_ends(shown[0])):
            # what cannot be compared does not agree
            rest = tuple(note for note in base.notes if " is not used:" not in note)
            return replace(base, unread=unread, notes=rest)
        at_own_size = self._at_own_size()
        return replace(base, agrees=True) if at_own_size is None else at_own_size

    def _at_own_size(self) -> Verdict | None:
        """The verdict at the reference's own sizes, of what agrees at others; None where it agrees
        there too."""
        subject = self.subject.at_own_size()
        if subject is None or worst(subject.model, subject.shown()) <= 1:
            return None
        return self.again(subject, self.settings)

    def _facts(self, shown: Sequence[Observation]) -> Verdict:
        first = shown[0]
        difference, tolerance = largest(self.model, shown)
        of_step = False
        if difference <= tolerance:
            parts = opened_parts(self.model, shown).values()
            ratio, *numbers = max((part.largest() for part in parts), default=(0.0, 0.0, 0.0))
            if ratio > 1:
                of_step, (difference, tolerance) = True, numbers
                difference = math.inf if difference >= MISSING else difference
        lower = [short(dtype) for dtype in self.subject.dtypes]
        dtype = lower[0] if len(set(lower)) == 1 else f"{lower[0]} (the candidate's: {lower[-1]})"
        horizon, overflow = None, False
        [outcome] = first.simulator.run([self.model])
        if first.output is not None:
            beyond = ~torch.isfinite(first.allowed["output"]).flatten(1).all(1)
            if bool(beyond.any()):
                horizon = int(beyond.nonzero()[0])
                right = None if outcome is None else outcome.output[horizon]
                overflow = right is not None and bool(beyond_type(right, first.unit).any())
        return Verdict(
            agrees=False,
            difference=difference,
            allowed=tolerance,
            worst=0.0,
            dtype=dtype,
            kind=self.model.structure.kind,
            notes=(*self.subject.notes, *all_equal(self.model, shown, self.subject.given)),
            probe=self.subject.described(first.inputs),
            steps=first.inputs.steps,
            horizon=horizon,
            overflow=overflow,
            stepwise=any(p.compares for p in opened_parts(self.model, [first]).values()),
            of_step=of_step,
            uncompared=_uncompared(first),
            given=self.subject.given,
            apart=no_difference(self.model, shown) if math.isinf(difference) else "",
        )


def _grown(model: Model, observation: Observation) -> bool:
    """Whether rounding has grown so much that some of a call is not compared."""
    if _uncompared(observation):
        return True
    lost = any(not bool(torch.isfinite(value).all()) for value in observation.allowed.values())
    return lost and not opened_parts(model, [observation])


def _uncompared(observation: Observation) -> tuple[str, ...]:
    """The final states no number of which can be compared; not h_n of one layer, which is the
    output's own end."""
    names = [f"{name}_n" for name in observation.final]
    lost = [name for name in names if not bool(observation.usable(name).any())]
    known = observation.output is not None and len(observation.final.get("h", ())) == 1
    return tuple(name for name in lost if not (known and name == "h_n"))


def _other_ends(observation: Observation) -> list[str]:
    """A sentence where h_n of the last layer is not what the candidate's own output ends with."""
    h, output = observation.final.get("h"), observation.output
    if h is None or output is None or output.shape[-1] != h.shape[1] * h.shape[-1]:
        return []
    size = h.shape[-1]
    sides = [ends(output[..., :size], observation.inputs.lengths), output[0, :, size:]]
    for final, end in zip(h[-1], sides, strict=False):
        if bool((distance(final, end) > LEAST * observation.unit * end.abs().clamp_min(1)).any()):
            return ["h_n of the last layer is not what your own output ends with."]
    return []


def _comparable(model: Model, shown: Sequence[Observation]) -> bool:
    """Whether any number, or any single step, can be compared."""
    return any(observation.count for observation in shown) or any(
        part.compares for part in opened_parts(model, shown).values()
    )
