"""The tables of ``compare.md``, of all mistakes that compare knows, generated from the catalogue.

    python docs/compare_page.py

What stands around them is written in the page itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
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

PAGE = Path(__file__).resolve().parent / "compare.md"
BEGIN, END = "<!-- mistakes: written by docs/compare_page.py -->\n", "<!-- end of mistakes -->\n"

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
    "initial_ignored": "`upper`: h_0 and c_0 of layer 0 alone are used. `forward`, `reverse`: "
    "those of that direction are not, in any layer.",
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


def page() -> str:
    """The page with today's tables."""
    before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    sections = "\n".join(f"## {title}\n\n{_section(title)}" for title in SECTIONS)
    return f"{before}{BEGIN}\n{sections}\n{END}{after.partition(END)[2]}"


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
    PAGE.write_text(page(), encoding="utf-8")
