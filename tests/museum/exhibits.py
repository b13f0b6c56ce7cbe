"""All exhibits, with their verdicts as a test and the page need them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import rnnscope as rs

SHARED = ("__init__", "plain", "exhibits")


@dataclass(frozen=True)
class Exhibit:
    """One public bug, restated."""

    name: str
    title: str
    thread: str
    saw: str
    wrong: str
    named: tuple[str, ...]
    says: tuple[str, ...]
    agrees: bool
    compared: Callable[[], rs.Verdict]


def exhibits() -> list[Exhibit]:
    """By the name of their files."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [exhibit(name) for name in names if name not in SHARED]


def exhibit(name: str) -> Exhibit:
    """The one in a file."""
    module = importlib.import_module(f"museum.{name}")
    title = (module.__doc__ or "").strip()
    facts = (module.THREAD, module.SAW, module.WRONG, module.NAMED, module.SAYS)
    return Exhibit(name, title, *facts, getattr(module, "AGREES", False), module.compared)


@cache
def verdict(name: str) -> rs.Verdict:
    """What rnnscope says of one, once for all who ask."""
    return exhibit(name).compared()


def shown(name: str) -> str:
    """The verdict's text as far as it is the same on every machine: what rounding leaves is not,
    and what is said of the data is left out."""
    blocks = str(verdict(name)).split("\n\n")
    kept = [block for block in blocks if not block.startswith(("Right", "Unseen", "Probe", "Data"))]
    text = "\n\n".join(kept).rstrip()
    return re.sub(r"\d\.\d+e-\d\d", "…", text)
