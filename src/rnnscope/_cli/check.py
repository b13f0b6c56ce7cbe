"""What the command check reads, and what it tells while it works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch

from rnnscope._check import MachineReport, check
from rnnscope._cli.terminal import ArgumentError

__all__ = ["checked"]


def checked(device: str, dtype: str, sizes: Sequence[str] | None) -> MachineReport:
    """The report of ``rnnscope.check``.

    Raises what ``check`` raises, and ``ArgumentError`` for sizes that are not four numbers.
    """
    every = None if sizes is None else [_numbers(text) for text in sizes]
    return check(device, dtype=getattr(torch, dtype), sizes=every, progress=_progress())


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or min(numbers) < 1:
        raise ArgumentError(
            f"--sizes takes four whole numbers above 0, input size, hidden size, batch and time, "
            f"as 3,4,2,5; got {text!r}"
        )
    return numbers


def _progress() -> Callable[[str], None] | None:
    if not sys.stderr.isatty():
        return None
    return lambda title: print(f"rnnscope check: {title} ...", file=sys.stderr)
