"""What is said of an address that names no single place."""

from __future__ import annotations

from rnnscope.errors import AddressError

__all__ = ["unchosen"]

WORDS = {"batch": "sequence", "time": "step"}
"""What a place on an axis is, where the axis is not called by it."""


def unchosen(axis: str, length: int) -> AddressError:
    """The error of an axis of several places of which one must be chosen."""
    if axis == "direction":
        places = 'direction="forward" or direction="reverse"'
    else:
        places = f"{axis}=0 {'or' if length == 2 else 'to'} {axis}={length - 1}"
    return AddressError(f"choose a {WORDS.get(axis, axis)}: write {places}")
