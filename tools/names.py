#!/usr/bin/env python3
"""The share of names that name nothing, per room, and the class names that stand in several files.

    python tools/names.py            the figures
    python tools/names.py --check    exit code 1 where a bar is missed

A name is counted where it is bound: an assignment, a loop, an argument. Standard library only.
"""

from __future__ import annotations

import ast
import collections
import pathlib
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "src" / "rnnscope"
PRONOUNS = frozenset(
    {
        "one",
        "each",
        "found",
        "mine",
        "own",
        "here",
        "known",
        "other",
        "others",
        "every",
        "some",
        "seen",
        "held",
        "told",
        "beside",
        "rest",
        "theirs",
        "there",
        "given",
        "what",
        "these",
        "left",
    }
)
BAR = 0.02
"""The largest share of a room."""


def bound_names(tree: ast.AST) -> list[str]:
    """Every name that a module binds, as often as it binds it."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
    return names


def main() -> int:
    """Print the table; return the exit code."""
    bound: collections.Counter[str] = collections.Counter()
    pronouns: collections.Counter[str] = collections.Counter()
    classes: dict[str, set[str]] = collections.defaultdict(set)
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = bound_names(tree)
        bound[room] += len(names)
        pronouns[room] += sum(name.strip("_") in PRONOUNS for name in names)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].add(str(path.relative_to(SOURCE)))
    for room in sorted(bound, key=lambda room: -pronouns[room] / max(bound[room], 1)):
        print(f"{room:<14}{bound[room]:>6} names{pronouns[room] / max(bound[room], 1):>8.1%}")
    total = sum(pronouns.values()) / sum(bound.values())
    above = [room for room in bound if pronouns[room] > BAR * bound[room]]
    print(f"in all: {total:.1%}; above {BAR:.0%}: {', '.join(sorted(above)) or 'none'}")
    shared = {name: files for name, files in classes.items() if len(files) > 1}
    for name, files in sorted(shared.items()):
        print(f"class {name} stands in {', '.join(sorted(files))}")
    missed = bool(above or shared)
    return int("--check" in sys.argv and missed)


if __name__ == "__main__":
    sys.exit(main())
