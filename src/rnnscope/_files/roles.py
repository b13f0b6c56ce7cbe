"""What names and shapes say of arrays: which matrix multiplies x, which h, what is a bias."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rnnscope._layouts import Array

__all__ = ["RECURRENT", "Shapes", "folder_of", "is_bias", "orientations", "peepholes", "roles"]

Shapes = Mapping[str, tuple[int, ...]]

RECURRENT = re.compile(
    r".*(?:hh|h2h|hidden_(?:to_)?hidden|recurrent|hgates|w_?h\b|wh[ifgcorzn]?\b|^u|[._/]u|"
    r"hidden|rec_|_h[._]|h_[ifgcorzn]\b|\bh\b).*"
)
_BIAS = re.compile(r".*(?:bias|(?:^|[._/])b(?:[._/]|$)|(?:^|[._/])b_?[a-z]{0,3}$).*")


def is_bias(name: str) -> bool:
    return _BIAS.fullmatch(name.lower()) is not None


def orientations(matrices: list[str]) -> tuple[str, ...]:
    """The likelier first: nn.Linear has rows, a Parameter or kernel is often the other way."""
    if all(name.endswith((".weight", "/weight")) or name == "weight" for name in matrices):
        return ("rows",)
    weights = any("weight" in name for name in matrices)
    return ("rows", "columns") if weights else ("columns", "rows")


def roles(
    matrices: Shapes, biases: Sequence[str], units: int, axis: int
) -> tuple[Array, ...] | None:
    """Which matrix multiplies what, by its name and its shape; None where that does not fit."""
    widths = {name: shape[1 - axis] for name, shape in matrices.items()}
    if len(widths) == 1:
        name, width = next(iter(widths.items()))
        if width <= units or len(biases) > 1:
            return None  # there is no room for x
        return Array(name, "W_ih W_hh"), *(Array(bias, "b_ih") for bias in biases)
    square = [name for name, width in widths.items() if width == units]
    if len(widths) != 2 or not square or len(biases) > 2:
        return None
    recurrent = square[0]
    if len(square) == 2:
        named = [name for name in widths if RECURRENT.fullmatch(name.lower())]
        beside_u = [name for name in widths if re.match(r"v[_{.]", name.lower())]
        named = beside_u if len(beside_u) == 1 and named else named  # U for x, and V for h
        if len(named) != 1:
            return None
        recurrent = named[0]
    inputs = next(name for name in widths if name != recurrent)
    roles = [Array(inputs, "W_ih"), Array(recurrent, "W_hh")]
    ordered = list(biases)
    if len(ordered) == 2:
        of_h = [name for name in ordered if _alike(name, recurrent) > _alike(name, inputs)]
        if len(of_h) != 1:
            return None
        ordered.sort(key=lambda name: name in of_h)
    return (*roles, *map(Array, ordered, ("b_ih", "b_hh")))


def _alike(name: str, matrix: str) -> int:
    """How many letters two names share at their ends."""
    count = 0
    for letters in (zip(name, matrix, strict=False), zip(name[::-1], matrix[::-1], strict=False)):
        for first, second in letters:
            if first != second:
                break
            count += 1
    if RECURRENT.fullmatch(name.lower()) and RECURRENT.fullmatch(matrix.lower()):
        count += 1
    return count


def peepholes(shapes: Shapes, units: int) -> str | None:
    """The name, with ``{gate}``, of three vectors through which gates see the cell state."""
    letters: dict[str, set[str]] = {}
    for name, shape in shapes.items():
        match = re.fullmatch(r"(.*(?:c_?|peephole_?))([ifo])", name)
        if match is not None and shape == (units,):
            letters.setdefault(f"{match[1]}{{gate}}", set()).add(match[2])
    return next((name for name, gates in letters.items() if gates == set("ifo")), None)


def folder_of(name: str) -> str:
    return name[: max(name.rfind(mark) for mark in "./") + 1]
