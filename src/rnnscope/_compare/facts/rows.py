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
    """Every row is right, zero, or another row: in all that is returned, or in the output alone."""
    sources, scale = [], 1.0
    for observation in shown:
        of_call = _sources(model, observation)
        if of_call is None:
            return
        sources.append(of_call[0])
        scale = max(scale, of_call[1])
    moved = [rows for rows in sources if _moved(rows)]
    if not moved:
        return
    if not any(map(any, sources)):
        yield read_as(model, "first_row")
    by_inputs = {id(o.inputs): rows for o, rows in zip(shown, sources, strict=True)}
    digits = sum(len(_moved(rows)) * math.log10(len(rows) + 1) for rows in sources)
    names = list(dict.fromkeys(name for o in shown for name in o.targets()))
    output_alone = [names[:1]] if names[0] == "output" and len(names) > 1 else []
    for changed in (names, *output_alone):
        which = "the output" if changed != names else enumerated(names)
        of = f" of {which}" * (changed != names or "output" not in names)
        words, choice = _words(model, moved[0], of)

        def taken(
            outcome: Outcome, observation: Observation, alone: bool = len(changed) < len(names)
        ) -> Outcome:
            return _taken(outcome, by_inputs[id(observation.inputs)], alone)

        cause = Cause("rows", choice, ", ".join(changed) * bool(of))
        gives = returning(model, taken)
        yield Finding(cause, words, gives=gives, scale=scale, measured=digits)


def _moved(sources: Sources) -> list[int]:
    """The rows that are not their own."""
    return [row for row, source in enumerate(sources) if source != row]


def _taken(outcome: Outcome, sources: Sources, alone: bool) -> Outcome:
    """What is returned with each row from its source; of the output ``alone``, or of all."""

    def from_sources(value: Tensor, axis: int) -> Tensor:
        zeros = torch.zeros_like(value.narrow(axis, 0, 1))
        index = torch.tensor([s if s != ZERO else len(sources) for s in sources], device="cpu")
        return torch.cat([value, zeros], axis).index_select(axis, index)

    output = from_sources(outcome.output, 1)
    if alone:
        return replace(outcome, output=output)
    return replace(
        outcome,
        output=output,
        final={name: from_sources(value, 2) for name, value in outcome.final.items()},
        steps={name: from_sources(value, 3) for name, value in outcome.steps.items()},
    )


# which row it is ----------------------------------------------------------------------------------


def _sources(model: Model, observation: Observation) -> tuple[Sources, float] | None:
    """Which row each row of the output is, or of the first final state where there is no output;
    and by how much rounding may be larger there. None where a row is none of them."""
    for name, seen, right in observation.beside(model):
        if right is None:
            return None
        axis = 1 if name == "output" else 2
        allowed = observation.allowed[name].expand_as(seen)
        usable = observation.usable(name)
        return _matched(*(value.movedim(axis, 0) for value in (seen, right, allowed, usable)))
    return None


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
