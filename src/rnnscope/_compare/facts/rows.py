"""Rows of the batch that hold the numbers of another row, or zeros."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import enumerated, first_few, listed
from rnnscope._compare.facts.entering import read_as
from rnnscope._compare.facts.finding import Finding, returning
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation, distance

__all__ = ["of_rows"]

ZERO = -1
"""Stands for zeros in place of a row."""

FIRST = 2
"""Steps, or layers of a final state, by which most rows are told apart."""

MOST = 8
"""Rows of an order that are named."""

Sources = list[int]
"""For each row the row whose numbers it holds."""


def of_rows(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Every row is right, zero, or another row: in all that is returned, in the output alone, or in
    final states beside an output that agrees."""
    names = list(dict.fromkeys(name for observation in shown for name in observation.targets()))
    read_off = _read_off(model, shown, names)
    if read_off is None:
        return
    name, sources, scale = read_off
    moved = next(rows for rows in sources if _moved(rows))
    finals = [n for n in names if n.endswith("_n")]
    if "output" not in names:
        ways = [(names, f" of {enumerated(names)}")]
    elif name == "output":
        ways = [(names, ""), (["output"], " of the output")][: len(names)]
        if not any(map(any, sources)):
            yield read_as(model, "first_row")
    elif sorted(moved) == list(range(len(moved))):
        return  # another order of final states is read off with what else they may be
    else:
        ways = [(group, f" of {enumerated(group)}") for group in ([name], finals)[: len(finals)]]
    by_inputs = {id(o.inputs): rows for o, rows in zip(shown, sources, strict=True)}
    digits = sum(len(_moved(rows)) * math.log10(len(rows) + 1) for rows in sources)
    for changed, of in ways:
        words, choice = _words(model, moved, of)

        def taken(
            outcome: Outcome, observation: Observation, changed: Sequence[str] = changed
        ) -> Outcome:
            return _taken(outcome, by_inputs[id(observation.inputs)], changed)

        cause = Cause("rows", choice, ", ".join(changed) * bool(of))
        gives = returning(model, taken)
        yield Finding(cause, words, gives=gives, scale=scale, measured=digits)


def _read_off(
    model: Model, shown: Sequence[Observation], names: Sequence[str]
) -> tuple[str, list[Sources], float] | None:
    """The first of the output and the final states of which rows are others, the sources of its
    rows in each call, and by how much rounding may be larger there; None where a row is none."""
    for name in names:
        if name != "output" and not name.endswith("_n"):
            continue
        of_calls = [_sources(model, observation, name) for observation in shown]
        known = [of_call for of_call in of_calls if of_call is not None]
        if len(known) < len(shown):
            return None
        if any(_moved(rows) for rows, _ in known):
            return name, [rows for rows, _ in known], max(scale for _, scale in known)
    return None


def _moved(sources: Sources) -> list[int]:
    """The rows that are not their own."""
    return [row for row, source in enumerate(sources) if source != row]


def _taken(outcome: Outcome, sources: Sources, names: Sequence[str]) -> Outcome:
    """What is returned with each row of some names from its source."""

    def from_sources(value: Tensor, axis: int, name: str) -> Tensor:
        if name not in names:
            return value
        zeros = torch.zeros_like(value.narrow(axis, 0, 1))
        places = [s if s != ZERO else len(sources) for s in sources]
        index = torch.tensor(places, dtype=torch.long, device="cpu")
        return torch.cat([value, zeros], axis).index_select(axis, index)

    return replace(
        outcome,
        output=from_sources(outcome.output, 1, "output"),
        final={name: from_sources(v, 2, f"{name}_n") for name, v in outcome.final.items()},
        steps={name: from_sources(v, 3, name) for name, v in outcome.steps.items()},
    )


# which row it is ----------------------------------------------------------------------------------


def _sources(model: Model, observation: Observation, name: str) -> tuple[Sources, float] | None:
    """Which row each row of one name is, and by how much rounding may be larger there; None where a
    row is none of them."""
    targets = {n: (seen, right) for n, seen, right in observation.beside(model)}
    seen, right = targets.get(name, (None, None))
    if seen is None or right is None:
        return None
    axis = 1 if name == "output" else 2
    allowed = observation.allowed[name].expand_as(seen)
    usable = observation.usable(name)
    return _matched(*(value.movedim(axis, 0) for value in (seen, right, allowed, usable)))


def _matched(
    seen: Tensor, right: Tensor, allowed: Tensor, usable: Tensor
) -> tuple[Sources, float] | None:
    """The same of numbers (batch, ...)."""
    off = (distance(right, seen) > allowed) & usable
    wrong = off.flatten(1).any(1).nonzero().flatten().tolist()
    fitting: dict[int, list[int]] = {}
    for row in wrong:
        if not bool(seen[row][usable[row]].any()):
            fitting[row] = [ZERO]
            continue
        fits = torch.arange(len(seen), device="cpu")
        for part in (slice(FIRST), slice(None)):
            within = torch.maximum(allowed[fits, part], allowed[row, part])
            away = (distance(right[fits, part], seen[row, part]) > within) & usable[row, part]
            fits = fits[~away.flatten(1).any(1)]
        if not len(fits):
            return None
        fitting[row] = fits.tolist()
    common = set.intersection(*map(set, fitting.values())) if fitting else set()
    sources, scale = list(range(len(seen))), 1.0
    for row, rows in fitting.items():
        sources[row] = min(common) if common else rows[0]
        if sources[row] != ZERO:
            larger = (allowed[sources[row]] / allowed[row])[usable[row]]
            scale = max(scale, float(larger.max()))
    return (sources, scale) if math.isfinite(scale) else None


# words --------------------------------------------------------------------------------------------


def _words(model: Model, sources: Sources, of: str) -> tuple[Words, str]:
    """What is said of rows that are not their own, ``of`` what, and the choice."""
    moved, kind = _moved(sources), model.structure.kind
    rows, instead = listed("row", moved), {sources[row] for row in moved}
    if instead == {ZERO}:
        words = Words(
            f"{rows}{of} {'is' if len(moved) == 1 else 'are'} zero",
            f"all other rows are right; {kind} computes every row of the batch.",
            "for row in range(batch):   # to the last one",
            "rows are zero",
        )
        return words, "zero"
    place = "row" if model.structure.batch_first else ":, row"
    line = f"output[{place}] = h[row]   # each row at its own place"
    belongs = "row k of what is returned belongs to row k of x."
    if len(instead) == 1:
        hold = "holds" if len(moved) == 1 else "hold"
        which = f"every row{of} holds" if len(moved) == len(sources) - 1 else f"{rows}{of} {hold}"
        title = f"{which} the numbers of row {instead.pop()}"
        return Words(title, belongs, line, "rows hold the numbers of another row"), "repeated"
    order = first_few(["zero" if s == ZERO else str(s) for s in sources], MOST)
    if sorted(sources) != list(range(len(sources))):
        title = f"the rows{of} are those of rows {order}"
        return Words(title, belongs, line, "rows hold the numbers of other rows"), "others"
    line = f"output = output[{place.replace('row', 'np.argsort(order)')}]"
    title = f"the rows{of} are in the order {order}"
    return Words(title, belongs, line, "rows are in another order"), "order"
