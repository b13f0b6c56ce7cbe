"""Pickles that are read and never run: what they hold, and what to do where that is refused."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rnnscope._files.disk import Allowance

__all__ = ["PickleFacts", "harmful", "pickle_facts", "refusal"]

# bytes of memory that the operations of a pickle take, names and numbers apart
_COSTS = {"EMPTY_SET": 256, "REDUCE": 1024, "NEWOBJ": 1024}
_LEAST = 64
_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before PyTorch 1.6
_ORDERED = "collections.OrderedDict"
_TEXTS = 4096  # so many texts are kept
_STATES = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""The keys under which checkpoints have their state dict, the more usual first."""


_HARMFUL = ("os", "posix", "nt", "subprocess", "sys", "runpy", "socket", "shutil", "importlib")
_HARMFUL_BUILTINS = ("eval", "exec", "compile", "open", "input", "__import__", "breakpoint")
_MARKED = ("SETITEMS", "APPENDS", "TUPLE", "DICT", "LIST", "POP_MARK", "FROZENSET", "ADDITEMS")


@dataclass(frozen=True)
class PickleFacts:
    """What the operations of a pickle tell: ``keys`` are texts in its outermost object, where that
    is a dict; None where it is another. ``is_torch`` says that torch.save wrote it; ``class_name``
    is the first of what it would call."""

    keys: frozenset[str] | None
    is_torch: bool
    class_name: str = "objects of Python"


def pickle_facts(file: IO[bytes], count: int, allowance: Allowance) -> PickleFacts:
    """What ``count`` pickles in a file hold; they are read, and nothing is made.

    What they would make must fit in the file's memory.

    Source: Lib/pickletools.py, torch/_weights_only_unpickler.py
    """
    keys: list[frozenset[str] | None] = []
    is_torch = count == 1
    called: list[str] = []
    latest = ["", ""]
    for _ in range(count):
        size, room = 0, allowance.limit - allowance.spent
        texts: dict[str, None] = {}
        first = ""
        before = len(called)
        depth = 0
        for name, argument in _operations(file):
            size += _COSTS.get(name, _LEAST)
            if isinstance(argument, str | bytes):
                size += len(argument)
            # torch lets a pickle call it, and it fills memory of any size
            if name == "GLOBAL" and str(argument).endswith(" bytearray"):
                size += allowance.limit
            if size > room:
                break
            is_torch |= argument == _MAGIC
            if name not in ("PROTO", "FRAME"):
                first = first or name
            if name == "GLOBAL":
                called.append(str(argument).replace(" ", "."))
            elif name == "STACK_GLOBAL":
                called.append(".".join(latest))
            elif isinstance(argument, str):
                latest = [latest[1], argument]
            depth += (name == "MARK") - (name in _MARKED)
            if isinstance(argument, str) and "UNICODE" in name and depth < 2:
                texts |= {argument: None} if len(texts) < _TEXTS else {}
        is_ordered = first != "EMPTY_LIST" and called[before : before + 1] == [_ORDERED]
        keys.append(frozenset(texts) if first == "EMPTY_DICT" or is_ordered else None)
        allowance.take(size, "its pickle")
    # of five, the fourth has the tensors; a pickle that torch did not write has one
    main = keys[3] if is_torch and count > 3 else keys[0]
    return PickleFacts(main, is_torch, *[name for name in called if name != _ORDERED][:1])


def _operations(file: IO[bytes]) -> Iterator[tuple[str, object]]:
    with suppress(Exception):  # of many kinds where one is damaged; torch says so, later
        for operation, argument, _ in pickletools.genops(file):
            yield operation.name, argument


def harmful(class_name: str) -> bool:
    """Whether it is a function that reaches beyond the program, which no model needs."""
    module, _, name = class_name.partition(".")
    builtin = module in ("builtins", "__builtin__") and name in _HARMFUL_BUILTINS
    return builtin or module in _HARMFUL


def refusal(path: Path, class_name: str, facts: PickleFacts) -> str:
    """Why a pickle is refused, and the lines that write what is read instead."""
    if class_name.endswith("ScriptObject"):
        return (
            f"{path}: weights that torch.ao quantised (quantize_dynamic): int8, packed in objects "
            f"of code, with inputs and states that are rounded at every step, which no cell here "
            f"does. For the layer as it is without rounded states, in a program that has the "
            f"quantised model, torch.save({{n: w.dequantize() for n, w in {{**layer.get_weight(), "
            f"**layer.get_bias()}}.items()}}, 'weights.pt') with layer=model.rnn or whatever its "
            f"name is, and load that"
        )
    if harmful(class_name):
        return (
            f"{path}: refused: it holds {class_name}, which no model needs, and unpickling it "
            f"could run code: do not load it"
        )
    return (
        f"{path}: refused: it holds {class_name}, and unpickling more than tensors could run code; "
        f"expected a state dict, torch.save(model.state_dict(), ...). In a program that trusts "
        f"the file and can import its classes: {_line(path, class_name, facts)}, and load that"
    )


def _line(path: Path, class_name: str, facts: PickleFacts) -> str:
    loaded = f"torch.load({path.name!r}, weights_only=False, map_location='cpu')"
    if not facts.is_torch:
        loaded = f"pickle.loads(pathlib.Path({path.name!r}).read_bytes())"
    if facts.keys is None:
        return f"torch.save({loaded}.state_dict(), 'weights.pt')"
    key = next((key for key in _STATES if key in facts.keys), None)
    if key is not None:
        return f"torch.save({loaded}[{key!r}], 'weights.pt')"
    if class_name.startswith("numpy"):
        return f"torch.save({{k: torch.as_tensor(v) for k, v in {loaded}.items()}}, 'weights.pt')"
    return (
        f"torch.save({{k: v for k, v in {loaded}.items() if isinstance(v, torch.Tensor)}}, "
        f"'weights.pt')"
    )
