"""One self-contained HTML file: template, style, script and data, under a strict policy."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from rnnscope._escaping import printable
from rnnscope._files.disk import replacing
from rnnscope._page.contents import MOST, PageTrace, contents, json_text
from rnnscope._page.model import TokenModel
from rnnscope._page.script import runnable
from rnnscope._record.record import Record
from rnnscope.errors import AddressError, ShapeError

__all__ = ["Appearance", "View", "view"]

SCRIPTS = (
    *("engine", "model", "depends", "address", "state", "draw", "chain", "text", "prediction"),
    *("cell", "unrolled", "maps", "lights", "play", "tour", "main"),
)
"""The parts of the script, in the order in which they stand in the page."""
PARTS = ("results", "weights", "arithmetic", "text", "prediction", "cell", "unrolled", "maps")
"""What ``hide`` names: the results until each step is clicked, or a part of the page."""


@dataclass(frozen=True)
class Appearance:
    """What a page is called, and what it does not show."""

    title: str | None = None
    hide: tuple[str, ...] = ()

    @classmethod
    def of(cls, title: Any, hide: Any) -> Appearance:
        """From the arguments of ``view``; ``hide`` is a name or several.

        >>> Appearance.of(None, "maps").hide
        ('maps',)
        """
        if title is not None and not isinstance(title, str):
            raise TypeError(f"title must be a text; got {type(title).__name__}")
        if not isinstance(hide, Iterable):
            raise TypeError(
                f"hide must be a name or several of {', '.join(PARTS)}; got {type(hide).__name__}"
            )
        names = (hide,) if isinstance(hide, str) else tuple(hide)
        for name in names:
            if name not in PARTS:
                raise AddressError(
                    f"hide must name parts of the page: {', '.join(PARTS)}; got {name!r}"
                )
        return cls(title if title and title.strip() else None, names)


@dataclass(frozen=True)
class View:
    """A page that was made: ``path`` where it was written, else it shows itself in a notebook.

    ``html`` is the whole document.
    """

    html: str = field(repr=False)
    path: Path | None = None

    def __str__(self) -> str:
        size = len(self.html.encode()) / 2**20
        if self.path is not None:
            return printable(f"{self.path} ({size:.1f} MB): open it in a browser")
        return (
            f"a page of {size:.1f} MB, shown in a notebook; elsewhere view('page.html') writes it"
        )

    def __repr__(self) -> str:
        return f"<View: {self}>"

    def _repr_html_(self) -> str:
        source = escape(self.html, quote=True)
        return (
            f'<iframe title="rnnscope" sandbox="allow-scripts" srcdoc="{source}" '
            f'width="100%" height="900" style="border:0"></iframe>'
        )


def view(
    trace: PageTrace,
    path: str | os.PathLike[str] | None = None,
    *,
    gradients: Record | None = None,
    batch: int | None = None,
    construction: str = "",
    model: TokenModel | None = None,
    appearance: Appearance | None = None,
) -> View:
    """The page of a trace; written to ``path`` where one is given, whole or not at all.

    Raises ``ShapeError`` where one sequence is more than a page may hold, ``FileError`` where the
    place cannot be written.
    """
    facts = contents(trace, gradients, batch, construction, model)
    looks = Appearance() if appearance is None else appearance
    if looks.title is not None:
        facts["construction"] = construction or facts["title"]
        facts["title"] = looks.title
    html = document(facts | {"hide": list(looks.hide)})
    size = len(html.encode())
    if size > MOST:  # of the numbers and labels it was known; names and equations are long
        raise ShapeError(
            f"the names and equations of this layer make a page of {size / 2**20:.0f} MB; the most "
            f"is {MOST >> 20}. Look at the numbers with rs.plot and tr.sel"
        )
    if path is None:
        return View(html)
    place = Path(path)
    with replacing(place) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return View(html, place)


def document(facts: dict[str, Any]) -> str:
    """The HTML of a page that holds these facts."""
    style, script = _static("style.css"), _script(facts["cell"]["functions"])
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {
        "POLICY": escape(policy, quote=True),
        "TITLE": escape(facts["title"]),
        "STYLE": style,
        "DATA": json_text(facts),
        "SCRIPT": script,
    }
    pieces = _static("page.html").split("@@")
    # every second piece is a name; what is put in is never looked at again
    return "".join(parts[piece] if k % 2 else piece for k, piece in enumerate(pieces))


@cache
def _static(name: str) -> str:
    return (files("rnnscope._page") / "static" / name).read_text(encoding="utf-8")


def _script(functions: Mapping[str, str]) -> str:
    first, *parts = (_static(f"{name}.js") for name in SCRIPTS)
    return "\n".join(['"use strict";', first, runnable(functions), *parts])


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
