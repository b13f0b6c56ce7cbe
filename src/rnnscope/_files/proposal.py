"""The line to write for a file in which no known layout finds a layer.

Names and shapes of arrays often say nearly all: which matrix multiplies x, which h, or both side
by side; which array belongs to which gate. What they do not say, the order of gates in one matrix,
is guessed, and the line says so: it is for the reader to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rnnscope._layouts import Array, Layout, Stored
from rnnscope.errors import DeclarationError

__all__ = ["Proposal", "proposals"]

Shapes = Mapping[str, tuple[int, ...]]

_GATES: Mapping[str, Mapping[str, str]] = {
    "lstm": {
        "i": "i",
        "in": "i",
        "input": "i",
        "f": "f",
        "forget": "f",
        "g": "g",
        "c": "g",
        "j": "g",
        "cell": "g",
        "candidate": "g",
        "o": "o",
        "out": "o",
        "output": "o",
    },
    "gru": {
        "r": "r",
        "reset": "r",
        "z": "z",
        "u": "z",
        "update": "z",
        "n": "n",
        "h": "n",
        "g": "n",
        "c": "n",
        "new": "n",
        "candidate": "n",
        "hidden": "n",
    },
}
_ORDER = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}
_WORD = "|".join(sorted({w for words in _GATES.values() for w in words}, key=len, reverse=True))
_GATE = re.compile(rf"(?P<before>.*?)(?P<gate>{_WORD})(?P<after>(?:_?gate)?(?:[._/:].*)?)")
_RECURRENT = re.compile(
    r".*(?:hh|h2h|hidden_(?:to_)?hidden|recurrent|hgates|w_?h\b|wh[ifgcorzn]?\b|^u|[._/]u|"
    r"hidden|rec_|_h[._]|h_[ifgcorzn]\b|\bh\b).*"
)
_BIAS = re.compile(r".*(?:bias|(?:^|[._/])b(?:[._/]|$)|(?:^|[._/])b_?[a-z]{0,3}$).*")
_HINT = re.compile(
    r".*(?:lstm|gru|rnn|cell|gate|recurrent|hidden|hh|h2h|i2h|state|(?:^|[._/])u(?:$|[._/])).*"
)
_WORDS = {
    "lstm": "an LSTM",
    "gru": "a GRU that resets after the product",
    "gru_reset_before": "a GRU that resets before the product",
    "rnn": "an RNN",
    "lstm_peephole": "an LSTM with peepholes",
}
_OUTPUT = re.compile(r".*(?:i2o|h2o|_ho\b|output_layer|head|fc\d?[._]|classifier|decoder|embed).*")
_MATRICES = 6  # of a stacked layer and of what is around it
_MOST = 400  # arrays that are looked at
_NAMES = 24  # and that a layer may have


@dataclass(frozen=True)
class Proposal:
    """A layout that fits arrays, and what is guessed of it; ``count`` arrays are explained."""

    layout: Layout
    kind: str

    @property
    def count(self) -> int:
        """How many arrays of the file the layout explains."""
        return len(self.layout.names(self.kind))

    @property
    def generic(self) -> bool:
        """Whether it reads what any layer of a network may be called."""
        names = self.layout.names(self.kind)
        return any(name in ("weight", "kernel", "w") or name.isdigit() for name in names)

    def line(self, path: str = "path") -> str:
        """The call of ``load`` that reads the file so."""
        stored = self.layout.cells[self.kind]
        arrays = [
            f"rs.Array({a.name!r}, {a.part!r}{f', {a.gates!r}' if a.gates else ''})"
            for a in stored.arrays
        ]
        written = f"({', '.join(arrays)}{',' * (len(arrays) == 1)})"
        options = "" if stored.orientation == "rows" else f", orientation={stored.orientation!r}"
        if stored.gate_names:
            options += f", gate_names={dict(stored.gate_names)!r}"
        return (
            f"rs.load({path}, layout=rs.Layout({self.layout.name!r}, cells={{{self.kind!r}: "
            f"rs.Stored({stored.gates!r}, {written}{options})}}))"
        )

    @property
    def guess(self) -> str:
        """What the reader must judge, in words."""
        stored = self.layout.cells[self.kind]
        by_gate = all("{gate}" in a.name or len(stored.gates_of(a)) == 1 for a in stored.arrays)
        order = "" if by_gate else f" with the gates {' '.join(stored.gates)} in this order"
        return f"if it is {_WORDS[self.kind]}{order}"


def proposals(shapes: Shapes) -> list[Proposal]:
    """Layouts that may fit arrays of a file, the more likely first."""
    prefixes: dict[str, None] = {}
    for name in list(shapes)[:_MOST]:
        parts = re.split(r"(?<=[./])", name)
        for k in range(len(parts) - 1, max(-1, len(parts) - 4), -1):
            prefixes["".join(parts[:k])] = None
    guesses: list[Proposal] = []
    for prefix in sorted(prefixes, key=len, reverse=True):
        inside = {
            name[len(prefix) :].removesuffix(":0"): shape
            for name, shape in shapes.items()
            if name.startswith(prefix) and shape and 0 not in shape
        }
        if 1 <= len(inside) <= _NAMES:
            # below a prefix, any layer of a network may have a name such as weight
            guesses += [
                guess for guess in _of_arrays(prefix, inside) if not (prefix and guess.generic)
            ]
    return sorted(guesses, key=lambda guess: (-guess.count, guess.generic))


def _of_arrays(prefix: str, shapes: Shapes) -> Iterator[Proposal]:
    for kind in ("lstm", "gru"):
        by_gate = _gate_templates(shapes, kind)
        if by_gate is not None:
            yield from _per_gate(kind, *by_gate)
    if not any(name.endswith("_reverse") for name in shapes):
        yield from _stacked(prefix, shapes)


# an array for each gate -----------------------------------------------------------------------


def _gate_templates(
    shapes: Shapes, kind: str
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]] | None:
    """Names with ``{gate}`` in the place of each gate's word, with the shape that all have."""
    words: dict[str, dict[str, str]] = {}
    alike: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        match = _GATE.fullmatch(name.lower())
        if match is None:
            continue
        start, end = match.span("gate")
        template = f"{name[:start]}{{gate}}{name[end:]}"
        letter = _GATES[kind].get(match["gate"])
        if letter is None or alike.setdefault(template, shape) != shape:
            continue
        words.setdefault(template, {})[letter] = name[start:end]
    complete = {t: w for t, w in words.items() if set(w) == set(_ORDER[kind])}
    names = next(iter(complete.values()), None)
    if names is None:
        return None
    return {t: alike[t] for t, w in complete.items() if w == names}, names


def _per_gate(
    kind: str, templates: dict[str, tuple[int, ...]], gate_names: dict[str, str]
) -> Iterator[Proposal]:
    matrices = {name: shape for name, shape in templates.items() if len(shape) == 2}
    biases = [name for name, shape in templates.items() if len(shape) == 1]
    for orientation in _orientations(list(matrices)):
        axis = 0 if orientation == "rows" else 1
        units = {shape[axis] for shape in matrices.values()}
        if len(units) == 1:
            arrays = _roles(matrices, biases, units.pop(), axis)
            kinds = [kind] if kind == "lstm" else ["gru_reset_before", "gru"]
            for each_kind in kinds:
                yield from _proposal(each_kind, _ORDER[kind], arrays, orientation, gate_names)


# one array for all gates ----------------------------------------------------------------------


def _stacked(prefix: str, shapes: Shapes) -> Iterator[Proposal]:
    said = prefix.lower() + " ".join(shapes).lower()
    named = [kind for kind in ("lstm", "gru") if kind in said]
    named = ["rnn"] if "i2o" in said and not named else named
    for kind in named or ["lstm", "gru", "rnn"]:
        for matrices in _choices(prefix, shapes):
            for orientation in _orientations(list(matrices)):
                yield from _of_matrices(kind, shapes, matrices, orientation)


def _choices(prefix: str, shapes: Shapes) -> Iterator[Shapes]:
    """One matrix, or two, that may be those of a layer; outputs of a model are none."""
    matrices = {
        name: shape
        for name, shape in shapes.items()
        if len(shape) == 2 and not _OUTPUT.fullmatch(name.lower())
    }
    if len(matrices) <= _MATRICES:
        for names in (*combinations(matrices, 2), *combinations(matrices, 1)):
            hinted = any(_HINT.fullmatch(f"{prefix}{name}".lower()) for name in names)
            recurrent = any(_RECURRENT.fullmatch(name.lower()) for name in names)
            if hinted and (len(matrices) <= 2 or recurrent or len(names) == 1):
                yield {name: shapes[name] for name in names}


def _of_matrices(
    kind: str, shapes: Shapes, matrices: Shapes, orientation: str
) -> Iterator[Proposal]:
    axis = 0 if orientation == "rows" else 1
    rows = {shape[axis] for shape in matrices.values()}
    if len(rows) != 1 or (count := rows.pop()) % len(_ORDER[kind]):
        return
    units = count // len(_ORDER[kind])
    folders = {_folder(name) for name in matrices}
    biases = [
        name
        for name, shape in shapes.items()
        if shape == (count,) and _is_bias(name) and _folder(name) in folders
    ]
    if kind == "gru" and len(biases) == 1 and _RECURRENT.fullmatch(biases[0].lower()):
        return  # r multiplies it: it is no sum of both
    arrays = _roles(matrices, biases, units, axis)
    order = "zrn" if kind == "gru" and any("kernel" in name for name in matrices) else _ORDER[kind]
    peepholes = _peepholes(shapes, units) if kind == "lstm" else None
    if arrays is not None and peepholes is not None:
        kind, arrays = "lstm_peephole", (*arrays, Array(peepholes, "peephole"))
    yield from _proposal(kind, order, arrays, orientation, {})


def _folder(name: str) -> str:
    return name[: max(name.rfind(mark) for mark in "./") + 1]


def _peepholes(shapes: Shapes, units: int) -> str | None:
    """The name, with ``{gate}``, of three vectors through which gates see the cell state."""
    letters: dict[str, set[str]] = {}
    for name, shape in shapes.items():
        match = re.fullmatch(r"(.*(?:c_?|peephole_?))([ifo])", name)
        if match is not None and shape == (units,):
            letters.setdefault(f"{match[1]}{{gate}}", set()).add(match[2])
    return next((name for name, gates in letters.items() if gates == set("ifo")), None)


def _is_bias(name: str) -> bool:
    return _BIAS.fullmatch(name.lower()) is not None


def _orientations(matrices: list[str]) -> tuple[str, ...]:
    """The likelier first: nn.Linear has rows, a Parameter or kernel is often the other way."""
    if all(name.endswith((".weight", "/weight")) or name == "weight" for name in matrices):
        return ("rows",)
    weights = any("weight" in name for name in matrices)
    return ("rows", "columns") if weights else ("columns", "rows")


def _roles(
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
        named = [name for name in widths if _RECURRENT.fullmatch(name.lower())]
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
    if _RECURRENT.fullmatch(name.lower()) and _RECURRENT.fullmatch(matrix.lower()):
        count += 1
    return count


def _proposal(
    kind: str,
    order: str,
    arrays: tuple[Array, ...] | None,
    orientation: str,
    gate_names: Mapping[str, str],
) -> Iterator[Proposal]:
    if arrays is None:
        return
    names = {gate: word for gate, word in gate_names.items() if gate != word}
    if names:
        names = {gate: gate_names[gate] for gate in order}
    try:
        stored = Stored(order, arrays, orientation=orientation, gate_names=names)  # type: ignore[arg-type]
        yield Proposal(Layout("mine", cells={kind: stored}), kind)
    except DeclarationError:  # a name with braces of its own, say
        return
