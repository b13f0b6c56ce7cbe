"""Equations about a trace that are evaluated before they are printed.

What is printed as code is Python: it ran, on the numbers of the call of which it speaks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.text import Text
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnnscope._escaping import code, markdown, printable
from rnnscope._record.difference import absolute_difference
from rnnscope._record.traced import Traced
from rnnscope.errors import AddressError, VerificationError

__all__ = ["Checker", "Section", "Shapes", "Statement", "Trap", "largest_difference"]

WIDTH = 100


@dataclass(frozen=True)
class Statement:
    """``says`` describes what ``code`` gives; ``equals`` gives the same, to ``difference``."""

    code: str
    says: str
    equals: str
    difference: float


@dataclass(frozen=True)
class Trap:
    """``wrong`` runs and is not ``right``: off by ``error``, or of another shape (None)."""

    why: str
    wrong: str
    right: str
    error: float | None
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def size(self) -> str:
        """How wrong it is on these numbers."""
        if self.error is None:
            return "shape {}, not {}".format(*self.shapes)
        return f"off by {self.error:.2g}" if self.error else "no difference on these numbers"


@dataclass(frozen=True)
class Section:
    """A title, and the statements under it."""

    title: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Shapes:
    """What one call returned, place by place; prints as text, or as Markdown in a notebook."""

    module: str
    call: tuple[str, ...]
    sections: tuple[Section, ...]
    traps: tuple[Trap, ...]
    source: str

    def about(self, words: str) -> Shapes:
        """The sections whose title has these words, and the traps that have them.

        >>> from rnnscope import trace
        >>> tr = trace(torch.nn.GRU(4, 5), torch.randn(6, 3, 4))
        >>> print(tr.shapes().about("parameters"))
        nn.GRU(4, 5)
            output, h_n = gru(x)
            x (time 6, batch 3, feature 4)
        <BLANKLINE>
        Parameters: 165 numbers. Each layer: 3 gates × hidden × (input + hidden + 2 biases)
            3 * 5 * (4 + 5 + 2)                              layer 0       = 165
            sum(p.numel() for p in tr.parameters.values())   all of them   = 165
        <BLANKLINE>
        Checked on what nn.GRU returned: 2 equalities (exact).

        Raises ``AddressError`` where no title and no trap has them.
        """
        wanted = words.casefold()
        sections = tuple(s for s in self.sections if wanted in s.title.casefold())
        traps = tuple(
            t for t in self.traps if wanted in f"{t.why}\n{t.wrong}\n{t.right}".casefold()
        )
        if (not sections and not traps) or not wanted.strip():
            titles = ", ".join(repr(re.split(r"[:(]", s.title)[0].strip()) for s in self.sections)
            raise AddressError(
                f"no title and no trap has the words {words!r}; titles begin with {titles}"
            )
        return replace(self, sections=sections, traps=traps)

    @property
    def difference(self) -> float:
        """The largest difference between two sides of an equation; rounding, or 0."""
        differences = (s.difference for section in self.sections for s in section.statements)
        return max(differences, default=0.0)

    @property
    def checked(self) -> str:
        """One sentence: what was checked, and how exactly it holds."""
        count = sum(len(section.statements) for section in self.sections)
        accuracy = f"largest difference {self.difference:.0e}" if self.difference else "exact"
        equalities = "1 equality" if count == 1 else f"{count} equalities"
        parts = [f"{equalities} ({accuracy})"] if count else []
        parts += [f"{len(self.traps)} trap{'s' * (len(self.traps) > 1)}"] if self.traps else []
        return f"Checked on {self.source}: {', '.join(parts)}."

    def __str__(self) -> str:
        lines = [self.module, *(f"    {line}" for line in self.call)]
        for section in self.sections:
            lines += ["", section.title]
            lines += _aligned([(s.code, s.says, f"= {s.equals}") for s in section.statements])
        if self.traps:
            lines += ["", "Traps in this call, and how wrong they are on these numbers"]
            pairs = [(f"wrong  {t.wrong}", t.size) for t in self.traps]
            for trap, wrong in zip(self.traps, _aligned(pairs, 6), strict=True):
                lines += [f"    {trap.why}", wrong, f"      right  {trap.right}"]
        return "\n".join(map(printable, [*lines, "", self.checked]))

    def __rich__(self) -> Text:
        """The text with its titles bold, what is wrong in red and what is right in green."""
        rich_text = Text(no_wrap=True)
        for line in str(self).split("\n"):
            word = line.split(maxsplit=1)[:1]
            style = {"wrong": "red", "right": "green"}.get(word[0], "") if word else ""
            rich_text.append(line + "\n", style or ("" if line.startswith(" ") else "bold"))
        rich_text.right_crop(1)
        return rich_text

    def markdown(self) -> str:
        """The same as Markdown, a table a section."""
        lines = [f"**{code(self.module)}**", "", *(f"{code(line)}  " for line in self.call)]
        for section in self.sections:
            lines += ["", f"**{section.title}**", "", "| | | equals |", "|---|---|---|"]
            lines += [
                f"| {code(s.code)} | {s.says} | {code(s.equals)} |" for s in section.statements
            ]
        if self.traps:
            lines += ["", "**Traps in this call**", "", "| wrong | right | why | |"]
            lines += ["|---|---|---|---|"]
            lines += [
                f"| {code(t.wrong)} | {code(t.right)} | {t.why} | {t.size} |" for t in self.traps
            ]
        return "\n".join([*lines, "", markdown(self.checked)])

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def data(self) -> dict[str, Any]:
        """The same as plain data: strings, numbers, lists and dicts, as JSON takes them."""
        sections = [
            {"title": section.title, "statements": [dict(vars(s)) for s in section.statements]}
            for section in self.sections
        ]
        traps = [
            {"why": t.why, "wrong": t.wrong, "right": t.right, "error": t.error, "size": t.size}
            for t in self.traps
        ]
        return {
            "module": self.module,
            "call": list(self.call),
            "sections": sections,
            "traps": traps,
            "difference": self.difference,
            "checked": self.checked,
        }


class Checker:
    """Evaluates code on a trace's numbers."""

    def __init__(self, trace: Traced, names: Mapping[str, Any]) -> None:
        self.names = {"tr": trace, "torch": torch, "h_n": trace.h_n, **names}
        for state in trace.structure.cell.states[1:]:
            self.names[f"{state}_n"] = getattr(trace, f"{state}_n")
        self.kind = trace.structure.kind
        proofs = trace.proofs.values()
        self.rounding = max((max(p.deviation, p.tolerance) for p in proofs), default=0.0)
        self.source = f"what {self.kind} returned"
        if not proofs:
            self.source = f"numbers by the equations alone, {self.kind} did not run"

    def value(self, code: str) -> Any:
        """The value of the code, which consists of sizes and names, never of a user's text."""
        with torch.device("cpu"):  # torch.arange means it, whatever the default device is
            return eval(code, dict(self.names))

    def equal(self, code: str, says: str, equals: str) -> Statement:
        """The statement, after its check: exact, or to rounding where it names the record.

        Raises ``VerificationError`` where it is not true.
        """
        allowed = self.rounding if re.search(r"\btr\b", f"{code} {equals}") else 0.0
        difference = largest_difference(self.value(code), self.value(equals))
        if difference is None or not difference <= allowed:
            by = "in shape" if difference is None else f"by {difference:.2g}"
            raise VerificationError(
                f"{code} should equal {equals}, but differs {by}. Was what {self.kind} returned "
                f"changed in place? If not, please report it."
            )
        return Statement(code, says, equals, difference)

    def trap(self, why: str, wrong: str, right: str) -> Trap:
        """The trap, with the size of the error that ``wrong`` makes here."""
        wrong_value, right_value = self.value(wrong), self.value(right)
        shapes = tuple(wrong_value.shape), tuple(right_value.shape)
        return Trap(why, wrong, right, largest_difference(wrong_value, right_value), shapes)


def largest_difference(a: Any, b: Any) -> float | None:
    """The largest difference, NaN and NaN being equal; None where the shapes differ.

    Whole numbers, as of parameters, are compared too.
    """
    if isinstance(a, int) and isinstance(b, int):
        return float(abs(a - b))
    if isinstance(a, PackedSequence) and isinstance(b, PackedSequence):
        (a, a_lengths), (b, b_lengths) = pad_packed_sequence(a), pad_packed_sequence(b)
        if not torch.equal(a_lengths, b_lengths):
            return None
    if a.shape != b.shape:
        return None
    gap = absolute_difference(a.double(), b.double())
    return float(gap.max()) if gap.numel() else 0.0


def _aligned(rows: Sequence[tuple[str, ...]], indent: int = 4) -> list[str]:
    """Rows as aligned columns, without empty ones; a long row has its last cell on a line below."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    kept = [k for k, width in enumerate(widths) if width]
    lines = []
    for row in rows:
        cells = [row[k].ljust(widths[k]) for k in kept]
        line = " " * indent + "   ".join(cells).rstrip()
        if len(line) > WIDTH and row[-1].startswith("="):
            lines.append(" " * indent + "   ".join(cells[:-1]).rstrip())
            line = " " * 2 * indent + row[-1]
        lines.append(line)
    return lines
