"""Sequences as a command line gives them: words, ``.csv``, ``.npy``.

Files are data: nothing in them is run, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnscope._cli.terminal import ArgumentError
from rnnscope._files.disk import no_file
from rnnscope.errors import FileError, ShapeError

__all__ = [
    "MOST",
    "afford",
    "in_precision",
    "number",
    "read_lengths",
    "read_sequence",
    "reader_of",
    "sequence",
]

MOST = 2**26
"""More numbers than these are refused, in an input and in a layer: 512 MB in float64."""

_COLUMNS = 2**20  # features of a step
_LIBRARY = "for so many use rnnscope.trace in Python"


def number(word: str) -> float:
    """A number as written, ``nan`` and ``inf`` too; raises ``ValueError`` for any other word."""
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{word!r} is no number") from None
    if math.isinf(value) and "inf" not in word.lower():
        raise ValueError(f"{word} is too large for a number")
    return value


def sequence(words: Sequence[str]) -> Tensor:
    """Steps as words, a comma between features: ``3,1 4,0`` is (time 2, feature 2), float64.

    Raises ``ShapeError`` for a word that is no number, and for unequal counts of features.
    """
    steps: list[list[float]] = []
    for place, word in enumerate(words, start=1):
        try:
            steps.append([number(part) for part in word.split(",")])
        except ValueError as error:
            raise ShapeError(
                f"input {place} of {len(words)}: {error}; expected steps such as 3 -4 0.5, "
                f"or 3,1 4,0 for two features a step{_one_hot(words)}"
            ) from error
        if len(steps[-1]) != len(steps[0]):
            raise ShapeError(
                f"every step needs the same count of features: the first, {words[0]!r}, has "
                f"{len(steps[0])}, input {place}, {word!r}, has {len(steps[-1])}"
            )
    return torch.tensor(steps, dtype=torch.float64, device="cpu")


def _one_hot(words: Sequence[str]) -> str:
    """How words become numbers, where some words are such."""
    if not any(re.search(r"[^\W\d_]{2}|^[^\W\d_]$", word) for word in words):
        return ""
    vocabulary = list(dict.fromkeys(words))
    if len(vocabulary) > 8:
        return (
            ". A word becomes a row of numbers, one for each word of the vocabulary: 1 in the "
            "place of the word, 0 in all others"
        )
    rows = [",".join("1" if word == entry else "0" for entry in vocabulary) for word in words]
    return (
        f". A word becomes a row of numbers, 1 in its own place of the vocabulary and 0 in all "
        f"others: {' '.join(rows)}"
    )


def read_sequence(path: Path) -> Tensor:
    """A sequence in a file: ``.csv``, a row a step and a column a feature; or ``.npy``, an array
    (time), (time, feature) or (batch, time, feature). float64.

    Raises ``FileError`` with the place.
    """
    readers = {".csv": _read_csv, ".npy": _read_npy}
    steps: Tensor = reader_of(path, readers)(path)
    return steps


def reader_of(path: Path, readers: Mapping[str, Callable[[Path], Any]]) -> Callable[[Path], Any]:
    """The reader of a file's kind, once the file is known to be there."""
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise FileError(
            f"{path}: expected a file ending in {', '.join(readers)}; got {path.suffix or 'none'}"
        )
    if not path.is_file():
        raise FileError(f"{path}: {no_file(path)}")
    return reader


def _read_csv(path: Path) -> Tensor:
    values = array("d")
    columns = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(_narrow(path, file))
            for row in filter(None, lines):
                values.extend(_csv_row(path, lines.line_num, row, columns))
                columns = len(row)
                if len(values) > MOST:
                    place = f"{path}, line {lines.line_num}"
                    raise FileError(f"{place}: more than {MOST} numbers; {_LIBRARY}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: not a text of comma-separated numbers: {error}") from error
    if not values:
        raise FileError(f"{path}: empty; expected a row a step, a column a feature")
    return torch.from_numpy(np.frombuffer(values).copy()).reshape(-1, columns)


def _narrow(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """The lines, none of which takes far more memory as words than as text."""
    for number, line in enumerate(lines, start=1):
        if line.count(",") >= _COLUMNS:
            raise FileError(f"{path}, line {number}: more than {_COLUMNS} features; {_LIBRARY}")
        yield line


def _csv_row(path: Path, line: int, row: list[str], columns: int) -> list[float]:
    """The numbers of a row; ``columns`` is how many the rows before have, 0 for the first."""
    numbers = []
    for column, cell in enumerate(row, start=1):
        try:
            numbers.append(number(cell))
        except ValueError as error:
            header = "" if columns else " If that is a header, remove the line."
            raise FileError(f"{path}, line {line}, column {column}: {error}.{header}") from error
    if columns and len(row) != columns:
        raise FileError(
            f"{path}, line {line}: {len(row)} columns, where the lines before have "
            f"{columns}; every step needs the same count of features"
        )
    return numbers


def _read_npy(path: Path) -> Tensor:
    try:
        # mapped, so that a header which promises more than the file holds allocates nothing
        mapped = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy and Python's parser raise many kinds for a damaged one
        if "Python objects" in str(error):
            raise FileError(
                f"{path}: holds Python objects, which could run code when read; expected numbers"
            ) from error
        empty = path.stat().st_size > 0 and "empty" in str(error)
        line = next(iter(str(error).splitlines()), type(error).__name__)
        reason = "an array of no numbers" if empty else f"not a whole .npy file: {line}"
        raise FileError(f"{path}: {reason}") from error
    if mapped.dtype.kind not in "iufb":
        raise FileError(f"{path}: holds {mapped.dtype}; expected real numbers")
    if not 1 <= mapped.ndim <= 3 or mapped.size == 0:
        raise FileError(
            f"{path}: expected an array (time), (time, feature) or (batch, time, feature); "
            f"got {mapped.shape}"
        )
    if mapped.size > MOST:
        raise FileError(f"{path}: {mapped.size} numbers, more than {MOST}; {_LIBRARY}")
    values = torch.from_numpy(np.array(mapped, dtype=np.float64))
    return values.unsqueeze(-1) if values.dim() == 1 else values


def read_lengths(text: str) -> list[int]:
    """The lengths of sequences, as in ``5,3,2``."""
    words = text.split(",")
    if not all(re.fullmatch(r"\s*0*[1-9]\d{0,8}\s*", word) for word in words):
        raise ArgumentError(f"--lengths {text!r}: expected whole numbers from 1, as in 5,3,2")
    return [int(word) for word in words]


def in_precision(x: Tensor, module: nn.Module) -> Tensor:
    """The input in the type of the weights; refused where it becomes infinite."""
    dtype = next(module.parameters()).dtype
    rounded = x.to(dtype)
    overflow = rounded.isinf() & x.isfinite()
    if overflow.any():
        raise ShapeError(f"{float(x[overflow][0])!r} is too large for the layer's numbers, {dtype}")
    return rounded


def afford(steps: int, units: int) -> None:
    """Refuse what would fill the memory; a trace in Python has no such bound."""
    if steps * units > MOST // 8:
        raise ShapeError(
            f"these sizes make {steps * units} numbers of each gate; the most here is {MOST // 8}"
        )
