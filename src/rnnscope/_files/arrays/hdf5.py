"""HDF5 as h5py writes it, read byte by byte.

The library behind h5py trusts what a file says of itself: some damaged files end the process
(HDF5 2.0.0: one of 2,000 with random bits flipped). Here every address is compared with the
file's size first, the work is counted, and no package is needed beside this one. Read are files
of the default format (``libver="earliest"``): groups, links, attributes, and arrays in one piece
or in chunks (plain, deflated, shuffled, with checksums), with their fill values. All else is
refused when it is asked for; the tests compare what is read with h5py.

Source: HDF5 File Format Specification 3.0, The HDF Group.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnscope._files.disk import ARRAY, LazyArray, Window, as_tensor
from rnnscope.errors import FileError

__all__ = ["SIGNATURE", "Hdf5Content", "read_hdf5"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEPTH = 64  # groups inside groups
_DATASPACE, _LINK_INFO, _DATATYPE, _OLD_FILL, _FILL = 1, 2, 3, 4, 5
_LINK, _EXTERNAL_FILES, _LAYOUT = 6, 7, 8
_FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOLS, _ATTRIBUTE_INFO = 11, 12, 16, 17, 21
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
_NUMBERS = 256  # of an attribute; what layers say of themselves is text
_WORDS = 2**16  # of a checksum at a time
_EXTERNAL = -1  # an address for what lies in another file
_HARD, _SOFT = 0, 1  # kinds of links


@dataclass(frozen=True)
class Hdf5Content:
    """What an HDF5 file holds: arrays and attributes under their full names."""

    arrays: dict[str, LazyArray] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Message:
    kind: int
    at: int
    size: int
    shared: bool


@dataclass(frozen=True)
class _Type:
    """A kind of element; ``dtype`` None where it is no number that NumPy has."""

    size: int
    dtype: np.dtype[np.generic] | None = None
    text: bool = False
    pointer: bool = False  # text of any length, kept in a heap
    brain: bool = False  # bfloat16, which NumPy lacks


def read_hdf5(window: Window) -> Hdf5Content:
    """All groups of a file.

    Raises ``FileError`` with the byte at which the file is damaged, or of a form not read here.
    """
    return _File(window).group()


@dataclass(frozen=True)
class _Object:
    """What lies at an address: an array, or a group of links, to addresses or to other names."""

    attributes: dict[str, Any]
    links: dict[str, int | str]
    array: LazyArray | None


class _File:
    def __init__(self, window: Window) -> None:
        self.window = window
        self.budget = window.size // 8  # links, blocks and messages: each takes more than 8 bytes
        self.objects: dict[int, _Object] = {}
        self.heaps: dict[int, dict[int, bytes]] = {}
        start = next(
            (
                at
                for at in (0, 512, 1024, 2048, 4096, 8192)
                if at + 8 <= window.size and window.take(at, 8) == SIGNATURE
            ),
            None,
        )
        if start is None:
            raise FileError(f"{window.name}: no HDF5 file: it does not begin as one")
        version = window.number(start + 8, 1)
        if version > 3:
            raise window.fail(start + 8, f"version {version} of HDF5's superblock is not known")
        sizes = start + (13 if version < 2 else 9)
        self.O, self.L = window.number(sizes, 1), window.number(sizes + 1, 1)
        if self.O not in (2, 4, 8) or self.L not in (2, 4, 8):
            raise window.fail(sizes, f"addresses of {self.O} bytes, lengths of {self.L}")
        self.undefined = (1 << 8 * self.O) - 1
        first = start + {0: 24, 1: 28}.get(version, 12)
        self.base = window.number(first, self.O)
        if window.number(first + 2 * self.O, self.O) > window.size:
            raise window.fail(first + 2 * self.O, "the end of the file is missing")
        if version < 2:  # base, free space, end, driver; then the root's entry: name, header
            self.root = self.address(first + 5 * self.O)
        else:
            self.root = self.address(first + 3 * self.O)

    def address(self, at: int) -> int:
        return self.window.number(at, self.O) + self.base

    def spend(self, at: int, count: int = 1) -> None:
        """Count the entries that are read, so that blocks in a circle come to an end."""
        self.budget -= count
        if self.budget < 0:
            raise self.window.fail(at, "it holds more entries than fit in its bytes")

    def group(self) -> Hdf5Content:
        """Everything under every name that it has."""
        content = Hdf5Content()
        waiting: list[tuple[str, int, tuple[int, ...]]] = [("", self.root, ())]
        while waiting:
            name, at, around = waiting.pop()
            self.spend(at)
            self.window.allowance.take(ARRAY + len(name), "the names of its arrays")
            target_object = self.object(name, at)
            if target_object.attributes:
                content.attributes[name] = target_object.attributes
            if target_object.array is not None:
                content.arrays[name] = target_object.array
                continue
            if len(around) >= _DEPTH:
                raise self.window.fail(at, f"more than {_DEPTH} groups inside each other")
            around = (*around, at)
            for link, target in reversed(target_object.links.items()):
                place = f"{name}/{link}" if name else link
                where = self.resolve(around, target) if isinstance(target, str) else target
                if where == _EXTERNAL:
                    content.arrays[place] = LazyArray(
                        None, False, partial(self.refuse_external, place)
                    )
                elif where is not None and where not in around:  # a group may hold itself
                    waiting.append((place, where, around))
        return content

    def object(self, name: str, at: int) -> _Object:
        """What lies at an address, read once."""
        if at not in self.objects:
            messages = list(self.messages(at))
            attributes = self.attributes(messages)
            if any(message.kind == _LAYOUT for message in messages):
                hdf5_object = _Object(attributes, {}, self.lazy_array(name, messages))
            else:
                hdf5_object = _Object(attributes, dict(self.links(messages)), None)
            self.objects[at] = hdf5_object
        return self.objects[at]

    def resolve(self, around: tuple[int, ...], path: str) -> int | None:
        """The address of what another name names; None where there is nothing."""
        if not path:
            return _EXTERNAL
        at = self.root if path.startswith("/") else around[-1]
        parts = [part for part in path.split("/") if part not in ("", ".")][::-1]
        while parts:
            self.spend(at)
            target = self.object(path, at).links.get(parts.pop())
            if target is None or target == "":
                return target if target is None else _EXTERNAL
            if isinstance(target, str):
                at = self.root if target.startswith("/") else at
                parts += [part for part in target.split("/") if part not in ("", ".")][::-1]
            else:
                at = target
        return at

    def refuse_external(self, name: str) -> NoReturn:
        raise FileError(
            f"{self.window.name}: {name} is a link into another file, which is not followed; "
            f"write the array itself into this one"
        )

    # object headers ---------------------------------------------------------------------

    def messages(self, at: int) -> Iterator[_Message]:
        window = self.window
        new = window.take(at, 4) == b"OHDR"
        if new:
            flags = window.number(at + 5, 1)
            start = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            blocks = [(start + width, window.number(start, width))]
            head = 6 if flags & 4 else 4
        else:
            if window.number(at, 1) != 1:
                raise window.fail(at, "no object header is here")
            blocks, head = [(at + 16, window.number(at + 8, 4))], 8
        starts = set()
        while blocks:
            at, size = blocks.pop(0)
            window.check(at, size)
            if at in starts:
                raise window.fail(at, "an object header continues in itself")
            starts.add(at)
            end = at + size
            while at + head <= end:
                self.spend(at)
                if new:
                    kind, length, flag = (
                        window.number(at, 1),
                        window.number(at + 1, 2),
                        window.number(at + 3, 1),
                    )
                else:
                    kind, length, flag = (
                        window.number(at, 2),
                        window.number(at + 2, 2),
                        window.number(at + 4, 1),
                    )
                at += head
                if at + length > end:
                    raise window.fail(at, f"a message of {length} bytes leaves its header")
                if kind == _CONTINUATION:
                    block, size = self.address(at), window.number(at + self.O, self.L)
                    # a block of the new form has a name of 4 bytes, and a checksum of 4
                    blocks.append((block + 4, size - 8) if new else (block, size))
                elif kind:
                    yield _Message(kind, at, length, bool(flag & 2))
                at += length

    def first_message(self, messages: list[_Message], kind: int) -> _Message | None:
        return next((message for message in messages if message.kind == kind), None)

    # links ------------------------------------------------------------------------------

    def links(self, messages: list[_Message]) -> Iterator[tuple[str, int | str]]:
        """Each name with an address, or with another name, which is empty in another file."""
        for message in messages:
            if message.kind == _SYMBOLS:
                tree, heap = self.address(message.at), self.address(message.at + self.O)
                yield from self.symbols(tree, heap)
            elif message.kind == _LINK:
                yield from self.link(message)
            elif message.kind == _LINK_INFO:
                at = message.at + 2 + (8 if self.window.number(message.at + 1, 1) & 1 else 0)
                if self.window.number(at, self.O) != self.undefined:
                    raise self.latest(at)

    def latest(self, at: int) -> FileError:
        return FileError(
            f"{self.window.name}, byte {at}: in a newer form of HDF5, which is not read here (of "
            f'libver="latest", of track_order, or of groups with links into other files); copy '
            f'the arrays into h5py.File(path, "w", libver="earliest")'
        )

    def symbols(self, tree: int, heap: int) -> Iterator[tuple[str, int | str]]:
        window = self.window
        if window.take(heap, 4) != b"HEAP":
            raise window.fail(heap, "no heap of names is here")
        size = window.number(heap + 8, self.L)
        names = self.address(heap + 8 + 2 * self.L)
        window.check(names, size)
        for leaf in self.leaves(tree, 0, self.L):
            if window.take(leaf, 4) != b"SNOD":
                raise window.fail(leaf, "no node of a group is here")
            for k in range(window.number(leaf + 6, 2)):
                self.spend(leaf)
                at = leaf + 8 + k * (2 * self.O + 24)
                name = window.number(at, self.O)
                soft = window.number(at + 2 * self.O, 4) == 2  # a link to another name
                target_name = window.number(at + 2 * self.O + 8, 4) if soft else 0
                if max(name, target_name) >= size:
                    raise window.fail(at, "a name lies outside of its heap")
                target = (
                    self.name(names + target_name, names + size)
                    if soft
                    else self.address(at + self.O)
                )
                yield self.name(names + name, names + size), target

    def name(self, at: int, end: int) -> str:
        # a name ends in a zero; longer ones than these name no layer
        data = self.window.take(at, min(end - at, 1024))
        return self.text(at, data.split(b"\0", 1)[0])

    def text(self, at: int, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.window.fail(at, "a name is no text") from error

    def leaves(self, root: int, kind: int, key: int) -> Iterator[int]:
        """What a B-tree points to; for chunks the place of the key, which the child follows."""
        window = self.window
        waiting, nodes = [root], {root}
        while waiting:
            at = waiting.pop()
            if window.take(at, 4) != b"TREE" or window.number(at + 4, 1) != kind:
                raise window.fail(at, "no node of a B-tree is here")
            level, used = window.number(at + 5, 1), window.number(at + 6, 2)
            self.spend(at, used)
            start = at + 8 + 2 * self.O
            children = [start + k * (key + self.O) for k in range(used)]
            for child in children if level == 0 else reversed(children):
                target = self.address(child + key)
                if level == 0:
                    yield target if kind == 0 else child
                elif target in nodes:
                    raise window.fail(at, "a B-tree holds itself")
                else:
                    nodes.add(target)
                    waiting.append(target)

    def link(self, message: _Message) -> Iterator[tuple[str, int | str]]:
        window, at = self.window, message.at
        flags = window.number(at + 1, 1)
        at += 2
        kind = 0
        if flags & 8:
            kind, at = window.number(at, 1), at + 1
        at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        length = window.number(at, width)
        if length > message.size:
            raise window.fail(at, "a name is longer than its message")
        name = self.text(at, window.take(at + width, length))
        at += width + length
        if kind == _HARD:
            yield name, self.address(at)
        elif kind == _SOFT:
            yield name, self.text(at, window.take(at + 2, window.number(at, 2)))
        else:
            yield name, ""

    # attributes -------------------------------------------------------------------------

    def attributes(self, messages: list[_Message]) -> dict[str, Any]:
        values = {}
        for message in messages:
            if message.kind == _ATTRIBUTE:
                name, value = self.attribute(message)
                values[name] = value
            elif message.kind == _ATTRIBUTE_INFO:
                at = message.at + 2 + (2 if self.window.number(message.at + 1, 1) & 1 else 0)
                if self.window.number(at, self.O) != self.undefined:
                    raise self.latest(at)
        return values

    def attribute(self, message: _Message) -> tuple[str, Any]:
        window, at = self.window, message.at
        version = window.number(at, 1)
        if version not in (1, 2, 3):
            raise window.fail(at, f"version {version} of an attribute is not known")
        sizes = [window.number(at + 2 * k, 2) for k in (1, 2, 3)]
        shared = version > 1 and window.number(at + 1, 1) & 3
        at += 9 if version == 3 else 8
        places = []
        for size in sizes:
            places.append(at)
            at += (size + 7) // 8 * 8 if version == 1 else size
        if at > message.at + message.size:
            raise window.fail(message.at, "an attribute leaves its message")
        name = self.text(places[0], window.take(places[0], sizes[0]).split(b"\0", 1)[0])
        if shared:
            return name, None
        kind, shape = self.type(places[1]), self.shape(places[2])
        if shape is None:
            return name, None
        count = math.prod(shape)
        window.check(at, count * kind.size)
        if at + count * kind.size > message.at + message.size:
            raise window.fail(at, f"the value of attribute {name} leaves its message")
        return name, self.value(at, kind, shape)

    def value(self, at: int, kind: _Type, shape: tuple[int, ...]) -> Any:
        """An attribute: a number, a text, or a list of them; None where it is neither, or long."""
        count = math.prod(shape)
        if not (kind.text or kind.dtype) or (kind.dtype and count > _NUMBERS):
            return None
        self.spend(at, count if kind.size else 0)
        if kind.pointer:
            values: Any = [self.heap_text(at + k * kind.size) for k in range(count)]
        elif kind.text:
            parts = (self.window.take(at + k * kind.size, kind.size) for k in range(count))
            values = [part.rstrip(b"\0 ").decode(errors="replace") for part in parts]
        else:
            values = np.frombuffer(self.window.take(at, count * kind.size), kind.dtype).tolist()
        return values if shape else values[0]

    def heap_text(self, at: int) -> str:
        window = self.window
        length, heap = window.number(at, 4), self.address(at + 4)
        index = window.number(at + 4 + self.O, 4)
        if length == 0:
            return ""
        if heap not in self.heaps:
            self.heaps[heap] = dict(self.texts(heap))
        text = self.heaps[heap].get(index)
        if text is None:
            raise window.fail(heap, f"text {index} is not in this heap")
        if length > len(text):
            raise window.fail(at, "a text is longer than its place in the heap")
        window.allowance.take(4 * length, "its texts")
        return text[:length].decode(errors="replace")

    def texts(self, heap: int) -> Iterator[tuple[int, bytes]]:
        """The texts of any length that several arrays and attributes point to, by number."""
        window = self.window
        if window.take(heap, 4) != b"GCOL":
            raise window.fail(heap, "no heap of texts is here")
        size = window.number(heap + 8, self.L)
        window.check(heap, size)
        end, at = heap + size, heap + 8 + self.L
        while at + 8 + self.L <= end:
            self.spend(at)
            number, length = window.number(at, 2), window.number(at + 8, self.L)
            if number == 0:
                break
            window.allowance.take(length, "its texts")
            yield number, window.take(at + 8 + self.L, length)
            at += 8 + self.L + (length + 7) // 8 * 8

    # elements and shapes ----------------------------------------------------------------

    def type(self, at: int) -> _Type:
        window = self.window
        kind, bits = window.number(at, 1) & 15, window.number(at + 1, 3)
        size = window.number(at + 4, 4)
        order = ">" if bits & 1 else "<"
        if kind == 0 and size in (1, 2, 4, 8):
            if window.number(at + 8, 4) == size << 19:  # all bits count: from 0, 8 × size of them
                return _Type(size, np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"))
        elif kind == 1 and size in (2, 4, 8):
            # bits in all, then place and size of exponent and mantissa, and the exponent's bias;
            # without those that say the order: the sign's place, and a leading 1 that is not kept
            parts = (window.number(at + 8, 8), window.number(at + 16, 4), bits & ~1)
            for name, exponent in (("f2", 5), ("f4", 8), ("f8", 11), ("u2", 8)):
                if parts == _float(size, exponent) and int(name[1]) == size:
                    return _Type(size, np.dtype(order + name), brain=name == "u2")
        elif kind == 3:
            return _Type(size, text=True)
        elif kind == 9 and bits & 15 == 1 and size == 8 + self.O:
            return _Type(size, text=True, pointer=True)
        return _Type(size)

    def shape(self, at: int) -> tuple[int, ...] | None:
        """The sizes; None for an array of nothing."""
        window = self.window
        version, rank = window.number(at, 1), window.number(at + 1, 1)
        if version not in (1, 2) or rank > 32:
            raise window.fail(at, "no shape is here")
        if version == 2 and window.number(at + 3, 1) == 2:
            return None
        start = at + (8 if version == 1 else 4)
        return tuple(window.number(start + k * self.L, self.L) for k in range(rank))

    # arrays -----------------------------------------------------------------------------

    def lazy_array(self, name: str, messages: list[_Message]) -> LazyArray:
        """An array, not read yet; one of text and the like is refused when it is asked for."""
        shape_message, type_message = (
            self.first_message(messages, _DATASPACE),
            self.first_message(messages, _DATATYPE),
        )
        if shape_message is None or type_message is None:
            raise self.window.fail(messages[0].at, f"{name} has no shape, or no type")
        if shape_message.shared or type_message.shared:
            return LazyArray(None, False, partial(self.no_number, name, "of a type with a name"))
        kind, shape = self.type(type_message.at), self.shape(shape_message.at)
        if kind.dtype is None or shape is None:
            reason = "of text" if kind.text else "empty, or of a kind that is no plain number"
            return LazyArray(None, False, partial(self.no_number, name, reason))
        floating = kind.dtype.kind == "f" or kind.brain
        return LazyArray(shape, floating, partial(self.read, name, messages, kind, shape))

    def no_number(self, name: str, reason: str) -> NoReturn:
        raise FileError(f"{self.window.name}: {name} is {reason}; expected an array of numbers")

    def read(
        self, name: str, messages: list[_Message], kind: _Type, shape: tuple[int, ...]
    ) -> Tensor:
        window, layout = self.window, self.first_message(messages, _LAYOUT)
        assert layout is not None
        assert kind.dtype is not None
        if self.first_message(messages, _EXTERNAL_FILES) is not None:
            self.refuse_external(name)
        at = layout.at
        version, stored = window.number(at, 1), window.number(at + 1, 1)
        count = math.prod(shape) * kind.size
        if version not in (3, 4):
            raise FileError(
                f"{window.name}, byte {at}: version {version} of the place of {name} is not read "
                f"here; write it again with h5py"
            )
        if stored == 0:  # inside the header
            if window.number(at + 2, 2) != count:
                raise window.fail(at, f"the size of {name} is not that of its shape {shape}")
            tensor = window.array(at + 4, kind.dtype, shape)
        elif stored == 1:  # in one piece
            place, size = window.number(at + 2, self.O), window.number(at + 2 + self.O, self.L)
            if place == self.undefined:
                window.allowance.take(count, name)
                tensor = as_tensor(np.full(shape, self.fill(messages, kind), kind.dtype))
            elif size != count:
                raise window.fail(at, f"{name} has {size} bytes; its shape {shape} takes {count}")
            else:
                tensor = window.array(place + self.base, kind.dtype, shape)
        elif stored == 2 and version == 3:
            tensor = self.chunks(name, at, messages, kind, shape)
        else:
            raise self.latest(at)
        return tensor.view(torch.bfloat16) if kind.brain else tensor

    def fill(self, messages: list[_Message], kind: _Type) -> NDArray[np.generic]:
        """The number that stands where nothing was written."""
        window = self.window
        assert kind.dtype is not None
        message = self.first_message(messages, _FILL) or self.first_message(messages, _OLD_FILL)
        if message is None:
            return np.zeros((), kind.dtype)
        at = message.at
        if message.shared:
            raise FileError(f"{window.name}, byte {at}: a fill value with a name is not read here")
        if message.kind == _FILL:
            version = window.number(at, 1)
            if version not in (1, 2, 3):
                raise window.fail(at, f"version {version} of a fill value is not known")
            flag, at = (window.number(at + 1, 1) & 32, at + 2) if version == 3 else (1, at + 4)
            if version == 2:
                flag = window.number(at - 1, 1)
            if not flag:
                return np.zeros((), kind.dtype)
        size = window.number(at, 4)
        if size not in (0, kind.size):
            raise window.fail(at, f"a fill value of {size} bytes, for numbers of {kind.size}")
        data = window.take(at + 4, size) if size else bytes(kind.size)
        return np.frombuffer(data, kind.dtype).reshape(())

    def chunks(
        self, name: str, at: int, messages: list[_Message], kind: _Type, shape: tuple[int, ...]
    ) -> Tensor:
        window, rank = self.window, len(shape)
        assert kind.dtype is not None
        place = window.number(at + 3, self.O)
        chunk = tuple(window.number(at + 3 + self.O + 4 * k, 4) for k in range(rank))
        if window.number(at + 2, 1) != rank + 1 or 0 in chunk:
            raise window.fail(at, f"the chunks of {name} do not fit its shape {shape}")
        # the chunks as they are unpacked: those at the edges are whole, too
        whole = math.prod(-(-n // c) * c for n, c in zip(shape, chunk, strict=True))
        size, filters = math.prod(chunk) * kind.size, self.filters(messages)
        window.allowance.take(whole * kind.size + 2 * size, name)  # a chunk, before its filters
        array = np.full(shape, self.fill(messages, kind), kind.dtype)
        if place == self.undefined:
            return as_tensor(array)
        key, starts = 8 + 8 * (rank + 1), set[tuple[int, ...]]()
        for child in self.leaves(place + self.base, 1, key):
            start = tuple(window.number(child + 8 + 8 * k, 8) for k in range(rank))
            if window.number(child + 8 + 8 * rank, 8) != 0:
                raise window.fail(child, f"a chunk of {name} begins inside of a number")
            if any(a >= n for a, n in zip(start, shape, strict=True)):
                raise window.fail(child, f"a chunk of {name} lies outside of its shape {shape}")
            if start in starts or any(a % c for a, c in zip(start, chunk, strict=True)):
                raise window.fail(child, f"a chunk of {name} lies upon another")
            starts.add(start)
            data = self.unpack(child, child + key, filters, size, kind.size)
            if len(data) != size:
                raise window.fail(child, f"a chunk of {name} has {len(data)} bytes, not {size}")
            target = array[tuple(slice(a, a + c) for a, c in zip(start, chunk, strict=True))]
            piece = np.frombuffer(data, kind.dtype).reshape(chunk)
            target[...] = piece[tuple(slice(0, n) for n in target.shape)]
        return as_tensor(array)

    def unpack(self, child: int, place: int, filters: list[int], size: int, width: int) -> bytes:
        """The bytes of a chunk; every filter is undone, but those that the chunk skipped."""
        window = self.window
        mask = window.number(child + 4, 4)
        data = window.take(self.address(place), window.number(child, 4))
        for k, kind in reversed(list(enumerate(filters))):
            if not mask >> k & 1:
                data = self.undo_filter(child, kind, data, size, width)
        return data

    def undo_filter(self, at: int, kind: int, data: bytes, size: int, width: int) -> bytes:
        """The data before a filter; ``size`` bytes, with at most a checksum."""
        if kind == _DEFLATE:
            try:
                return zlib.decompressobj().decompress(data, size + 4)
            except zlib.error as error:
                raise self.window.fail(at, f"compressed data is broken ({error})") from error
        if kind == _FLETCHER:
            data, sums = data[:-4], data[-4:]
            # the halves of the sum, in the order of this library and of an old one
            if _fletcher(data) not in (_halves(sums, "<"), _halves(sums, ">")):
                raise self.window.fail(at, "a checksum does not fit")
            return data
        whole = len(data) // width * width
        planes = np.frombuffer(data, np.uint8, whole).reshape(width, -1)
        return planes.T.tobytes() + data[whole:]

    def filters(self, messages: list[_Message]) -> list[int]:
        message = self.first_message(messages, _FILTERS)
        if message is None:
            return []
        window, at = self.window, message.at
        version, count = window.number(at, 1), window.number(at + 1, 1)
        at += 8 if version == 1 else 2
        kinds = []
        for _ in range(count):
            kind = window.number(at, 2)
            if kind not in (_DEFLATE, _SHUFFLE, _FLETCHER):
                raise FileError(
                    f"{window.name}, byte {at}: compressed by HDF5's filter {kind}; read here are "
                    f"gzip, shuffle and fletcher32"
                )
            name = window.number(at + 2, 2) if version == 1 else 0
            values = window.number(at + (6 if version == 1 else 4), 2)
            at += (8 + (name + 7) // 8 * 8) if version == 1 else 6
            at += 4 * (values + values % 2 if version == 1 else values)
            kinds.append(kind)
        return kinds


def _float(size: int, exponent: int) -> tuple[int, int, int]:
    """The properties of a type of IEEE's numbers, as HDF5 writes them, the first bits lowest."""
    mantissa = 8 * size - 1 - exponent
    parts = 8 * size << 16 | mantissa << 32 | exponent << 40 | mantissa << 56
    return parts, 2 ** (exponent - 1) - 1, (8 * size - 1) << 8 | 2 << 4


def _fletcher(data: bytes) -> tuple[int, int]:
    """The halves of the checksum of HDF5's filter 3, modulo 2**16 − 1.

    Source: H5checksum.c, H5_checksum_fletcher32
    """
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2")
    first = second = 0
    for start in range(0, len(words), _WORDS):
        part = words[start : start + _WORDS].astype(np.int64)
        second += len(part) * first + int((part * np.arange(len(part), 0, -1)).sum())
        first += int(part.sum())
    return first % 0xFFFF, second % 0xFFFF


def _halves(sums: bytes, order: str) -> tuple[int, int]:
    first, second = np.frombuffer(sums.ljust(4, b"\0"), f"{order}u2").tolist()
    return first % 0xFFFF, second % 0xFFFF
