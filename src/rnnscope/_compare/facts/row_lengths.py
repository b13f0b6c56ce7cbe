"""Rows that end at other steps than their lengths say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rnnscope._compare.facts.agreement import first_few
from rnnscope._compare.facts.finding import Finding, of_each_call
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Model, Outcome
from rnnscope._compare.model.observed import Observation
from rnnscope._compare.model.simulate import Simulator

__all__ = ["of_row_lengths"]

MOST = 4
"""Rows that are named."""

Lengths = Sequence[Tensor]
"""Those of each call."""


def of_row_lengths(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Rows that were run with other lengths than their own: all a step shorter, sorted, or as the
    zeros behind each row show."""
    if all(observation.inputs.lengths is None for observation in shown):
        return
    given = [_whole(o) if o.inputs.lengths is None else o.inputs.lengths for o in shown]
    padded = [observation.inputs.lengths is not None for observation in shown]
    shorter = [n - 1 for n in given]
    ends = [_ends(observation) for observation in shown]
    candidates = [
        ("1", [s if p else n for s, n, p in zip(shorter, given, padded, strict=True)]),
        ("1", [n.clamp_min(1) for n in shorter]),
        ("1", shorter),
        ("sorted", [n.sort(descending=True).values for n in given]),
        ("zeros", [n for n in ends if n is not None]),
    ]
    for choice, lengths in candidates:
        if len(lengths) == len(given) and not all(map(torch.equal, given, lengths)):
            yield _finding(model, shown, choice, given, lengths)


def _whole(observation: Observation) -> Tensor:
    """The lengths of rows that have all steps."""
    inputs = observation.inputs
    return torch.full((inputs.batch,), inputs.steps, dtype=torch.long, device="cpu")


def _ends(observation: Observation) -> Tensor | None:
    """The step of each row behind which the output is zero; None without an output."""
    if observation.output is None:
        return None
    steps = torch.arange(1, observation.inputs.steps + 1, device="cpu")[:, None]
    return ((observation.output != 0).any(-1) * steps).amax(0)


def _finding(
    model: Model, shown: Sequence[Observation], choice: str, given: Lengths, lengths: Lengths
) -> Finding:
    """The finding that rows have these lengths in place of those that were given."""
    pairs = list(zip(given, lengths, strict=True))
    digits = 0.0
    if choice == "zeros":
        digits = sum(int((n != c).sum()) * math.log10(int(n.max()) + 1) for n, c in pairs)
    first = next((n, c) for n, c in pairs if not torch.equal(n, c))
    name, choice, words = _words(model, choice, *first)
    gives = of_each_call(shown, lengths, partial(_run, model))
    return Finding(Cause(name, choice), words, gives=gives, measured=digits)


def _run(model: Model, observation: Observation, lengths: Tensor) -> Outcome | None:
    """What comes of rows of these lengths; of a row of no steps zeros, and its initial states."""
    inputs = replace(observation.inputs, lengths=lengths.clamp_min(1))
    [outcome] = Simulator(inputs, observation.simulator.names).run([model])
    if outcome is None or bool((lengths > 0).all()):
        return outcome
    some = (lengths > 0).unsqueeze(-1)
    return replace(
        outcome,
        output=outcome.output * some,
        final={n: torch.where(some, v, inputs.initial[n]) for n, v in outcome.final.items()},
        steps={n: v * some for n, v in outcome.steps.items()},
    )


def _words(model: Model, choice: str, given: Tensor, changed: Tensor) -> tuple[str, str, Words]:
    """The cause's name and choice, and what is said of it."""
    reverse = ", and reverse starts there" if model.num_directions > 1 else ""
    ends = f"{model.structure.kind} ends a row at its own length{reverse}"
    earlier = int((given - changed)[0])
    if earlier > 0 and bool((given - changed == earlier).all()):
        steps = "one step" if earlier == 1 else f"{earlier} steps"
        words = Words(
            f"every row ends {steps} before its length",
            f"{ends}; the output is zero behind it.",
            f"pack_padded_sequence(x, lengths)   # not lengths - {earlier}",
        )
        return "ends_earlier", str(earlier), words
    rows = [
        f"row {row} ends after {new} steps, not after {old}"
        for row, (old, new) in enumerate(zip(given.tolist(), changed.tolist(), strict=True))
        if old != new
    ]
    where = first_few(rows, MOST, "more rows")
    if sorted(given.tolist()) != sorted(changed.tolist()):
        line = "pack_padded_sequence(x, lengths)   # the lengths that compare was given"
        words = Words(
            f"rows end at other steps than their lengths say: {where}",
            f"{ends}.",
            line,
            "rows end at other steps",
        )
        return "other_lengths", "", words
    order = "order" if model.structure.batch_first else ":, order"
    words = Words(
        f"rows have the lengths of other rows: {where}",
        f"{'the lengths are sorted and x is not; ' * (choice == 'sorted')}{ends}.",
        f"x, lengths = x[{order}], lengths[order]   # both, or neither",
        "rows have the lengths of other rows",
    )
    return "other_lengths", "sorted" * (choice == "sorted"), words
