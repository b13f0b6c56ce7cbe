"""The map of the house: `python docs/architecture.py` renews it.

It draws docs/architecture.svg from the import contract in pyproject.toml, and writes the rooms of
docs/architecture.md from their docstrings. A test holds both current.
"""

from __future__ import annotations

import ast
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: written by docs/architecture.py -->\n", "<!-- end of rooms -->\n"

WIDTH, ROW, GAP = 860, 58, 14


def rows() -> list[list[str]]:
    """The rooms by floor, from the highest to the lowest, as the import contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    return [layer.split(" | ") for layer in contract["layers"]]


def docstring(room: str) -> str:
    """What a room says of itself: what it is for, what enters, what leaves."""
    source = ROOT / "src" / "rnnscope"
    path = source / room / "__init__.py"
    tree = ast.parse((path if path.exists() else source / f"{room}.py").read_text("utf-8"))
    text = ast.get_docstring(tree)
    assert text is not None, f"{room} has no docstring"
    return text


def purpose(room: str) -> str:
    """The first sentence of a room's docstring, on one line."""
    return " ".join(docstring(room).split("\n\n")[0].split()).replace("``", "")


def picture() -> str:
    """The rooms as boxes, one floor above the other."""
    floors = [floor for floor in rows() if floor != ["__main__"]]
    height = len(floors) * (ROW + GAP) + GAP + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' font-family="ui-sans-serif, system-ui, sans-serif">',
        "<title>The rooms of rnnscope: each imports only from rooms below it</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for index, floor in enumerate(floors):
        y = GAP + index * (ROW + GAP)
        width = (WIDTH - GAP) / len(floor) - GAP
        for column, room in enumerate(floor):
            x = GAP + column * (width + GAP)
            public = not room.startswith("_")
            fill, stroke = ("#e7f0fb", "#2f6fb5") if public else ("#f5f5f2", "#8a8a80")
            parts.append(
                f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{ROW}" rx="6" fill="{fill}"'
                f' stroke="{stroke}"/>'
            )
            parts.append(
                f'<text x="{x + 12:g}" y="{y + 22}" font-size="15" font-weight="600"'
                f' fill="#1c1c1c">{room}</text>'
            )
            for number, line in enumerate(wrapped(purpose(room), int(width / 6.3))):
                parts.append(
                    f'<text x="{x + 12:g}" y="{y + 38 + 14 * number}" font-size="12"'
                    f' fill="#444444">{escape(line)}</text>'
                )
    parts.append(
        f'<text x="{GAP}" y="{height - 10}" font-size="12" fill="#444444">A room imports only from'
        " rooms below it. Blue: public. Grey: ours.</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def wrapped(text: str, width: int) -> list[str]:
    """At most two lines; the second ends in … where there is more."""
    words, lines = text.split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1][: width - 2]} …"]
    return lines


def rooms() -> str:
    """Three lines for each room, from the highest floor to the lowest."""
    paragraphs = []
    for floor in rows():
        for room in floor:
            if room == "__main__":
                continue
            path = f"{room}/" if (ROOT / "src" / "rnnscope" / room).is_dir() else f"{room}.py"
            lines = [line for line in docstring(room).replace("``", "`").splitlines() if line]
            if room == "errors":
                lines = lines[:1]
            body = "  \n".join(lines)
            paragraphs.append(f"**`{path}`** {body}\n")
    return "\n".join(paragraphs)


def page(text: str) -> str:
    """The page with its rooms renewed."""
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n{rooms()}\n{END}{tail}"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
