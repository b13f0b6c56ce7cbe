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
    becomes one, None an empty one. Raises ``ShapeError`` where the counts do not fit, and for words
    of which it is not clear whether each names a step or is a sequence of letters.

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
    lists = [_is_list(entry) for entry in entries]
    if any(lists) and not all(lists):
        row = lists.index(False)
        raise ShapeError(
            f"labels must be lists of texts, one for each sequence, or texts alone; got both: that "
            f"of sequence {row} is {type(entries[row]).__name__}. Of a word write list(word)"
        )
    if not any(lists):
        longest = max(lengths, default=0)
        _check_words(labels, entries, lengths)
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


def _check_words(labels: Any, entries: list[Any], lengths: Sequence[int]) -> None:
    """Raise where a list holds a word for each sequence, which may be meant as its letters."""
    words = not isinstance(labels, str) and all(isinstance(entry, str) for entry in entries)
    if not words or len(entries) != len(lengths) or len(lengths) < 2:
        return
    letters = "write [list(word) for word in words]"
    if len(entries) != max(lengths):
        raise ShapeError(
            f"labels must be {max(lengths)}, one a step, or a list for each sequence; got "
            f"{len(entries)} texts for {len(lengths)} sequences. Where each letter is a step, "
            f"{letters}"
        )
    if [len(entry) for entry in entries] == list(lengths):
        raise ShapeError(
            f"labels may be {len(entries)} sequences of letters, or {len(entries)} steps: where "
            f"each letter is a step, {letters}; where each word is one, [words] * {len(lengths)}"
        )


def _text(value: Any) -> str:
    if value is None:
        return ""
    value = value.item() if hasattr(value, "item") else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fit(count: int, steps: int, name: str) -> None:
    if count != steps:
        raise ShapeError(
            f"{name} must be {steps}, one a step; got {count}. "
            f"{'Leave out the last ones.' if count > steps else 'Fill up with empty texts.'}"
        )
