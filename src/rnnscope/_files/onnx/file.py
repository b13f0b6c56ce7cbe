"""ONNX: the recurrent nodes of a model, and the numbers that the file holds for their inputs.

Exporters rarely store W, R and B as the node takes them: they slice, join and turn them by nodes
before it. Those few operations are carried out here, on constants alone.

Source: onnx/onnx.proto, onnx/docs/ExternalData.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnscope._files.content import FileContent, RecurrentNode
from rnnscope._files.disk import LazyArray, Window, first_line, no_file
from rnnscope._files.onnx.protobuf import Message, signed
from rnnscope.errors import FileError

__all__ = ["RECURRENT", "read_onnx"]

RECURRENT = ("LSTM", "GRU", "RNN")
_DTYPES: dict[int, tuple[str, torch.dtype]] = {
    1: ("<f4", torch.float32),
    6: ("<i4", torch.int32),
    7: ("<i8", torch.int64),
    10: ("<f2", torch.float16),
    11: ("<f8", torch.float64),
    16: ("<u2", torch.bfloat16),  # NumPy lacks it; the bits are taken over
}
_CONSTANTS = {  # attributes of Constant
    "value_ints": torch.int64,
    "value_int": torch.int64,
    "value_floats": torch.float32,
    "value_float": torch.float32,
}
_LISTS = {4: "<f4", 10: "<f8"}  # fields of floating numbers, in a row
_PART = 512  # bytes of memory for a node, an initialiser, an attribute
_SCOPE = 2048  # and for a graph
_NUMBER = 20  # a list of numbers takes so many times its bytes in the file
_MOST_DIMS = 32
_DEPTH = 32  # graphs inside nodes


def read_onnx(path: Path) -> FileContent:
    """A model's recurrent nodes; in branches and loops, too.

    Raises ``FileError`` where it is damaged or keeps numbers outside of its own folder.
    """
    window = Window.of(path)
    model = Message(window, 0, window.size)
    nodes: list[RecurrentNode] = []
    arrays: dict[str, LazyArray] = {}
    data_files: dict[Path, Window] = {}
    scopes: list[tuple[_Scope, Message]] = []
    for graph in model.spans(7):
        window.allowance.take(_SCOPE, "its graphs")
        scope = _Scope(path, None, window, data_files)
        scopes.append((scope, graph))
        scope.walk(graph, nodes, 0)
    if not scopes:
        raise FileError(f"{path}: no ONNX model: it holds no graph")
    if not nodes:  # a layer taken apart may still have its arrays, under their names
        for scope, graph in scopes:
            arrays |= scope.initialisers(graph)
    strangers = [stranger for scope, _ in scopes for stranger in scope.strangers]
    metadata = {"strangers": ", ".join(strangers[:8])} if strangers else {}
    return FileContent(
        path, "onnx", window.allowance, arrays, metadata=metadata, nodes=tuple(nodes)
    )


@dataclass
class _Maker:
    """A node that computes a constant from other constants."""

    op: str
    inputs: tuple[str, ...]
    message: Message


@dataclass
class _Scope:
    """The names that are known in a graph: its own, and those of the graph around it."""

    path: Path
    outer: _Scope | None
    window: Window
    data_files: dict[Path, Window]
    stored: dict[str, Message] = field(default_factory=dict)
    makers: dict[str, _Maker] = field(default_factory=dict)
    constants: dict[str, Tensor | None] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)

    def part(self, size: int = _PART) -> None:
        self.window.allowance.take(size, "its nodes and names")

    def initialisers(self, graph: Message) -> dict[str, LazyArray]:
        """The named initialisers of floating numbers."""
        initialisers: dict[str, LazyArray] = {}
        for message in graph.spans(5):
            self.part()
            name = next((text_field.text for text_field in message.spans(8)), "")
            dims: list[int] = []
            kind = 0
            for number, value in message.fields():
                if number == 1 and len(dims) <= _MOST_DIMS:
                    dims += _sizes(value)
                elif number == 2 and isinstance(value, int):
                    kind = value
            floating = kind in _DTYPES and _DTYPES[kind][1].is_floating_point
            if floating and len(dims) <= 2:
                initialisers[name] = LazyArray(tuple(dims), True, partial(self._constant, message))
        return initialisers

    def _constant(self, message: Message) -> Tensor:
        values = self.tensor(message)
        assert values is not None, "its type was looked at"
        return values

    def walk(self, graph: Message, nodes: list[RecurrentNode], depth: int) -> None:
        if depth > _DEPTH:
            raise graph.window.fail(graph.start, f"more than {_DEPTH} graphs inside each other")
        inner: list[Message] = []
        for number, value in graph.fields():
            if not isinstance(value, Message):
                continue
            if number == 5:
                self.part()
                name = next((text_field.text for text_field in value.spans(8)), "")
                self.stored[name] = value
            elif number == 1:
                self.part()
                self.node(value, nodes, inner)
        for subgraph in inner:
            scope = _Scope(self.path, self, self.window, self.data_files)
            scope.strangers = self.strangers
            scope.walk(subgraph, nodes, depth + 1)

    def node(self, message: Message, nodes: list[RecurrentNode], inner: list[Message]) -> None:
        inputs: list[str] = []
        outputs: list[str] = []
        name = op = domain = ""
        for number, value in message.fields():
            if not isinstance(value, Message):
                continue
            if number == 5:
                self.part()
                for graph in value.spans(6, 11):
                    self.part(_SCOPE)
                    inner.append(graph)
            elif number == 4:
                op = value.text
            elif number == 3:
                name = value.text
            elif number == 7:
                domain = value.text
            elif number in (1, 2):
                self.part(64 + value.size)
                (inputs if number == 1 else outputs).append(value.text)
        if domain not in ("", "ai.onnx"):
            if op.endswith(RECURRENT):  # DynamicQuantizeLSTM of com.microsoft, say
                self.part(len(name) + len(op))
                self.strangers.append(f"{name or op} ({op} of {domain})")
            return
        if op in RECURRENT:
            made = name or next((output for output in outputs if output), f"{op}_{len(nodes)}")
            attributes = dict(map(self.attribute, message.spans(5)))
            nodes.append(RecurrentNode(op, made, tuple(inputs), attributes, self.value))
        elif op in _MAKES and outputs:
            self.makers[outputs[0]] = _Maker(op, tuple(inputs), message)

    def attribute(self, message: Message) -> tuple[str, Any]:
        """(name, value); a tensor or a graph as its message."""
        name = ""
        content: Any = None
        several: list[Any] = []
        for number, value in message.fields():
            if number in (7, 8, 9):
                self.part(_NUMBER * (value.size + 2 if isinstance(value, Message) else 2))
            if isinstance(value, Message):
                if number == 1:
                    name = value.text
                elif number == 4:
                    content = value.data
                elif number == 5:
                    content = value
                elif number == 7:
                    several += struct.unpack(f"<{value.size // 4}f", value.data[: value.size & -4])
                elif number == 8:
                    several += value.numbers()
                elif number == 9:
                    several.append(value.data)
            elif number == 2:
                content = struct.unpack("<f", struct.pack("<I", value & 0xFFFF_FFFF))[0]
            elif number == 3:
                content = signed(value)
            elif number == 7:
                several.append(struct.unpack("<f", struct.pack("<I", value & 0xFFFF_FFFF))[0])
            elif number == 8:
                several.append(signed(value))
        return name, several if content is None and several else content

    def value(self, name: str, depth: int = 0) -> Tensor | None:
        """The numbers of a name, where the file holds them."""
        if name in self.constants:
            return self.constants[name]
        if depth > _DEPTH:
            return None
        constant: Tensor | None = None
        if name in self.stored:
            constant = self.tensor(self.stored[name])
        elif name in self.makers:
            self.constants[name] = None  # a name that is made of itself has no numbers
            constant = self.compute(name, self.makers[name], depth)
        elif self.outer is not None:
            constant = self.outer.value(name, depth)
        self.constants[name] = constant
        return constant

    def compute(self, name: str, maker: _Maker, depth: int) -> Tensor | None:
        attributes = dict(map(self.attribute, maker.message.spans(5)))
        if maker.op == "Constant":
            value = attributes.get("value")
            if isinstance(value, Message):
                return self.tensor(value)
            for key, dtype in _CONSTANTS.items():
                if key in attributes:
                    return torch.tensor(attributes[key], dtype=dtype, device="cpu")
            return None
        operands = [
            self.value(input_name, depth + 1) if input_name else None for input_name in maker.inputs
        ]
        if not operands or any(
            value is None and bool(input_name)
            for input_name, value in zip(maker.inputs, operands, strict=True)
        ):
            return None
        size = sum(value.nbytes for value in operands if value is not None)
        if maker.op in _COPIES:
            self.window.allowance.take(_COPIES[maker.op] * size, name)
        try:
            return _MAKES[maker.op](operands, attributes)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            line = first_line(error)
            raise FileError(
                f"{self.path}: damaged: {maker.op}, which makes {name}, does not fit: {line}"
            ) from error

    # tensors ----------------------------------------------------------------------------

    def tensor(self, message: Message) -> Tensor | None:
        window = message.window
        dims: list[int] = []
        kind, location, name = 0, 0, ""
        raw_data: Message | None = None
        lists: list[tuple[int, int | Message]] = []
        external: dict[str, str] = {}
        for number, value in message.fields():
            if number == 1 and len(dims) <= _MOST_DIMS:
                dims += _sizes(value)
            elif number == 2 and isinstance(value, int):
                kind = value
            elif number == 14 and isinstance(value, int):
                location = value
            elif number == 8 and isinstance(value, Message):
                name = value.text
            elif number == 9 and isinstance(value, Message):
                raw_data = value
            elif number == 13 and isinstance(value, Message):
                pair = {k: entry.text for k, entry in value.fields() if isinstance(entry, Message)}
                external[pair.get(1, "")] = pair.get(2, "")
                self.part()
            elif number in (4, 5, 7, 10):
                lists.append((number, value))
                self.part()
        if kind not in _DTYPES:
            return None
        if len(dims) > _MOST_DIMS or any(d < 0 for d in dims):
            raise window.fail(message.start, f"{name or 'a constant'} has shape {tuple(dims)}")
        code, dtype = _DTYPES[kind]
        count = math.prod(dims)
        if location == 1:
            values = self.external_array(message, name, external, np.dtype(code), dims)
        elif raw_data is not None:
            if raw_data.size != count * np.dtype(code).itemsize:
                raise window.fail(
                    raw_data.start,
                    f"{name} of shape {tuple(dims)} has {raw_data.size} bytes of numbers",
                )
            values = window.array(raw_data.start, np.dtype(code), dims)
        else:
            length = sum(v.size if isinstance(v, Message) else 8 for _, v in lists)
            window.allowance.take(2 * 8 * min(count, length), name or "a constant")
            values = _listed(lists, np.dtype(code), count)
            if values.numel() != count:
                raise window.fail(
                    message.start,
                    f"{name or 'a constant'} of shape {tuple(dims)} has {values.numel()} numbers",
                )
            values = values.reshape(dims)
        half = dtype == torch.bfloat16
        return values.view(torch.bfloat16) if half else values

    def external_array(
        self,
        message: Message,
        name: str,
        external: Mapping[str, str],
        dtype: np.dtype[np.generic],
        dims: Sequence[int],
    ) -> Tensor:
        """Numbers in a file beside the model, never anywhere else."""
        location = external.get("location", "")
        folder = self.path.parent.resolve()
        try:
            place = (folder / location).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise message.window.fail(message.start, f"{name} lies in no file") from error
        if not location or not place.is_relative_to(folder) or Path(location).is_absolute():
            raise FileError(
                f"{self.path}: refused: {name} is kept in {location!r}, outside of the model's "
                f"own folder"
            )
        if not place.is_file():
            raise FileError(f"{self.path}: {name} is kept in {location}: {no_file(place)}")
        numbers = {key: external.get(key, "0") or "0" for key in ("offset", "length")}
        for key, text in numbers.items():
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise message.window.fail(message.start, f"{name} has {key} {text!r}")
        length = math.prod(dims) * dtype.itemsize
        if int(numbers["length"]) not in (0, length):
            raise message.window.fail(
                message.start, f"{name} of shape {tuple(dims)} has {numbers['length']} bytes"
            )
        outside = self.data_files.get(place)
        if outside is None:
            outside = self.data_files[place] = Window.of(place)
            # what the model may take, bears a relation to all its files together
            self.window.allowance.size += outside.size
            outside.allowance = self.window.allowance
        return outside.array(int(numbers["offset"]), dtype, dims)


def _sizes(value: int | Message) -> list[int]:
    """The sizes in a field: one, or several in a row, of which too many are cut off."""
    if isinstance(value, Message):
        return list(islice(value.numbers(), _MOST_DIMS + 1))
    return [signed(value)]


def _listed(
    lists: Sequence[tuple[int, int | Message]], dtype: np.dtype[np.generic], count: int
) -> Tensor:
    """Numbers in fields of their own, one after the other."""
    parts: list[Any] = []
    for number, value in lists:
        if number in _LISTS:
            stored = np.dtype(_LISTS[number])
            if isinstance(value, Message):
                parts.append(np.frombuffer(value.data, stored, value.size // stored.itemsize))
            else:
                parts.append(np.frombuffer(value.to_bytes(stored.itemsize, "little"), stored))
        elif isinstance(value, Message):
            # no more than fit the shape, so that a number of one byte takes no eight
            parts.append(np.fromiter(islice(value.numbers(), count + 1), np.int64))
        else:
            parts.append(np.array([signed(value)], np.int64))
    whole = np.concatenate(parts) if parts else np.zeros(0, dtype)
    if dtype.kind == "f" and dtype.itemsize == 2 and whole.dtype.kind == "i":
        whole = whole.astype(np.uint16).view(dtype)  # halves lie as bits in a list of integers
    return torch.from_numpy(whole.astype(dtype))


# operations on constants --------------------------------------------------------------------

_Operands = Sequence[Tensor | None]


def _integers(
    values: _Operands, attributes: Mapping[str, Any], place: int, name: str
) -> list[int] | None:
    """Whole numbers that older models give as an attribute and newer ones as an input."""
    if len(values) > place and (value := values[place]) is not None:
        return [int(k) for k in value.reshape(-1).tolist()]
    numbers = attributes.get(name)
    return None if numbers is None else [int(k) for k in numbers]


def _first(values: _Operands) -> Tensor:
    if values[0] is None:
        raise ValueError("it has no input")
    return values[0]


def _slice(values: _Operands, attributes: Mapping[str, Any]) -> Tensor:
    x = _first(values)
    starts, ends = (_integers(values, attributes, k, n) for k, n in ((1, "starts"), (2, "ends")))
    if starts is None or ends is None:
        raise ValueError("no starts, no ends")
    axes = _integers(values, attributes, 3, "axes") or list(range(len(starts)))
    steps = _integers(values, attributes, 4, "steps") or [1] * len(starts)
    index = [slice(None)] * x.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise ValueError(f"a step of {step}")
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _unsqueeze(values: _Operands, attributes: Mapping[str, Any]) -> Tensor:
    x, axes = _first(values), _integers(values, attributes, 1, "axes") or []
    if len(axes) > 8:
        raise ValueError(f"{len(axes)} new axes")
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(values: _Operands, attributes: Mapping[str, Any]) -> Tensor:
    x, axes = _first(values), _integers(values, attributes, 1, "axes")
    return x.squeeze() if axes is None else x.squeeze(axes)


def _concat(values: _Operands, attributes: Mapping[str, Any]) -> Tensor:
    return torch.cat([x for x in values if x is not None], int(attributes["axis"]))


def _reshape(values: _Operands, attributes: Mapping[str, Any]) -> Tensor:
    x, shape = _first(values), _integers(values, attributes, 1, "shape") or []
    if not attributes.get("allowzero"):
        shape = [x.shape[k] if size == 0 else size for k, size in enumerate(shape)]
    return x.reshape(shape)


def _transpose(values: _Operands, attributes: Mapping[str, Any]) -> Tensor:
    x = _first(values)
    return x.permute([int(k) for k in attributes.get("perm") or range(x.dim())[::-1]])


def _cast(values: _Operands, attributes: Mapping[str, Any]) -> Tensor:
    return _first(values).to(_DTYPES[int(attributes["to"])][1])


_COPIES = {"Concat": 1, "Reshape": 1, "Cast": 4}
"""Operations whose result may be no view, and how many times its inputs it takes."""

_MAKES: Mapping[str, Callable[[_Operands, Mapping[str, Any]], Tensor]] = {
    "Constant": lambda values, _: _first(values),  # has no inputs: its value is an attribute
    "Identity": lambda values, _: _first(values),
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Cast": _cast,
}
