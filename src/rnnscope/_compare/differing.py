"""What explains a difference: read off the numbers, approximate on purpose, or found by a search.

The steps come in the order of how likely they explain it, and the first that does ends them. One
account holds the work of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rnnscope._compare.approximate.beside import Beside, Data
from rnnscope._compare.approximate.fit import Fit
from rnnscope._compare.approximate.own import own_parameters
from rnnscope._compare.approximate.words import with_fit, with_near, with_quantised
from rnnscope._compare.candidate.own_weights import OwnWeights
from rnnscope._compare.candidate.subject import Subject, Told
from rnnscope._compare.candidate.tensors import short
from rnnscope._compare.confirmed import EVIDENCE, confirmed, needed
from rnnscope._compare.confirmed import beside as fresh
from rnnscope._compare.evidence import beyond, evidence
from rnnscope._compare.explaining import (
    explanation_of,
    nearest_of,
    not_shown_by,
    not_shown_without,
    of_output_alone,
    right_families,
    sentences_of,
    told,
)
from rnnscope._compare.facts import (
    agrees_in_part,
    explained_beside,
    explanations_by_facts,
    listed,
    what_is_plain,
    where_it_agrees,
    wrong_rows,
)
from rnnscope._compare.facts.complete import explaining_mistakes
from rnnscope._compare.facts.numbers import fitted_findings
from rnnscope._compare.facts.prepared import of_another_x
from rnnscope._compare.facts.rewritten import rewritten
from rnnscope._compare.first_difference import first_difference
from rnnscope._compare.mistakes.cause import Cause, Causes, in_order
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.observed import Observation, few_steps, numbers_alone
from rnnscope._compare.precision import (
    coarse_unit,
    grid_of,
    lower_precision,
    of_a_gpu,
    of_a_grid,
    of_the_size,
    too_coarse,
)
from rnnscope._compare.remaining import not_numbers, what_holds
from rnnscope._compare.search.search import PAIRS, SIMPLE, SINGLES, Search, SearchOutcome
from rnnscope._compare.search.turned_time import turned_time
from rnnscope._compare.undetectable import Unseen, unseen
from rnnscope._compare.verdict import Explanation, Verdict
from rnnscope._compare.work import EFFORT, Account, counted, is_over

__all__ = ["Difference", "Settings"]

FEW = 32
"""Numbers that may be too few to tell one mistake from another."""

ALONE = 1 / 6
"""Effort with which mistakes are searched that explain the output alone."""

AS_TORCH = 1e-3
"""What torch quantises in the same way differs by no more than so much of the difference."""

TELLING = EVIDENCE
"""Decimal digits by which numbers of few digits must be off in all, for mistakes to be searched."""

Sets = list[tuple[Cause, ...]]


@dataclass(frozen=True)
class Settings:
    """How a difference is looked into: ``effort`` multiplies the work, ``tell`` is told how far it
    is; whether what is ``approximate`` on purpose may explain it; and what the numbers have no more
    than (``coarse``), where that is allowed for already."""

    effort: float = 1.0
    tell: Callable[[str], None] | None = None
    approximate: bool = True
    coarse: str = ""


class Difference:
    """A candidate that differs from the reference, or whose calls tell of a mistake."""

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        again: Callable[[Subject, Settings], Verdict],
        base: Verdict,
        shown: Sequence[Observation],
    ):
        """``again`` compares a part of it, or the same in another way; ``base`` is the verdict
        without an explanation, on what was ``shown``."""
        self.subject, self.model, self.settings, self.again = (
            subject,
            subject.model,
            settings,
            again,
        )
        self.base, self.shown = base, shown
        self.read = list(subject.read())
        self.approximate = settings.approximate
        self.work = Account(settings.effort * EFFORT)
        self.read_off: tuple[Explanation, ...] = ()
        first, self.wrong_call = first_difference(self.model, shown)
        inputs = self.wrong_call.inputs
        self._say(first=first, probe=subject.described(inputs), steps=inputs.steps)

    def verdict(self, direct: Sequence[Told]) -> Verdict:
        """What explains it; ``direct`` is what calls alone have told."""
        at_once = self._by_calls(direct) if direct else None
        at_once = self._at_once() if at_once is None else at_once
        return self._at_length(direct) if at_once is None else at_once

    def _say(self, **more: Any) -> Verdict:
        """The verdict so far, of which more is known."""
        self.base = replace(self.base, **more)
        return self.base

    @cached_property
    def _own(self) -> OwnWeights:
        """The candidate's own parameters."""
        return OwnWeights(*self.subject.other_weights())

    @property
    def differs(self) -> bool:
        """Whether any number is off, and not only what calls tell."""
        return self.base.worst > 1

    @property
    def _plain(self) -> Settings:
        """The effort, and nothing else that is known of these numbers."""
        return Settings(self.settings.effort, self.settings.tell)

    # without a search -----------------------------------------------------------------------

    def _by_calls(self, direct: Sequence[Told]) -> Verdict | None:
        """What calls alone tell, where that is all that can be said."""
        random = any(cause.name == "random" for cause, _ in direct)
        if random or self.subject.keeps_state or not self.differs:
            by_calls = told([*self.read, *direct], math.nan)
            return self._say(explanations=(by_calls,), holds=tuple(self.subject.findings))
        # fresh copies of a module undo what it keeps: what is wrong beside it is searched for
        self.read += [known for known in direct if known[0].name == "calls_chained"]
        return None

    def _at_once(self) -> Verdict | None:
        """What tells at once what is wrong, or that nothing else can be told."""
        kind, itself = self.subject.other_kind()
        if kind and itself:
            return self._say(holds=(kind,))
        verdict = self._as_torch_quantises() if self.differs else None
        verdict = self._without_numbers() if verdict is None else verdict
        if verdict is None and self.differs:
            verdict = self._as_read_off()
        return verdict

    def _as_torch_quantises(self) -> Verdict | None:
        """What torch has quantised is that, or has other weights."""
        quantised = self.subject.quantised_by_torch()
        if quantised is None:
            return None
        bits, apart, weights_alone = quantised
        if apart <= AS_TORCH * self.base.difference:
            return with_quantised(self.base, bits, apart)
        if weights_alone is not None:
            verdict = self.again(weights_alone, self._plain)
            note = f"torch has quantised it, to {bits}: what is compared are its weights alone"
            return replace(verdict, notes=(*verdict.notes, note))
        self.subject.findings.append(
            f"Torch has quantised it, to {bits}, from the weights of {self.base.kind}; what torch "
            f"makes of that differs from it by {apart:.2g}, so something around it is wrong."
        )
        return None

    def _without_numbers(self) -> Verdict | None:
        """Of NaN and infinities what they come from; they are left out where other numbers
        differ."""
        lost = not_numbers(self.model, self.shown)
        if not lost:
            return None
        numbers = self._numbers(self.shown)
        if not numbers or worst(self.model, numbers) <= 1:
            rest = _without(self.shown, numbers)
            holds = (*sentences_of(self.read), lost, rest, *self.subject.findings)
            return self._say(holds=tuple(filter(None, holds)))
        note = f"{lost} What is NaN or infinite is left out of the search"
        self._say(notes=(*self.base.notes, note))
        self.shown = numbers
        return None

    def _as_read_off(self) -> Verdict | None:
        """What the numbers show, other weights or a lower precision, where that is all."""
        facts, is_listed = explanations_by_facts(self.model, self.shown)
        self._keep(([(f.cause, f.words)], left) for f, left in facts)
        if facts and not is_listed:
            return self._as_kept()
        if self._own.rounded:
            weights = self._own.cause(self.shown, short(self.subject.dtypes[0]))
            if weights is not None:
                return self._say(explanations=(told([*self.read, weights[:2]], weights[2]),))
        if self.settings.coarse:
            return None
        lower = lower_precision(self.model, self.shown, self.subject.dtypes)
        if lower is None:
            return None
        cause, words, left = lower
        return self._say(explanations=(told([*self.read, (cause, words)], left),))

    def _keep(self, found: Iterable[tuple[Sequence[Told], float]]) -> None:
        """What is read off the numbers, with what it leaves, in place of what was before."""
        read = len(self.read)
        kept = (told([*self.read, *known], left, read) for known, left in found)
        self.read_off = tuple(kept)

    def _as_kept(self) -> Verdict:
        """The verdict with what was read off the numbers."""
        agreement = where_it_agrees(self.model, self.wrong_call)
        return self._say(explanations=self.read_off, agreement=agreement)

    # few digits -----------------------------------------------------------------------------

    def _at_length(self, direct: Sequence[Told]) -> Verdict:
        """What is fitted and searched for."""
        with counted(self.work):
            if self.differs and self._too_coarse():
                verdict = self._coarse()
            else:
                verdict = self._searched(direct)
        return replace(verdict, work=self.work.done)

    def _coarse(self) -> Verdict:
        """What explains numbers that are too coarse to search for mistakes in."""
        approximations = self._approximations(self.shown)
        fit = approximations.with_likely()
        coarse = self._as_coarse() if fit is None else None
        if coarse is not None and coarse.explanations:
            return coarse
        fit = fit or approximations.with_mistakes()
        if fit is not None:
            return self._fitted(fit, approximations)
        return self._unexplained(self.shown) if coarse is None else coarse

    def _as_coarse(self) -> Verdict | None:
        """The verdict on numbers of few digits within what these hide; None where they agree to
        that or nearly, or may have all digits."""
        digits = coarse_unit(self.model, self.shown, self.subject.dtypes)
        subject = None if digits is None else self.subject.as_coarse(digits[1])
        if digits is None or subject is None or beyond(self.model, subject.shown()) < TELLING:
            return None  # any change of that size would explain what is hardly there
        settings = replace(self.settings, approximate=False, coarse=digits[0])
        verdict = self.again(subject, settings)
        if verdict.agrees or verdict.undecided:
            return None
        have = "have no more than" if "decimal" in digits[0] else "are"
        note = f"your numbers {have} {digits[0]}: a mistake that changes less does not show"
        return replace(verdict, dtype=digits[0], notes=(*verdict.notes, note))

    def _too_coarse(self) -> str:
        """A sentence where the output's own numbers hide what a mistake would leave; else empty."""
        if self.settings.coarse:
            return ""
        coarse = too_coarse(self.subject.dtypes)
        grid = None if coarse else grid_of(self.model, self.shown)
        if grid is None:
            return coarse
        numbers = f"has no more than {grid.name}" if grid.decimals else f"is in {grid.name}"
        return (
            f"Your output {numbers}, too coarse to search for mistakes in: return all digits of "
            f"every number to have mistakes searched for."
        )

    # a search -------------------------------------------------------------------------------

    def _searched(self, direct: Sequence[Told]) -> Verdict:
        """What a search for mistakes comes to."""
        by_calls = [*self.read, *(known for known in direct if known not in self.read)]
        by_calls = by_calls if direct else []
        given = self.subject.searched()
        searched = self._numbers(given) or list(self.shown)
        if not given:
            alone = "it raised at all shorter inputs; mistakes were searched with these alone"
            self._say(notes=(*self.base.notes, alone))
        if not self.differs and worst(self.model, searched) <= 1:
            # with nothing to explain, nothing is searched for
            if by_calls:
                return self._say(explanations=(told(by_calls, math.nan),))
            holds = "It agrees wherever it could be called; see the note for where it raised."
            return self._say(holds=(holds,), unread=tuple(self.subject.unread))
        if not self.differs or agrees_in_part(self.model, self.wrong_call):
            self.approximate = False
        return self._by_stages(searched, by_calls)

    def _by_stages(self, searched: Sequence[Observation], by_calls: Sequence[Told]) -> Verdict:
        """Single mistakes, what is approximate, pairs, what stands in no catalogue, sets of three;
        ``by_calls`` is what is said of calls where nothing else explains it."""
        # where other weights are all that is wrong, it is these that a mistake may have changed
        likely = self._own.likely(self.shown)
        effort = self.settings.effort / 3 if likely else self.settings.effort
        search = Search(self.model, searched, effort, self.settings.tell)
        result = search.run(SINGLES)
        approximations = self._approximations(self.shown, searched, search.left)
        if self.approximate and not result.sets:
            likely_alone = bool(approximations.data.evident) or approximations.small
            fit = approximations.alone() if likely_alone else None
            fit = fit or approximations.with_likely()
            if fit is not None:
                return self._fitted(fit, approximations)
        if not result.sets and self._cut_in_time():
            turned = turned_time(search, self.shown, self.subject.some_of, self.settings.effort)
            result = replace(result, sets=tuple(turned))
        # where no step is known by itself an equation costs more than all pairs
        if not result.sets and not by_calls and search.opened() and self._rewritten(search, 0):
            return self._as_kept()
        result = result if result.sets else search.run(PAIRS)
        sets = self._confirmed(result, searched)
        if not sets and self._cut_in_time():
            sets = self._of_whole_sequences(result, searched)
        self._say(tried=result.tried, finished=result.finished, effort=self.settings.effort)
        if not sets and not by_calls:
            verdict = self._by_other_means(search, likely)
            if verdict is None and self.approximate and not is_over():
                nearest = () if result.nearest is None else tuple(in_order(result.nearest[0]))
                fit = approximations.with_mistakes(nearest)
                verdict = None if fit is None else self._fitted(fit, approximations)
            if verdict is not None:
                return verdict
        if not sets and not result.sets:
            result = search.run()
            sets = self._confirmed(result, searched)
            self._say(tried=result.tried, finished=result.finished)
        if sets:
            return self._named(search, result, sets)
        if by_calls:
            return self._say(explanations=(told(by_calls, math.nan),))
        return self._by_output(search, result, searched, approximations)

    def _confirmed(self, result: SearchOutcome, searched: Sequence[Observation]) -> Sets:
        """Of what explains what was searched that which explains all data."""
        return confirmed(self.model, result, searched, self.shown, self.subject.sliced)

    def _named(self, search: Search, result: SearchOutcome, sets: Sets) -> Verdict:
        """The verdict that names sets of mistakes, each of which explains everything."""
        explanations = tuple(explanation_of(search, s, self.shown, self.read) for s in sets)
        named = {words.brief for explanation in explanations for words in explanation.words}
        given = self.subject.given
        silent = unseen(self.model, self.shown).but(named) if given else Unseen()
        beside = not_shown_without(search, sets[0], self.shown) if given else []
        return self._say(
            explanations=explanations,
            nearest=nearest_of(result, search, self.shown),
            right=right_families(self.subject, search, sets, self.shown, silent),
            cannot_show=silent.titles,
            unseen=not_shown_by(self.subject, silent, self.shown),
            notes=(*self.base.notes, *beside),
        )

    def _cut_in_time(self) -> bool:
        """Whether the first steps alone were searched."""
        shown = self.shown
        cut = (self.subject.some_of(call) for call in shown) if self.subject.sliced else ()
        return any(c.inputs.steps < call.inputs.steps for c, call in zip(cut, shown, strict=False))

    def _of_whole_sequences(self, result: SearchOutcome, searched: Sequence[Observation]) -> Sets:
        """The single mistakes that explain everything, where the first steps alone were searched:
        one that turns time round shows in whole sequences."""
        rows = [few_steps(call, call.inputs.steps, 2) for call in self.shown]
        singles = explaining_mistakes(self.model, rows, ())
        whole = replace(result, sets=tuple(frozenset({cause}) for cause, _ in singles))
        return confirmed(self.model, whole, searched, self.shown, sliced=True)

    # what stands in no catalogue ------------------------------------------------------------

    def _by_other_means(self, search: Search, likely: bool) -> Verdict | None:
        """The verdict where what stands in no catalogue explains everything, alone or beside a
        mistake; None where nothing does. ``likely``: the candidate's own weights may be all."""
        dtype = short(self.subject.dtypes[0])
        weights = self._own.cause(self.shown, dtype) if likely else None
        if weights is not None:
            return self._say(explanations=(told([*self.read, weights[:2]], weights[2]),))
        verdict = self._by_rows()
        if verdict is not None:
            return verdict
        if not is_over() and self._rewritten(search, 1 if search.opened() else 0):
            return self._as_kept()
        fitted = fitted_findings(self.model, self.shown)
        self._keep(([(finding.cause, finding.words)], left) for finding, left in fitted)
        if not self.read_off and not is_over():
            beside = explained_beside(search, self.shown, self.settings.effort)
            self._keep([] if beside is None else [beside])
        return self._as_kept() if self.read_off else None

    def _rewritten(self, search: Search, mistakes: int) -> bool:
        """Whether an equation that nobody has listed explains everything beside so many
        mistakes."""
        explained = rewritten(search, self.shown, mistakes)
        if explained is not None:
            self._keep([explained])
        return explained is not None

    def _by_rows(self) -> Verdict | None:
        """What explains the rows that differ, where others agree and these were searched alone."""
        rows = wrong_rows(self.model, self.wrong_call)
        subject = self.subject.only_rows(rows) if rows else None
        if subject is None:
            return None
        # what is approximate would show in every row
        verdict = self.again(subject, replace(self._plain, approximate=False))
        if not verdict.explanations:
            return None
        where = f"in {listed('row', rows)} alone"
        explained = tuple(
            replace(
                explanation,
                words=tuple(replace(w, title=f"{where}, {w.title}") for w in explanation.words),
            )
            for explanation in verdict.explanations
        )
        agreement = where_it_agrees(self.model, self.wrong_call)
        return self._say(explanations=explained, agreement=agreement, few=False)

    def _approximations(
        self,
        shown: Sequence[Observation],
        searched: Sequence[Observation] | None = None,
        known: Callable[[Causes], float | None] = lambda _: None,
    ) -> Beside:
        """The search for what is approximate on purpose, alone and beside mistakes; ``known``: how
        much a search found to be left with these."""
        own = own_parameters(self.model, self._own.model)
        few = self._numbers(self.subject.searched()) if searched is None else searched
        evident = () if own is None else (own,)
        data = Data(self.model, few or shown, shown, self.subject.sliced, evident)
        return Beside(data, self.settings.effort, self.settings.tell, known=known)

    def _fitted(self, fit: Fit, approximations: Beside) -> Verdict:
        return with_fit(self.base, fit, approximations.data, self.read)

    def _numbers(self, observations: Sequence[Observation]) -> list[Observation]:
        """What is left of observations without NaN and infinities that are the candidate's own."""
        cut = (numbers_alone(observation, self.model) for observation in observations)
        return [observation for observation in cut if observation is not None]

    # what explains a part of it -------------------------------------------------------------

    def _by_output(
        self,
        whole: Search,
        result: SearchOutcome,
        searched: Sequence[Observation],
        approximations: Beside,
    ) -> Verdict:
        """Where nothing explains everything: what explains the output alone, or all of it after
        all, for want of work before; near misses, and what holds."""
        if self.approximate:
            near = approximations.near()
            self.base = with_near(self.base, near, approximations.data, self.read)
        every = [*fresh(searched, self.shown, self.subject.sliced), *self.shown]
        few = (
            evidence(every) < needed(result)
            and sum(observation.count for observation in every) < FEW
        )
        other = self._of_output(whole, searched)
        if other is None:
            self._say(few=few)
            return self._unexplained(searched)
        search, outcome = other
        models = [(s, search.of(s)) for s in outcome.sets]
        all_of_it = tuple(s for s, m in models if m is not None and worst(m, searched) <= 1)
        sets = self._confirmed(replace(outcome, sets=all_of_it), searched)
        if sets:
            return self._named(search, outcome, sets)
        self._say(few=few)
        return self._unexplained(searched, [of_output_alone(search, outcome, self.shown)])

    def _of_output(
        self, whole: Search, searched: Sequence[Observation]
    ) -> tuple[Search, SearchOutcome] | None:
        """The search for what explains the output alone, where something came beside it; None
        where nothing does."""
        if self.settings.effort < ALONE or not any(o.final or o.quantities for o in self.shown):
            return None
        alone, shown_alone = (
            [replace(o, final={}, quantities={}) for o in observations if o.output is not None]
            for observations in (searched, self.shown)
        )
        if not alone or not shown_alone or worst(self.model, [*alone, *shown_alone]) <= 1:
            return None
        search = Search(self.model, alone, ALONE, self.settings.tell, whole.parts)
        result = search.run(SIMPLE)
        sets = confirmed(self.model, result, alone, shown_alone, self.subject.sliced)
        return (search, replace(result, sets=tuple(map(frozenset, sets)))) if sets else None

    def _unexplained(self, searched: Sequence[Observation], alone: Sequence[str] = ()) -> Verdict:
        """What can be said where nothing explains it: what explains the output ``alone``, and what
        still holds."""
        if self.read_off:
            return self._as_kept()
        shown, subject = self.shown, self.subject
        of_weights = [difference.sentence for difference in self._own.apart]
        holds = (*alone, *what_holds(self.model, [*searched, *shown], self.wrong_call))
        size = " ".join(filter(None, (of_a_grid(self.model, shown), self._too_coarse())))
        if not of_weights:
            size = size or of_the_size(self.model, shown, searched) or of_a_gpu(self.model, shown)
        kind, _ = subject.other_kind()
        plain = (
            *what_is_plain(self.model, self.wrong_call),
            of_another_x(self.model, max(shown, key=lambda observation: observation.fullness)),
            *subject.without_influence(),
            *subject.agrees_at_zero(),
            *(subject.with_dropout() if self.base.first and self.base.first.layer else ()),
        )
        outer = sentences_of(self.read)
        sentences = (*outer, kind, *of_weights, *plain, *holds, size, *subject.findings)
        agreement = where_it_agrees(self.model, self.wrong_call)
        return self._say(holds=tuple(filter(None, sentences)), agreement=agreement)


def _without(shown: Sequence[Observation], left_over: Sequence[Observation]) -> str:
    """A sentence on what is left without NaN and infinities, where it agrees."""
    if not left_over:
        return ""
    rows, steps = ({getattr(o.inputs, n) for o in shown} for n in ("batch", "steps"))
    if any(observation.inputs.batch not in rows for observation in left_over):
        return "The other rows agree."
    if any(observation.inputs.steps not in steps for observation in left_over):
        return "The steps before agree."
    return "The other calls agree."
