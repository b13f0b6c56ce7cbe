"""Docstrings as Markdown: examples become blocks of code, double backticks single ones.

It also stands in ``mkdocs.yml`` as an extension of mkdocstrings, which reads docstrings with it.
"""

from __future__ import annotations

import re
from typing import Any

try:
    from griffe import Extension
except ModuleNotFoundError:  # the tests of the texts need no generator of sites

    class Extension:  # type: ignore[no-redef]
        """Stands in for the class that a site is built with."""


def inline(text: str) -> str:
    """Code within a line, as Markdown writes it."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def as_markdown(docstring: str) -> str:
    """A docstring as Markdown; each example is one block, from its first >>> to the empty line."""
    pieces: list[str] = []
    lines = docstring.splitlines()
    k = 0
    while k < len(lines):
        if lines[k].startswith(">>> "):
            end = k
            while end < len(lines) and lines[end].strip():
                end += 1
            pieces += ["", "```pycon", *lines[k:end], "```", ""]
            k = end
        else:
            pieces.append(inline(lines[k]))
            k += 1
    return "\n".join(pieces).strip("\n")


class DocstringsAsMarkdown(Extension):
    """What mkdocstrings reads, turned into Markdown."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
