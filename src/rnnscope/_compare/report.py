"""A verdict as a text: the answer first, then where, why, what is right, and the data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.verdict import (
    APPROXIMATE,
    APPROXIMATIONS,
    Explanation,
    FirstDifference,
    Verdict,
)

__all__ = ["report"]

WIDTH = 88
INDENT = " " * 8
MOST = 8
"""Mistakes that the data do not show, or kinds of them, that are named."""
NUMBERS = {1: "one mistake", 2: "two mistakes", 3: "three mistakes", 4: "four mistakes"}

CALLS = ("calls_chained", "random")
"""Causes that are seen in two calls with the same input."""


def report(verdict: Verdict) -> str:
    """The text of a verdict."""
    blocks = [_headline(verdict)]
    if not verdict.agrees:
        if verdict.first is not None:
            blocks.append(_first(verdict.first, verdict))
        if verdict.agreement:
            blocks.append(_listed("Agrees", _joined(verdict.agreement, "; ")))
        if verdict.explanations:
            blocks += [_cause(verdict), _check(verdict)]
        else:
            blocks += [_near(verdict), _unexplained(verdict)]
    elif verdict.within is not None:
        blocks.append(_cause(verdict) if verdict.explanations else _near(verdict))
    if verdict.right:
        blocks.append(_listed("Right", _joined(verdict.right)))
    if verdict.unseen:
        blocks.append(_listed("Unseen", _unseen(verdict)))
    if verdict.notes:
        blocks.append(
            "\n".join(_listed("Note" if k == 0 else "", n) for k, n in enumerate(verdict.notes))
        )
    blocks.append(_listed("Probe" if not verdict.given else "Data", verdict.probe))
    return "\n\n".join(block for block in blocks if block) + "\n"


def number(value: float) -> str:
    """Three digits, small ones as 6.0e-08."""
    if value != value or value in (float("inf"), -float("inf")):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.1e}"


def _best(verdict: Verdict) -> Explanation:
    return verdict.explanations[0]


def _headline(verdict: Verdict) -> str:
    steps = f"{verdict.steps} step{'s' * (verdict.steps != 1)}"
    over = "in one" if verdict.of_step else f"over {steps}"
    allows = f"rounding in {verdict.dtype} {over} allows {number(verdict.allowed)}"
    if verdict.agrees and verdict.within is not None:
        text = f"agrees within {number(verdict.within)}: {_differs(verdict)}; {allows}"
    elif verdict.agrees:
        lost = verdict.horizon is not None and (verdict.overflow or not verdict.stepwise)
        partly = lost or bool(verdict.uncompared)
        agrees = "agrees as far as it can be compared" if partly else "agrees"
        text = f"{agrees}: differs by at most {number(verdict.difference)}; {allows}"
    elif calls := [w for c, w in _told(verdict) if c.name in CALLS]:
        one = "agrees to rounding" if verdict.worst <= 1 else _differs(verdict)
        one += "" if verdict.worst <= 1 else f", where {allows}"
        text = f"{calls[0].title}: the same input gives other numbers; one call {one}"
    elif verdict.worst <= 1 and verdict.explanations and not math.isnan(_best(verdict).left):
        text = "the numbers agree to rounding, but do not stand where they should"
    elif verdict.undecided:
        text = "cannot be decided"
    elif verdict.unread:
        text = "the output agrees to rounding, but not all that came back can be compared"
    elif verdict.worst <= 1 and not verdict.causes:
        text = "cannot be called with every input"
    elif verdict.apart:
        text = _differs(verdict)
    else:
        text = f"{_differs(verdict)}; {allows}"
        if verdict.within is not None and verdict.difference <= verdict.within:
            text += f". That is within {number(verdict.within)}, but a mistake is named"
    if verdict.horizon is not None:
        why = (
            f"{verdict.kind} itself gives NaN or infinite numbers"
            if verdict.overflow
            else "rounding alone may change these numbers by more than 1%"
        )
        text += (
            f"\nFrom step {verdict.horizon + 1} (time={verdict.horizon}) on, {why}: there, "
            + ("only single steps are compared" if verdict.stepwise else "nothing is compared")
            + _uncompared(verdict.uncompared)
        )
    return "\n".join(textwrap.fill(line, WIDTH) for line in text.split("\n"))


def _uncompared(names: Sequence[str]) -> str:
    """The end of a sentence."""
    return f", and {' and '.join(names)} not at all." if names else "."


def _told(verdict: Verdict) -> list[tuple[Cause, Words]]:
    """The causes of the first explanation with their words."""
    if not verdict.explanations:
        return []
    return list(zip(_best(verdict).causes, _best(verdict).words, strict=True))


def _differs(verdict: Verdict) -> str:
    if verdict.apart:
        return f"differs: {verdict.apart}"
    where = " in a single step" if verdict.of_step else ""
    return f"differs by {number(verdict.difference)}{where}"


def _first(place: FirstDifference, verdict: Verdict) -> str:
    where = f"layer {place.layer}, {place.direction}, batch {place.batch}"
    if place.time is not None:
        where += f", time {place.time}"
    where += f", unit {place.unit}"
    head = f"First   {place.name} at {where}"
    if place.seen_in_output:
        head += "  (first seen in the output)"
    kind = verdict.kind
    pad = max(len("yours"), len(kind))
    digits = 6 if abs(place.yours - place.expected) > 1e-5 else 9
    return "\n".join(
        [
            head,
            f"          {'yours':<{pad}}  {place.yours: .{digits}f}",
            f"          {kind:<{pad}}  {place.expected: .{digits}f}",
        ]
    )


def _place(cause: Cause) -> str:
    words = [f"layer {cause.layer}"] if cause.layer is not None else []
    if cause.direction is not None:
        words.append(cause.direction)
    return f" ({', '.join(words)})" if words else ""


def _cause(verdict: Verdict) -> str:
    best = verdict.explanations[0]
    count = len(best.causes)
    left = number(best.left)
    if math.isnan(best.left):
        head = "Cause   found by calling it again, without any reference:"
    elif _exactness(best):
        before = "but for this " if best.read else ""
        head = f"Cause   {before}no mistake in what is computed, but in how exactly:"
    elif count == best.read:
        these = "this" if count == 1 else "these"
        head = f"Cause   with {these} undone {left} is left, which is rounding:"
    elif count == 1:
        head = f"Cause   one mistake leaves {left}, which is rounding:"
    else:
        together = NUMBERS.get(count, f"{count} mistakes")
        if best.causes[-1].name == APPROXIMATE:
            together = together.replace("mistakes", "things")
        head = f"Cause   {together} together leave {left}, which is rounding:"
    lines = [head, *_named(best), *_others(verdict)]
    rounding = _exactness(best)  # of which nothing is undone
    if not math.isnan(best.left) and count > best.read and not rounding:
        lines += ["", *_table(verdict, best)]
    return "\n".join(lines)


def _named(explanation: Explanation) -> list[str]:
    """What an explanation is made of, with the lines to write."""
    lines: list[str] = []
    several = len(explanation.causes) > 1
    for k, (cause, words) in enumerate(
        zip(explanation.causes, explanation.words, strict=True), start=1
    ):
        mark = f"{k} " if several else ""
        text = f"{mark}{words.title}{_place(cause)}: {words.sentence}"
        lines.append(
            textwrap.fill(
                text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT + "  " * several
            )
        )
        if words.repair:
            lines.append(f"{INDENT}    {words.repair}")
    return lines


def _exactness(explanation: Explanation) -> bool:
    """Whether it names nothing but how exactly something is computed."""
    causes = explanation.causes[explanation.read :]
    return bool(causes) and all(cause.name in APPROXIMATIONS for cause in causes)


def _check(verdict: Verdict) -> str:
    """The line of a test that accepts the approximation that was named."""
    if not verdict.approximation:
        return ""
    best = _best(verdict)
    mistakes = [
        str(k) for k, cause in enumerate(best.causes, 1) if cause.name not in APPROXIMATIONS
    ]
    be = "is" if len(mistakes) == 1 else "are"
    once = f" once {' and '.join(mistakes)} {be} mended" if mistakes else ""
    size = _rounded_up(verdict.approximation)
    return _listed("Check", f"rs.assert_agrees(mine, layer, within={size}) holds{once}")


def _rounded_up(value: float) -> str:
    """A little more, with one digit."""
    exponent = math.floor(math.log10(1.2 * value))
    return f"{math.ceil(1.2 * value / 10.0**exponent) * 10.0**exponent:.1g}"


def _near(verdict: Verdict) -> str:
    """What explains most of the difference, where nothing explains all of it."""
    near = verdict.near
    if near is None:
        return ""
    approximate = _exactness(near)
    what = "this is" if len(near.causes) - near.read == 1 else "these are"
    most = f"{what} most of it: {_left(verdict.difference)} becomes {_left(near.left)}"
    lines = textwrap.wrap(
        f"{most}, which is more than rounding." + " What is left was not found." * approximate,
        WIDTH,
        initial_indent="Near    ",
        subsequent_indent=INDENT,
    )
    return "\n".join([*lines, *_named(near)])


def _others(verdict: Verdict) -> list[str]:
    """Explanations that the data cannot tell from the first."""
    others = verdict.explanations[1:]
    if not others:
        return []
    titles = [
        " and ".join(f"{w.brief}{_place(c)}" for c, w in zip(one.causes, one.words, strict=True))
        for one in others[:6]
    ]
    if len(others) == 1:
        text = f"These data cannot tell it from this: {titles[0]}."
        return ["", textwrap.fill(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)]
    lines = ["", f"{INDENT}These data cannot tell it from any of these:"]
    lines += [
        textwrap.fill(
            title, WIDTH, initial_indent=INDENT + "  - ", subsequent_indent=INDENT + "    "
        )
        for title in titles
    ]
    if len(others) > 6:
        lines.append(f"{INDENT}    and {len(others) - 6} more")
    return lines


def _table(verdict: Verdict, best: Explanation) -> list[str]:
    count = len(best.causes)
    undone = list(range(1, best.read + 1))
    rows = [(_numbered(undone), _left(verdict.difference), "")]
    if count - best.read > 1:
        rows += [
            (_numbered([*undone, k]), _left(value), "")
            for k, value in enumerate(best.alone, start=best.read + 1)
        ]
    rows.append((_numbered(range(1, count + 1)) if count > 1 else "this", number(best.left), ""))
    if verdict.nearest is not None:
        causes, words, value = verdict.nearest
        titles = " and ".join(f"{w.brief}{_place(c)}" for c, w in zip(causes, words, strict=True))
        rows.append(("nearest other", number(value), titles))
    first = max(len(name) for name, _, _ in rows)
    lines = [f"{INDENT}{'assumed':<{first}}   left over"]
    for name, left, remark in rows:
        line = f"{INDENT}{name:<{first}}   {left:<9}   "
        hanging = " " * len(line)
        lines.append(
            textwrap.fill(remark, WIDTH, initial_indent=line, subsequent_indent=hanging)
            if remark
            else line.rstrip()
        )
    return lines


def _left(value: float) -> str:
    """A difference, where there is one."""
    return number(value) if math.isfinite(value) else "no number"


def _numbered(which: Sequence[int]) -> str:
    """The mistakes that a line of the table assumes."""
    *rest, last = which or [0]
    if not rest:
        return f"{last} only" if last else "nothing"
    return f"{', '.join(map(str, rest))} and {last}"


def _unexplained(verdict: Verdict) -> str:
    if verdict.undecided:
        return textwrap.fill(verdict.undecided, WIDTH)
    if verdict.worst <= 1:
        return textwrap.fill(" ".join(map(_sentence, verdict.holds + verdict.unread)), WIDTH)
    head = ["No known mistake explains it."] if verdict.tried else []
    if verdict.near is not None:
        head = ["No known mistake explains all of it."]
    if verdict.few:
        head = [
            "These are too few numbers to tell one mistake from another: give more steps or rows."
        ]
    elif not verdict.finished:
        head = [
            f"No known mistake was found with this effort, {verdict.tried} sets of mistakes tried: "
            f"effort={max(1, 10 * verdict.effort):g} searches further."
        ]
    return textwrap.fill(" ".join([*head, *map(_sentence, verdict.holds)]), WIDTH)


def _sentence(text: str) -> str:
    """With a full stop, and a capital unless a name of the code stands first."""
    ended = text if text[-1:] in ".!?" else f"{text}."
    return ended if "_" in ended.partition(" ")[0] else ended[:1].upper() + ended[1:]


def _unseen(verdict: Verdict) -> str:
    words = verdict.unseen
    text = _joined(words[:MOST], "; ")
    more = f"; and {len(words) - MOST} more" if len(words) > MOST else ""
    return f"these data would not show: {text}{more}"


def _joined(words: Sequence[str], by: str = ", ") -> str:
    return by.join(words)


def _listed(title: str, text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=f"{title:<8}", subsequent_indent=INDENT, break_long_words=False
    )
