"""Where a candidate raised: the line of the caller's own code, and no line of ours."""

from __future__ import annotations

import linecache
import sysconfig
from pathlib import Path
from traceback import walk_tb
from types import FrameType

__all__ = ["callers_traceback", "origin"]

_OURS = str(Path(__file__).resolve().parents[2])
_INSTALLED = tuple(
    path
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)
MOST = 100
"""Signs of a line that are shown."""


def _is_callers(frame: FrameType) -> bool:
    """Whether the code is neither ours nor of an installed package."""
    return not frame.f_code.co_filename.startswith(("<frozen", _OURS, *_INSTALLED))


def origin(error: BaseException) -> str:
    """As in "mine.py:12, in step: h = W @ x", the innermost line of the caller's code; empty where
    there is none."""
    steps = [step for step in walk_tb(error.__traceback__) if _is_callers(step[0])]
    if not steps:
        return ""
    frame, line = steps[-1]
    code = frame.f_code
    source = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    if len(source) > MOST:
        source = f"{source[:MOST]} ..."
    inside = "" if code.co_name.startswith("<") else f", in {code.co_name}"
    return f"{code.co_filename}:{line}{inside}" + (f": {source}" if source else "")


def callers_traceback(error: BaseException) -> BaseException:
    """The error with the part of its traceback that begins in the caller's code."""
    step = error.__traceback__
    while step is not None and not _is_callers(step.tb_frame):
        step = step.tb_next
    return error if step is None else error.with_traceback(step)
