"""A verdict as a text: the answer first, then where, why, what is right, and the data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from rnnscope._compare.backward.report import blocks
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.text import (
    INDENT,
    MOST,
    WIDTH,
    cause_lines,
    exactness,
    joined,
    left_words,
    listed,
    named,
    number,
    sentence,
    values,
)
from rnnscope._compare.verdict import APPROXIMATIONS, Explanation, FirstDifference, Verdict

__all__ = ["report"]

CALLS = ("calls_chained", "random")
"""Causes that are seen in two calls with the same input."""


def report(verdict: Verdict) -> str:
    """The text of a verdict: of the outputs, then of the gradients if they were compared."""
    gradients = verdict.gradients
    if gradients is None:
        return _of_outputs(verdict)
    outputs = replace(verdict, gradients=None, agrees=bool(gradients.forward))
    text = [] if gradients.forward is None else [_of_outputs(outputs)]
    return "\n".join([*text, "\n\n".join(b for b in blocks(gradients) if b) + "\n"])


def _of_outputs(verdict: Verdict) -> str:
    """The text of what was compared of outputs, states and quantities."""
    parts = [_headline(verdict)]
    if not verdict.agrees:
        if verdict.first is not None:
            parts.append(_first(verdict.first, verdict))
        if verdict.agreement:
            parts.append(listed("Agrees", joined(verdict.agreement, "; ")))
        if verdict.explanations:
            parts += [cause_lines(verdict), _check(verdict)]
        else:
            parts += [_near(verdict), _unexplained(verdict)]
    elif verdict.within is not None:
        parts.append(cause_lines(verdict) if verdict.explanations else _near(verdict))
    if verdict.right:
        parts.append(listed("Right", joined(verdict.right)))
    if verdict.unseen:
        parts.append(listed("Unseen", _unseen(verdict)))
    if verdict.notes:
        parts.append(
            "\n".join(listed("Note" if k == 0 else "", n) for k, n in enumerate(verdict.notes))
        )
    parts.append(listed("Probe" if not verdict.given else "Data", verdict.probe))
    return "\n\n".join(block for block in parts if block) + "\n"


def _best(verdict: Verdict) -> Explanation:
    return verdict.explanations[0]


def _headline(verdict: Verdict) -> str:
    steps = f"{verdict.steps} step{'s' * (verdict.steps != 1)}"
    over = "in one" if verdict.of_step else f"over {steps}"
    to = "to" if " " in verdict.dtype.partition(" (")[0] else "in"
    allows = f"rounding {to} {verdict.dtype} {over} allows {number(verdict.allowed)}"
    if verdict.agrees and verdict.within is not None:
        text = f"agrees within {number(verdict.within)}: {_differs(verdict)}; {allows}"
    elif verdict.agrees:
        lost = verdict.horizon is not None and (verdict.overflow or not verdict.stepwise)
        partly = lost or bool(verdict.uncompared)
        agrees = "agrees as far as it can be compared" if partly else "agrees"
        text = f"{agrees}: differs by at most {number(verdict.difference)}; {allows}"
    elif calls := [w for c, w in _told(verdict) if c.name in CALLS]:
        outcome = "agrees to rounding" if verdict.worst <= 1 else _differs(verdict)
        outcome += "" if verdict.worst <= 1 else f", where {allows}"
        text = f"{calls[0].title}: the same input gives other numbers; one call {outcome}"
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
    digits = 6 if abs(place.yours - place.expected) > 1e-5 else 9
    return "\n".join([head, *values(place.yours, place.expected, kind, digits)])


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
    return listed("Check", f"rs.assert_agrees(mine, layer, within={size}) holds{once}")


def _rounded_up(value: float) -> str:
    """A little more, with one digit."""
    exponent = math.floor(math.log10(1.2 * value))
    return f"{math.ceil(1.2 * value / 10.0**exponent) * 10.0**exponent:.1g}"


def _near(verdict: Verdict) -> str:
    """What explains most of the difference, where nothing explains all of it."""
    near = verdict.near
    if near is None:
        return ""
    approximate = exactness(near)
    subject = "this is" if len(near.causes) - near.read == 1 else "these are"
    most = f"{subject} most of it: {left_words(verdict.difference)} becomes {left_words(near.left)}"
    lines = textwrap.wrap(
        f"{most}, which is more than rounding." + " What is left was not found." * approximate,
        WIDTH,
        initial_indent="Near    ",
        subsequent_indent=INDENT,
    )
    return "\n".join([*lines, *named(near)])


def _unexplained(verdict: Verdict) -> str:
    if verdict.undecided:
        return textwrap.fill(verdict.undecided, WIDTH)
    if verdict.worst <= 1:
        return textwrap.fill(" ".join(map(sentence, verdict.holds + verdict.unread)), WIDTH)
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
    return textwrap.fill(" ".join([*head, *map(sentence, verdict.holds)]), WIDTH)


def _unseen(verdict: Verdict) -> str:
    words = verdict.unseen
    text = joined(words[:MOST], "; ")
    more = f"; and {len(words) - MOST} more" if len(words) > MOST else ""
    return f"these data would not show: {text}{more}"
