"""Whether two tensors hold the same numbers, by their bytes where these lie as they are counted."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["same_numbers"]


def _memcmp() -> Callable[[int, int, int], int] | None:
    """The system's own; None where it is not found."""
    try:
        function = ctypes.CDLL(None).memcmp
    except (OSError, TypeError, AttributeError):  # not on Windows
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    function.restype = ctypes.c_int
    compared: Callable[[int, int, int], int] = function
    return compared


_compare = _memcmp()


def same_numbers(copy: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor has the type, device and numbers of its copy, which is contiguous.

    By the bytes, on a CPU: a quarter of what ``torch.equal`` costs in a small layer, and NaN is
    equal to itself.
    """
    if copy.dtype is not tensor.dtype or copy.shape != tensor.shape:
        return False
    if not (copy.is_cpu and tensor.is_cpu):
        return copy.device == tensor.device and torch.equal(copy, tensor)
    if _compare is None or not tensor.is_contiguous() or tensor.is_neg():
        return torch.equal(copy, tensor)
    return not _compare(copy.data_ptr(), tensor.data_ptr(), copy.nbytes)
