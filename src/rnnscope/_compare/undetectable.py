"""Which mistakes would change nothing in what was compared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rnnscope._compare.mistakes import CATALOGUE, causes
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.batched import LARGE
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, distance, few_steps, predicted
from rnnscope._compare.search.search import concerns

__all__ = ["Unseen", "unseen"]

ALIKE = 2
"""Of so many more mistakes of one entry the first stands for all."""


@dataclass(frozen=True)
class Mistake:
    """One that would change nothing: its ``entry`` and ``title``, and in ``within`` the family or
    parameter of which nothing at all would show."""

    entry: str
    title: str
    within: str = ""


@dataclass(frozen=True)
class Unseen:
    """All mistakes that would change nothing."""

    mistakes: tuple[Mistake, ...] = ()

    def but(self, titles: Collection[str]) -> Unseen:
        """Without those that are named already."""
        return Unseen(tuple(mistake for mistake in self.mistakes if mistake.title not in titles))

    @property
    def families(self) -> frozenset[str]:
        """What they concern."""
        return frozenset(CATALOGUE[mistake.entry].family for mistake in self.mistakes)

    @property
    def titles(self) -> tuple[str, ...]:
        """Every one of them."""
        return tuple(dict.fromkeys(mistake.title for mistake in self.mistakes))

    @property
    def words(self) -> tuple[str, ...]:
        """The same in fewer words: whole families first, and of many alike one."""
        whole = list(dict.fromkeys(mistake.within for mistake in self.mistakes if mistake.within))
        words = [f"anything about {', '.join(whole)}"] if whole else []
        entries: dict[str, list[str]] = {}
        for mistake in self.mistakes:
            if not mistake.within and mistake.title not in entries.setdefault(mistake.entry, []):
                entries[mistake.entry].append(mistake.title)
        for first, *more in entries.values():
            alike = [f"{first} and {len(more)} more like it"]
            words += alike if len(more) >= ALIKE else [first, *more]
        return tuple(words)


def unseen(model: Model, shown: Sequence[Observation]) -> Unseen:
    """The mistakes of the catalogue, each everywhere, that give the reference's own numbers."""
    listed = [c for c in causes(model, False) if concerns(c, model, shown) and _listed(c)]
    models = [(c, m) for c in listed if (m := CATALOGUE[c.name].apply(model, c)) is not None]
    quiet = models
    fits: set[Cause] = set()
    large = model.parts[0][0].weights.hh.numel() > LARGE
    for steps, rows in ((3, 2), (12, 4) if large else (10**9, 10**9)):
        for observation in shown:
            quiet = _quiet(model, few_steps(observation, steps, rows), quiet, fits)
    silent = [c for c, _ in quiet if c in fits]
    loud = [c for c, _ in models if c in fits and c not in silent]
    return Unseen(tuple(_mistake(c, model, silent, loud, shown) for c in silent))


def _listed(cause: Cause) -> bool:
    """Whether it is told: not one of many alike that stand alone, nor a limit, of which it is told
    how far the data reach."""
    entry = CATALOGUE[cause.name]
    return not entry.alone and not entry.only_seen


def _mistake(
    cause: Cause,
    model: Model,
    silent: Sequence[Cause],
    loud: Sequence[Cause],
    shown: Sequence[Observation],
) -> Mistake:
    title = CATALOGUE[cause.name].words(cause, model).brief
    for group in (lambda c: CATALOGUE[c.name].family, lambda c: c.tensors):
        group_of_cause = group(cause)
        several = len({c for c in silent if group(c) == group_of_cause}) > 1
        if group_of_cause and several and not any(group(c) == group_of_cause for c in loud):
            within = group_of_cause.partition(" (")[0]  # what the family is where it is right
            return Mistake(cause.name, title, within + _reason(group_of_cause, shown))
    return Mistake(cause.name, title)


def _reason(family: str, shown: Sequence[Observation]) -> str:
    """Why these data show nothing of a family, where that is plain."""
    match family:
        case "the initial states" if not any(
            bool(value.any()) for call in shown for value in call.inputs.initial.values()
        ):
            return " (they were zero)"
        case "the carried state" | "the order of time" if all(
            call.inputs.steps == 1 for call in shown
        ):
            return " (one step was given)"
        case "the rows of the batch" if all(call.inputs.batch == 1 for call in shown):
            return " (one row was given)"
    return ""


def _quiet(
    model: Model, observation: Observation, models: list[tuple[Cause, Model]], fits: set[Cause]
) -> list[tuple[Cause, Model]]:
    """Those of the models that give the reference's own numbers; ``fits`` gathers those that
    give any."""
    simulator = observation.simulator
    [exact] = simulator.run([model])
    assert exact is not None, "the reference fits its own inputs"
    wanted = predicted(exact)
    quiet: list[tuple[Cause, Model]] = []
    outcomes = simulator.run([changed for _, changed in models])
    for (cause, changed), outcome in zip(models, outcomes, strict=True):
        if outcome is None:
            quiet.append((cause, changed))
            continue
        fits.add(cause)
        values = predicted(outcome)
        if all(
            (value := values.get(name)) is not None
            and value.shape == wanted[name].shape
            and not bool((distance(value, wanted[name]) > observation.allowed[name]).any())
            for name in observation.targets()
        ):
            quiet.append((cause, changed))
    return quiet
