"""Interrupts a function at a chosen step, as Ctrl-C may: deterministic, by ``sys.settrace``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import rnnscope

PACKAGE = rnnscope.__file__.removesuffix("__init__.py")


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, which pytest takes for its own."""


def interrupted_at(step: int, work: Callable[[], Any]) -> bool:
    """Run ``work``, raising ``Interrupt`` at one of its steps; whether it had that many.

    A step is the call of a function or a line of one, where rnnscope's own code is running or has
    called: in the contexts of torch that it enters, too.
    """
    remaining = step

    def inside(frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                return True
            frame = frame.f_back
        return False

    def local(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal remaining
        if event == "line":
            remaining -= 1
            if remaining == -1:
                raise Interrupt
        return local

    def called(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal remaining
        if not inside(frame):
            return None
        remaining -= 1
        if remaining == -1:
            raise Interrupt
        return local

    before = sys.gettrace()
    sys.settrace(called)
    try:
        work()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return remaining < 0
