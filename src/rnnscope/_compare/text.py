"""What the texts of verdicts share: numbers, lists, causes with their table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.verdict import APPROXIMATE, APPROXIMATIONS, Explanation, Verdict

if TYPE_CHECKING:
    from rnnscope._compare.backward.verdict import GradientVerdict

__all__ = [
    "INDENT",
    "MOST",
    "WIDTH",
    "cause_lines",
    "exactness",
    "joined",
    "left_words",
    "listed",
    "named",
    "number",
    "placed",
    "sentence",
    "values",
]

WIDTH = 88
INDENT = " " * 8
MOST = 8
"""Mistakes that the data do not show, or kinds of them, that are named."""
NUMBERS = {1: "one mistake", 2: "two mistakes", 3: "three mistakes", 4: "four mistakes"}


def number(value: float) -> str:
    """Three digits, small ones as 6.0e-08."""
    if value != value or value in (float("inf"), -float("inf")):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.1e}"


def values(yours: float, expected: float, kind: str, digits: int) -> list[str]:
    """Two numbers, one below the other."""
    pad = max(len("yours"), len(kind))
    return [
        f"          {'yours':<{pad}}  {yours: .{digits}f}",
        f"          {kind:<{pad}}  {expected: .{digits}f}",
    ]


def placed(cause: Cause) -> str:
    words = [f"layer {cause.layer}"] if cause.layer is not None else []
    if cause.direction is not None:
        words.append(cause.direction)
    return f" ({', '.join(words)})" if words else ""


def cause_lines(verdict: Verdict | GradientVerdict) -> str:
    best = verdict.explanations[0]
    count = len(best.causes)
    remainder = number(best.left)
    if math.isnan(best.left):
        head = "Cause   found by calling it again, without any reference:"
    elif exactness(best):
        before = "but for this " if best.read else ""
        head = f"Cause   {before}no mistake in what is computed, but in how exactly:"
    elif count == best.read:
        subject = "this" if count == 1 else "these"
        head = f"Cause   with {subject} undone {remainder} is left, which is rounding:"
    elif count == 1:
        head = f"Cause   one mistake leaves {remainder}, which is rounding:"
    else:
        together = NUMBERS.get(count, f"{count} mistakes")
        if best.causes[-1].name == APPROXIMATE:
            together = together.replace("mistakes", "things")
        head = f"Cause   {together} together leave {remainder}, which is rounding:"
    lines = [head, *named(best), *_others(verdict)]
    rounding = exactness(best)  # of which nothing is undone
    if not math.isnan(best.left) and count > best.read and not rounding:
        lines += ["", *_table(verdict, best)]
    return "\n".join(lines)


def named(explanation: Explanation) -> list[str]:
    """What an explanation is made of, with the lines to write."""
    lines: list[str] = []
    several = len(explanation.causes) > 1
    for k, (cause, words) in enumerate(
        zip(explanation.causes, explanation.words, strict=True), start=1
    ):
        mark = f"{k} " if several else ""
        text = f"{mark}{words.title}{placed(cause)}: {words.sentence}"
        lines.append(_filled(text, INDENT, INDENT + "  " * several))
        if words.repair:
            lines.append(f"{INDENT}    {words.repair}")
    return lines


def exactness(explanation: Explanation) -> bool:
    """Whether it names nothing but how exactly something is computed."""
    causes = explanation.causes[explanation.read :]
    return bool(causes) and all(cause.name in APPROXIMATIONS for cause in causes)


def _titles(causes: Sequence[Cause], words: Sequence[Words]) -> str:
    return " and ".join(f"{w.brief}{placed(c)}" for c, w in zip(causes, words, strict=True))


def _others(verdict: Verdict | GradientVerdict) -> list[str]:
    """Explanations that the data cannot tell from the first."""
    titles = [_titles(further.causes, further.words) for further in verdict.explanations[1:]]
    if not titles:
        return []
    if len(titles) == 1:
        return ["", _filled(f"These data cannot tell it from this: {titles[0]}.", INDENT)]
    lines = ["", f"{INDENT}These data cannot tell it from any of these:"]
    lines += [_filled(title, f"{INDENT}  - ", f"{INDENT}    ") for title in titles[:6]]
    return lines + [f"{INDENT}    and {len(titles) - 6} more"] * (len(titles) > 6)


def _filled(text: str, first: str, later: str = INDENT) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=later)


def _table(verdict: Verdict | GradientVerdict, best: Explanation) -> list[str]:
    count = len(best.causes)
    undone = list(range(1, best.read + 1))
    rows = [(_numbered(undone), left_words(verdict.difference), "")]
    if count - best.read > 1:
        rows += [
            (_numbered([*undone, k]), left_words(value), "")
            for k, value in enumerate(best.alone, start=best.read + 1)
        ]
    rows.append((_numbered(range(1, count + 1)) if count > 1 else "this", number(best.left), ""))
    if verdict.nearest is not None:
        causes, words, value = verdict.nearest
        rows.append(("nearest other", number(value), _titles(causes, words)))
    first = max(len(name) for name, _, _ in rows)
    lines = [f"{INDENT}{'assumed':<{first}}   left over"]
    for name, amount, remark in rows:
        line = f"{INDENT}{name:<{first}}   {amount:<9}   "
        lines.append(_filled(remark, line, " " * len(line)) if remark else line.rstrip())
    return lines


def left_words(value: float) -> str:
    """A difference, where there is one."""
    return number(value) if math.isfinite(value) else "no number"


def _numbered(which: Sequence[int]) -> str:
    """The mistakes that a line of the table assumes."""
    *front, last = which or [0]
    if not front:
        return f"{last} only" if last else "nothing"
    return f"{', '.join(map(str, front))} and {last}"


def joined(words: Sequence[str], by: str = ", ") -> str:
    return by.join(words)


def listed(title: str, text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=f"{title:<8}", subsequent_indent=INDENT, break_long_words=False
    )


def sentence(text: str) -> str:
    """With a full stop, and a capital unless a name of the code stands first."""
    ended = text if text[-1:] in ".!?" else f"{text}."
    first = ended.partition(" ")[0]
    of_code = "_" in first or "." in first[:-1]
    return ended if of_code else ended[:1].upper() + ended[1:]
