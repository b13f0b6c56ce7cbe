"""Initial states of other rows: one state's of row 0, or those of rows in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from rnnscope._compare.facts.finding import Finding
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Change, Inputs, Model
from rnnscope._compare.model.observed import Observation

__all__ = ["of_initial_rows"]

RowsOf = Callable[[Tensor, Tensor | None], Tensor]
"""Of a state, (layer, direction, batch, unit), and the lengths of its rows."""


def of_initial_rows(model: Model, shown: Sequence[Observation]) -> Iterator[Finding]:
    """Each row that starts from the state of another row."""
    given = [o for o in shown if o.inputs.given and o.inputs.batch > 1]
    states = model.structure.cell.states
    for state in states if given and len(states) > 1 else ():
        words = Words(
            f"every row starts from the {state}_0 of row 0",
            "each row has its own initial state.",
            f"{state} = {state}_0[layer]   # of all rows",
        )
        yield _finding(model, "first_row", (state,), _first_row, words)
    if not any(o.inputs.lengths is not None for o in given):
        return
    ways: tuple[tuple[str, RowsOf, str], ...] = (
        ("by_length", _by_length, "they are sorted by length, and x is not."),
        ("not_sorted", _not_sorted, "x is sorted by length, and they are not."),
    )
    for choice, rows_of, sentence in ways:
        words = Words(
            "rows start from the initial states of other rows",
            sentence,
            "x, h_0, lengths = x[order], h_0[:, order], lengths[order]",
        )
        yield _finding(model, choice, states, rows_of, words)


def _finding(
    model: Model, choice: str, states: Sequence[str], rows_of: RowsOf, words: Words
) -> Finding:
    entered = partial(_entered, states=tuple(states), rows_of=rows_of)
    change = Change(("initial rows", choice, tuple(states)), entered)
    changed = replace(model, enter=(change, *model.enter))
    cause = Cause("read", choice, ", ".join(f"{state}_0" for state in states))
    return Finding(cause, words, changed, mixes_rows=True)


def _entered(inputs: Inputs, states: Sequence[str], rows_of: RowsOf) -> Inputs:
    initial = {
        n: rows_of(v, inputs.lengths) if n in states else v for n, v in inputs.initial.items()
    }
    return replace(inputs, initial=initial)


def _first_row(value: Tensor, lengths: Tensor | None) -> Tensor:
    return value[:, :, :1].expand_as(value)


def _by_length(value: Tensor, lengths: Tensor | None) -> Tensor:
    return value if lengths is None else value[:, :, _falling(lengths)]


def _not_sorted(value: Tensor, lengths: Tensor | None) -> Tensor:
    return value if lengths is None else value[:, :, _falling(lengths).argsort()]


def _falling(lengths: Tensor) -> Tensor:
    return lengths.argsort(descending=True, stable=True)
