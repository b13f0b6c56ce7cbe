"""What the numbers show beside a mistake, or beside something else that they show.

Either hides the other: where a state begins anew is seen with the right equations alone, and a
wrong gate only in steps that follow from the step before. So one is looked for in what the other
leaves as it is: in the first steps, in one row, in the output but for its zeros, in what is the
same but for a factor. What is known then is put into the model, and the whole is judged again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

from rnnscope._compare.confirmed import by_own_rounding
from rnnscope._compare.facts.agreement import listed, wrong_rows
from rnnscope._compare.facts.clipped import of_clipping
from rnnscope._compare.facts.complete import explaining_mistakes, findings_explaining, mistakes_of
from rnnscope._compare.facts.ends import one_direction, without_zeros
from rnnscope._compare.facts.entering import of_dropout_on_x
from rnnscope._compare.facts.finding import first_steps, left_by_model, runs_forward
from rnnscope._compare.facts.parameters import of_parameters
from rnnscope._compare.facts.returned import alike_but_for_output, of_handed_on, undone
from rnnscope._compare.facts.solved import FIRST as FIRST_SOLVED
from rnnscope._compare.facts.solved import may_be_solved, solved_x
from rnnscope._compare.mistakes import CATALOGUE, Words, applied
from rnnscope._compare.mistakes.cause import Cause, in_order
from rnnscope._compare.model.misfit import misfits, worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, few_steps, some_rows
from rnnscope._compare.search.one_part import PartSearch
from rnnscope._compare.search.search import Search
from rnnscope._compare.search.trials import NEAR
from rnnscope._compare.work import EFFORT, Account, counted, is_over

__all__ = ["explained_beside"]

Told = tuple[Cause, Words]
Explained = tuple[tuple[Told, ...], float]
"""What is said, and the largest difference that it leaves."""

Mistaken = tuple[Cause, Model]
"""A mistake with the model that has it."""

WITH_X, WORK, WHOLE = 0.25, 0.3, 0.1
"""Work of x beside mistakes, of what is tried from a part of the data on, and of whole runs,
relative to that of a search."""

PART = 0.04
"""Effort with which mistakes are searched in a part of the data."""

MANY = 1000
"""Sets of mistakes and findings of which one may agree by chance, for each that is tried."""

FEW = 6
"""What explains a part, or comes closest, of which so many are tried further."""

CLOSEST = 12
"""Of two lists of what comes closest so many of either are tried with all of the other."""

FIRST = (3, 2)
"""Steps at the beginning of rows in which nothing may have begun anew yet."""

SEVERAL = 6
"""Steps of a row on which every mistake is compared."""

LONGEST = 10
"""Steps below which a first chunk of two directions is tried."""

MOST_ROWS = 4
"""Rows of the first steps on which many models are compared."""

TOGETHER = 512
"""Models that are run together."""


@dataclass(frozen=True)
class _Known:
    """What explains a part of the data: what it says, a model with it, and what was observed
    without what that model does not hold."""

    told: tuple[Told, ...]
    model: Model
    seen: Sequence[Observation]


def explained_beside(
    search: Search, shown: Sequence[Observation], effort: float
) -> Explained | None:
    """What the numbers show together with mistakes, or two things that they show, that explain all
    of it to rounding, with what they leave; None where nothing does. The ``search`` found nothing
    that explains it."""
    model = search.model
    pairs = mistakes_of(model, shown, CATALOGUE if sum(map(len, model.parts)) == 1 else ())
    nothing = _Known((), model, shown)
    for share, starts in (
        (WITH_X, chain([nothing], _of_some_parts(search, shown), _but_for_x(model, shown, pairs))),
        (WORK, _starts(model, shown, pairs, search.parts)),
    ):
        with counted(Account(effort * EFFORT * share)):
            explained = _from_starts(starts, shown)
        if explained is not None:
            return explained
    with counted(Account(effort * EFFORT * WHOLE)):
        return _of_whole_runs(model, shown)


def _told(causes: Iterable[Cause], model: Model) -> tuple[Told, ...]:
    return tuple((c, CATALOGUE[c.name].words(c, model)) for c in causes)


# what explains a part of it ----------------------------------------------------------------------


def _from_starts(starts: Iterable[_Known], shown: Sequence[Observation]) -> Explained | None:
    """What explains a part of the data, with what else all of it shows."""
    for tried, start in enumerate(starts, 1):
        more = math.log10(MANY * tried)
        known = replace(start, seen=by_own_rounding(start.model, start.seen))
        alone = left_by_model(known.model, shown, more) if known.told else None
        if alone is not None:
            return known.told, alone
        for finding, left in findings_explaining(known.model, known.seen, more):
            return (*known.told, (finding.cause, finding.words)), left
        rows = _of_rows(known, more)
        if rows is not None:
            return rows
        if is_over():
            return None
    return None


def _starts(
    model: Model, shown: Sequence[Observation], pairs: Sequence[Mistaken], parts: PartSearch
) -> Iterator[_Known]:
    """What explains the data but for what else they may show."""
    for cause, changed in _but_for_output(model, shown, pairs):
        yield _Known(_told([cause], model), changed, shown)
    for part in _parts_of_time(model, shown):
        if worst(model, part) <= 1:
            continue  # nothing shows there
        for finding, _ in findings_explaining(model, part):
            for seen in undone(finding, shown):
                yield _Known(((finding.cause, finding.words),), model, seen)
        yield from _mistaken(model, part, shown, parts)
    for rows in _single_rows(shown):
        yield from _mistaken(model, rows, shown, parts)
    for part in chain(_chunks(model, shown), without_zeros(model, shown)):
        if is_over():
            return
        for cause, changed in explaining_mistakes(model, part, ())[:FEW]:
            yield _Known(_told([cause], model), changed, shown)


def _of_some_parts(search: Search, shown: Sequence[Observation]) -> Iterator[_Known]:
    """The mistakes that explain some layers and directions, and not the others."""
    for causes in search.of_some_parts()[:FEW]:
        changed = search.of(causes)
        if changed is not None:
            yield _Known(_told(in_order(causes), search.model), changed, shown)


def _but_for_output(
    model: Model, shown: Sequence[Observation], pairs: Sequence[Mistaken]
) -> Iterator[Mistaken]:
    """The mistakes with which the output is the same but for what was done to it at last."""
    first = first_steps(model, shown[0], SEVERAL, 1)
    alike = alike_but_for_output([changed for _, changed in pairs], first)
    yield from (pairs[k] for k in alike[:FEW])


def _but_for_x(
    model: Model, shown: Sequence[Observation], pairs: Sequence[Mistaken]
) -> Iterator[_Known]:
    """The mistakes with which each step tells the x that it read."""
    fullest = max(shown, key=lambda observation: observation.fullness)
    begun, first = few_steps(fullest, 1, MOST_ROWS), few_steps(fullest, *FIRST_SOLVED)
    for cause, changed in pairs if may_be_solved(model) else ():
        if is_over():
            return
        if solved_x(changed, begun, 0) is not None and solved_x(changed, first) is not None:
            yield _Known(_told([cause], model), changed, shown)


def _parts_of_time(model: Model, shown: Sequence[Observation]) -> Iterator[Sequence[Observation]]:
    """The first steps of all rows, where later ones do not reach back."""
    for steps in FIRST if runs_forward(model) else ():
        cut = [few_steps(o, steps, o.inputs.batch) for o in shown if o.inputs.steps > steps]
        if cut and all(o.inputs.steps == steps for o in cut):
            yield cut


def _single_rows(shown: Sequence[Observation]) -> Iterator[Sequence[Observation]]:
    """The first row and the last by themselves, of numbers that were recorded."""
    if len(shown) == 1 and shown[0].inputs.batch > 1:
        for row in (0, shown[0].inputs.batch - 1):
            yield [some_rows(shown[0], torch.tensor([row], dtype=torch.long, device="cpu"))]


def _chunks(model: Model, shown: Sequence[Observation]) -> Iterator[Sequence[Observation]]:
    """Of two directions the first steps that each computes; of several layers, where each reads
    both, the first chunk by itself."""
    if model.num_directions == 1 or any(o.inputs.lengths is not None for o in shown):
        return
    shortest = min(o.inputs.steps for o in shown)
    for steps in FIRST if model.num_layers == 1 else ():
        if steps < shortest and all(o.output is not None for o in shown):
            ends = [((0, steps), (o.inputs.steps - steps, o.inputs.steps)) for o in shown]
            pairs = [(o, d, end[d]) for o, end in zip(shown, ends, strict=True) for d in (0, 1)]
            yield [one_direction(model, o, d, interval) for o, d, interval in pairs]
    for k in range(2, min(shortest, LONGEST)) if model.num_layers > 1 else ():
        yield [few_steps(o, k, o.inputs.batch) for o in shown]


def _mistaken(
    model: Model, part: Sequence[Observation], shown: Sequence[Observation], parts: PartSearch
) -> Iterator[_Known]:
    """The model with the mistakes that explain a part."""
    search = Search(model, part, PART, parts=parts)
    for s in search.run().sets[:FEW]:
        changed = search.of(s)
        if s and changed is not None:
            yield _Known(_told(in_order(s), model), changed, shown)


# what is left is wrong in some rows alone --------------------------------------------------------


def _of_rows(known: _Known, more: float) -> Explained | None:
    """A mistake in the rows that are left, where others agree."""
    wrong = [o for o in known.seen if worst(known.model, [o]) > 1]
    rows = [wrong_rows(known.model, observation) for observation in wrong]
    if not wrong or not all(rows):
        return None
    rest = [
        some_rows(o, torch.tensor(r, dtype=torch.long, device="cpu"))
        for o, r in zip(wrong, rows, strict=True)
    ]
    for cause, changed in explaining_mistakes(known.model, rest, CATALOGUE):
        left = left_by_model(changed, rest, more)
        if left is not None:
            words = CATALOGUE[cause.name].words(cause, known.model)
            words = replace(words, title=f"in {listed('row', rows[0])} alone, {words.title}")
            return (*known.told, (cause, words)), left
    return None


# neither leaves anything as it is ----------------------------------------------------------------


def _of_whole_runs(model: Model, shown: Sequence[Observation]) -> Explained | None:
    """A parameter that is another one, or a factor between layers, beside a mistake: those that
    come closest alone are tried with all others."""
    every = chain(
        of_dropout_on_x(model), of_handed_on(model), of_clipping(model, shown), of_parameters(model)
    )
    findings = [(f, f.model) for f in every if f.model is not None]
    mistakes = mistakes_of(model, shown, ())
    first = few_steps(shown[0], shown[0].inputs.steps, 1)
    if model.num_directions == 1:
        first = few_steps(shown[0], 2, MOST_ROWS)
    by_facts = _nearest([base for _, base in findings], first)
    by_mistakes = _nearest([changed for _, changed in mistakes], first)
    pairs = [(f, c) for f in by_facts[:CLOSEST] for c in range(len(mistakes))]
    pairs += [(f, c) for f in by_facts[CLOSEST:] for c in by_mistakes[:CLOSEST]]
    more = math.log10(max(1, len(pairs)))
    for start in range(0, len(pairs), TOGETHER):
        if is_over():
            return None
        chosen = [
            (f, c, changed)
            for f, c in pairs[start : start + TOGETHER]
            if (changed := applied(findings[f][1], (mistakes[c][0],))) is not None
        ]
        ratios = misfits([first], [m for _, _, m in chosen], [first.simulator]).worst.tolist()
        for (f, c, changed), ratio in zip(chosen, ratios, strict=True):
            left = left_by_model(changed, shown, more) if ratio <= NEAR else None
            if left is None:
                continue
            (cause, mistaken), (finding, _) = mistakes[c], findings[f]
            without = left_by_model(mistaken, shown, more)
            if without is not None:
                return _told([cause], model), without  # the finding changes nothing beside it
            return ((finding.cause, finding.words), *_told([cause], model)), left
    return None


def _nearest(models: Sequence[Model], observation: Observation) -> list[int]:
    """Which come closest, the closest first."""
    if not models or not observation.count:
        return []
    total = misfits([observation], models, [observation.simulator]).total.tolist()
    return sorted(range(len(models)), key=lambda k: total[k])
