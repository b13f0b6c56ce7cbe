"""The line to write for a file in which no known layout finds a layer.

Names and shapes of arrays often say nearly all: which matrix multiplies x, which h, or both side
by side; which array belongs to which gate. What they do not say, the order of gates in one matrix,
is guessed, and the line says so: it is for the reader to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

from rnnscope._files.roles import (
    RECURRENT,
    Shapes,
    folder_of,
    is_bias,
    orientations,
    peepholes,
    roles,
)
from rnnscope._layouts import Array, Layout, Stored
from rnnscope.errors import DeclarationError

__all__ = ["Proposal", "proposals"]


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
_AFTER = re.compile(r"(?:_?gate)?(?:[._/:].*)?")
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
        for word, letter in _GATES[kind].items():
            for start in (k for k in range(len(name)) if name.lower().startswith(word, k)):
                end = start + len(word)
                template = f"{name[:start]}{{gate}}{name[end:]}"
                fits = _AFTER.fullmatch(name.lower(), end) is not None
                if fits and alike.setdefault(template, shape) == shape:
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
    for orientation in orientations(list(matrices)):
        axis = 0 if orientation == "rows" else 1
        units = {shape[axis] for shape in matrices.values()}
        if len(units) == 1:
            arrays = roles(matrices, biases, units.pop(), axis)
            kinds = [kind] if kind == "lstm" else ["gru_reset_before", "gru"]
            if len(biases) == 2:  # as nn.GRU has them, which resets after the product
                kinds.reverse()
            for each_kind in kinds:
                yield from _proposal(each_kind, _ORDER[kind], arrays, orientation, gate_names)


# one array for all gates ----------------------------------------------------------------------


def _stacked(prefix: str, shapes: Shapes) -> Iterator[Proposal]:
    said = prefix.lower() + " ".join(shapes).lower()
    named = [kind for kind in ("lstm", "gru") if kind in said]
    named = ["rnn"] if "i2o" in said and not named else named
    if "lstm" not in named and _HINT.fullmatch(said):
        yield from _reset_and_update_in_one(shapes)
    for kind in named or ["lstm", "gru", "rnn"]:
        for matrices in _choices(prefix, shapes):
            for orientation in orientations(list(matrices)):
                yield from _of_matrices(kind, shapes, matrices, orientation)


def _reset_and_update_in_one(shapes: Shapes) -> Iterator[Proposal]:
    """A GRU that resets before the product: [x, h] times one matrix for r and z, one for n."""
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    for both, single in permutations(matrices, 2):
        for orientation in orientations([both, single]):
            axis = 0 if orientation == "rows" else 1
            rows, units = matrices[both][axis], matrices[single][axis]
            width = matrices[both][1 - axis]
            if rows != 2 * units or width != matrices[single][1 - axis] or width <= units:
                continue
            arrays = [Array(both, "W_ih W_hh", "rz"), Array(single, "W_ih W_hh", "n")]
            for matrix, gates, count in ((both, "rz", rows), (single, "n", units)):
                arrays += [
                    Array(name, "b_ih", gates)
                    for name, shape in shapes.items()
                    if shape == (count,) and is_bias(name) and folder_of(name) == folder_of(matrix)
                ]
            yield from _proposal("gru_reset_before", "rzn", tuple(arrays), orientation, {})


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
            recurrent = any(RECURRENT.fullmatch(name.lower()) for name in names)
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
    folders = {folder_of(name) for name in matrices}
    biases = [
        name
        for name, shape in shapes.items()
        if shape == (count,) and is_bias(name) and folder_of(name) in folders
    ]
    if kind == "gru" and len(biases) == 1 and RECURRENT.fullmatch(biases[0].lower()):
        return  # r multiplies it: it is no sum of both
    arrays = roles(matrices, biases, units, axis)
    order = "zrn" if kind == "gru" and any("kernel" in name for name in matrices) else _ORDER[kind]
    vectors = peepholes(shapes, units) if kind == "lstm" else None
    if arrays is not None and vectors is not None:
        kind, arrays = "lstm_peephole", (*arrays, Array(vectors, "peephole"))
    yield from _proposal(kind, order, arrays, orientation, {})


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
