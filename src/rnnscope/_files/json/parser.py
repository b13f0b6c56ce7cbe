"""JSON as data that is not trusted: bounded in depth and memory, strict, with the place of damage.

Numbers in lists, which are nearly all that such a file holds, go into one array, four bytes each
(eight where the file says float64); lists of one shape are one ``Numbers``. All else is counted.

Source: RFC 8259; no duplicate keys, no NaN, no Infinity.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnscope._files.disk import Window
from rnnscope.errors import FileError

__all__ = ["DEEPEST", "MOST", "Numbers", "parse_json"]

DEEPEST = 32
"""Lists and objects inside each other; a model has about six."""

MOST = 20_000
"""Texts, objects, and lists that are no numbers of one shape; a model has a few hundred."""

_SPACE = rb"[ \t\n\r]*+"
# no number of a model has more digits than float64 can have
_NUMBER = rb"-?+(?:0|[1-9][0-9]{0,400}+)(?:\.[0-9]{1,800}+)?+(?:[eE][+-]?+[0-9]{1,8}+)?+"
_blank = re.compile(_SPACE)
_number = re.compile(_NUMBER)
_row = re.compile(rb"\[%b%b(?:%b,%b%b)*+%b\]" % (_SPACE, _NUMBER, _SPACE, _SPACE, _NUMBER, _SPACE))
_text = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\.)*+"')
_word = re.compile(rb"-?[A-Za-z]{1,20}")
_WORDS = {b"true": True, b"false": False, b"null": None}
_NOT_FINITE = (b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf", b"-inf")


@dataclass(frozen=True, slots=True)
class Numbers:
    """Lists of numbers of one shape: ``count`` of them in ``buffer``, from ``start``."""

    buffer: array[float]
    start: int
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers they are."""
        return prod(self.shape)

    def entries(self) -> Iterator[Numbers]:
        """The lists of which it consists."""
        size = prod(self.shape[1:])
        for k in range(self.shape[0]):
            yield Numbers(self.buffer, self.start + k * size, self.shape[1:])

    def tensor(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """A view where the type is the buffer's. A number beyond the type becomes infinite."""
        flat = np.frombuffer(self.buffer, self.buffer.typecode)
        return (
            torch.from_numpy(flat[self.start : self.start + self.count])
            .to(dtype)
            .reshape(self.shape)
        )


def parse_json(window: Window) -> Any:
    """The value that the text holds. Raises ``FileError`` with the place that is not allowed."""
    return _Parser(window).document()


class _Parser:
    def __init__(self, window: Window) -> None:
        self.window, self.data = window, window.data
        self.at = 0
        double = self.data.find(b'"float64"') >= 0  # as save marks a file
        self.buffer: array[float] = array("d" if double else "f")
        self.counted = 0

    def document(self) -> Any:
        if self.data[:3] == b"\xef\xbb\xbf":  # the mark that editors of Windows put in front
            self.at = 3
        self.skip()
        value = self.read_value(0)
        self.skip()
        if self.at < self.window.size:
            raise self.fail("expected the end of the file")
        return value

    def fail(self, reason: str, at: int | None = None) -> FileError:
        at = self.at if at is None else at
        line, place = 1, -1
        while 0 <= (place := self.data.find(b"\n", place + 1)) < at:
            line += 1
        if at >= self.window.size:
            return self.window.fail(at, f"the file ends within its JSON, in line {line}")
        near = self.data[at : at + 12].decode(errors="replace")
        return self.window.fail(at, f"line {line}: {reason}; got {near!r}")

    def skip(self) -> None:
        match = _blank.match(self.data, self.at)
        assert match is not None
        self.at = match.end()

    def count(self, values: int) -> None:
        self.counted += values
        if self.counted > MOST:
            raise self.fail(
                f"more than {MOST} texts, objects, and lists of different lengths, "
                f"which no recurrent model has"
            )

    def byte(self) -> bytes:
        """The byte that comes after blanks; empty at the end."""
        self.skip()
        return self.data[self.at : self.at + 1]

    def read_value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise self.fail(f"lists and objects lie more than {DEEPEST} deep in each other")
        match self.data[self.at : self.at + 1]:
            case b"[":
                return self.read_list(depth)
            case b"{":
                return self.read_object(depth)
            case b'"':
                return self.read_text()
        if (word := _word.match(self.data, self.at)) is not None:
            if word[0] in _WORDS:
                self.at = word.end()
                return _WORDS[word[0]]
            if word[0] in _NOT_FINITE:
                raise self.fail("expected a number; JSON has no NaN and no Infinity")
        if (number := _number.match(self.data, self.at)) is not None:
            self.at = number.end()
            return float(number[0]) if re.search(rb"[.eE]", number[0]) else int(number[0])
        raise self.fail("expected a value")

    def read_text(self) -> str:
        match = _text.match(self.data, self.at)
        if match is None:
            raise self.fail("a text does not end, or holds a byte that is not allowed in it")
        try:
            text: str = json.loads(match[0].decode())
            text.encode()
        except ValueError as error:
            raise self.fail("a text is not UTF-8, or has a wrong escape") from error
        self.at = match.end()
        return text

    def read_object(self, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        self.at += 1
        if self.byte() == b"}":
            self.at += 1
            return entries
        while True:
            if self.byte() != b'"':
                raise self.fail("expected a key in quotation marks")
            place = self.at
            key = self.read_text()
            if key in entries:
                raise self.fail(f"the key {key[:80]!r} is there twice", place)
            if self.byte() != b":":
                raise self.fail("expected a colon after a key")
            self.at += 1
            self.skip()
            entries[key] = self.read_value(depth + 1)
            self.count(1)
            if self.closed(b"}"):
                return entries

    def closed(self, end: bytes) -> bool:
        """Whether an object or a list ends here, or goes on after a comma."""
        mark = self.byte()
        if mark not in (end, b","):
            raise self.fail(f"expected , or {end.decode()}")
        self.at += 1
        if mark == b",":
            self.skip()
        return mark == end

    def read_list(self, depth: int) -> Any:
        start = len(self.buffer)
        if (row := _row.match(self.data, self.at)) is not None:
            self.buffer.extend(
                float(number[0])
                for number in _number.finditer(self.data, self.at + 1, row.end() - 1)
            )
            self.at = row.end()
            return Numbers(self.buffer, start, (len(self.buffer) - start,))
        self.at += 1
        if self.byte() == b"]":
            self.at += 1
            return Numbers(self.buffer, start, (0,))
        shape: tuple[int, ...] | None = None
        rows = 0
        mixed: list[Any] | None = None
        while True:
            value = self.read_value(depth + 1)
            alike = isinstance(value, Numbers) and shape in (None, value.shape)
            if mixed is None and alike:
                shape, rows = value.shape, rows + 1
            else:
                if mixed is None:
                    self.count(rows)
                    mixed = list(Numbers(self.buffer, start, (rows, *(shape or ()))).entries())
                self.count(1)
                mixed.append(value)
            if self.closed(b"]"):
                return (
                    Numbers(self.buffer, start, (rows, *shape))
                    if mixed is None and shape
                    else mixed
                )
