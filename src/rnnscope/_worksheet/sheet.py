"""The sheet as one HTML page: blanks to fill on its first pages, the key behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from rnnscope._escaping import printable
from rnnscope._record.traced import Traced
from rnnscope._worksheet.exercise import BLANK, Exercise, Line, SheetSection, exercise
from rnnscope.cells.algebra import Apply, nodes
from rnnscope.cells.notation import Notation, text

__all__ = ["Sheet", "worksheet"]

ANY_PAPER = """@page { margin: 14mm;
  @bottom-center { content: "page " counter(page); font: 8pt "DejaVu Serif", serif } }"""
STYLE = (
    ANY_PAPER
    + """
* { box-sizing: border-box }
body { font: 10.5pt/1.35 "DejaVu Serif", Georgia, serif; color: #000; margin: 0 auto;
  max-width: 186mm }
@media screen { body { padding: 10mm 4mm } }
h1 { font-size: 16pt; margin: 0 0 2mm } h2 { font-size: 12.5pt; margin: 5mm 0 1.5mm }
h3 { font-size: 11pt; margin: 3.5mm 0 1mm } h1, h2, h3 { break-after: avoid }
p, ul { margin: 0 0 2mm } .start { break-after: avoid } .name { float: right; font-size: 10pt }
.code, td, th { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 8.5pt }
.code { overflow-wrap: anywhere } table { border-collapse: collapse; break-inside: avoid }
td, th { border: 0.4pt solid #777; padding: 0.6mm 1.6mm; text-align: right; font-weight: normal }
td:first-child, th:first-child { text-align: left; white-space: nowrap }
.line { break-inside: avoid; margin: 0 0 1mm; padding-left: 10mm; text-indent: -10mm;
  line-height: 2.1 }
.equation { margin: 0 0 0.6mm 4mm } .stage { margin-right: 0.15em } .whole { white-space: nowrap }
.blank { display: inline-block; text-indent: 0; min-width: 4.1em; height: 1.75em;
  line-height: 1.75em; border: 0.7pt solid #333; border-radius: 2pt; text-align: center;
  vertical-align: middle }
.step { break-inside: avoid } .key { break-before: page } .key .line { line-height: 1.7 }
.key .blank { height: 1.45em; line-height: 1.45em; border-color: #888; font-weight: bold }
sub { font-size: 70%; line-height: 0 }
"""
)


@dataclass(frozen=True)
class Sheet:
    """A worksheet with its key; ``largest_difference`` is that of a state of the key and the
    layer's own number."""

    html: str
    exercise: Exercise
    largest_difference: float

    def with_paper(self, size: str) -> str:
        """The page for a printer with paper of this size, A4 or Letter."""
        return self.html.replace(ANY_PAPER, ANY_PAPER.replace("14mm;", f"14mm; size: {size};"), 1)


def worksheet(trace: Traced, digits: int, construction: str) -> Sheet:
    """The sheet of a trace of one sequence, whose weights are rounded to ``digits`` decimals.

    Raises ``ShapeError`` where a sheet would not be readable.
    """
    task = exercise(trace, digits)
    rows, largest = _distances(trace, task)
    title = f"Worksheet: {trace.structure.kind} by hand"
    body = [
        '<p class="name">Name ______________________</p>',
        f"<h1>{escape(title)}</h1>",
        f'<p class="code">{escape(printable(construction))}</p>',
        *_rules(trace, task),
        *_input(task),
        *_equations(trace),
        *_weights(trace, task),
        *_steps(trace, task, filled=False),
        f'<div class="key"><h1>Key: {escape(title.partition(": ")[2])}</h1>',
        *_steps(trace, task, filled=True),
        *_closeness(trace, task, rows, largest),
        "</div>",
    ]
    head = (
        f'<meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style>"
    )
    html = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body)
    return Sheet(html + "\n</body></html>\n", task, largest)


def _rules(trace: Traced, task: Exercise) -> Iterator[str]:
    digits = task.digits
    before, after = f"0.{'1234567'[:digits]}5", f"0.{_rounded_up('1234567'[:digits])}"
    decimals = f"{digits} decimal{'s' * (digits != 1)}"
    zero = f"0.{'0' * digits}"
    yield (
        f"<p>Compute each box from the numbers before it; for a name such as h<sub>1</sub> take "
        f"the number that you wrote down for it. <b>Round every result to {decimals}</b>, once, "
        f"from all digits that the calculator shows, and go on with the rounded number. Exactly a "
        f"half is rounded away from zero: {before} becomes {after}, −{before} becomes −{after}. "
        f"Write {zero}, never −{zero}. A box may ask for a number that you have already.</p>"
    )
    names = {
        node.function.name
        for equation in trace.cell.equations.values()
        for node in nodes(equation)
        if isinstance(node, Apply)
    }
    formulas = [formula for name, formula in FORMULAS.items() if name in names]
    yield f"<p>{'; '.join(formulas)}. Round these too.</p>"


FORMULAS = {
    "sigmoid": "σ(a) = 1 / (1 + e<sup>−a</sup>)",
    "tanh": "tanh(a) = (e<sup>a</sup> − e<sup>−a</sup>) / (e<sup>a</sup> + e<sup>−a</sup>)",
    "relu": "relu(a) is a where a is positive, else 0",
}
"""The functions that a sheet may ask for."""


def _rounded_up(digits: str) -> str:
    return f"{int(digits) + 1:0{len(digits)}d}"


def _input(task: Exercise) -> Iterator[str]:
    first = task.sections[0].steps
    inputs = [
        step.input_text for step in sorted(first, key=lambda step: step.time) if step.input_text
    ]
    if inputs:
        yield f"<h2>Input</h2><p>{', '.join(_formula(text) for text in inputs)}</p>"


def _equations(trace: Traced) -> Iterator[str]:
    cell = trace.cell
    yield f"<h2>Equation{'s' * (len(cell.equations) > 1)}</h2>"
    directions = [direction == "reverse" for direction in trace.directions]
    for reverse in directions:
        if len(directions) > 1:
            yield f"<p>{'Reverse' if reverse else 'Forward'}:</p>"
        notation = Notation(bias=trace.structure.bias, reverse=reverse, element=True)
        for name, expr in cell.equations.items():
            yield f'<p class="equation">{_formula(text(notation.equation(name, expr)))}</p>'
    words = [f"{name} {word}" for name, word in cell.words.items()]
    if words:
        yield f"<p>{escape(', '.join(words))}.</p>"


def _weights(trace: Traced, task: Exercise) -> Iterator[str]:
    yield f"<h2>Weights, rounded to {task.digits} decimals</h2>"
    for section in task.sections:
        if len(task.sections) > 1:
            yield f"<h3>{escape(_title(section, task))}</h3>"
        yield _weights_table(section.columns, section.rows)
        if section.projection:
            suffix = section.columns[0][0].removeprefix("weight_ih")
            columns = [
                (f"weight_hr{suffix}", f"m_t[{k}]") for k in range(len(section.projection[0]) - 1)
            ]
            yield f"<p></p>{_weights_table(tuple(columns), section.projection)}"


def _weights_table(columns: tuple[tuple[str, str], ...], rows: tuple[tuple[str, ...], ...]) -> str:
    """Weights under the names of their parameters, and under what they are multiplied with."""
    names = list(dict.fromkeys(name for name, _ in columns))
    spans = [sum(name == column for column, _ in columns) for name in names]
    head = "".join(
        f'<th colspan="{span}">{escape(name).replace("_", "_<wbr>")}</th>'
        for name, span in zip(names, spans, strict=True)
    )
    times = "".join(f"<th>{_formula(multiplied)}</th>" for _, multiplied in columns)
    return f"<table><tr><th></th>{head}</tr><tr><th>times</th>{times}</tr>{_rows(rows)}</table>"


def _title(section: SheetSection, task: Exercise) -> str:
    directions = {part.direction for part in task.sections}
    title = f"Layer {section.layer}"
    return f"{title}, {section.direction}" if len(directions) > 1 else title


def _steps(trace: Traced, task: Exercise, *, filled: bool) -> Iterator[str]:
    if not filled:
        yield "<h2>Step by step</h2>"
    for section in task.sections:
        if len(task.sections) > 1:
            yield f"<h2>{escape(_title(section, task))}</h2>"
        source = [section.source] if section.source else []
        start = "; ".join([*source, *section.starts])
        yield f'<p class="start">{_formula(start)}</p>'
        for step in section.steps:
            written = f": {_formula(step.input_text)}" if step.input_text else ""
            yield f'<section class="step"><h3>Step {step.time + 1}, time={step.time}{written}</h3>'
            for line in step.lines:
                yield _line(line, filled)
            yield "</section>"


def _line(line: Line, filled: bool) -> str:
    stages = " ".join(
        f'<span class="stage{" whole" * _is_short(stage)}">= {_formula(stage, filled)}</span>'
        for stage in line.stages
    )
    return f'<div class="line"><span class="stage">{_formula(line.symbol)}</span> {stages}</div>'


def _is_short(stage: str) -> bool:
    """Whether a stage fits on one line of the paper."""
    return len(re.sub(f"{BLANK[0]}.*?{BLANK[1]}", "_" * 8, stage)) < 70


def _formula(written: str, filled: bool = True) -> str:
    """A formula as HTML: indices low, blanks as boxes, filled or empty."""
    html = escape(written)
    html = re.sub(r"\b([A-Za-z]\w*?)_(\(t[+-]1\)|\w+)", r"\1<sub>\2</sub>", html)
    html = html.replace("-", "\u2212").replace("<sub>(t\u22121)</sub>", "<sub>t\u22121</sub>")
    html = html.replace("<sub>(t+1)</sub>", "<sub>t+1</sub>")
    number = r"\1" if filled else ""
    box = f'<span class="blank">{number}</span>'
    return re.sub(f"{BLANK[0]}(.*?){BLANK[1]}", box, html)


def _table(header: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    return f"<table><tr>{head}</tr>{_rows(rows)}</table>"


def _rows(rows: tuple[tuple[str, ...], ...]) -> str:
    return "".join(
        "<tr>" + "".join(f"<td>{_signed(escape(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )


def _signed(cell: str) -> str:
    """A number with the sign that stands in formulas."""
    return re.sub(r"^-(?=\d)", "\u2212", cell)


# how far the key is from the layer -----------------------------------------------------------


def _distances(trace: Traced, task: Exercise) -> tuple[list[tuple[str, ...]], float]:
    """A row for each state of each step: the key's number, the layer's own, their difference."""
    rows: list[tuple[str, ...]] = []
    largest = 0.0
    for section in task.sections:
        d = trace.directions.index(section.direction)
        for (state, time), values in sorted(
            section.states.items(), key=lambda item: (item[0][1], item[0][0] != "h")
        ):
            for unit, value in enumerate(values):
                layer_value = float(trace[state].detach()[section.layer, d, 0, time, unit])
                largest = max(largest, abs(layer_value - float(value)))
                place = f"{state}_{time + 1}" + (f"[{unit}]" if len(values) > 1 else "")
                place = place if len(task.sections) == 1 else f"{_title(section, task)}: {place}"
                gap = f"{abs(layer_value - float(value)):.6f}"
                rows.append((place, f"{value:f}", f"{layer_value:.6f}", gap))
    return rows, largest


def _closeness(
    trace: Traced, task: Exercise, rows: list[tuple[str, ...]], largest: float
) -> Iterator[str]:
    kind = trace.structure.kind
    precision = str(trace.call.x.dtype).removeprefix("torch.")
    yield "<h2>How far the key is from the layer</h2>"
    yield (
        f"<p>The key is the arithmetic of this sheet, rounded at every box. {escape(kind)} with "
        f"these rounded weights, computed by torch in {precision}, rounds nothing on the way: its "
        f"states are at most {largest:.6f} away.</p>"
    )
    yield _table(("", "key", kind, "difference"), tuple(rows))
