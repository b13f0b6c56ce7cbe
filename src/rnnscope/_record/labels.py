"""Labels of steps: tokens, dates, whatever a person calls them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnnscope.errors import ShapeError

__all__ = ["Labels", "step_labels"]

Labels = tuple[tuple[str, ...], ...]
"""For each sequence of the batch a text for each step; empty where there are none."""


def step_labels(labels: Any, lengths: Sequence[int]) -> Labels:
    """One list of labels for every sequence, or one list for each, as texts.

    ``lengths`` are the steps of each sequence. A list may be shorter or longer than a sequence
    only where it serves several: then it must reach the longest one's end. Anything but a text
    becomes one. Raises ``ShapeError`` where the counts do not fit.

    >>> step_labels("abc", [3])
    (('a', 'b', 'c'),)
    >>> step_labels([["the", "cat"], ["sat", 1]], [2, 2])
    (('the', 'cat'), ('sat', '1'))
    """
    if labels is None:
        return ()
    try:
        if isinstance(labels, Mapping):
            raise TypeError
        entries = list(labels)
    except (TypeError, RuntimeError):  # the latter of a tensor that cannot be iterated
        raise ShapeError(
            f"labels must be a list of texts, one a step; got {type(labels).__name__}"
        ) from None
    per_sequence = bool(entries) and all(_is_list(entry) for entry in entries)
    if not per_sequence:
        longest = max(lengths, default=0)
        _fit(len(entries), longest, "labels")
        return tuple(tuple(map(_text, entries[:length])) for length in lengths)
    if len(entries) != len(lengths):
        raise ShapeError(
            f"labels hold {len(entries)} lists, and the batch {len(lengths)} sequences; give one "
            f"list for each, or a single list for all"
        )
    texts_by_row = []
    for row, (entry, length) in enumerate(zip(entries, lengths, strict=True)):
        texts = list(entry)
        _fit(len(texts), length, f"labels of sequence {row}")
        texts_by_row.append(tuple(map(_text, texts)))
    return tuple(texts_by_row)


def _is_list(value: Any) -> bool:
    # one number of a tensor has the name __iter__, and no axis
    several = hasattr(value, "__iter__") and getattr(value, "ndim", 1) > 0
    return several and not isinstance(value, str | bytes)


def _text(value: Any) -> str:
    return str(value.item() if hasattr(value, "item") else value)


def _fit(count: int, steps: int, name: str) -> None:
    if count != steps:
        raise ShapeError(
            f"{name} must be {steps}, one a step; got {count}. "
            f"{'Leave out the last ones.' if count > steps else 'Fill up with empty texts.'}"
        )
