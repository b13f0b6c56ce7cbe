"""A notebook as Markdown: its texts, its code, and what the code printed or drew."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import links

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def markdown(path: Path) -> str:
    """The Markdown of a notebook, with a line that offers the notebook itself below its title.

    Raises ``ValueError`` for an output of a kind that no page can show.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    pieces = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            pieces.append(source)
        elif cell["cell_type"] == "code" and source:
            pieces.append(block(source, "python"))
            pieces += outputs(cell["outputs"], f"{path.name}, cell {number}")
    if not pieces or not pieces[0].startswith("# "):
        raise ValueError(
            f"{path.name} must begin with a cell of text whose first line is its title"
        )
    title, _, text = pieces[0].partition("\n")
    # a link to a notebook becomes one to its page, so what is not to is named otherwise
    offer = f'<a class="notebook" data-file="{path.name}" download>The notebook itself</a>'
    return "\n\n".join([title, offer, text.strip(), *pieces[1:]]) + "\n"


def outputs(shown: list[dict[str, Any]], place: str) -> list[str]:
    """What a cell of code showed; texts that follow one another stand in one block."""
    pieces: list[str] = []
    texts: list[str] = []
    for output in shown:
        data = output.get("data", {})
        if output["output_type"] == "stream":
            texts.append("".join(output["text"]))
            continue
        if texts and any(kind in data for kind in ("image/png", "image/svg+xml", "text/html")):
            pieces.append(printed(texts))
            texts = []
        if "image/png" in data:
            pieces.append(picture("image/png", "".join(data["image/png"]).replace("\n", "")))
        elif "image/svg+xml" in data:
            drawing = "".join(data["image/svg+xml"])
            pieces.append(f'<div class="printed">{drawing}</div>')
        elif "text/html" in data and "text/plain" not in data:
            raise ValueError(f"{place} shows HTML alone; let it print text or draw a picture too")
        elif "text/plain" in data:
            texts.append("".join(data["text/plain"]) + "\n")
        elif output["output_type"] == "error":
            texts.append("\n".join(output["traceback"]) + "\n")
        else:
            raise ValueError(f"{place} shows {', '.join(data) or 'nothing'}: no page can hold that")
    return [*pieces, *([printed(texts)] if texts else [])]


def printed(texts: list[str]) -> str:
    """A block of what was printed, told apart from code by the style."""
    text = COLOURS.sub("", "".join(texts)).strip("\n")
    return block(text, '{ .text .printed title="" }') if text.strip() else ""


def picture(kind: str, data: str) -> str:
    """A picture, inside the page."""
    source = escape(f"data:{kind};base64,{data}", quote=True)
    return f'<img class="drawn" alt="What the code above draws" src="{source}">'


def block(text: str, language: str) -> str:
    """A fenced block of code."""
    fence = links.fence_around(text)
    return f"{fence}{language}\n{text}\n{fence}"
