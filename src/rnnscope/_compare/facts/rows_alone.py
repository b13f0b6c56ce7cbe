"""What is wrong in some rows of the batch alone, as where a kernel ends early."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rnnscope._compare.facts.agreement import listed, wrong_rows
from rnnscope._compare.mistakes import CATALOGUE, causes
from rnnscope._compare.model.misfit import misfits
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, some_rows

__all__ = ["mistake_of_some_rows"]

MOST = 2
"""Mistakes that explain the rows, of which so many are named."""


def mistake_of_some_rows(model: Model, there: Observation) -> str:
    """A sentence where some rows are right, and one mistake of the catalogue explains all others;
    else empty."""
    wrong = wrong_rows(model, there)
    if not wrong:
        return ""
    rest = some_rows(there, torch.tensor(wrong, dtype=torch.int64, device="cpu"))
    titles = list(dict.fromkeys(_explaining(model, rest)))
    if not titles:
        return ""
    return f"{listed('row', wrong)} alone: {' or '.join(titles[:MOST])}"


def _explaining(model: Model, rest: Observation) -> Iterator[str]:
    every = [c for c in causes(model, False) if CATALOGUE[c.name].scope != "global"]
    pairs = [(c, m) for c in every if (m := CATALOGUE[c.name].apply(model, c)) is not None]
    misfit = misfits([rest], [changed for _, changed in pairs], [rest.simulator])
    for (cause, _), ratio in zip(pairs, misfit.worst.tolist(), strict=True):
        if ratio <= 1:
            words = CATALOGUE[cause.name].words(cause, model)
            yield f"{words.title}, {words.sentence.rstrip('.')}"
