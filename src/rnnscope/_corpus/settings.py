"""What is recorded, and how a batch goes into the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.adapter import Cells, checked_cells
from rnnscope._trace.trace import Check
from rnnscope.errors import DtypeError

__all__ = ["Selected", "autocast_now", "default_call", "name_of_type", "selected"]

Call = Callable[[nn.Module, Any], Any]
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Selected:
    """The arguments of ``record`` that say what each batch's rows are."""

    names: str | tuple[str, ...]
    modules: tuple[str, ...] | None
    call: Call
    labels: Callable[[Any], Any] | None
    steps: str | Callable[[Any], Any]
    dtype: torch.dtype | None
    check: Check
    cells: Cells | None

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same when a recording goes on, as data."""
        modules = None if self.modules is None else list(self.modules)
        return {
            "names": self.names if isinstance(self.names, str) else list(self.names),
            "modules": modules,
            "steps": self.steps if isinstance(self.steps, str) else f"mask of {_name(self.steps)}",
            "dtype": None if self.dtype is None else name_of_type(self.dtype),
            "check": self.check,
            "labels": self.labels is not None,
            "cells": sorted(kind.__qualname__ for kind in checked_cells(self.cells)),
            **autocast_now(),
        }


def selected(
    names: str | Iterable[str],
    modules: str | Iterable[str] | None,
    functions: tuple[Call | None, Callable[[Any], Any] | None],
    steps: str | Callable[[Any], Any],
    options: tuple[torch.dtype | None, Check, Cells | None],
) -> Selected:
    """The settings, checked; ``functions`` are call and labels, ``options`` dtype, check, cells."""
    for argument, value in (("names", names), ("modules", modules)):
        if not _are_names(value) and not (value is None and argument == "modules"):
            raise TypeError(f"{argument} must be a name or a list of names; got {value!r}")
    call, labels = functions
    dtype, check, cells = options
    if not (callable(steps) or steps in ("all", "last")):
        raise ValueError(f'steps must be "all", "last" or a function of the batch; got {steps!r}')
    if dtype is not None and dtype not in _DTYPES:
        kinds = ", ".join(map(str, _DTYPES))
        raise DtypeError(f"dtype must be one of {kinds}, or None for the layer's own; got {dtype}")
    for name, function in (("call", call), ("labels", labels)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function; got {type(function).__name__}")
    if check not in (True, False, "thorough"):
        raise ValueError(f'check must be True, False or "thorough"; got {check!r}')
    return Selected(
        names if isinstance(names, str) else tuple(names),
        None if modules is None else (modules,) if isinstance(modules, str) else tuple(modules),
        call or default_call,
        labels,
        steps,
        dtype,
        check,
        cells,
    )


def autocast_now() -> dict[str, str]:
    """The autocast that the caller is in, which decides in what type products are formed; nothing
    where there is none."""
    on = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    types = [f"{device} {name_of_type(torch.get_autocast_dtype(device))}" for device in on]
    return {"autocast": ", ".join(types)} if types else {}


def name_of_type(dtype: torch.dtype) -> str:
    """As in "float32"."""
    return str(dtype).removeprefix("torch.")


def _are_names(value: Any) -> bool:
    """A name or several, which can be gone through more than once."""
    if isinstance(value, str):
        return True
    return isinstance(value, Collection) and all(isinstance(name, str) for name in value)


def default_call(model: nn.Module, batch: Any) -> Any:
    """``model(batch)``, of a list or tuple ``model(*batch)``, of a mapping ``model(**batch)``."""
    if isinstance(batch, PackedSequence | Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, list | tuple) else model(batch)


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
