"""Protocol buffers, read and written field by field.

A parsed message takes many times its bytes (an empty one takes 2 in the file and about 100 in
memory), so nothing is parsed here but what is asked for.

Source: protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from rnnscope._files.disk import Window

__all__ = ["Message", "encode_field"]


@dataclass(frozen=True)
class Message:
    """A span of bytes that is a message."""

    window: Window
    start: int
    end: int

    def fields(self) -> Iterator[tuple[int, int | Message]]:
        """Each (number, value); of a field with a length, the span that it takes."""
        at = self.start
        while at < self.end:
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = self._varint(at)
                yield number, value
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                self._inside(at, size)
                yield number, self.window.number(at, size)
                at += size
            elif kind == 2:
                size, at = self._varint(at)
                self._inside(at, size)
                yield number, Message(self.window, at, at + size)
                at += size
            else:
                raise self.window.fail(at, f"no field of a message is here (wire type {kind})")

    def spans(self, *numbers: int) -> Iterator[Message]:
        """The fields of these numbers that have a length."""
        for number, value in self.fields():
            if number in numbers and isinstance(value, Message):
                yield value

    @property
    def data(self) -> bytes:
        """The bytes of the span."""
        return self.window.take(self.start, self.size)

    @property
    def size(self) -> int:
        """How many bytes the span has."""
        return self.end - self.start

    @property
    def text(self) -> str:
        """The span as text."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise self.window.fail(self.start, "a name is no text") from error

    def numbers(self) -> Iterator[int]:
        """The span as packed numbers: no tags between them, signed in 64 bits."""
        at = self.start
        while at < self.end:
            value, at = self._varint(at)
            yield signed(value)

    def _inside(self, at: int, size: int) -> None:
        if at + size > self.end:
            raise self.window.fail(
                at, f"a field of {size} bytes is declared where {self.end - at} are left"
            )

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        data, end = self.window.data, self.end
        while at < end and shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise self.window.fail(at, "a number has no end")


def signed(value: int) -> int:
    """64 bits as a signed number."""
    return value - (1 << 64) if value >> 63 else value


def encode_field(number: int, value: int | float | str | bytes) -> bytes:
    """A field: whole numbers as varints, others in four bytes, texts and messages with length."""
    if isinstance(value, float):
        return _number(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _number(number << 3) + _number(value & 0xFFFF_FFFF_FFFF_FFFF)
    data = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(data)) + data


def _number(value: int) -> bytes:
    varint = bytearray()
    while value > 127:
        varint.append(value & 127 | 128)
        value >>= 7
    varint.append(value)
    return bytes(varint)
