"""What a call of somebody's code may leave behind, and how it is put back.

``SETTINGS`` is the one list of what is put back of the process and of the thread that calls;
``Kept`` does the same for a module.
"""

from __future__ import annotations

import contextlib
import decimal
import gc
import locale
import logging
import os
import random
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn, overrides
from torch.utils import _device, _python_dispatch

from rnnscope._compare.candidate.arguments import equal
from rnnscope._compare.candidate.tensors import tensors_within

__all__ = ["SETTINGS", "Kept", "Random", "Setting", "detached", "undisturbed"]


@dataclass(frozen=True, eq=False)
class Random:
    """The states of the random numbers of torch, NumPy and Python."""

    torch_state: Tensor
    cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> Random:
        """As they are."""
        initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if initialized else []
        return cls(torch.get_rng_state(), tuple(cuda), np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Put them back."""
        torch.set_rng_state(self.torch_state)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))
        np.random.set_state(self.numpy)
        random.setstate(self.python)


@dataclass(frozen=True)
class Setting:
    """Something that code may change for all code after it: ``read`` it, ``write`` it back."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Every setting of ``SETTINGS`` is afterwards as it was before; a process that was forked
    inside ends here."""
    process = os.getpid()
    before = [(setting, setting.read()) for setting in SETTINGS]
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(0)  # the comparison goes on in the process that began it, not in both
        for setting, value in before:
            if setting.read() != value:
                setting.write(value)


def _attributes(name: str, owner: Any, *attributes: str) -> Setting:
    """Attributes of a module or an object."""

    def write(values: list[Any]) -> None:
        for attribute, value in zip(attributes, values, strict=True):
            setattr(owner, attribute, value)

    return Setting(name, lambda: [getattr(owner, a) for a in attributes], write)


def _contents(name: str, *mappings: MutableMapping[Any, Any]) -> Setting:
    """What stands in mappings, each the same one with the same contents."""

    def write(values: list[dict[Any, Any]]) -> None:
        for mapping, contents in zip(mappings, values, strict=True):
            mapping.clear()
            mapping.update(contents)

    return Setting(name, lambda: [dict(mapping) for mapping in mappings], write)


def _list_of_sys(name: str) -> Setting:
    """A list of ``sys``, the same one with the same contents."""

    def read() -> tuple[list[Any], list[Any]]:
        values = getattr(sys, name)
        return values, list(values)

    def write(value: tuple[list[Any], list[Any]]) -> None:
        values, contents = value
        values[:] = contents
        setattr(sys, name, values)

    return Setting(f"sys.{name}", read, write)


# torch -----------------------------------------------------------------------------------------


_MODES: Any = overrides


def _modes() -> tuple[Any, ...]:
    """What stands between calls and torch, the default device among it."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    functions = tuple(_MODES._get_current_function_mode_stack())
    return functions, context, _device.CURRENT_DEVICE, torch._C._len_torch_dispatch_stack()


def _set_modes(value: tuple[Any, ...]) -> None:
    functions, torch._GLOBAL_DEVICE_CONTEXT.device_context, current, dispatching = value
    while torch._C._len_torch_dispatch_stack() > dispatching:
        _python_dispatch._pop_mode()
    for _ in _MODES._get_current_function_mode_stack():
        _MODES._pop_mode()
    for mode in functions:
        _MODES._push_mode(mode)
    _device.CURRENT_DEVICE = current


_ENTERED: list[Any] = []
"""Inference modes that were entered to put things back: they end with the process."""


def _set_inference(enabled: bool) -> None:
    mode = torch.inference_mode(enabled)
    mode.__enter__()
    _ENTERED.append(mode)


_AUTOCAST = ("cpu", "cuda")


def _autocast() -> tuple[Any, ...]:
    nesting = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    devices = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _AUTOCAST]
    return nesting, torch.is_autocast_cache_enabled(), devices


def _set_autocast(value: tuple[Any, ...]) -> None:
    nesting, cached, devices = value
    depth = torch.autocast_increment_nesting()
    while depth > nesting:
        depth = torch.autocast_decrement_nesting()
    while depth < nesting:
        depth = torch.autocast_increment_nesting()
    if nesting == 0:
        torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(cached)
    for device, (enabled, dtype) in zip(_AUTOCAST, devices, strict=True):
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)


def _matmul() -> str:
    """The precision of products of float32; empty where it is set another way."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch.backends was told one precision for each kind of product
        return ""


def _set_matmul(value: str) -> None:
    if value:
        torch.set_float32_matmul_precision(value)


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _denormals() -> bool:
    """Whether numbers too small for full precision become zero; torch does not tell."""
    smallest = torch.tensor([5e-324], dtype=torch.float64, device="cpu")
    return not bool(smallest * 1)


_HOOKS = [
    value
    for name, value in vars(torch.nn.modules.module).items()
    if name.startswith("_global_") and isinstance(value, dict)
]
"""Those of all modules."""


# Python ----------------------------------------------------------------------------------------


_SHOWN = ("showwarning", "_showwarnmsg_impl")
"""What shows a warning, and what ``catch_warnings`` puts in its place."""


def _warnings() -> tuple[Any, ...]:
    return list(warnings.filters), *(getattr(warnings, name, None) for name in _SHOWN)


def _set_warnings(value: tuple[Any, ...]) -> None:
    filters, *functions = value
    for name, function in zip(_SHOWN, functions, strict=True):
        setattr(warnings, name, function)
    warnings.resetwarnings()  # tells the registries that the filters are others
    warnings.filters[:] = filters  # type: ignore[index]


def _signals() -> dict[int, Any]:
    """The handlers; None of those that were not set by Python."""
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_signals(value: dict[int, Any]) -> None:
    now = _signals()
    for number, handler in value.items():
        if handler is not None and now[number] != handler:
            signal.signal(number, handler)


def _alarm() -> bool:
    """Whether a timer runs that sends a signal."""
    return hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _set_alarm(running: bool) -> None:
    if not running:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _mask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _collecting(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


SETTINGS = (
    # signals first: one may come while the others are put back
    Setting("the alarm", _alarm, _set_alarm),
    Setting("signal handlers", _signals, _set_signals),
    Setting("torch's modes and default device", _modes, _set_modes),
    Setting("inference mode", torch.is_inference_mode_enabled, _set_inference),
    Setting("whether gradients are kept", torch.is_grad_enabled, torch._C._set_grad_enabled),
    Setting("autocast", _autocast, _set_autocast),
    Setting("anomaly mode", _anomaly, lambda value: torch.set_anomaly_enabled(*value)),
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch's threads", torch.get_num_threads, torch.set_num_threads),
    Setting(
        "deterministic algorithms",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    Setting("the precision of products", _matmul, _set_matmul),
    _attributes("cuDNN", torch.backends.cudnn, "enabled", "benchmark", "deterministic"),
    _attributes("oneDNN", torch.backends.mkldnn, "enabled", "deterministic"),
    Setting("denormal numbers", _denormals, torch.set_flush_denormal),
    Setting("whether torch warns always", torch.is_warn_always_enabled, torch.set_warn_always),
    _contents("torch's print options", vars(torch._tensor_str.PRINT_OPTS)),
    _contents("hooks of all modules", *_HOOKS),
    Setting("random numbers", Random.now, Random.restore),
    Setting("NumPy's errors", np.geterr, lambda value: np.seterr(**value)),
    Setting("NumPy's call for errors", np.geterrcall, np.seterrcall),
    Setting("NumPy's print options", np.get_printoptions, lambda v: np.set_printoptions(**v)),
    Setting("decimal numbers", lambda: decimal.getcontext().copy(), decimal.setcontext),
    Setting("warnings", _warnings, _set_warnings),
    Setting("logging", lambda: logging.root.manager.disable, logging.disable),
    Setting("the level of logging", lambda: logging.root.level, logging.root.setLevel),
    Setting("the working directory", os.getcwd, os.chdir),
    _contents("the environment", os.environ),
    Setting("the mask of new files", _mask, os.umask),
    Setting(
        "the locale",
        partial(locale.setlocale, locale.LC_ALL),
        partial(locale.setlocale, locale.LC_ALL),
    ),
    _list_of_sys("path"),
    _list_of_sys("argv"),
    _attributes("standard streams", sys, "stdin", "stdout", "stderr"),
    Setting("how deep calls go", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("how threads take turns", sys.getswitchinterval, sys.setswitchinterval),
    Setting("the collection of cycles", gc.isenabled, _collecting),
    Setting("the timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
)
"""All that is put back after every call."""


class Kept:
    """A module as it is, to be put back: attributes, numbers and gradients."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = [
            (submodule, dict(submodule.__dict__), dict(submodule._buffers))
            for submodule in module.modules()
        ]
        tensors = (*module.parameters(), *module.buffers())
        self._numbers = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._gradients = [
            (parameter, parameter.grad, None if parameter.grad is None else parameter.grad.clone())
            for parameter in module.parameters()
        ]

    def restore(self) -> None:
        """Put it back, in place."""
        for module, attributes, buffers in self._attributes:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, numbers in self._numbers:
                if not equal(tensor, numbers):
                    tensor.copy_(numbers)
            for parameter, gradient, numbers_of in self._gradients:
                parameter.grad = gradient
                if gradient is not None and numbers_of is not None:
                    gradient.copy_(numbers_of)


def detached(function: Any) -> dict[int, Any]:
    """What deepcopy is told beforehand: tensors that are part of a graph, which it refuses."""
    owner = getattr(function, "__self__", function)
    modules = list(owner.modules()) if isinstance(owner, nn.Module) else [owner]
    tensors = tensors_within([getattr(module, "__dict__", {}) for module in modules])
    return {id(tensor): tensor.detach().clone() for tensor in tensors if not tensor.is_leaf}
