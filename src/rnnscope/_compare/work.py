"""Work that is counted, not timed: where a search ends is the same on every machine.

What a search computes with is counted as it is done: numbers, sets of mistakes, calls of torch. So
the same comparison ends at the same place beside other work, on a slower machine and with more
threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = [
    "BACKWARD",
    "COPY",
    "EFFORT",
    "GATE",
    "PICK",
    "SECONDS",
    "SUM",
    "Account",
    "counted",
    "is_over",
    "spend",
]

EFFORT = 2.2e10
"""Work of all that is searched in a comparison of effort 1, in products of two numbers. It was
measured once, on layers of 4 to 256 units: some 6 seconds on one core, beside what is not
searched."""

BACKWARD = 3e10
"""Work of a search in gradients of effort 1."""

SECONDS = 6.0
"""Of a time that a search was once given, what is effort 1."""

GATE = 80
"""What a number of a gate costs at a step, its function and what is made of it, in products."""

PICK = 150
"""The same where it is picked for one of very many choices: memory is read all over."""

COPY = 15
"""What a number of a matrix costs that is formed anew."""

SUM = 50
"""What a set costs in a list of all sets, in products."""

SET = 125_000
"""What a set of mistakes costs beside its arithmetic, in products: Python's own work."""

CALL = 180_000
"""What an equation of a step costs beside its arithmetic, in products: calls of torch."""


@dataclass(eq=False)
class Account:
    """The work of a comparison, or of a part of one: ``done`` of what it has; ``cut`` once
    something was left out because there was no more."""

    most: float
    done: float = 0.0
    cut: bool = False


_CURRENT: ContextVar[tuple[Account, ...]] = ContextVar("work", default=())


@contextmanager
def counted(work: Account) -> Iterator[None]:
    """Everything inside counts as this work, and as that of what it is part of."""
    outer = _CURRENT.get()
    token = _CURRENT.set(outer if work in outer else (*outer, work))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def spend(numbers: float = 0, *, sets: int = 0, calls: int = 0) -> None:
    """Count so many products, sets of mistakes and steps."""
    for account in _CURRENT.get():
        account.done += numbers + SET * sets + CALL * calls


def is_over() -> bool:
    """Whether no work is left, of this or of what it is part of; to be asked only where there is
    more to do, which is then left out."""
    accounts = _CURRENT.get()
    for k, account in enumerate(accounts):
        if account.done > account.most:
            for part in accounts[k:]:
                part.cut = True
            return True
    return False
