"""How a comparison of gradients is decided: calls, bounds, the first difference, the causes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from rnnscope._compare.backward.evidence import Evidence, first_difference
from rnnscope._compare.backward.forward import derivable
from rnnscope._compare.backward.mistakes import CATALOGUE
from rnnscope._compare.backward.received import ReceivedGradients
from rnnscope._compare.backward.search import BackwardSearch, unseen
from rnnscope._compare.backward.verdict import GradientVerdict
from rnnscope._compare.backward.whole import QUANTITY, Trial
from rnnscope._compare.candidate.subject import Told, rounding
from rnnscope._compare.candidate.tensors import short
from rnnscope._compare.mistakes import CATALOGUE as FORWARD
from rnnscope._compare.mistakes import Words, applied
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model
from rnnscope._compare.verdict import Explanation, Verdict
from rnnscope.errors import RnnscopeError

__all__ = ["Source", "candidates_own", "judged", "largest_ratio"]

Source = Callable[[Trial], ReceivedGradients]
"""What gives a candidate's gradients for a call, and what reached its outputs."""

NOT_JUDGED = (
    "The gradients are not judged: the outputs differ, and a wrong forward pass has other "
    "gradients. Mend that first."
)
BEYOND = (
    "No gradient can be compared: rounding alone may change each by more than 1%. Give fewer steps."
)


def candidates_own(forward: Verdict, original: Model) -> Model | None:
    """The model of a candidate's forward pass, with the mistakes that explain it; None where its
    reverse pass does not derive from equations alone."""
    if forward.agrees:
        return original
    causes = forward.causes
    if not causes or any(cause.name not in FORWARD for cause in causes):
        return None
    model = applied(original, causes)
    return model if model is not None and derivable(model, original) else None


def judged(
    source: Source,
    model: Model | None,
    trials: Sequence[Trial],
    further: Sequence[Trial],
    facts: GradientVerdict,
    dtype: torch.dtype,
    effort: float,
) -> GradientVerdict:
    """The verdict on the gradients that ``source`` gives; ``trials`` are what it speaks of, and
    ``further`` ones tell mistakes apart. ``model`` is the forward pass to which they belong, None
    where it is not known."""
    if model is None:
        return replace(facts, agrees=False, undecided=NOT_JUDGED)
    judging = _Judging(source, model, dtype)
    shown = judging.all_evidence(trials)
    facts = replace(
        facts,
        dtype=judging.types,
        compared=tuple(dict.fromkeys(_shown(n) for e in shown for n in e.candidate)),
        notes=(*facts.notes, *judging.notes, *_lost(shown)),
    )
    if all(not evidence.candidate for evidence in shown):
        return replace(facts, agrees=False, undecided=BEYOND)
    differing = [evidence for evidence in shown if not evidence.agrees]
    main = differing[0] if differing else shown[0]
    difference, within, name = main.largest(main.exact)
    facts = replace(
        facts,
        difference=difference,
        allowed=within,
        name=_shown(name),
        worst=max(evidence.worst(evidence.exact) for evidence in shown),
        right=_right(shown),
        cannot_show=unseen(main) if not differing else (),
    )
    read = judging.read
    if not differing and read:
        explanation = Explanation(*_both(read), difference, (), len(read))
        return replace(facts, agrees=False, explanations=(explanation,))
    if not differing and judging.unread:
        # what cannot be compared does not agree
        return replace(facts, agrees=False, undecided=_unread(facts, judging.unread))
    if not differing:
        return facts
    facts = replace(facts, agrees=False, first=first_difference(main), apart=_apart(main))
    if facts.apart:
        return facts
    with contextlib.suppress(RnnscopeError):  # it may take no other sizes than the caller's
        shown = [*shown, *judging.all_evidence(further)]
    return _explained(facts, shown, read, effort)


def largest_ratio(source: Source, model: Model, trial: Trial, dtype: torch.dtype) -> float:
    """How far the gradients of one call are off, relative to what rounding allows them."""
    [evidence] = _Judging(source, model, dtype).all_evidence([trial])
    return evidence.worst(evidence.exact)


def _explained(
    facts: GradientVerdict, all_evidence: Sequence[Evidence], read: Sequence[Told], effort: float
) -> GradientVerdict:
    """With the mistakes that explain all calls."""
    differing = [evidence for evidence in all_evidence if not evidence.agrees]
    main = differing[0]
    smallest = min(differing, key=lambda e: (-len(e.candidate), e.size > 60, -e.size))
    search = BackwardSearch(smallest, all_evidence, effort)
    sets = search.run()
    explanations = []
    for causes in sets:
        mistakes = [(cause, _words(search, cause)) for cause in causes]
        alone = [search.left((cause,), main) for cause in causes]
        remainder = search.left(causes, main)
        explanations.append(
            Explanation(*_both([*read, *mistakes]), remainder, tuple(alone), len(read))
        )
    return replace(
        facts,
        explanations=tuple(explanations),
        tried=search.part.tried,
        finished=search.part.finished,
    )


def _words(search: BackwardSearch, cause: Cause) -> Words:
    return CATALOGUE[cause.name].words(search.setting, cause.choice)


def _both(mistakes: Sequence[Told]) -> tuple[tuple[Cause, ...], tuple[Words, ...]]:
    return tuple(cause for cause, _ in mistakes), tuple(words for _, words in mistakes)


class _Judging:
    """The calls of one comparison, with what was noted on the way."""

    def __init__(self, source: Source, model: Model, dtype: torch.dtype) -> None:
        self.source, self.model, self.dtype = source, model, dtype
        self.notes: list[str] = []
        self.read: list[Told] = []
        self.unread: list[str] = []
        self.dtypes = [dtype]

    @property
    def types(self) -> str:
        """The types of numbers that were compared."""
        names = list(dict.fromkeys(map(short, self.dtypes)))
        return names[0] if len(names) == 1 else f"{names[0]} (the candidate's: {names[-1]})"

    def all_evidence(self, trials: Sequence[Trial]) -> list[Evidence]:
        """What came back for each; where some calls raise, of the others."""
        total: list[Evidence] = []
        errors: list[RnnscopeError] = []
        for trial in trials:
            try:
                total.append(self._evidence(trial))
            except RnnscopeError as error:
                errors.append(error)
        if errors and not total:
            raise errors[0]
        if errors and not self.notes:
            self.notes.append(f"at some inputs it raised: {errors[0]}; left out")
        return total

    def _evidence(self, trial: Trial) -> Evidence:
        received = self.source(trial)
        self.notes += [note for note in received.notes if note not in self.notes]
        causes = {cause for cause, _ in self.read}
        self.read += [mistake for mistake in received.read if mistake[0] not in causes]
        self.unread += [text for text in received.unread if text not in self.unread]
        if received.dtype not in self.dtypes:
            self.dtypes.append(received.dtype)
        inputs = trial.inputs.to(self.dtype).to(torch.float64)
        judged_trial = Trial(inputs, received.reached, trial.masks)
        unit = rounding(self.dtype, received.dtype)
        return Evidence.of(self.model, judged_trial, received.gradients, unit)


def _unread(facts: GradientVerdict, unread: Sequence[str]) -> str:
    reasons = "; ".join(unread)
    return (
        f"The gradients of {', '.join(facts.compared)} agree, but not all was compared: {reasons}"
    )


def _shown(name: str) -> str:
    return name.removeprefix(QUANTITY)


def _right(all_evidence: Sequence[Evidence]) -> tuple[str, ...]:
    """The gradients of which every number agrees."""
    wrong = {
        name
        for evidence in all_evidence
        for name, ratio in evidence.ratios(evidence.exact).items()
        if float(ratio.max()) > 1
    }
    names = dict.fromkeys(n for evidence in all_evidence for n in evidence.candidate)
    return tuple(_shown(name) for name in names if name not in wrong)


def _lost(all_evidence: Sequence[Evidence]) -> list[str]:
    names = dict.fromkeys(_shown(n) for evidence in all_evidence for n in evidence.lost)
    if not names:
        return []
    return [
        f"not compared, as rounding alone may change them by more than 1%: the gradients of "
        f"{', '.join(names)}"
    ]


def _apart(evidence: Evidence) -> str:
    """What stands where there is no number."""
    for name, value in evidence.candidate.items():
        lost = ~torch.isfinite(value) & torch.isfinite(evidence.exact[name])
        if bool(lost.any()):
            at = tuple(lost.nonzero()[0].tolist())
            number = float(value[at])
            text = "NaN" if math.isnan(number) else f"{number:g}"
            return (
                f"the gradient of {_shown(name)} is {text} at {list(at)}, that of "
                f"{evidence.forward.structure.kind} {float(evidence.exact[name][at]):.6g}"
            )
    return ""
