"""Pages whose code is run: what a block prints is the text below it, to the digits shown.

A block of ``python`` or ``sh`` (commands of rnnscope) is followed by a block of ``text``: what it
printed, a warning or an error among it. A line of dots in the text stands for lines left out.
Blocks above the first heading of level 3 set up the names that all sections have; each section
then starts afresh. With RNNSCOPE_REGENERATE=1 the texts are written anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from rnnscope._cli.commands import app

DOTS = "..."
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w.]*\w)")
ROUNDING = re.compile(r"\d(?:\.\d+)?e-(?:0[4-9]|[1-9]\d)|\((?:exact|largest difference \S+)\)")
"""What is left over is the machine's: 8e-08 on one, 6e-08 on another."""

NO_NEWS = ("LSTM with projections is not supported", "Full backward hook is firing")
"""Warnings that no page shows: how torch computes something, not what."""


@dataclass
class Block:
    """A fenced block: its language, its text, and the line on which the text begins."""

    language: str
    text: str
    line: int


@dataclass
class Section:
    """A heading and the blocks under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def code(self) -> list[Block]:
        return [block for block in self.blocks if block.language in ("python", "sh")]


class Page:
    """A page of Markdown, read into the blocks that set up and the sections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.setup: list[Block] = []
        self.sections: list[Section] = []
        block: Block | None = None
        for number, line in enumerate(self.text.splitlines()):
            if block is not None:
                if line == "```":
                    block = None
                else:
                    block.text += line + "\n"
            elif line.startswith("```"):
                block = Block(line[3:], "", number + 1)
                (self.sections[-1].blocks if self.sections else self.setup).append(block)
            elif line.startswith("### "):
                self.sections.append(Section(line[4:]))

    def section(self, title: str) -> Section:
        (section,) = (section for section in self.sections if section.title == title)
        return section

    def names(self) -> dict[str, Any]:
        """What the blocks above the sections define."""
        names: dict[str, Any] = {}
        for block in self.setup:
            if block.language == "python":
                exec(block.text, names)
        return names

    def assert_prints_what_it_shows(self, section: Section) -> None:
        """Each block prints the text below it; a block without one prints nothing."""
        names = self.names()
        for index, block in enumerate(section.blocks):
            if block.language == "text":
                continue
            printed = output(block, names)
            below = section.blocks[index + 1] if index + 1 < len(section.blocks) else None
            if below is None or below.language != "text":
                assert printed == "", f"{self.path.name}, line {block.line}: shows no text"
                continue
            if os.environ.get("RNNSCOPE_REGENERATE") == "1" and not agrees(below.text, printed):
                self.renew(section, index + 1, printed)
            assert agrees(below.text, printed), (
                f"{self.path.name}, line {below.line}: run with RNNSCOPE_REGENERATE=1 and look at "
                f"what it wrote. Printed:\n{printed}"
            )

    def renew(self, section: Section, index: int, printed: str) -> None:
        """Write what was printed into the page, in place of a section's block."""
        block = section.blocks[index]
        renewed = abridged(block.text, printed)
        line = Page(self.path).section(section.title).blocks[index].line
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines[line : line + block.text.count("\n")] = [renewed]
        self.path.write_text("".join(lines), encoding="utf-8")
        block.text = renewed


def output(block: Block, names: dict[str, Any]) -> str:
    """What a block prints, then its warnings, and the error in which it ends."""
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as told, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        for message in NO_NEWS:
            warnings.filterwarnings("ignore", message=message)
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of torch by torch
        try:
            if block.language == "python":
                exec(compile(block.text, f"block at line {block.line}", "exec"), names)
            else:
                for line in block.text.splitlines():
                    print(command(line), end="")
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
    lines = [f"{warning.category.__name__}: {warning.message}\n" for warning in told]
    text = re.sub(r"\x1b\[\d*m", "", printed.getvalue() + "".join(lines))  # bold, in an error
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def command(line: str) -> str:
    """What a command prints on the terminal."""
    name, *words = line.partition("#")[0].split()
    assert name == "rnnscope", f"not a command of rnnscope: {line}"
    result = CliRunner().invoke(app, words, prog_name="rnnscope")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return str(result.output)


# texts ---------------------------------------------------------------------------------------


def agrees(shown: str, printed: str) -> bool:
    """Whether the text is what was printed: the lines in order, those of dots left out."""
    pieces = [piece.splitlines() for piece in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)]
    lines, start = printed.splitlines(), 0
    for k, piece in enumerate(pieces):
        first, last = k == 0, k == len(pieces) - 1
        places = range(start, len(lines) - len(piece) + 1)
        if first:
            places = places[:1]
        elif last:
            places = range(max(start, len(lines) - len(piece)), len(lines) - len(piece) + 1)
        if first and last and len(piece) != len(lines):
            return False
        for place in places:
            if all(map(same, piece, lines[place : place + len(piece)])):
                start = place + len(piece)
                break
        else:
            return False
    return True


def same(shown: str, printed: str) -> bool:
    """Whether two lines differ in nothing but the last digit of their numbers."""
    shown, printed = (ROUNDING.sub("#", line) for line in (shown, printed))
    if shown == printed:
        return True
    if NUMBER.sub("0", shown).split() != NUMBER.sub("0", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= _unit(a) for a, b in pairs)


def _unit(number: str) -> float:
    """One in the last digit of a number with a point; whole numbers are exact."""
    digits, _, exponent = number.partition("e")
    _, point, decimals = digits.partition(".")
    return 1.01 * 10.0 ** (int(exponent or 0) - len(decimals)) if point else 0.0


def abridged(shown: str, printed: str) -> str:
    """What was printed, with the same lines left out as before, where they can be told."""
    if f"{DOTS}\n" not in shown:
        return printed
    lines = printed.splitlines(keepends=True)
    texts = [_without_numbers(line) for line in lines]
    kept: list[str] = []
    start = 0
    for k, piece in enumerate(re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)):
        kept += [f"{DOTS}\n"] * (k > 0)
        for end in piece.splitlines()[:1] + piece.splitlines()[1:][-1:]:
            beginning = _without_numbers(end)
            places = [n for n in range(start, len(lines)) if texts[n].startswith(beginning)]
            if not places:
                return printed
            kept += lines[start if end != piece.splitlines()[0] else places[0] : places[0] + 1]
            start = places[0] + 1
    return "".join(kept)


def _without_numbers(line: str) -> str:
    """The words of a line, by which it is found again; a beginning of them is enough."""
    return re.sub(r"\s+", " ", NUMBER.sub("0", ROUNDING.sub("#", line.rstrip())))


def run_python(section: Section, names: Mapping[str, Any]) -> None:
    """Run the Python of a section with these names; an error is raised, a warning is not."""
    own = dict(names)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()):
            for block in section.code:
                if block.language == "python":
                    exec(block.text, own)
