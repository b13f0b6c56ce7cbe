"""A pickle of ``torch.save`` read as data: objects of classes stand as their names, and no more.

The operations of a pickle are followed here without any of their calls: of all that a pickle may
name, only tensors and ordered dicts mean something, and everything else becomes an ``Unread``. What
is left, dicts, lists, texts, numbers and tensors, is written as a new pickle, which torch reads.

Source: Lib/pickletools.py, torch/_utils.py
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from rnnscope._files.pytorch.pickles import harmful
from rnnscope.errors import FileError

__all__ = ["Inert", "inert"]

_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_ORDERED = "collections.OrderedDict"
_SILENT = (
    *("torch.Size", "torch.device", "torch.serialization._get_layout"),
    *("builtins.set", "builtins.int"),
)
_KEYS = (str, int, float, bool, type(None))
_TOLD, _PLACE = 8, 200
"""So many unread objects are named one by one, with so many letters of their place."""

Refuse = Callable[[str], NoReturn]


@dataclass(eq=False)
class Unread:
    """An object of a class, of which nothing but the class's name is read."""

    class_name: str


@dataclass(frozen=True)
class _Name:
    """What a pickle would import."""

    path: str


@dataclass(eq=False)
class _Storage:
    """The numbers of a tensor, by the record of the file that holds them."""

    facts: tuple[Any, ...]


@dataclass(eq=False)
class _Tensor:
    """A tensor as ``torch.save`` writes it: its storage, offset, shape and strides."""

    storage: _Storage
    place: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.storage, *self.place, False, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


@dataclass
class Inert:
    """``pickle`` holds what needs no class, as torch reads it; ``unread`` says what is left out,
    by its place in the file; ``tensors`` counts what is read."""

    pickle: bytes
    unread: tuple[str, ...]
    tensors: int


def inert(data: bytes, path: Path) -> Inert | None:
    """What in a pickle needs no class; None where its outermost object does.

    Raises ``FileError`` where it is damaged, or names what no model needs and could do harm.
    """

    def damaged(why: str) -> NoReturn:
        raise FileError(f"{path}: damaged: its pickle {why}")

    machine = _Machine(path, damaged)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, on escapes in texts of damaged files
            value = machine.run(data)
        if not isinstance(value, dict | list | tuple):
            return None
        output = io.BytesIO()
        _InertWriter(output).dump(value)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError) as e:
        if isinstance(e, FileError):
            raise
        damaged(f"cannot be followed: {e}")
    except RecursionError:
        damaged("is nested too deeply")
    places = [
        f"{place}: an object of the class {unread.class_name}, which is not read"
        for place, unread in _places(value)
    ]
    told = tuple(places[:_TOLD])
    if len(places) > _TOLD:
        told += (f"{len(places) - _TOLD} more objects of classes, which are not read",)
    return Inert(output.getvalue(), told, machine.tensors)


class _InertWriter(pickle.Pickler):
    """Writes what was read as torch.save would, without what was not."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)

    def persistent_id(self, value: Any) -> Any:
        return value.facts if isinstance(value, _Storage) else None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Unread | _Name | frozenset | set | bytes | bytearray | complex):
            return collections.OrderedDict, ()  # in its place stands an empty dict
        return NotImplemented


def _places(value: Any) -> Iterator[tuple[str, Unread]]:
    """Every object that was not read, with the names that lead to it."""
    waiting: list[tuple[str, Any]] = [("", value)]
    met: set[int] = set()
    while waiting:
        place, member = waiting.pop()
        if isinstance(member, Unread):
            if member.class_name not in _SILENT:
                yield place, member
        elif isinstance(member, dict | list | tuple) and id(member) not in met:
            met.add(id(member))
            pairs = member.items() if isinstance(member, dict) else enumerate(member)
            inside = [(f"{place}.{key}"[:_PLACE].lstrip("."), v) for key, v in pairs]
            waiting += reversed(inside)


@dataclass
class _Machine:
    """Follows the operations of a pickle. Nothing is imported, and nothing but this is called."""

    path: Path
    damaged: Refuse
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    tensors: int = 0

    def run(self, data: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(data):
            name = operation.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                value = _LITERALS[name]() if argument is None else argument
                large = isinstance(value, int) and value.bit_length() > 64
                self.stack.append(Unread("builtins.int") if large else value)
            elif (step := _STEPS.get(name)) is not None:
                step(self, argument)
            else:
                self.damaged(f"has the operation {name}, which torch.save does not write")
        self.damaged("has no end")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    # what the operations do ------------------------------------------------------------------

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self.since_mark()

    def put(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def name(self, argument: str | None) -> None:
        if argument is None:
            last, module = self.stack.pop(), self.stack.pop()
            argument = f"{module} {last}"
        path = argument.replace(" ", ".")
        if harmful(path):
            raise FileError(
                f"{self.path}: refused: it holds {path}, which no model needs, and unpickling it "
                f"could run code: do not load it"
            )
        self.stack.append(_Name(path))

    def extend(self, _: Any) -> None:
        values = self.since_mark()
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        if isinstance(self.stack[-1], list):
            self.stack[-1].append(value)

    def set_items(self, _: Any) -> None:
        self._set(self.since_mark())

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                if isinstance(key, _KEYS):
                    target[key] = value

    def new_dict(self, _: Any) -> None:
        values = self.since_mark()
        self.stack.append({})
        self._set(values)

    def call(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        self.stack.append(self._made(called, arguments))

    def call_with_names(self, _: Any) -> None:
        self.stack.pop()
        self.call(_)

    def call_since_mark(self, argument: str | None) -> None:
        values = self.since_mark()
        if argument is None:
            called, *values = values
        else:
            self.name(argument)
            called = self.stack.pop()
        self.stack.append(self._made(called, tuple(values)))

    def _made(self, called: Any, arguments: Any) -> Any:
        path = called.path if isinstance(called, _Name) else "objects of Python"
        if path == _ORDERED:
            return collections.OrderedDict()
        if not isinstance(arguments, tuple):
            self.damaged(f"calls {path} with no tuple")
        if path in _PARAMETERS and arguments and isinstance(arguments[0], _Tensor):
            return arguments[0]
        if path in _TENSORS:
            return self._tensor(path, arguments)
        return Unread(path)

    def _tensor(self, path: str, arguments: tuple[Any, ...]) -> _Tensor:
        whole = len(arguments) >= 4 and isinstance(arguments[0], _Storage)
        sizes = arguments[2:4]
        if not whole or not all(
            isinstance(row, tuple) and all(type(n) is int for n in row) for row in sizes
        ):
            self.damaged(f"calls {path} with no storage, offset, shape and strides")
        self.tensors += 1
        return _Tensor(arguments[0], (int(arguments[1]), *sizes))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, collections.OrderedDict) and isinstance(state, dict):
            metadata = state.get("_metadata")
            if isinstance(metadata, dict):
                target._metadata = metadata  # type: ignore[attr-defined]

    def storage(self, argument: Any) -> None:
        facts = self.stack.pop() if argument is None else argument
        if (
            not isinstance(facts, tuple)
            or len(facts) != 5
            or facts[0] != "storage"
            or not isinstance(facts[1], _Name)
        ):
            self.damaged("has a storage in a form that torch.save does not write")
        kind = _storage_kind(facts[1].path)
        if kind is None:
            self.damaged(f"has a storage of {facts[1].path}")
        self.stack.append(_Storage((facts[0], kind, *facts[2:])))


def _storage_kind(path: str) -> Any:
    module, _, name = path.rpartition(".")
    if module == "torch" and name.endswith("Storage") and name.isidentifier():
        return getattr(torch, name, None)
    return torch.UntypedStorage if path == "torch.storage.UntypedStorage" else None


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count:
            raise IndexError("a tuple of more than there is")
        values = tuple(machine.stack[len(machine.stack) - count :])
        del machine.stack[len(machine.stack) - count :]
        machine.stack.append(values)

    return step


def _collected(kind: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        machine.stack.append(kind(machine.since_mark()))

    return step


def _nothing(machine: _Machine, _: Any) -> None:
    """Of versions and frames there is nothing to do."""


def _duplicate(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.stack[-1])


_LITERALS: Mapping[str, Callable[[], Any]] = {
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT"),
            *("BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"),
            *("SHORT_BINUNICODE", "BINUNICODE8", "NONE"),
        ),
        lambda: None,
    ),
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Unread("builtins.set"),
}

_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.name),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    **dict.fromkeys(("INST", "OBJ"), _Machine.call_since_mark),
    **dict.fromkeys(("PERSID", "BINPERSID"), _Machine.storage),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine.extend),
    **dict.fromkeys(
        ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        lambda machine, _: machine.stack.append(Unread("builtins.set")),
    ),
    "NEWOBJ_EX": _Machine.call_with_names,
    "FROZENSET": _collected(lambda _: Unread("builtins.set")),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _duplicate,
    "APPEND": _Machine.append,
    "LIST": _collected(list),
    "TUPLE": _collected(tuple),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "DICT": _Machine.new_dict,
    "BUILD": _Machine.build,
}
