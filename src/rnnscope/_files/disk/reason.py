"""What a library says of a damaged file, in one line."""

from __future__ import annotations

__all__ = ["first_line", "first_sentence"]


def first_line(error: Exception) -> str:
    """The first line of a message; its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def first_sentence(error: Exception) -> str:
    """The first sentence of a message: more is advice of the library that raised it."""
    return first_line(error).split(". ")[0][:200]
