"""One page of all mistakes that compare knows, in Markdown, generated from the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rnnscope._compare.mistakes import CATALOGUE, SECTIONS, Entry
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice
from rnnscope._compare.model.model import Model
from rnnscope._layers.adopt import adopt
from rnnscope._layers.recurrent import Recurrent
from rnnscope.cells import LSTM_PEEPHOLE

__all__ = ["EXACTLY", "SECTIONS", "document", "table"]

_INTRODUCTION = """\
# The mistakes that compare knows

What `rs.compare` can name, alone or several at once. Generated from the records in
`_compare/mistakes/` by `python -m rnnscope._compare.mistakes.table`; a test holds it current.

**cause** is what `verdict.causes` holds and `str(cause)` prints: the entry, what it leaves open,
and `of` the parameters it concerns (`all` four, `W` both matrices, `b` both biases, `hh` those that
end in _hh). **where** it can stand, which the verdict adds: *part*, one layer in one direction, one
layer, one direction, or all; *layer*, one layer or all; *whole*, the whole only. Entries of layers
are shown for two. The sentences and lines are those of the first cell that is named, those of
`nn.LSTM` where it is all; declared cells have the entries that their equations fit.
W_ih, W_hh, b_ih, b_hh are PyTorch's parameters, of all gates; H is the hidden size, k the number of
gates.
"""

_BESIDE = """\
## Found without the catalogue

- `random`: two calls with the same input differ, and random numbers are drawn (with `dropout`: by a
  module in training mode).
- `output_axes`: batch and time of the output are exchanged: it is read as if they were not, and
  what else is wrong is found beside it.
- `final_axes`: final states come back batch first: read and named in the same way.
- `calls_chained`: two calls with the same input differ, because the first one's state is kept.
- `precision`: the numbers are what float16, bfloat16 or tf32 gives, from the first step on; or they
  lie on a grid, written with few decimals or, of fixed point, `multiples of 1/128`.
- `approximate`: what may be meant. Weights of few bits, a fast tanh or sigmoid, x, states or
  outputs that are rounded; fitted, alone or beside mistakes, named with the measured size.
- A row depends on the other rows, or an early output on a late input: said in words.

A function or module whose axes are exchanged does not agree, since what calls it in place of the
reference would read other numbers. Recorded arrays with exchanged axes agree, with a note on how
they were read: a recording may be laid out as it likes, and `axes="tbu"` says how the output is.

## Read off the numbers

No list holds these, since a number is fitted: it is read off what came back, put into the
reference, and named only where everything then agrees to rounding. A mistake of the catalogue that
explains the same comes first. Where none of them explains all of it alone, it is looked for beside
one mistake of the catalogue or more, beside another of these, and in some rows alone.

- `begins_anew`: a state (`h`, `c`, or both) is set to zero, or (`_0`) to the initial one, inside
  the sequence: in every chunk, at the steps of each row where an episode starts, or after the steps
  where one ends, whose output is zero then.
- `halves`: both halves of a bidirectional output are the `forward` or the `reverse` one, or one of
  them is `zero`.
- `steps_missing`, `ends_earlier`, `wiped`: steps of the output are zero: a loop leaves them out,
  rows end earlier than they were said to, or right numbers are overwritten; `stands_still`: from
  some step on the state is the same.
- `units_missing`: units are zero at every step, in what is returned or carried too.
- `scaled`, `moved`, `function_on_top`: the output (or `scaled`, what a layer hands on; or `of` x,
  `scaled` of the initial states) times a number, plus a number, or through one more function, such
  as `cumsum` over time; `function_on_top` and `pooled` of h_n: it is that function of h, or the
  mean, sum or largest of the outputs; `dropped`: dropout in recorded numbers.
- `read`: x is rolled by one feature, its features are reversed, (batch, time) is reshaped to (time,
  batch), every row reads row 0, of x or of the initial states, or every second step is read twice.
- `clipped`: a state is cut off at ± some value, before it is used or where it is carried.
- `parameter`: one holds another one's numbers or zeros, two are exchanged, or all of a layer and
  direction are zero; one gate's rows of one are zero or transposed; `unread`: columns that a loop
  leaves out, the first or the last.
- `places`: the numbers of the output are right, and its axes stand in another order in memory than
  it was read in.
- `fitted`: parameters, or one gate's rows of them, are multiplied by a number or have one added to
  them, in every layer. The number is fitted to your output, after the search, and what it leaves is
  rounding.

Where nothing explains a difference, the verdict says where the two agree (rows, times, units,
halves), what is plain of your own numbers (zero throughout, two layers' states equal, |c| never
exceeds a value), and, of what can be called, what has no influence: each parameter, feature and
initial state, and x at each step, is changed by itself. Of what can be called with other weights it
also says without which parameters (W_ih, W_hh, a bias, one gate's rows) the two agree: "it agrees
if the rows of g in weight_hh are zero in both"; of all else whether they do with x at zero. Steps
of an LSTM are judged with its own c = atanh(h / o) where c is not given.

## What is no mistake

Not named, since nothing differs: in an RNN or an LSTM, b_ih and b_hh exchanged or merged into their
sum. What is the same on the given data is named together: with b_hh = 0, for example, no b_ih, and
b_hh in its place.
"""

EXACTLY: dict[str, str] = {
    "gate_order": "The k blocks of H rows, as PyTorch stores them, are taken for the gates in this "
    "order: with `ifog`, the third block (PyTorch's g) is used as o, the fourth (o) as g.",
    "interleaved": "`read`: row j × k + n of PyTorch's array is taken for gate n of unit j. "
    "`stored`: the array was stored in that order, and is taken for PyTorch's.",
    "transposed": "Each gate's block is transposed by itself, so it must be square: W_ih only "
    "where the layer's input has H features.",
    "reshaped": "A (kH, I) array is read as (I, kH) in the order of memory, then transposed; with "
    "kernel, its transpose (I, kH) is read as (kH, I).",
    "matrices_exchanged": "Where both have the same shape.",
    "bias_missing": "The bias is zero; `n`: its rows of that gate are.",
    "bias_doubled": "The bias is 2 b.",
    "bias_twice": "`of b_ih`: b_ih stands in both places, b_hh in none.",
    "bias_merged": "b_in + b_hn outside of the product with r, nothing inside.",
    "forget_bias": "`before`: f = σ(a_f + 1). `after`: f = σ(a_f) + 1.",
    "layers_repeated": "`0,1`: layer 1 has the weights of layer 0.",
    "directions_repeated": "`forward`: both directions have the weights of forward.",
    "reset_whole": "n = tanh(r × (W_in x + b_in + W_hn h + b_hn)).",
    "reset_before": "n = tanh(W_in x + b_in + W_hn (r × h) + b_hn).",
    "no_reset": "n = tanh(W_in x + b_in + W_hn h + b_hn).",
    "activation": "The outermost function in the equation of that quantity; `tanh:` and `sigmoid:` "
    "every one of that name.",
    "old_cell": "c_(t-1) in place of c_t wherever another equation uses it.",
    "unapplied": "Where gates are given by name, in recorded numbers or behind the final states.",
    "update": "`unused`: h = n. `both`: h = z × n + z × h_(t-1).",
    "other_gate": "`f:i`: c = f × c_(t-1) + f × g. `z:r`: z scales W_hn h + b_hn.",
    "initial_batch_first": "(layers × directions, batch, H) is taken for (batch, layers × "
    "directions, H), where both numbers are the same.",
    "initial_ignored": "`upper`: h_0 and c_0 of layer 0 alone are used.",
    "initial_first": "`part`: h_0[0] and c_0[0] everywhere; `h` and `c`: of that state alone; "
    "`layer`: the rows of layer 0 in every layer.",
    "initial_order": "Row d × layers + l in place of l × directions + d.",
    "never_carried": "Every step has the initial state (h, c, or both) as the state before.",
    "projection": "`skipped`: in the last layer's output, and in h_n of a single layer; what is "
    "fed back is projected. `not_fed_back`: W_hh multiplies the first numbers of the state "
    "before the projection.",
    "rows_joined": "The rows are put end to end as one sequence, with the initial state of row 0.",
    "rows_chained": "Row b starts where row b − 1 ended; row 0 from its own initial state.",
    "time_reversed": "`kept`: every direction reads the other way, outputs stay at their steps. "
    "`turned`: the input is flipped and nothing turned back. `output`: the output is flipped.",
    "delayed": "`output`: output[t] = h_(t-1), with h_0 first. `input`: x_(t-1), with zeros first. "
    "`early`: output[t] = h_(t+1), with zeros last; `rolled`: with that of the first step last.",
    "padding": "Where lengths differ.",
    "reverse_unused": "Layers above the first read zeros in place of the reverse direction.",
    "directions_merged": "Of the last layer's output; its width is then H.",
    "lower_returned": "The output is that of the last layer but one.",
    "final_state": "h_n of reverse is the reverse half of output at the last step.",
    "units_reversed": "The last axis of the output is flipped, both directions as one.",
    "names_exchanged": "Where both gates are given by name, in every layer and direction.",
    "final_exchanged": "`h`: the tuple is (h_n, h_n).",
    "final_order": "Of h_n and c_n. `by_direction`: row d × layers + l in place of l × directions "
    "+ d.",
}
"""What the words of an entry leave open, for readers who want to plant it themselves."""

EXACTLY |= {entry.name: entry.exactly for entry in CATALOGUE.values() if entry.exactly}

_WHERE = {"parts": "part", "layer": "layer", "global": "whole"}
_HEAD = ("cause", "cells", "where", "the verdict says", "write")
_MANY = 20
_PROJECTED = "LSTM with projection"


def document() -> str:
    """The page ``docs/compare.md``."""
    sections = "\n".join(f"## {title}\n\n{_section(title)}" for title in SECTIONS)
    return f"{_INTRODUCTION}\n{sections}\n{_BESIDE}"


def _section(title: str) -> str:
    exact = [
        f"- `{entry.name}`: {EXACTLY[entry.name]}"
        for entry in SECTIONS[title]
        if entry.name in EXACTLY
    ]
    return f"{table(title)}\n\nExactly:\n\n" + "\n".join(exact) + "\n"


def table(title: str) -> str:
    """One row for each cause of a section, in the whole."""
    rows = [row for entry in SECTIONS[title] for row in _rows(entry)]
    lines = [_HEAD, tuple("---" for _ in _HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _models(bidirectional: bool = True) -> dict[str, Model]:
    """Two layers in two directions of each cell, by its name; sizes in which nothing is special."""
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": bidirectional}
    options |= {"dtype": torch.float32, "device": "cpu"}
    layers: dict[str, nn.Module] = {
        "LSTM": nn.LSTM(4, 4, **options),
        _PROJECTED: nn.LSTM(4, 4, **options, proj_size=2),
        "GRU": nn.GRU(4, 4, **options),
        "RNN of tanh": nn.RNN(4, 4, **options),
        "RNN of relu": nn.RNN(4, 4, **options, nonlinearity="relu"),
    }
    return {name: Model.of(adopt(layer), torch.float64) for name, layer in layers.items()}


def _rows(entry: Entry) -> Iterator[tuple[str, ...]]:
    models = next(
        kind
        for kind in (_models(), _models(bidirectional=False), _declared())
        if any(_choices(entry, model) for model in kind.values())
    )
    cells: dict[tuple[Cause, str], list[str]] = {}
    for name, model in models.items():
        for choice, tensors in _shown(_choices(entry, model)):
            cause = Cause(entry.name, choice, tensors)
            cells.setdefault((cause, entry.words(cause, model).title), []).append(name)
    for (cause, title), names in cells.items():
        model = models[names[0]]
        words = entry.words(cause, model)
        line = (
            f"`{cause}`{_left_out(entry, model)}",
            _cells(names, list(_models())),
            ("reverse of a " if entry.reverse_only else "") + _WHERE[entry.scope],
            f"{title}: {words.sentence}",
            f"`{words.repair}`" if words.repair else "",
        )
        yield tuple(cell.replace("|", "\\|") for cell in line)


def _declared() -> dict[str, Model]:
    """The same of a cell that ``torch.nn`` lacks."""
    layer = Recurrent(LSTM_PEEPHOLE, 4, 4, num_layers=2, bidirectional=True, device="cpu")
    return {"LSTM with peepholes": Model.of(adopt(layer), torch.float64)}


def _choices(entry: Entry, model: Model) -> list[Choice]:
    return [*entry.choices(model), *((example, "") for example in entry.examples)]


def _shown(choices: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """All, or of very many those with the first choice."""
    if len(choices) < _MANY:
        return choices
    return [choice for choice in choices if choice[0] == choices[0][0]]


def _left_out(entry: Entry, model: Model) -> str:
    choices = list(entry.choices(model))
    several = len({choice for choice, _ in choices})
    return f" and {several - 1} other orders" if len(choices) >= _MANY else ""


def _cells(names: list[str], all_names: list[str]) -> str:
    if names == all_names:
        return "all"
    text = ", ".join(names).replace("RNN of tanh, RNN of relu", "RNN")
    if _PROJECTED in names:
        return text.replace(f"LSTM, {_PROJECTED}", "LSTM")
    return text if "peepholes" in text else text.replace("LSTM", "LSTM without projection")


if __name__ == "__main__":
    print(document(), end="")
