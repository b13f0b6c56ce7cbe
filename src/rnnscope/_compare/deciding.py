"""How a comparison is decided: from what agrees to the mistakes that explain what does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from rnnscope._compare.approximate.beside import Beside, Data
from rnnscope._compare.approximate.own import own_parameters
from rnnscope._compare.approximate.words import with_fit, with_near, with_quantised
from rnnscope._compare.candidate.own_weights import OwnWeights
from rnnscope._compare.candidate.subject import Subject, Told
from rnnscope._compare.candidate.tensors import short
from rnnscope._compare.confirmed import EVIDENCE, by_own_rounding, confirmed, needed
from rnnscope._compare.confirmed import beside as fresh
from rnnscope._compare.evidence import beyond, evidence, largest, left_by
from rnnscope._compare.facts import (
    agrees_in_part,
    all_equal,
    explained_beside,
    explanations_by_facts,
    listed,
    not_reached,
    what_is_plain,
    where_it_agrees,
    wrong_rows,
)
from rnnscope._compare.facts.complete import explaining_mistakes
from rnnscope._compare.facts.numbers import fitted_findings
from rnnscope._compare.facts.prepared import of_another_x
from rnnscope._compare.facts.rewritten import rewritten
from rnnscope._compare.first_difference import first_difference, no_difference
from rnnscope._compare.mistakes import CATALOGUE, CONCERNS, Words
from rnnscope._compare.mistakes.cause import Cause, Causes, in_order
from rnnscope._compare.model.lengths import ends
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import (
    MISSING,
    Observation,
    distance,
    few_steps,
    numbers_alone,
)
from rnnscope._compare.model.steps import opened_parts, worst_step
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
from rnnscope._compare.tolerance import LEAST, beyond_type
from rnnscope._compare.undetectable import Unseen, unseen
from rnnscope._compare.verdict import Explanation, Verdict
from rnnscope._compare.work import EFFORT, Account, counted, is_over

__all__ = ["Decision"]

FEW = 32
"""Numbers that may be too few to tell one mistake from another."""

ALONE = 1 / 6
"""Effort with which mistakes are searched that explain the output alone."""

UNDECIDED = (
    "Nothing here can be compared: rounding alone may change every number by more than 1%, and no "
    "layer's steps are known one by one. Give a callable, fewer steps, or h of every layer."
)

NOTHING = (
    "Nothing was compared: {0} itself gives NaN or infinite numbers wherever it could be. Look at "
    "its weights and at the size of x."
)

AS_TORCH = 1e-3
"""What torch quantises in the same way differs by no more than so much of the difference."""

TELLING = EVIDENCE
"""Decimal digits by which numbers of few digits must be off in all, for mistakes to be searched."""

READ = {"output_axes": "the axes", "final_axes": "the final states"}
"""The family of what is undone to read what came back."""


class Decision:
    """One comparison, of numbers or calls; ``effort`` multiplies the work of the search in it."""

    def __init__(
        self,
        subject: Subject,
        effort: float,
        tell: Callable[[str], None] | None,
        within: float | None = None,
    ):
        self.subject, self.effort, self.tell, self.within = subject, effort, tell, within
        self.model = subject.model
        self.may_be_approximate = True
        self.coarse = ""  # what the numbers have no more than, where that is allowed for already
        self.work = Account(effort * EFFORT)
        self._by_facts: tuple[Explanation, ...] = ()

    @cached_property
    def _own(self) -> OwnWeights:
        """The candidate's own parameters."""
        return OwnWeights(*self.subject.other_weights())

    def verdict(self) -> Verdict:
        """What it comes to; with ``within`` an approximation of that size agrees."""
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
        read, direct = self.subject.read(), self.subject.direct()
        base = replace(self._facts(shown), worst=ratio)
        if ratio > 1 or direct or self.subject.raised:
            return self._differing(base, shown, read, direct)
        silent = unseen(self.model, [*shown, *more])
        base = replace(base, cannot_show=silent.titles, unseen=self._unseen(silent, shown))
        if read:
            left = largest(self.model, shown)[0]
            return replace(base, explanations=(_told(read, left, len(read)),))
        if not _comparable(self.model, shown):
            kind = base.kind
            return replace(base, undecided=NOTHING.format(kind) if base.overflow else UNDECIDED)
        if told := (*self.subject.unread, *_other_ends(shown[0])):
            # what cannot be compared does not agree
            rest = tuple(note for note in base.notes if " is not used:" not in note)
            return replace(base, unread=told, notes=rest)
        at_own_size = self._at_own_size()
        return replace(base, agrees=True) if at_own_size is None else at_own_size

    def _at_own_size(self) -> Verdict | None:
        """The verdict at the reference's own sizes, of what agrees at others; None where it agrees
        there too."""
        subject = self.subject.at_own_size()
        if subject is None or worst(subject.model, subject.shown()) <= 1:
            return None
        return Decision(subject, self.effort, self.tell).verdict()

    def _unseen(self, silent: Unseen, shown: Sequence[Observation]) -> tuple[str, ...]:
        """What the data would not show; of the caller's own also what they did not reach."""
        given = self.subject.given
        return (*silent.words, *(not_reached(self.model, shown) if given else ()))

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

    def _differing(
        self,
        base: Verdict,
        shown: Sequence[Observation],
        read: list[Told],
        direct: list[Told],
    ) -> Verdict:
        differs = base.worst > 1
        first, wrong_call = first_difference(self.model, shown)
        description = self.subject.described(wrong_call.inputs)
        base = replace(base, first=first, probe=description, steps=wrong_call.inputs.steps)
        if direct:
            by_calls = _told([*read, *direct], math.nan)
            random = any(cause.name == "random" for cause, _ in direct)
            if random or self.subject.keeps_state or not differs:
                holds = tuple(self.subject.findings)
                return replace(base, explanations=(by_calls,), holds=holds)
            # fresh copies of a module undo what it keeps: what is wrong beside it is searched for
            read = [
                *read,
                *(mistake for mistake in direct if mistake[0].name == "calls_chained"),
            ]
        kind, itself = self.subject.other_kind()
        if kind and itself:
            return replace(base, holds=(kind,))
        quantised = self.subject.quantised_by_torch() if differs else None
        if quantised is not None:
            bits, apart, weights_alone = quantised
            if apart <= AS_TORCH * base.difference:
                return with_quantised(base, bits, apart)
            if weights_alone is not None:
                verdict = Decision(weights_alone, self.effort, self.tell).verdict()
                note = f"torch has quantised it, to {bits}: what is compared are its weights alone"
                return replace(verdict, notes=(*verdict.notes, note))
            self.subject.findings.append(
                f"Torch has quantised it, to {bits}, from the weights of {base.kind}; what torch "
                f"makes of that differs from it by {apart:.2g}, so something around it is wrong."
            )
        lost = not_numbers(self.model, shown)
        if lost:
            numbers = self._numbers(shown)
            if not numbers or worst(self.model, numbers) <= 1:
                holds = (*_outer(read), lost, _without(shown, numbers), *self.subject.findings)
                return replace(base, holds=tuple(filter(None, holds)))
            base = replace(
                base,
                notes=(*base.notes, f"{lost} What is NaN or infinite is left out of the search"),
            )
            shown = numbers
        if differs:
            facts, is_listed = explanations_by_facts(self.model, shown)
            self._by_facts = tuple(
                _told([*read, (finding.cause, finding.words)], left, len(read))
                for finding, left in facts
            )
            if facts and not is_listed:
                return self._explained_by_facts(base, wrong_call)
        dtypes = self.subject.dtypes
        if differs and self._own.rounded:
            weights = self._own.cause(shown, short(dtypes[0]))
            if weights is not None:
                return replace(base, explanations=(_told([*read, weights[:2]], weights[2]),))
        exact = differs and not self.coarse
        lower = lower_precision(self.model, shown, dtypes) if exact else None
        if lower is not None:
            cause, words, left = lower
            return replace(base, explanations=(_told([*read, (cause, words)], left),))
        with counted(self.work):
            if differs and self._too_coarse(shown):
                verdict = self._coarse(base, shown, read, wrong_call)
            else:
                verdict = self._searched(base, shown, read, direct, wrong_call)
        return replace(verdict, work=self.work.done)

    def _coarse(
        self,
        base: Verdict,
        shown: Sequence[Observation],
        read: list[Told],
        wrong_call: Observation,
    ) -> Verdict:
        """What explains numbers that are too coarse to search for mistakes in."""
        approximations = self._approximations(shown)
        fit = approximations.with_likely()
        coarse = self._as_coarse(shown) if fit is None else None
        if coarse is not None and coarse.explanations:
            return coarse
        fit = fit or approximations.with_mistakes()
        if fit is not None:
            return with_fit(base, fit, approximations.data, read)
        if coarse is not None:
            return coarse
        return self._unexplained(base, shown, shown, read, wrong_call)

    def _explained_by_facts(self, base: Verdict, wrong_call: Observation) -> Verdict:
        agreement = where_it_agrees(self.model, wrong_call)
        return replace(base, explanations=self._by_facts, agreement=agreement)

    def _searched(
        self,
        base: Verdict,
        shown: Sequence[Observation],
        read: list[Told],
        direct: list[Told],
        wrong_call: Observation,
    ) -> Verdict:
        """What a search for mistakes comes to."""
        known_mistakes = [*read, *(mistake for mistake in direct if mistake not in read)]
        by_calls = (_told(known_mistakes, math.nan),) if direct else ()
        given = self.subject.searched()
        searched = self._numbers(given) or list(shown)
        if not given:
            alone = "it raised at all shorter inputs; mistakes were searched with these alone"
            base = replace(base, notes=(*base.notes, alone))
        if base.worst <= 1 and worst(self.model, searched) <= 1:
            # with nothing to explain, nothing is searched for
            if by_calls:
                return replace(base, explanations=by_calls)
            holds = "It agrees wherever it could be called; see the note for where it raised."
            return replace(base, holds=(holds,), unread=tuple(self.subject.unread))
        if base.worst <= 1 or agrees_in_part(self.model, wrong_call):
            self.may_be_approximate = False
        # where other weights are all that is wrong, it is these that a mistake may have changed
        likely = self._own.likely(shown)
        effort = self.effort / 3 if likely else self.effort
        search = Search(self.model, searched, effort, self.tell)
        result = search.run(SINGLES)
        approximations = self._approximations(shown, searched, search.left)
        if self.may_be_approximate and not result.sets:
            likely_alone = bool(approximations.data.evident) or approximations.small
            fit = approximations.alone() if likely_alone else None
            fit = fit or approximations.with_likely()
            if fit is not None:
                return with_fit(base, fit, approximations.data, read)
        if not result.sets and self._cut_in_time(shown):
            turned = turned_time(search, shown, self.subject.some_of, self.effort)
            result = replace(result, sets=tuple(turned))
        if not result.sets and not by_calls:
            by_equation = self._rewritten(base, shown, read, wrong_call, search, 0)
            if by_equation is not None:
                return by_equation
        result = result if result.sets else search.run(PAIRS)
        sets = confirmed(self.model, result, searched, shown, self.subject.sliced)
        if not sets and self._cut_in_time(shown):
            sets = self._of_whole_sequences(result, searched, shown)
        base = replace(base, tried=result.tried, finished=result.finished, effort=self.effort)
        if not sets and not by_calls:
            weights = self._own.cause(shown, short(self.subject.dtypes[0])) if likely else None
            if weights is not None:
                return replace(base, explanations=(_told([*read, weights[:2]], weights[2]),))
            verdict = self._by_other_means(base, shown, read, wrong_call, search)
            if verdict is None and self.may_be_approximate and not is_over():
                fit = approximations.with_mistakes(_nearest(result))
                if fit is not None:
                    return with_fit(base, fit, approximations.data, read)
            if verdict is not None:
                return verdict
        if not sets and not result.sets:
            result = search.run()
            sets = confirmed(self.model, result, searched, shown, self.subject.sliced)
            base = replace(base, tried=result.tried, finished=result.finished)
        if not sets:
            if by_calls:
                return replace(base, explanations=by_calls)
            if self.may_be_approximate:
                base = with_near(base, approximations.near(), approximations.data, read)
            every = [*fresh(searched, shown, self.subject.sliced), *shown]
            few = (
                evidence(every) < needed(result)
                and sum(observation.count for observation in every) < FEW
            )
            other = self._by_output(search, searched, shown)
            if other is not None:
                # all of it may be: there was no work left to find that
                sets = self._of_everything(*other, searched, shown)
            if other is None or not sets:
                base = replace(base, few=few)
                told_of = [] if other is None else [self._of_output(*other, shown)]
                return self._unexplained(base, searched, shown, read, wrong_call, told_of)
            search, result = other
        explanations = tuple(self._explanation(search, s, shown, read) for s in sets)
        named = {words.brief for explanation in explanations for words in explanation.words}
        silent = unseen(self.model, shown).but(named) if self.subject.given else Unseen()
        return replace(
            base,
            explanations=explanations,
            nearest=self._nearest(result, search, shown),
            right=self._right(search, sets, shown, silent),
            cannot_show=silent.titles,
            unseen=self._unseen(silent, shown),
            notes=(*base.notes, *self._beside(search, sets[0], shown)),
        )

    def _by_other_means(
        self,
        base: Verdict,
        shown: Sequence[Observation],
        read: list[Told],
        wrong_call: Observation,
        search: Search,
    ) -> Verdict | None:
        """The verdict where what stands in no catalogue explains everything, alone or beside a
        mistake; None where nothing does."""
        verdict = self._by_rows(base, wrong_call)
        if verdict is None and not is_over():
            verdict = self._rewritten(base, shown, read, wrong_call, search, 1)
        if verdict is not None:
            return verdict
        self._by_facts = tuple(
            _told([*read, (finding.cause, finding.words)], left, len(read))
            for finding, left in fitted_findings(self.model, shown)
        )
        if not self._by_facts and not is_over():
            beside = explained_beside(search, shown, self.effort)
            if beside is not None:
                self._by_facts = (_told([*read, *beside[0]], beside[1], len(read)),)
        return self._explained_by_facts(base, wrong_call) if self._by_facts else None

    def _cut_in_time(self, shown: Sequence[Observation]) -> bool:
        """Whether the first steps alone were searched."""
        cut = (self.subject.some_of(call) for call in shown) if self.subject.sliced else ()
        return any(c.inputs.steps < call.inputs.steps for c, call in zip(cut, shown, strict=False))

    def _of_whole_sequences(
        self,
        result: SearchOutcome,
        searched: Sequence[Observation],
        shown: Sequence[Observation],
    ) -> list[tuple[Cause, ...]]:
        """The single mistakes that explain everything, where the first steps alone were searched:
        one that turns time round shows in whole sequences."""
        rows = [few_steps(call, call.inputs.steps, 2) for call in shown]
        singles = explaining_mistakes(self.model, rows, ())
        whole = replace(result, sets=tuple(frozenset({cause}) for cause, _ in singles))
        return confirmed(self.model, whole, searched, shown, sliced=True)

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
        return Beside(data, self.effort, self.tell, known=known)

    def _numbers(self, observations: Sequence[Observation]) -> list[Observation]:
        """What is left of observations without NaN and infinities that are the candidate's own."""
        cut = (numbers_alone(observation, self.model) for observation in observations)
        return [observation for observation in cut if observation is not None]

    def _beside(
        self, search: Search, together: tuple[Cause, ...], shown: Sequence[Observation]
    ) -> list[str]:
        """Of the mistakes those without which the caller's data are explained as well: it was in
        the drawn inputs of the search that they showed."""
        if not self.subject.given or len(together) < 2:
            return []
        notes = []
        for cause in together:
            fewer = search.of(frozenset(together) - {cause})
            if fewer is not None and worst(fewer, shown) <= 1:
                brief = CATALOGUE[cause.name].words(cause, self.model).brief
                notes.append(f"{brief}: shown by drawn inputs, not by these data")
        return notes

    def _unexplained(
        self,
        base: Verdict,
        searched: Sequence[Observation],
        shown: Sequence[Observation],
        read: list[Told],
        wrong_call: Observation,
        alone: Sequence[str] = (),
    ) -> Verdict:
        """What can be said where nothing explains it: what explains the output ``alone``, and what
        still holds."""
        if self._by_facts:
            return self._explained_by_facts(base, wrong_call)
        of_weights = [difference.sentence for difference in self._own.apart]
        holds = (*alone, *what_holds(self.model, [*searched, *shown], wrong_call))
        size = " ".join(filter(None, (of_a_grid(self.model, shown), self._too_coarse(shown))))
        size = size or ("" if of_weights else of_the_size(self.model, shown, searched))
        size = size or ("" if of_weights else of_a_gpu(self.model, shown))
        kind, _ = self.subject.other_kind()
        plain = (
            *what_is_plain(self.model, wrong_call),
            of_another_x(self.model, max(shown, key=lambda observation: observation.fullness)),
            *self.subject.without_influence(),
            *self.subject.agrees_at_zero(),
        )
        sentences = (*_outer(read), kind, *of_weights, *plain, *holds, size, *self.subject.findings)
        agreement = where_it_agrees(self.model, wrong_call)
        return replace(base, holds=tuple(filter(None, sentences)), agreement=agreement)

    def _rewritten(
        self,
        base: Verdict,
        shown: Sequence[Observation],
        read: list[Told],
        wrong_call: Observation,
        search: Search,
        mistakes: int,
    ) -> Verdict | None:
        """The verdict where an equation that nobody has listed explains everything."""
        explained = rewritten(search, shown, mistakes)
        if explained is None:
            return None
        told, left = explained
        self._by_facts = (_told([*read, *told], left, len(read)),)
        return self._explained_by_facts(base, wrong_call)

    def _by_rows(self, base: Verdict, wrong_call: Observation) -> Verdict | None:
        """What explains the rows that differ, where others agree and these were searched alone."""
        rows = wrong_rows(self.model, wrong_call)
        subject = self.subject.only_rows(rows) if rows else None
        if subject is None:
            return None
        decision = Decision(subject, self.effort, self.tell)
        decision.may_be_approximate = False  # that would show in every row
        verdict = decision.verdict()
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
        agreement = where_it_agrees(self.model, wrong_call)
        return replace(base, explanations=explained, agreement=agreement, few=False)

    def _as_coarse(self, shown: Sequence[Observation]) -> Verdict | None:
        """The verdict on numbers of few digits within what these hide; None where they agree to
        that or nearly, or may have all digits."""
        digits = coarse_unit(self.model, shown, self.subject.dtypes)
        subject = None if digits is None else self.subject.as_coarse(digits[1])
        if digits is None or subject is None or beyond(self.model, subject.shown()) < TELLING:
            return None  # any change of that size would explain what is hardly there
        decision = Decision(subject, self.effort, self.tell)
        decision.coarse, decision.may_be_approximate = digits[0], False
        verdict = decision.verdict()
        if verdict.agrees or verdict.undecided:
            return None
        have = "have no more than" if "decimal" in digits[0] else "are"
        note = f"your numbers {have} {digits[0]}: a mistake that changes less does not show"
        return replace(verdict, dtype=digits[0], notes=(*verdict.notes, note))

    def _too_coarse(self, shown: Sequence[Observation]) -> str:
        """A sentence where the output's own numbers hide what a mistake would leave; else empty."""
        if self.coarse:
            return ""
        coarse = too_coarse(self.subject.dtypes)
        grid = None if coarse else grid_of(self.model, shown)
        if grid is None:
            return coarse
        numbers = f"has no more than {grid.name}" if grid.decimals else f"is in {grid.name}"
        return (
            f"Your output {numbers}, too coarse to search for mistakes in: return all digits of "
            f"every number to have mistakes searched for."
        )

    def _by_output(
        self, whole: Search, searched: Sequence[Observation], shown: Sequence[Observation]
    ) -> tuple[Search, SearchOutcome] | None:
        """The search for what explains the output alone, where something came beside it; None
        where nothing does."""
        if (
            not any(observation.final or observation.quantities for observation in shown)
            or self.effort < ALONE
        ):
            return None
        alone = [
            _output_alone(observation) for observation in searched if observation.output is not None
        ]
        shown_alone = [
            _output_alone(observation) for observation in shown if observation.output is not None
        ]
        if not alone or not shown_alone or worst(self.model, [*alone, *shown_alone]) <= 1:
            return None
        search = Search(self.model, alone, ALONE, self.tell, whole.parts)
        result = search.run(SIMPLE)
        sets = confirmed(self.model, result, alone, shown_alone, self.subject.sliced)
        return (search, replace(result, sets=tuple(map(frozenset, sets)))) if sets else None

    def _of_everything(
        self,
        search: Search,
        result: SearchOutcome,
        searched: Sequence[Observation],
        shown: Sequence[Observation],
    ) -> list[tuple[Cause, ...]]:
        """Of what explains the output alone that which explains everything."""
        models = [(s, search.of(s)) for s in result.sets]
        whole = tuple(s for s, model in models if model is not None and worst(model, searched) <= 1)
        explaining = replace(result, sets=whole)
        return confirmed(self.model, explaining, searched, shown, self.subject.sliced)

    def _of_output(
        self, search: Search, result: SearchOutcome, shown: Sequence[Observation]
    ) -> str:
        """That the output alone is explained, and what came beside it is not."""
        together = result.sets[0]
        changed = search.of(together)
        assert changed is not None, "what was confirmed applies"
        names = sorted(
            {
                name
                for observation in shown
                for name, beyond in observation.beyond(changed)
                if name != "output" and (beyond is None or bool(beyond.any()))
            }
        )
        words = [CATALOGUE[c.name].words(c, self.model) for c in sorted(together, key=str)]
        causes = " ".join(f"{mistake.title}: {mistake.sentence}" for mistake in words)
        verb = "is" if len(names) == 1 else "are"
        others_state = f"{' and '.join(names)} {verb} not" if names else "other inputs' is not"
        return f"the output alone is explained, {others_state}: {causes}"

    def _explanation(
        self,
        search: Search,
        together: tuple[Cause, ...],
        shown: Sequence[Observation],
        read: list[Told],
    ) -> Explanation:
        """The mistakes that were undone to read the output stand first; the table assumes them."""
        words = tuple(CATALOGUE[c.name].words(c, self.model) for c in together)
        alone = tuple(left_by(search.of(frozenset({c})), shown) for c in together)
        whole = search.of(frozenset(together))
        assert whole is not None, "what explains applies"
        observations = shown if worst(whole, shown) <= 1 else by_own_rounding(whole, shown)
        left = left_by(whole, observations)
        outer = _told(read, left)
        return Explanation(
            (*outer.causes, *together), (*outer.words, *words), left, alone, len(read)
        )

    def _nearest(
        self, result: SearchOutcome, search: Search, shown: Sequence[Observation]
    ) -> tuple[tuple[Cause, ...], tuple[Words, ...], float] | None:
        if result.nearest is None:
            return None
        together = tuple(sorted(result.nearest[0], key=str))
        words = tuple(CATALOGUE[c.name].words(c, self.model) for c in together)
        left = left_by(search.of(result.nearest[0]), shown)
        # what leaves more than nothing does comes not near
        return (together, words, left) if left < left_by(self.model, shown) else None

    def _right(
        self,
        search: Search,
        sets: Sequence[tuple[Cause, ...]],
        shown: Sequence[Observation],
        silent: Unseen,
    ) -> tuple[str, ...]:
        """What the data show to be right: families of mistakes none of which is in play, of which
        those of each parameter would have shown, and none is ``silent``."""
        data = (
            [few_steps(observation, 4, 4) for observation in shown] if self.subject.given else None
        )
        blamed = {CATALOGUE[c.name].family for s in sets for c in s} | self.subject.untried
        blamed |= {family for s in sets for c in s for family in CONCERNS.get(c.name, ())}
        blamed |= {READ[cause.name] for cause, _ in self.subject.read()} | silent.families
        titles = [CATALOGUE[c.name].words(c, self.model).title for s in sets for c in s]
        shown_by_family: dict[str, dict[str, bool]] = {}
        for cause in search.every:
            if cause != cause.everywhere():
                continue
            of = shown_by_family.setdefault(CATALOGUE[cause.name].family, {})
            of[cause.tensors] = of.get(cause.tensors, False) or search.shows(cause, data)
        return tuple(
            f
            for f, of in shown_by_family.items()
            if all(of.values()) and f not in blamed and not any(f in t for t in titles)
        )


def _nearest(result: SearchOutcome) -> tuple[Cause, ...]:
    """The mistakes with which a search left least."""
    return () if result.nearest is None else tuple(in_order(result.nearest[0]))


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


def _output_alone(observation: Observation) -> Observation:
    return replace(observation, final={}, quantities={})


def _comparable(model: Model, shown: Sequence[Observation]) -> bool:
    """Whether any number, or any single step, can be compared."""
    return any(observation.count for observation in shown) or any(
        part.compares for part in opened_parts(model, shown).values()
    )


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


def _outer(read: Sequence[Told]) -> list[str]:
    """What was undone to read the output, in sentences."""
    return [f"{words.title[0].upper()}{words.title[1:]}: {words.sentence}" for _, words in read]


def _told(known: Sequence[Told], left: float, read: int = 0) -> Explanation:
    return Explanation(tuple(c for c, _ in known), tuple(w for _, w in known), left, (), read)
