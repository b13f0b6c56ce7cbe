"""A tensor of whatever holds floating point numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from rnnscope._compare.candidate.advice import on_unequal_lists
from rnnscope._opening.bounds import GPU_OFF
from rnnscope.errors import DtypeError, ShapeError

__all__ = [
    "GPU_ROUNDINGS",
    "ON_GPU",
    "as_numbers",
    "check_depth",
    "held_by_torch",
    "is_array",
    "keeping_graphs",
    "kind_of",
    "on_gpu",
    "short",
    "tensor_of",
    "tensors_within",
]

DEEPEST = 64
"""Axes that an array of NumPy may have: lists in lists make no array beyond."""


WHOLE = (
    "Return floating point numbers; of what is quantised (value - zero_point) * scale, as "
    "quantised.astype(np.float32) * scale"
)


GPU_ROUNDINGS = 32
"""Times float32's rounding that is allowed what a GPU computed: a step may then be off by about
four times what was measured."""

ON_GPU = (
    f"it was computed on a GPU, where tanh and sigmoid of cuDNN in float32 may be off by "
    f"{GPU_OFF:.0e}: {GPU_ROUNDINGS} times a CPU's rounding is allowed"
)
"""A note."""


def as_numbers(value: Any, label: str) -> Tensor:
    """A tensor on the CPU with the same floating point numbers, copied.

    Takes tensors, arrays of NumPy and of anything with DLPack or ``numpy.asarray``, and nested
    lists. Raises ``DtypeError`` for what holds no real floating point numbers.
    """
    tensor = tensor_of(value, label)
    if not tensor.is_floating_point():
        advice = "Return real numbers" if tensor.is_complex() else WHOLE
        raise DtypeError(
            f"{label} must hold floating point numbers; got {short(tensor.dtype)}. {advice}."
        )
    return tensor


def tensor_of(value: Any, label: str) -> Tensor:
    """A tensor on the CPU with the same numbers, of whatever type, copied.

    Takes what ``as_numbers`` takes. Raises ``DtypeError`` for what holds no numbers, and
    ``ShapeError`` for lists that are empty, of different shapes or too deep.
    """
    check_depth(value, label)
    return _held(value, label)


def check_depth(value: Any, label: str, level: int = 0) -> None:
    """Raises ``ShapeError`` for lists in lists without an end, or deeper than any array."""
    if level > DEEPEST:
        raise ShapeError(
            f"{label} must be an array or lists of numbers; got a list that contains itself, or "
            f"lists nested more than {DEEPEST} deep"
        )
    if isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, list | tuple):
                check_depth(item, label, level + 1)


def _held(value: Any, label: str) -> Tensor:
    if isinstance(value, Tensor):
        return held_by_torch(value, label)
    if isinstance(value, np.ndarray | np.generic):
        if np.ma.is_masked(value):
            masked = int(np.ma.getmaskarray(value).sum())
            raise DtypeError(
                f"{label} is a masked array, {masked} numbers of which are masked; expected one "
                f"without. Give it with a number there: array.filled(0.0)."
            )
        return _from_numpy(np.asarray(value), label)
    if isinstance(value, list | tuple):
        return _from_list(value, label)
    if hasattr(value, "__dlpack__") or hasattr(value, "__array__"):
        return _from_elsewhere(value, label)
    raise DtypeError(
        f"{label} must be a tensor or an array of floating point numbers; got {kind_of(value)}"
    )


def kind_of(value: Any) -> str:
    """What an error calls a value."""
    return "None" if value is None else type(value).__name__


def short(dtype: object) -> str:
    """A type of numbers as it is called, without where it is from."""
    return str(dtype).removeprefix("torch.")


def held_by_torch(value: Tensor, label: str) -> Tensor:
    """A plain tensor on the CPU, copied. Raises ``DtypeError`` for one that is not plain."""
    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        raise DtypeError(
            f"{label} must be a plain tensor; got one that is sparse, nested or quantised"
        )
    if value.device.type == "meta":
        raise DtypeError(f"{label} lies on the meta device, which holds no numbers")
    numbers = value if _KEEPING.get() else value.detach()
    return numbers.to("cpu", copy=True).contiguous()


_KEEPING: ContextVar[bool] = ContextVar("whether graphs are kept", default=False)


@contextmanager
def keeping_graphs() -> Iterator[None]:
    """What is read inside stays part of the graph that it came from."""
    token = _KEEPING.set(True)
    try:
        yield
    finally:
        _KEEPING.reset(token)


_TEXT = ". That is text: read it as numbers, np.asarray(value, dtype=float)."
OTHER_KINDS = {"O": ", of lists of unequal lengths, maybe.", "U": _TEXT, "S": _TEXT}
"""What is said of arrays that hold no numbers."""


def _from_numpy(array: Any, label: str) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise DtypeError(
            f"{label} must hold floating point numbers; got an array of {array.dtype}"
            + OTHER_KINDS.get(array.dtype.kind, ".")
        )
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        array = array.astype(np.float64)
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    native = array.astype(array.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(array.shape))


def _from_list(value: Sequence[Any], label: str) -> Tensor:
    if not value:
        raise ShapeError(f"{label} is an empty {type(value).__name__}; expected numbers")
    if is_array(value[0]) or isinstance(value[0], list | tuple):
        parts = [_held(item, label) if _has_arrays(item) else None for item in value]
        tensors = [part for part in parts if part is not None]
        if len(tensors) == len(value):
            shapes = sorted({tuple(tensor.shape) for tensor in tensors})
            if len(shapes) > 1:
                raise ShapeError(
                    f"{label} is a list of arrays of different shapes, "
                    f"{', '.join(map(str, shapes[:3]))}; expected one array"
                )
            return torch.stack(tensors)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        why = on_unequal_lists(value) or f"{error}"
        raise DtypeError(f"{label}: its lists make no array: {why}") from error
    return _from_numpy(array, label)


def _has_arrays(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and _has_arrays(value[0])
    return is_array(value)


def is_array(value: Any) -> bool:
    """Whether it is one array, without asking for its numbers."""
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "__dlpack__")


def tensors_within(value: Any) -> Iterator[Tensor]:
    """The tensors in lists, tuples and mappings within each other."""
    waiting, visited = [value], set[int]()  # a list may contain itself
    while waiting:
        item = waiting.pop()
        if id(item) in visited:
            continue
        visited.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item


def on_gpu(value: Any) -> bool:
    """Whether some tensor in what was returned or recorded lies on a GPU, in float32."""
    tensors = tensors_within(value)
    return any(t.device.type == "cuda" and t.dtype == torch.float32 for t in tensors)


def _from_elsewhere(value: Any, label: str) -> Tensor:
    if hasattr(value, "__dlpack__"):
        try:
            return held_by_torch(from_dlpack(value), label)
        except (BufferError, RuntimeError, TypeError, ValueError, AttributeError):
            pass  # not every array can be shared, but it may be copied
    try:
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":  # of another package, which NumPy knows by name only
            return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    except Exception as error:
        raise DtypeError(
            f"{label}: numpy.asarray makes no array of {kind_of(value)}: {error}"
        ) from error
    return _from_numpy(array, label)
