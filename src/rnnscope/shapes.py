"""shapes: what every slice of ``output`` and every row of ``h_n`` is, in one call of a layer.

Each line that is printed is Python, evaluated on the numbers of that call before it is printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnnscope.adopt import Call, Structure
from rnnscope.errors import VerificationError

__all__ = ["Section", "Shapes", "Statement", "Trap", "shapes"]

MANY_ROWS, MANY_SEQUENCES = 12, 8
"""More rows of h_n, or sequences of a packed batch, are told by their rule alone."""
WIDTH = 100


class Proven(Protocol):
    """What of a proof is read here."""

    @property
    def deviation(self) -> float: ...  # noqa: D102
    @property
    def tolerance(self) -> float: ...  # noqa: D102


class Traced(Protocol):
    """What of a trace is read here."""

    structure: Structure
    call: Call
    lengths: Tensor

    @property
    def output(self) -> Any: ...  # noqa: D102
    @property
    def h_n(self) -> Tensor: ...  # noqa: D102
    @property
    def c_n(self) -> Tensor: ...  # noqa: D102
    @property
    def proofs(self) -> Mapping[str, Proven]: ...  # noqa: D102


@dataclass(frozen=True)
class Statement:
    """``code`` is ``says``; its value is that of ``equals``, but for ``difference`` (rounding)."""

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

    @property
    def difference(self) -> float:
        """The largest difference between two sides of an equation; rounding, or 0."""
        return max(s.difference for section in self.sections for s in section.statements)

    @property
    def checked(self) -> str:
        """One sentence: what was checked, and how exactly it holds."""
        count = sum(len(section.statements) for section in self.sections)
        held = f"largest difference {self.difference:.0e}" if self.difference else "exact"
        equalities = "1 equality" if count == 1 else f"{count} equalities"
        traps = f", {len(self.traps)} trap{'s' * (len(self.traps) > 1)}" if self.traps else ""
        return f"Checked on {self.source}: {equalities} ({held}){traps}."

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
        return "\n".join([*lines, "", self.checked])

    def markdown(self) -> str:
        """The same as Markdown, a table a section."""
        lines = [f"**`{self.module}`**", "", *(f"`{line}`  " for line in self.call)]
        for section in self.sections:
            lines += ["", f"**{section.title}**", "", "| | | equals |", "|---|---|---|"]
            lines += [f"| `{s.code}` | {s.says} | `{s.equals}` |" for s in section.statements]
        if self.traps:
            lines += ["", "**Traps in this call**", "", "| wrong | right | why | |"]
            lines += ["|---|---|---|---|"]
            lines += [f"| `{t.wrong}` | `{t.right}` | {t.why} | {t.size} |" for t in self.traps]
        return "\n".join([*lines, "", self.checked])

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def data(self) -> dict[str, Any]:
        """The same as plain data: strings, numbers, lists and dicts, as JSON takes them."""
        sections = [
            {"title": one.title, "statements": [dict(vars(s)) for s in one.statements]}
            for one in self.sections
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


def shapes(trace: Traced) -> Shapes:
    """What each slice of ``output`` and each row of ``h_n`` and ``c_n`` is, in this very call.

    Every equation is evaluated on the trace's numbers; ``VerificationError`` is raised where one
    does not hold, as after ``output`` was changed in place.

    >>> from rnnscope import trace
    >>> lstm = torch.nn.LSTM(4, 5, bidirectional=True, batch_first=True)
    >>> said = trace(lstm, torch.randn(3, 6, 4)).shapes()
    >>> for statement in said.sections[1].statements:
    ...     print(statement.code, "is", statement.equals)
    h_n[0] is output[:, -1, :5]
    h_n[1] is output[:, 0, 5:]
    """
    with torch.no_grad():
        return _of_a_cell(trace) if trace.structure.single_step else _Layer(trace).shapes()


class _Checker:
    """Evaluates code on a trace's numbers."""

    def __init__(self, trace: Traced, names: Mapping[str, Any]) -> None:
        self.names = {"tr": trace, "torch": torch, "h_n": trace.h_n, **names}
        if "c" in trace.structure.cell.states:
            self.names["c_n"] = trace.c_n
        self.kind = trace.structure.kind
        proofs = trace.proofs.values()
        self.rounding = max((max(p.deviation, p.tolerance) for p in proofs), default=0.0)
        self.source = f"what {self.kind} returned"
        if not proofs:
            self.source = f"numbers by the equations alone, {self.kind} did not run"

    def value(self, code: str) -> Any:
        return eval(code, dict(self.names))

    def equal(self, code: str, says: str, equals: str) -> Statement:
        """The statement, where it is true: exactly, or to rounding where it names the record."""
        allowed = self.rounding if "tr" in f"{code} {equals}" else 0.0
        difference = _difference(self.value(code), self.value(equals))
        if difference is None or not difference <= allowed:
            by = "in shape" if difference is None else f"by {difference:.2g}"
            raise VerificationError(
                f"{code} should equal {equals}, but differs {by}. Was what {self.kind} returned "
                f"changed in place? If not, please report it."
            )
        return Statement(code, says, equals, difference)

    def trap(self, why: str, wrong: str, right: str) -> Trap:
        values = self.value(wrong), self.value(right)
        return Trap(why, wrong, right, _difference(*values), tuple(tuple(v.shape) for v in values))  # type: ignore[arg-type]


class _Layer:
    """The statements about a call of nn.RNN, nn.GRU or nn.LSTM, as the call was made."""

    def __init__(self, trace: Traced) -> None:
        self.trace, self.structure, self.call = trace, trace.structure, trace.call
        s = self.structure
        self.two = s.bidirectional
        self.rows = s.num_layers * len(s.directions)
        self.size = s.output_size
        self.top = s.num_layers - 1
        names = {"output": trace.output}
        self.name = "output"
        if self.call.packed is not None:
            self.name = "padded"
            names["padded"], names["lengths"] = pad_packed_sequence(trace.output, s.batch_first)
        self.check = _Checker(trace, names)

    # code ------------------------------------------------------------------------------------

    def at(self, time: str, direction: str | None, batch: str = ":", of: str = "") -> str:
        """The place of output at one time: all of it, or the half of a direction."""
        half = ""
        if self.two and direction is not None:
            half = f":{self.size}" if direction == "forward" else f"{self.size}:"
        index = [time]
        if self.call.batched:
            index = [batch, time] if self.structure.batch_first else [time, batch]
        index += [half] if half else []
        while index and index[-1] == ":":
            index.pop()
        return f"{of or self.name}[{', '.join(index)}]" if index else of or self.name

    def end(self, direction: str) -> str:
        """The place of output that holds a direction's last state, of every sequence."""
        if direction == "reverse":
            return self.at("0", direction)
        if self.ragged:
            return self.at("lengths - 1", direction, f"torch.arange({self.call.batch})")
        return self.at("-1", direction)

    @property
    def ragged(self) -> bool:
        return self.call.lengths is not None

    def dims(self, *names: str) -> str:
        """ "(batch 3, time 6, hidden 5)" of what there is in this call."""
        sizes = {
            "batch": self.call.batch,
            "time": self.call.steps,
            "rows": self.rows,
            "hidden": self.structure.hidden_size,
            "projected": self.size,
            "feature": self.structure.input_size,
            "both": len(self.structure.directions) * self.size,
        }
        inner = "projected" if self.structure.cell.projected else "hidden"
        words = {
            "rows": "layers × directions" if self.two else "layers",
            "both": f"2 × {inner} =" if self.two else inner,
        }
        kept = [name for name in names if name != "batch" or self.call.batched]
        return f"({', '.join(f'{words.get(name, name)} {sizes[name]}' for name in kept)})"

    @property
    def outer(self) -> tuple[str, str]:
        return ("batch", "time") if self.structure.batch_first else ("time", "batch")

    # sections --------------------------------------------------------------------------------

    def shapes(self) -> Shapes:
        sections = [self.output(), self.h_n(), self.last(), self.record()]
        call = (self.called(), *self.read())
        traps = tuple(self.traps())
        return Shapes(str(self.structure), call, tuple(sections), traps, self.check.source)

    def called(self) -> str:
        states = "(h_n, c_n)" if "c" in self.structure.cell.states else "h_n"
        name = self.structure.kind.removeprefix("nn.").lower()
        given = {"RNN": "h_0", "GRU": "h_0", "LSTM": "(h_0, c_0)"}[self.structure.cell.name]
        arguments = f"x, {given}" if self.call.given else "x"
        return f"output, {states} = {name}({arguments})"

    def read(self) -> list[str]:
        x = self.dims(*self.outer, "feature")
        if self.call.packed is None:
            extra = "" if self.call.batched else ": one sequence, no batch"
            return [f"x {x}{extra}"]
        first = ", batch_first=True" if self.structure.batch_first else ""
        lengths = self.trace.lengths.tolist()
        shown = ", ".join(map(str, lengths[:MANY_SEQUENCES]))
        more = ", ..." if len(lengths) > MANY_SEQUENCES else ""
        return [
            f"x packed: {len(lengths)} sequences of {shown}{more} steps, feature "
            f"{self.structure.input_size}",
            f"padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(output{first})",
        ]

    def output(self) -> Section:
        """Which slice is which direction."""
        layer = "the layer" if self.top == 0 else f"the last layer, layer {self.top}"
        title = f"{self.name} {self.dims(*self.outer, 'both')}: h of {layer}, at every step"
        found = []
        for direction in self.structure.directions:
            record = f'tr["h", -1, "{direction}"]'
            if not self.call.batched:
                record += "[0]"
            elif not self.structure.batch_first:
                record += ".transpose(0, 1)"
            found.append(self.check.equal(self.at(":", direction), direction, record))
        return Section(title, tuple(found))

    def h_n(self) -> Section:
        """Which row is which layer and direction, and where output holds it."""
        inner = "projected" if self.structure.cell.projected else "hidden"
        title = f"h_n {self.dims('rows', 'batch', inner)}: the last h of each"
        title += " layer and direction" if self.two else " layer"
        rows = [(k, d) for k in range(self.top + 1) for d in self.structure.directions]
        found = []
        for row, (layer, direction) in enumerate(rows):
            if len(rows) > MANY_ROWS and layer not in (0, self.top):
                continue
            says = f"layer {layer}, {direction}" if self.two else f"layer {layer}"
            place = self.end(direction)
            if layer < self.top:
                says += self.missing(row, place)
                place = self.end_of(layer, direction)
            found.append(self.check.equal(f"h_n[{row}]", says, place))
        if len(rows) > MANY_ROWS:
            found.append(self.rule())
        return Section(title, tuple(found))

    def missing(self, row: int, place: str) -> str:
        """That output does not hold a lower layer's state; nothing where chance made it so."""
        difference = _difference(self.check.value(f"h_n[{row}]"), self.check.value(place))
        return ", not in output" if difference else ", by chance also in output"

    def end_of(self, layer: int, direction: str) -> str:
        """Where the record holds the last state of a layer and direction."""
        if self.ragged:
            return self.last_of("h", f'layer={layer}, direction="{direction}"')
        batch, time = ":" if self.call.batched else "0", "-1" if direction == "forward" else "0"
        return f'tr["h", {layer}, "{direction}"][{batch}, {time}]'

    def rule(self) -> Statement:
        """Rows by layer and direction, for as many as there are."""
        s, call = self.structure, self.call
        sizes = [
            s.num_layers,
            len(s.directions),
            *([call.batch] if call.batched else []),
            self.size,
        ]
        return self.check.equal(
            f"h_n.reshape({', '.join(map(str, sizes))})",
            "(layer, direction, ...)",
            self.last_of("h"),
        )

    def last_of(self, state: str, at: str = "") -> str:
        parts = [
            f'"{state}"',
            *([at] if at else []),
            *(["batch=0"] if not self.call.batched else []),
        ]
        return f'tr.sel({", ".join(parts)}, time="last")'

    def last(self) -> Section:
        """What "last" means, for each sequence where they differ."""
        found: list[Statement] = []
        forward = self.rows - len(self.structure.directions)
        if self.ragged:
            for b, length in enumerate(self.trace.lengths.tolist()[:MANY_SEQUENCES]):
                says = f"sequence {b}: {length} step{'s' * (length > 1)}, the last is time={length - 1}"
                place = self.at(str(length - 1), "forward", str(b))
                found.append(self.check.equal(place, says, f"h_n[{forward}, {b}]"))
            found.append(self.check.equal(self.end("forward"), "all of them", f"h_n[{forward}]"))
            if self.two:
                says = "reverse ends at time=0 in all of them"
                found.append(self.check.equal(self.end("reverse"), says, f"h_n[{forward + 1}]"))
        code, place = "h_n[-1]", self.end("forward")
        if self.two:
            code = "torch.cat([h_n[-2], h_n[-1]], dim=-1)"
            place = f"torch.cat([{place}, {self.end('reverse')}], dim=-1)"
        says = "one vector a sequence" if self.call.batched else "the sequence in one vector"
        found.append(self.check.equal(code, says, place))
        title = 'The last state: "last" is where a direction has read the whole sequence'
        return Section(title, tuple(found))

    def record(self) -> Section:
        """How the record gives back what the layer returned."""
        h = 'torch.cat(tuple(tr["h", -1]), dim=-1)' if self.two else 'tr["h", -1, "forward"]'
        if not self.call.batched:
            h += "[0]"
        elif not self.structure.batch_first:
            h += ".transpose(0, 1)"
        found = [self.check.equal(self.name, "", h)]
        if self.call.packed is not None:
            first = "batch_first=True, " if self.structure.batch_first else ""
            pack = "torch.nn.utils.rnn.pack_padded_sequence"
            code = f"{pack}(padded, lengths, {first}enforce_sorted=False)"
            found.append(self.check.equal("output", "", code))
        for state in self.structure.cell.states:
            code = f"{self.last_of(state)}.flatten(0, 1)"
            found.append(self.check.equal(f"{state}_n", "", code))
        return Section("From the record: what rebuilds each", tuple(found))

    # traps -----------------------------------------------------------------------------------

    def traps(self) -> list[Trap]:
        """The mistakes that this very call invites; each runs without an error."""
        call, trap = self.call, self.check.trap
        found = []
        if self.two and call.steps > 1:
            why = "The reverse direction starts at the last step and ends at time=0."
            found.append(trap(why, self.at("-1", "reverse"), self.end("reverse")))
        if self.two:
            why = "h_n[-1] is the reverse direction alone."
            found.append(trap(why, "h_n[-1]", "torch.cat([h_n[-2], h_n[-1]], dim=-1)"))
        if self.ragged:
            short = (self.trace.lengths < call.steps).nonzero().flatten().tolist()
            places = self.at("-1", None, str(short))
            zeros = self.check.equal(places, "", f"torch.zeros_like({places})")
            why = f"{zeros.code} is padding, zeros: these sequences are shorter than {call.steps}."
            if len(short) > MANY_SEQUENCES:
                why = f"{len(short)} sequences are shorter than {call.steps}: they end in zeros."
            found.append(trap(why, self.at("-1", "forward"), self.end("forward")))
        if not call.batched:
            return found
        swapped = call.packed is None and not self.structure.batch_first
        if swapped and call.steps * call.batch > 1:
            why = "Time comes first here: output[:, -1] is the last sequence, not the last step."
            found.append(trap(why, "output[:, -1]", "output[-1]"))
        if self.structure.batch_first and self.rows * call.batch > 1:
            why = "batch_first does not change h_n: layers come first, sequence 0 is h_n[:, 0]."
            found.append(trap(why, "h_n[0]", "h_n[:, 0]"))
        if self.rows > 1 and call.batch > 1:
            b = call.batch
            why = f"view mixes sequences: in row 0 it puts {_listed(min(self.rows, b))}."
            found.append(trap(why, f"h_n.view({b}, -1)", f"h_n.transpose(0, 1).reshape({b}, -1)"))
        if self.rows == call.batch > 1:
            layers = "layers × directions" if self.two else "layers"
            why = f"batch = {layers} = {call.batch}: a transposed state is taken as h_0, no error."
            found.append(trap(why, "h_n.transpose(0, 1)", "h_n"))
        return found


def _of_a_cell(trace: Traced) -> Shapes:
    """A cell module makes one step: no layers, no directions, no time in what it returns."""
    structure, call = trace.structure, trace.call
    check = _Checker(trace, {"output": trace.output})
    states = structure.cell.states
    batch = f"batch {call.batch}, " if call.batched else ""
    one = ":" if call.batched else "0"
    found = tuple(
        check.equal(
            f"{name}_n", structure.cell.words[name], f'tr["{name}", 0, "forward"][{one}, -1]'
        )
        for name in states
    )
    title = f"Each ({batch}hidden {structure.hidden_size}): the state after this one step"
    returned = ", ".join(f"{name}_n" for name in states)
    given = ", ".join(f"{name}_0" for name in states)
    arguments = "x" if not call.given else f"x, {given if len(states) == 1 else f'({given})'}"
    lines = (
        f"{returned} = {structure.kind.removeprefix('nn.').lower()}({arguments})",
        f"x ({batch}feature {structure.input_size}): one step{'' if batch else ', no batch'}",
    )
    return Shapes(str(structure), lines, (Section(title, found),), (), check.source)


def _difference(a: Any, b: Any) -> float | None:
    """The largest difference, NaN and NaN being equal; None where the shapes differ."""
    if isinstance(a, PackedSequence) and isinstance(b, PackedSequence):
        (a, mine), (b, others) = pad_packed_sequence(a), pad_packed_sequence(b)
        if not torch.equal(mine, others):
            return None
    if a.shape != b.shape:
        return None
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0, (a - b).abs()).nan_to_num(nan=math.inf)
    return float(apart.max()) if apart.numel() else 0.0


def _listed(count: int) -> str:
    names = [str(k) for k in range(count)]
    if count > MANY_SEQUENCES:
        return f"sequences 0 to {count - 1}"
    return f"sequences {', '.join(names[:-1])} and {names[-1]}"


def _aligned(rows: list[tuple[str, ...]], indent: int = 4) -> list[str]:
    """Columns, one under the other; empty ones are left out, and what is too long hangs below."""
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
