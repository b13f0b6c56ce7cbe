"""Steps of a data set as text, coloured by a unit's value: for terminals, notebooks, pages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any, Protocol

from rnnscope._escaping import printable

__all__ = ["page", "rich_text", "spans", "text"]


class Shown(Protocol):
    """A step with what is around it."""

    @property
    def sequence(self) -> int: ...
    @property
    def time(self) -> int: ...
    @property
    def value(self) -> float: ...
    @property
    def at(self) -> int: ...
    @property
    def values(self) -> tuple[float, ...]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


class Listed(Protocol):
    """Steps with a title."""

    @property
    def title(self) -> str: ...
    @property
    def hits(self) -> tuple[Any, ...]: ...


def words(hit: Shown) -> list[str]:
    """What is written for each step: its label, or its value where there are none."""
    if any(hit.labels):
        return [printable(label) for label in hit.labels]
    return [f"{value:.2f}" for value in hit.values]


def separator(hits: Iterable[Shown]) -> str:
    """Single letters stand side by side, words apart."""
    letters = all(len(label) <= 1 for hit in hits for label in hit.labels)
    return "" if letters and any(any(hit.labels) for hit in hits) else " "


def head(hit: Shown) -> str:
    """The value and the place of a step."""
    return f"{hit.value:10.4g}  sequence {hit.sequence}, time {hit.time}"


def text(shown: Listed) -> str:
    """A line for each step, which stands in brackets among those around it."""
    between = separator(shown.hits)
    lines = [printable(shown.title)]
    for hit in shown.hits:
        marked = [f"[{w}]" if k == hit.at else w for k, w in enumerate(words(hit))]
        lines.append(f"  {head(hit)}  {between.join(marked)}")
    return "\n".join(lines)


def scale(shown: Listed) -> float:
    """The largest value that is shown, by size."""
    sizes = [abs(v) for hit in shown.hits for v in hit.values if math.isfinite(v)]
    return max(sizes, default=1.0) or 1.0


def colour(value: float, largest: float) -> tuple[int, int, int]:
    """White at 0, towards red above and blue below it."""
    share = min(1.0, abs(value) / largest) if math.isfinite(value) else 0.0
    faded = round(255 * (1 - 0.75 * share))
    return (255, faded, faded) if value >= 0 else (faded, faded, 255)


def rich_text(shown: Listed) -> Any:
    """For a terminal with colours."""
    from rich.text import Text

    between, largest = separator(shown.hits), scale(shown)
    whole = Text(printable(shown.title))
    for hit in shown.hits:
        whole.append(f"\n  {head(hit)}  ")
        for k, (word, value) in enumerate(zip(words(hit), hit.values, strict=True)):
            if k:
                whole.append(between)
            mark = " bold underline" if k == hit.at else ""
            red, green, blue = colour(value, largest)
            whole.append(word, style=f"black on rgb({red},{green},{blue}){mark}")
    return whole


def spans(shown: Listed) -> str:
    """For a notebook: elements that need nothing around them."""
    between, largest = separator(shown.hits), scale(shown)
    rows = []
    for hit in shown.hits:
        parts = []
        for k, (word, value) in enumerate(zip(words(hit), hit.values, strict=True)):
            red, green, blue = colour(value, largest)
            mark = ";font-weight:bold;text-decoration:underline" if k == hit.at else ""
            style = f"color:#000;background:rgb({red},{green},{blue}){mark}"
            parts.append(f'<span style="{style}" title="{value:.6g}">{escape(word)}</span>')
        rows.append(
            f"<tr><td>{hit.value:.4g}</td><td>sequence {hit.sequence}, time {hit.time}</td>"
            f'<td style="text-align:left;white-space:pre-wrap">{between.join(parts)}</td></tr>'
        )
    return f"<p>{escape(printable(shown.title))}</p><table>{''.join(rows)}</table>"


def page(shown: Listed) -> str:
    """A page of its own."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(printable(shown.title))}</title>"
        "<style>body{font-family:system-ui,sans-serif;margin:1.5rem}td{padding:.1rem .6rem}"
        "</style></head><body>" + spans(shown) + "</body></html>\n"
    )
