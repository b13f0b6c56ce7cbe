"""The part of a verdict's text that is about gradients."""

from __future__ import annotations

import math
import textwrap

from rnnscope._compare.backward.verdict import GradientDifference, GradientVerdict
from rnnscope._compare.text import MOST, WIDTH, cause_lines, joined, listed, number, values

__all__ = ["blocks"]


def blocks(verdict: GradientVerdict) -> list[str]:
    """The answer first, then where, why, what is right."""
    text = [_headline(verdict)]
    if not verdict.agrees and not verdict.undecided:
        if verdict.first is not None:
            text.append(_first(verdict.first, verdict.kind))
        if verdict.explanations:
            text.append(cause_lines(verdict))
        else:
            text.append(_unexplained(verdict))
        if verdict.right:
            text.append(listed("Right", f"the gradients of {joined(verdict.right)}"))
    if verdict.cannot_show:
        shown = joined(verdict.cannot_show[:MOST], "; ")
        more = len(verdict.cannot_show) - MOST
        text.append(
            listed(
                "Unseen",
                f"these data would not show: {shown}" + f"; and {more} more" * (more > 0),
            )
        )
    for k, note in enumerate(verdict.notes):
        text.append(listed("" if k else "Note", note))
    if verdict.forward is None:
        text.append(listed("Data", verdict.probe))
    return text


def _headline(verdict: GradientVerdict) -> str:
    if verdict.undecided:
        return textwrap.fill(verdict.undecided, WIDTH)
    allows = f"rounding in {verdict.dtype} allows {number(verdict.allowed)} there"
    if verdict.agrees:
        text = (
            f"The gradients agree: they differ by at most {number(verdict.difference)}, in that of "
            f"{verdict.name}; {allows}. Compared: {joined(verdict.compared)}."
        )
    elif verdict.apart:
        text = f"The gradients differ: {verdict.apart}."
    elif verdict.worst <= 1:
        text = "The gradients agree to rounding, but do not stand where they should."
    else:
        text = (
            f"The gradients differ, by {number(verdict.difference)} in that of {verdict.name}; "
            f"{allows}."
        )
    if verdict.own:
        text += " They are judged against your own forward pass, with the mistakes above."
    return textwrap.fill(text, WIDTH)


def _first(place: GradientDifference, kind: str) -> str:
    where = [f"layer {place.layer}", place.direction]
    where += [f"batch {place.batch}"] if place.batch is not None else []
    where += [f"time {place.time}"] if place.time is not None else []
    where += [f"gate {place.gate}"] if place.gate is not None else []
    where += [f"unit {place.unit}"] if place.unit is not None else []
    where += [f"column {place.column}"] if place.column is not None else []
    digits = 6 if abs(place.yours - place.expected) > 1e-5 else 9
    head = textwrap.fill(
        f"dL/d{place.name} at {', '.join(where)}",
        WIDTH,
        initial_indent="First   ",
        subsequent_indent=" " * 8,
    )
    return "\n".join([head, *values(place.yours, place.expected, kind, digits)])


def _unexplained(verdict: GradientVerdict) -> str:
    if verdict.apart:
        return ""
    text = "No known mistake of a backward pass explains it."
    if not verdict.finished:
        text += (
            f" {verdict.tried} sets of mistakes were tried, singles and not all pairs: a larger "
            f"effort=, or smaller data, tries the others."
        )
    elif not math.isfinite(verdict.difference):
        text += " Look at where the numbers are infinite."
    return textwrap.fill(text, WIDTH)
