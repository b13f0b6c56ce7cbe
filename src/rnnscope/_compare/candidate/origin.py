"""Where a candidate raised: the line of the caller's own code, and no line of ours."""

from __future__ import annotations

import linecache
import sysconfig
from pathlib import Path
from types import TracebackType

__all__ = ["callers_traceback", "origin"]

_OURS = str(Path(__file__).resolve().parents[2])
_INSTALLED = tuple(
    {
        path
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
        if (path := sysconfig.get_path(name))
    }
)
MOST = 100
"""Signs of a line that are shown."""


def _frames(error: BaseException) -> list[TracebackType]:
    frames: list[TracebackType] = []
    step = error.__traceback__
    while step is not None:
        frames.append(step)
        step = step.tb_next
    return frames


def _is_callers(step: TracebackType) -> bool:
    """Whether the code is neither ours nor of an installed package."""
    name = step.tb_frame.f_code.co_filename
    if name.startswith("<frozen") or name.startswith(_OURS):
        return False
    return not name.startswith(_INSTALLED)


def origin(error: BaseException) -> str:
    """As in "mine.py:12, in step: h = W @ x", the innermost line of the caller's code; empty where
    there is none."""
    steps = [step for step in _frames(error) if _is_callers(step)]
    if not steps:
        return ""
    code, line = steps[-1].tb_frame.f_code, steps[-1].tb_lineno
    source = linecache.getline(code.co_filename, line, steps[-1].tb_frame.f_globals).strip()
    if len(source) > MOST:
        source = f"{source[:MOST]} ..."
    inside = "" if code.co_name.startswith("<") else f", in {code.co_name}"
    return f"{code.co_filename}:{line}{inside}" + (f": {source}" if source else "")


def callers_traceback(error: BaseException) -> BaseException:
    """The error with the part of its traceback that begins in the caller's code."""
    first = next((step for step in _frames(error) if _is_callers(step)), None)
    return error if first is None else error.with_traceback(first)
