"""What a search found, as explanations: what was wrong, what it leaves, and what is right."""

from __future__ import annotations

from collections.abc import Sequence

from rnnscope._compare.candidate.subject import Subject, Told
from rnnscope._compare.confirmed import by_own_rounding
from rnnscope._compare.evidence import left_by
from rnnscope._compare.facts import not_reached
from rnnscope._compare.mistakes import CATALOGUE, CONCERNS, Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._compare.search.search import Search, SearchOutcome
from rnnscope._compare.text import sentence
from rnnscope._compare.undetectable import Unseen
from rnnscope._compare.verdict import Explanation

__all__ = [
    "explanation_of",
    "nearest_of",
    "not_shown_by",
    "not_shown_without",
    "of_output_alone",
    "right_families",
    "sentences_of",
    "told",
]

READ = {"output_axes": "the axes", "final_axes": "the final states"}
"""The family of what is undone to read what came back."""


def told(known: Sequence[Told], left: float, read: int = 0) -> Explanation:
    """What is known without a search as an explanation, of which so many were undone to read what
    came back."""
    return Explanation(tuple(c for c, _ in known), tuple(w for _, w in known), left, (), read)


def sentences_of(read: Sequence[Told]) -> list[str]:
    """What was undone to read the output, in sentences."""
    return [sentence(f"{words.title}: {words.sentence}") for _, words in read]


def explanation_of(
    search: Search,
    together: tuple[Cause, ...],
    shown: Sequence[Observation],
    read: Sequence[Told],
) -> Explanation:
    """The mistakes that were undone to read the output stand first; the table assumes them."""
    words = tuple(CATALOGUE[c.name].words(c, search.model) for c in together)
    alone = tuple(left_by(search.of(frozenset({c})), shown) for c in together)
    whole = search.of(frozenset(together))
    assert whole is not None, "what explains applies"
    observations = shown if worst(whole, shown) <= 1 else by_own_rounding(whole, shown)
    left = left_by(whole, observations)
    outer = told(read, left)
    return Explanation((*outer.causes, *together), (*outer.words, *words), left, alone, len(read))


def nearest_of(
    result: SearchOutcome, search: Search, shown: Sequence[Observation]
) -> tuple[tuple[Cause, ...], tuple[Words, ...], float] | None:
    """The set that comes closest of those that explain nothing, in words, with what it leaves; None
    where it comes no nearer than nothing does."""
    if result.nearest is None:
        return None
    together = tuple(sorted(result.nearest[0], key=str))
    words = tuple(CATALOGUE[c.name].words(c, search.model) for c in together)
    left = left_by(search.of(result.nearest[0]), shown)
    return (together, words, left) if left < left_by(search.model, shown) else None


def right_families(
    subject: Subject,
    search: Search,
    sets: Sequence[tuple[Cause, ...]],
    shown: Sequence[Observation],
    silent: Unseen,
) -> tuple[str, ...]:
    """What the data show to be right: families of mistakes none of which is in play, of which
    those of each parameter would have shown, and none is ``silent``."""
    data = [few_steps(observation, 4, 4) for observation in shown] if subject.given else None
    blamed = {CATALOGUE[c.name].family for s in sets for c in s} | subject.untried
    blamed |= {family for s in sets for c in s for family in CONCERNS.get(c.name, ())}
    blamed |= {READ[cause.name] for cause, _ in subject.read()} | silent.families
    titles = [CATALOGUE[c.name].words(c, search.model).title for s in sets for c in s]
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


def of_output_alone(search: Search, result: SearchOutcome, shown: Sequence[Observation]) -> str:
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
    words = [CATALOGUE[c.name].words(c, search.model) for c in sorted(together, key=str)]
    causes = " ".join(f"{mistake.title}: {mistake.sentence}" for mistake in words)
    verb = "is" if len(names) == 1 else "are"
    others_state = f"{' and '.join(names)} {verb} not" if names else "other inputs' is not"
    return f"the output alone is explained, {others_state}: {causes}"


def not_shown_without(
    search: Search, together: tuple[Cause, ...], shown: Sequence[Observation]
) -> list[str]:
    """Notes on the mistakes without which the caller's data are explained as well: it was in the
    drawn inputs of the search that they showed."""
    if len(together) < 2:
        return []
    notes = []
    for cause in together:
        fewer = search.of(frozenset(together) - {cause})
        if fewer is not None and worst(fewer, shown) <= 1:
            brief = CATALOGUE[cause.name].words(cause, search.model).brief
            notes.append(f"{brief}: shown by drawn inputs, not by these data")
    return notes


def not_shown_by(subject: Subject, silent: Unseen, shown: Sequence[Observation]) -> tuple[str, ...]:
    """What the data would not show; of the caller's own also what they did not reach."""
    return (*silent.words, *(not_reached(subject.model, shown) if subject.given else ()))
