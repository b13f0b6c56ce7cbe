"""A short document of formulas, tables and sentences, in four forms: text, LaTeX, Markdown, data.

What is to be said is built once, as blocks; each form only writes them down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from rnnscope import _escaping as escaping
from rnnscope.cells import notation
from rnnscope.cells.notation import Digits, FunctionCall, Noted, Shape, Total

__all__ = ["Block", "Chain", "Chains", "Document", "Heading", "Listing", "Paragraph", "Table"]

WIDTH = 100
"""Formulas longer than this are broken between their terms."""

BESIDE = 36
"""Equations up to this length stand beside their numbers, longer ones above."""

Cell = str | Shape


@dataclass(frozen=True)
class Heading:
    """A line that says what follows; ``aside`` stands at its right, ``level`` 2 is below 1;
    level 0 is a line of code."""

    title: str
    aside: str = ""
    level: int = 1


@dataclass(frozen=True)
class Paragraph:
    """Sentences, each line as it is."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """Lines of code, or of what code prints."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """left = stage = stage = result: an equation, then its numbers, reduced step by step.

    ``symbolic`` is the right side with symbols; ``lead`` stands before the chain and ``tail``
    behind its first line.
    """

    left: Shape
    stages: tuple[Shape, ...]
    result: str = ""
    lead: str = ""
    tail: str = ""
    symbolic: Shape | None = None

    @property
    def all_stages(self) -> tuple[Shape, ...]:
        """The right side with symbols, the stages, and the result."""
        first = () if self.symbolic is None else (self.symbolic,)
        return (*first, *self.stages, *((Digits(self.result),) if self.result else ()))


@dataclass(frozen=True)
class Chains:
    """Chains one below another, their signs of equality aligned; ``spaced`` by empty lines."""

    chains: tuple[Chain, ...]
    spaced: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers; the first ``left_columns`` are aligned at the left."""

    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_columns: int = 1


Block = Heading | Paragraph | Listing | Chains | Table


@dataclass(frozen=True)
class Document:
    """Blocks in order, with the same facts as plain data."""

    blocks: tuple[Block, ...]
    facts: dict[str, Any]
    indent: int = 0

    def text(self) -> str:
        """For a terminal, without colours."""
        return "\n".join(line for line, _ in self._lines()) + "\n"

    def latex(self) -> str:
        """For a LaTeX document that uses amsmath."""
        return "\n\n".join(_latex(block) for block in self.blocks) + "\n"

    def markdown(self) -> str:
        """For a page or a notebook; formulas between double dollars."""
        return "\n\n".join(_markdown(block) for block in self.blocks) + "\n"

    def data(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes: what was found, and each printed equation."""
        equations = [
            {
                "left": notation.text(chain.left),
                "stages": [notation.text(stage) for stage in chain.stages],
                "result": chain.result,
            }
            for block in self.blocks
            if isinstance(block, Chains)
            for chain in block.chains
        ]
        tables = [
            {
                "header": [_plain(cell).strip() for cell in block.header],
                "rows": [[_plain(cell).strip() for cell in row] for row in block.rows],
            }
            for block in self.blocks
            if isinstance(block, Table)
        ]
        return {**self.facts, "equations": equations, "tables": tables}

    def __str__(self) -> str:
        return self.text().rstrip("\n")

    __repr__ = __str__

    def __rich__(self) -> Text:
        """The text with its headings bold, its asides dim and its results in colour."""
        rich_text = Text(no_wrap=True)
        for line, style in self._lines():
            start = len(rich_text)
            rich_text.append(line + "\n", style or "")
            end = line.rfind(" = ")
            if not style and end > 0 and _is_number(line[end + 3 :]):
                rich_text.stylize("bold cyan", start + end + 3, start + len(line))
        rich_text.right_crop(1)
        return rich_text

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Lines of text, each with its style."""
        for line, style in self._written():
            yield escaping.printable(line), style

    def _written(self) -> Iterator[tuple[str, str]]:
        for k, block in enumerate(self.blocks):
            if isinstance(block, Heading):
                if k and not (block.level > 1 and isinstance(self.blocks[k - 1], Heading)):
                    yield "", ""
                aside = f"      {block.aside}" if block.aside else ""
                yield " " * self.indent * (block.level > 1) + block.title + aside, "bold"
                continue
            if k == 1 or (k and not isinstance(self.blocks[k - 1], Heading)):
                yield "", ""
            for line in _text_lines(block):
                yield (" " * self.indent + line).rstrip(), ""


def _is_number(text: str) -> bool:
    try:
        float(text.split("  ")[0])
    except ValueError:
        return False
    return True


# text ---------------------------------------------------------------------------------------


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else notation.text(cell)


def _text_lines(block: Block) -> list[str]:
    match block:
        case Heading(title):
            return [title]
        case Paragraph(lines) | Listing(lines):
            return list(lines)
        case Chains():
            return _chain_lines(block)
        case Table():
            return _table_lines(block)


def _table_lines(table: Table) -> list[str]:
    rows = [[_plain(cell) for cell in row] for row in (table.header, *table.rows)]
    if not any(rows[0]):
        rows = rows[1:]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if k < table.left_columns else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _chain_lines(block: Chains) -> list[str]:
    left_sides, bodies = _columns(block)
    lead = max(len(chain.lead) for chain in block.chains)
    width = max(map(len, left_sides))
    broken = [[_broken(line, WIDTH - width - lead) for line in body] for body in bodies]
    lines: list[str] = []
    longest = max((len(part) for body in broken for parts in body for part in parts), default=0)
    # a chain of one line has its result before its tail
    results = max(
        (
            len(f" = {chain.result}")
            for chain, body in zip(block.chains, broken, strict=True)
            if chain.tail and sum(map(len, body)) == 1
        ),
        default=0,
    )
    for chain, left_side, body in zip(block.chains, left_sides, broken, strict=True):
        if lines and block.spaced:
            lines.append("")
        before = f"{chain.lead:<{lead}}{'    ' if lead else ''}"
        start = f"{left_side:<{width}}"
        if not body:
            lines.append(f"{before}{start} = {chain.result:<14}{chain.tail}".rstrip())
        for k, parts in enumerate(body):
            for j, part in enumerate(parts):
                line = f"{before}{start} {'=' if j == 0 else ' '} {part}"
                before, start = " " * len(before), " " * len(start)
                full = len(line) + longest - len(part)
                if j == len(parts) - 1 and k == len(body) - 1 and chain.result:
                    line = f"{line:<{full}} = {chain.result}"
                if j == 0 and k == 0 and chain.tail:
                    line = f"{line:<{full + results + 4}}{chain.tail}"
                lines.append(line)
    return lines


def _columns(block: Chains) -> tuple[list[str], list[list[str]]]:
    """The texts at the left of the signs of equality, and the lines at their right."""
    left_sides = [notation.text(chain.left) for chain in block.chains]
    symbols = [chain.symbolic for chain in block.chains]
    wide = [
        left_side if symbolic is None else f"{left_side} = {notation.text(symbolic)}"
        for left_side, symbolic in zip(left_sides, symbols, strict=True)
    ]
    if max(map(len, wide)) <= BESIDE:
        return wide, [_aligned(chain.stages) for chain in block.chains]
    return left_sides, [
        [*([] if symbolic is None else [notation.text(symbolic)]), *_aligned(chain.stages)]
        for symbolic, chain in zip(symbols, block.chains, strict=True)
    ]


def _aligned(stages: tuple[Shape, ...]) -> list[str]:
    """Each stage as text; the terms of neighbours with equally many terms form columns."""
    split = [_terms(stage) for stage in stages]
    lines: list[str] = []
    start = 0
    while start < len(split):
        end = start + 1
        while end < len(split) and _alike(split[start], split[end]):
            end += 1
        group = split[start:end]
        widths = [
            max(map(len, column)) for column in zip(*(terms for _, terms, _ in group), strict=True)
        ]
        for (prefix, terms, suffix), stage in zip(group, stages[start:end], strict=True):
            if end - start == 1:
                lines.append(notation.text(stage))
                continue
            padded = " ".join(term.ljust(width) for term, width in zip(terms, widths, strict=True))
            lines.append((prefix + padded + suffix).rstrip())
        start = end
    return lines


Split = tuple[str, list[str], str]


def _alike(a: Split, b: Split) -> bool:
    return a[0] == b[0] and len(a[1]) == len(b[1]) > 1


def _terms(shape: Shape) -> Split:
    """The text before the terms of a sum, the terms with their signs, and the text behind."""
    match shape:
        case FunctionCall(_, Total() as argument):
            _, terms, _ = _terms(argument)
            return shape.function.symbol + "(", terms, ")"
        case Total(parts):
            whole = notation.text(shape)
            texts: list[str] = []
            for k in range(len(parts), 0, -1):
                shorter = notation.text(Total(parts[: k - 1])) if k > 1 else ""
                texts.append(whole[len(shorter) :].strip())
                whole = shorter
            return "", texts[::-1], ""
        case _:
            return "", [notation.text(shape)], ""


def _broken(line: str, width: int) -> list[str]:
    """A line, broken before a + or - outside of parentheses where it is longer than ``width``."""
    if len(line) <= width:
        return [line]
    depth, breaks = 0, []
    outside = int(0 < line.find("(") < 6 and line.endswith(")"))  # tanh(...)
    for k, letter in enumerate(line):
        depth += (letter == "(") - (letter == ")")
        if depth == outside and line[k : k + 3] in (" + ", " - "):
            breaks.append(k)
    parts, start, last = [], 0, 0
    for place in [*breaks, len(line)]:
        if place - start > width and last > start:
            parts.append(line[start:last].strip())
            start = last
        last = place
    return [*parts, line[start:].strip()]


# LaTeX and Markdown -----------------------------------------------------------------------


def _aligned_latex(block: Chains) -> str:
    lines = []
    for chain in block.chains:
        left_side = notation.latex(chain.left)
        if chain.lead:
            left_side = rf"\text{{{escaping.latex(chain.lead)}}}\qquad {left_side}"
        for k, stage in enumerate(chain.all_stages):
            tail = rf" && \text{{{escaping.latex(chain.tail)}}}" if chain.tail and k == 0 else ""
            lines.append(f"{left_side if k == 0 else ''} &= {notation.latex(stage)}{tail}")
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def _single(cell: str) -> str:
    """The text with single spaces: Markdown and LaTeX keep no columns by spaces."""
    return " ".join(filter(None, cell.split(" ")))


def _latex_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaping.latex(_single(cell))
    return f"${notation.latex(cell)}$"


def _latex(block: Block) -> str:
    match block:
        case Heading(title, aside):
            if block.level == 0:
                return rf"\noindent\texttt{{{escaping.latex(title)}}}"
            return rf"\paragraph{{{escaping.latex(title)}}} {escaping.latex(aside)}".rstrip()
        case Paragraph(lines):
            return "\\\\\n".join(escaping.latex(line.strip()) for line in lines)
        case Listing(lines):
            return escaping.verbatim("\n".join(map(escaping.printable, lines)))
        case Chains():
            return "\\[\n" + _aligned_latex(block) + "\n\\]"
        case Table(head, rows, left_columns):
            columns = "l" * left_columns + "r" * (len(head) - left_columns)
            body = "\n".join(" & ".join(map(_latex_cell, row)) + r" \\" for row in (head, *rows))
            return f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}"


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaping.markdown(_single(cell))
    return f"${notation.latex(cell)}$"


def _markdown(block: Block) -> str:
    match block:
        case Heading(title, aside):
            return f"### {_markdown_cell(title)}" + (
                f"\n\n{_markdown_cell(aside)}" if aside else ""
            )
        case Paragraph(lines):
            return "  \n".join(_markdown_cell(line) for line in lines)
        case Listing(lines):
            return escaping.fenced("\n".join(map(escaping.printable, lines)))
        case Chains():
            return "$$\n" + _aligned_latex(block) + "\n$$"
        case Table(head, rows, left_columns):
            marks = [":--" if k < left_columns else "--:" for k in range(len(head))]
            first, *body = (
                "| " + " | ".join(map(_markdown_cell, row)) + " |" for row in (head, *rows)
            )
            return "\n".join([first, "| " + " | ".join(marks) + " |", *body])


def with_words(shape: Shape, words: tuple[str, ...]) -> Shape:
    """A sum of numbers, each with a word."""
    if isinstance(shape, Total) and len(shape.terms) == len(words):
        pairs = zip(shape.terms, words, strict=True)
        if all(isinstance(term, Digits) for _, term in shape.terms):
            return Total(tuple((sign, Noted(term, word)) for (sign, term), word in pairs))
    return shape
