"""Draw the picture of the README from what the command really prints: ``make pictures``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

FOLDER = Path(__file__).parent
NIGHT = TerminalTheme(
    (24, 26, 31),
    (220, 223, 228),
    [
        (60, 64, 72),
        (224, 108, 117),
        (152, 195, 121),
        (229, 192, 123),
        (97, 175, 239),
        (198, 120, 221),
        (86, 182, 194),
        (220, 223, 228),
    ],
)


def picture(arguments: list[str], name: str) -> None:
    """An SVG of a terminal in which the command was just run."""
    command = [sys.executable, "-m", "rnnscope", *arguments]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()
    width = max(map(len, shown.splitlines())) + 2
    with open(FOLDER / "pictures.log", "w") as unseen:
        console = Console(record=True, width=width, file=unseen, legacy_windows=False)
        console.print(Text.assemble(("$ ", "green"), (f"rnnscope {' '.join(arguments)}\n", "bold")))
        for line in shown.splitlines():
            heading = re.match(r"\d \w", line)
            console.print(Text(line, style="bold cyan" if heading else ""))
    (FOLDER / "pictures.log").unlink()
    svg = console.export_svg(title="", theme=NIGHT)
    # the picture asks no server for a typeface: the reader's own will do
    svg = re.sub(r"@font-face\s*{[^}]*}", "", svg).replace("Fira Code", "DejaVu Sans Mono")
    svg = svg.replace("<text ", '<text xml:space="preserve" ').replace("&#160;", " ")
    (FOLDER / name).write_text(re.sub(r"[ \t]+\n", "\n", svg))


if __name__ == "__main__":
    picture(["explain", "3", "4", "5"], "explain.svg")
