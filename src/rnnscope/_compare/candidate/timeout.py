"""The time that a call of somebody's code may take: the only place where a clock decides.

What runs longer is interrupted, so that a comparison ends. In the main thread a timer's signal does
that: it ends loops, sleeps and waits. In other threads, on Windows, and where the caller already
has a timer, another thread raises an exception inside it: that ends what runs in Python, and not
what waits or computes in C. What cannot be interrupted ends when it ends by itself.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["Interruption", "limit", "limited"]

AGAIN = 1.0
"""Seconds after which code that went on is interrupted once more."""

_SECONDS: ContextVar[float | None] = ContextVar("seconds", default=None)


class Interruption(BaseException):
    """A call took too long; no ``Exception``, which somebody's code may catch."""


@contextmanager
def limit(seconds: float | None) -> Iterator[None]:
    """Every call inside may take so many seconds; None for any."""
    token = _SECONDS.set(seconds)
    try:
        yield
    finally:
        _SECONDS.reset(token)


@contextmanager
def limited(name: str) -> Iterator[None]:
    """Raises ``Interruption``, with a text, where what is inside takes longer than it may."""
    seconds = _SECONDS.get()
    if seconds is None:
        yield
        return
    threads = set(threading.enumerate())
    try:
        with (_by_signal if _has_signals() else _by_thread)(seconds):
            threads = set(threading.enumerate())
            yield
    except Interruption as error:
        for thread in set(threading.enumerate()) - threads:
            _raise_in(thread.ident, SystemExit)  # one that runs on would keep the process alive
        _receive_here()  # one of them may have ended before it received it
        raise Interruption(
            f"{name} was still running after {seconds:g} seconds, and was interrupted. If it only "
            f"needs longer, say so: timeout={10 * seconds:g}; else let it end"
        ) from error


def _has_signals() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL)[0] == 0


@contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    def interrupt(number: int, frame: Any) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    caller, ended, lock = threading.get_ident(), threading.Event(), threading.Lock()
    late = threading.Event()

    def watch() -> None:
        wait = seconds
        while not ended.wait(wait):
            with lock:
                if not ended.is_set():
                    late.set()
                    _raise_in(caller, Interruption)
            wait = AGAIN

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with lock:
            ended.set()
        if late.is_set():
            _receive_here()


def _receive_here() -> None:
    """Catches, in this thread, an interruption that may not have arrived, so that none is pending.

    Taking it back is not enough: the interpreter would go on looking for it, and Python 3.11 then
    never leaves the first step of a function that is profiled or traced (cProfile, coverage).
    """
    try:
        _raise_in(threading.get_ident(), Interruption)  # in place of the other
        for _ in range(1_000_000):
            pass  # an exception from outside arrives between two rounds of a loop
    except Interruption:
        pass


def _raise_in(thread: int | None, error: type[BaseException]) -> None:
    """Raises an exception in a thread, between two steps of Python."""
    if thread is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
