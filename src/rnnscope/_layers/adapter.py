"""Recurrent modules of others: which cell a class computes, and where its parameters are.

What a module returns is opened with the equations of the cell that the user names for its class,
and proven against it as a layer of torch's is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._layers.adopt import RECURRENT
from rnnscope._layers.structure import PARAMETERS
from rnnscope.cells import Cell
from rnnscope.errors import NotRecurrentError, RefusedError

__all__ = [
    "Adapter",
    "Cells",
    "Parameters",
    "adapter_of",
    "checked_cells",
    "class_name",
    "listed",
    "number",
]

Source = str | Sequence[str] | Callable[[Any], Tensor]
"""Where a parameter is: a path, paths whose rows follow each other, or a function of the module."""

EXPECTED = "rs.Adapter(cell, parameters={...}) maps PyTorch's names of parameters to where they are"


@dataclass(frozen=True)
class Adapter:
    """Which cell the modules of a class compute, where their parameters have other names than
    PyTorch's, or where the class does not tell its options.

    ``parameters`` says where a parameter is that PyTorch names ``weight_ih_l0``, ``weight_hh_l0``,
    ``bias_ih_l0``, ``bias_hh_l0``, ``weight_hr_l0``, or as a vector of the cell: as a path from the
    module ("rnn.0.w.weight"), as a list of paths whose rows stand one below the other, gate by gate
    in the order of the cell's gates, or as a function of the module that returns the tensor. A name
    without ``_l0`` serves every layer; its path may hold ``{layer}`` (0, 1, …), ``{direction}``
    (0, 1) and ``{suffix}`` (``_l0``, ``_l1_reverse``, …). What is not named is looked for under
    PyTorch's names; a bias that is nowhere is zero. ``batch_first`` and ``single_step`` (one step
    at a call, as nn.LSTMCell) are those of the module where it has such an attribute. ``state`` is
    the argument of forward that takes the initial state, or one for each state, where its name
    does not say so; ``()`` where none does.

    >>> from rnnscope import cells
    >>> import rnnscope as rs
    >>> class Mine(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.w, self.u = nn.Linear(3, 4), nn.Linear(4, 4, bias=False)
    ...     def forward(self, x, h=None):
    ...         h, states = torch.zeros(x.shape[1], 4) if h is None else h, []
    ...         for x_t in x:
    ...             h = torch.tanh(self.w(x_t) + self.u(h))
    ...             states.append(h)
    ...         return torch.stack(states), h
    >>> names = {"weight_ih": "w.weight", "bias_ih": "w.bias", "weight_hh": "u.weight"}
    >>> adapter = Adapter(cells.RNN_TANH, parameters=names)
    >>> tr = rs.trace(Mine(), torch.randn(5, 2, 3), cells={Mine: adapter})
    >>> tr["h"].shape, tr.deviation <= tr.tolerance
    (torch.Size([1, 1, 2, 5, 4]), True)
    """

    cell: Cell
    parameters: Mapping[str, Source] = field(default_factory=dict)
    batch_first: bool | None = None
    single_step: bool | None = None
    state: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            raise NotRecurrentError(
                f"rs.Adapter takes a cell first, as in rs.Adapter(rs.cells.LSTM); got {self.cell!r}"
            )
        if not isinstance(self.parameters, Mapping):
            raise NotRecurrentError(
                f"{EXPECTED}; got {type(self.parameters).__name__} in the place of a mapping"
            )
        known = {*PARAMETERS, *self.cell.vectors}
        for name, source in self.parameters.items():
            if re.sub(r"_l\d+(_reverse)?$", "", str(name)) not in known:
                raise NotRecurrentError(
                    f"{EXPECTED}; got {name!r}: the parameters of cell {self.cell.name} are "
                    f"{', '.join([*PARAMETERS, *self.cell.vectors])}, with _l0 or without"
                )
            paths = [source] if isinstance(source, str) else source
            listed_paths = isinstance(paths, Sequence) and all(isinstance(p, str) for p in paths)
            if not (callable(source) or listed_paths):
                raise NotRecurrentError(
                    f"{EXPECTED}; got {source!r} for {name}: a path, a list of paths or a function "
                    f"of the module that returns the tensor"
                )
        state: Any = [self.state] if isinstance(self.state, str) else self.state or []
        are_names = isinstance(state, Sequence) and all(isinstance(n, str) for n in state)
        if not are_names or len(state) not in (0, 1, len(self.cell.states)):
            raise NotRecurrentError(
                f"rs.Adapter(..., state=...) is the name of an argument of forward, or one for "
                f"each of {', '.join(self.cell.states)}; got {self.state!r}"
            )


Cells = Mapping[type[nn.Module], Cell | Adapter]
"""Which cell the modules of a class compute."""


def checked_cells(cells: Any) -> dict[type[nn.Module], Adapter]:
    """``cells=`` as adapters by class; raises ``NotRecurrentError`` for anything else."""
    if cells is None:
        return {}
    expected = "cells maps classes of modules to cells, as in cells={MyLSTM: rs.cells.LSTM}"
    if not isinstance(cells, Mapping):
        raise NotRecurrentError(f"{expected}; got {type(cells).__name__}")
    adapters = {}
    for kind, value in cells.items():
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            got = f"an instance of {type(kind).__name__}" if isinstance(kind, nn.Module) else kind
            raise NotRecurrentError(f"{expected}; got {got!r} in the place of a class")
        if not isinstance(value, Cell | Adapter):
            raise NotRecurrentError(
                f"{expected}, or to rs.Adapter(cell, parameters={{...}}); got {value!r} for "
                f"{kind.__name__}"
            )
        if any(kind.forward is base.forward for base in RECURRENT):
            raise NotRecurrentError(
                f"{expected}; {kind.__name__} computes as torch's own layer does, and is opened as "
                f"it is: leave it out of cells"
            )
        adapters[kind] = value if isinstance(value, Adapter) else Adapter(value)
    return adapters


def adapter_of(module: nn.Module, cells: Mapping[type[nn.Module], Adapter]) -> Adapter | None:
    """What the nearest class of a module says; None where none does."""
    return next((cells[kind] for kind in type(module).__mro__ if kind in cells), None)


class Parameters:
    """The parameters of a foreign module, by PyTorch's names."""

    def __init__(self, module: Any, adapter: Adapter) -> None:
        self.module, self.adapter, self.cell = module, adapter, adapter.cell
        self.names = (*PARAMETERS, *adapter.cell.vectors)

    @property
    def single_step(self) -> bool:
        """Whether a call is one step: as the adapter says, or as the names of the class and of
        parameters tell."""
        if self.adapter.single_step is not None:
            return self.adapter.single_step
        layered = any(name.endswith("_l0") for name in self.adapter.parameters)
        layered = layered or self._by_path("weight_ih_l0") is not None
        return type(self.module).__name__.endswith("Cell") and not layered

    @property
    def bidirectional(self) -> bool:
        """As the module says, or where there are parameters of the reverse direction."""
        flag = getattr(self.module, "bidirectional", None)
        if isinstance(flag, bool):
            return flag
        if any("{direction}" in str(path) for path in self.adapter.parameters.values()):
            return self._find("weight_ih", "_l0_reverse", 0, 1) is not None
        explicit = any(name.endswith("_reverse") for name in self.adapter.parameters)
        return explicit or self._by_path("weight_ih_l0_reverse") is not None

    @property
    def layers(self) -> int:
        """As the module says, or as many as there are parameters of."""
        count = getattr(self.module, "num_layers", None)
        if isinstance(count, int) and not isinstance(count, bool):
            return count
        count = 1
        several = any("{" in str(path) for path in self.adapter.parameters.values())
        several = several or not self.adapter.parameters
        several = several or any(name.endswith("_l1") for name in self.adapter.parameters)
        while several and self._find("weight_ih", f"_l{count}", count, 0) is not None:
            count += 1
        return count

    def named(self, layer: int, direction: int, single_step: bool) -> dict[str, Tensor]:
        """Those of one layer and direction that there are; raises ``RefusedError`` where one
        that the equations use is missing or does not fit."""
        suffix = "" if single_step else f"_l{layer}{'_reverse' * direction}"
        by_name = {}
        for name in self.names:
            value = self._find(name, suffix, layer, direction)
            if value is not None:
                by_name[name + suffix] = value
        self._check(by_name, suffix)
        return by_name

    def _check(self, by_name: Mapping[str, Tensor], suffix: str) -> None:
        cell = self.cell
        needed = {
            "weight_ih": bool(cell.gates_from_x),
            "weight_hh": bool(cell.gates_from_h),
            "weight_hr": cell.projected,
            **dict.fromkeys(cell.vectors, True),
        }
        for name, used in needed.items():
            if used and name + suffix not in by_name:
                raise RefusedError(
                    f"cannot be opened: {class_name(self.module)} as {cell.name} has no "
                    f"{name}{suffix}. Say where it is: rs.Adapter(cell, "
                    f'parameters={{"{name}": "..."}}); its parameters are {listed(self.module)}'
                )
        hidden, *_ = self._sizes(by_name, suffix)
        rows = {
            "weight_ih": len(cell.gates_from_x) * hidden,
            "weight_hh": len(cell.gates_from_h) * hidden,
            "bias_ih": len(cell.gates_from_x) * hidden,
            "bias_hh": len(cell.gates_from_h) * hidden,
        }
        for name, count in rows.items():
            value = by_name.get(name + suffix)
            if value is not None and count and value.shape[0] != count:
                raise RefusedError(
                    f"cannot be opened: {class_name(self.module)} as {cell.name}: {name}{suffix} "
                    f"has {value.shape[0]} rows; {count} are expected, {hidden} for each of the "
                    f"gates {''.join(cell.gates)}"
                )

    def sizes(self, layer: int, suffix: str) -> tuple[int, int, int]:
        """Of the hidden state, the input and the output."""
        return self._sizes(self.named(layer, 0, not suffix), suffix)

    def _sizes(self, by_name: Mapping[str, Tensor], suffix: str) -> tuple[int, int, int]:
        cell = self.cell
        w_ih, w_hh = (by_name.get(f"{name}{suffix}") for name in ("weight_ih", "weight_hh"))
        w_hr = by_name.get(f"weight_hr{suffix}") if cell.projected else None
        if w_ih is not None and cell.gates_from_x:
            hidden = w_ih.shape[0] // len(cell.gates_from_x)
        elif w_hh is not None:
            hidden = w_hh.shape[0] // len(cell.gates_from_h)
        else:
            raise RefusedError(f"cannot be opened: cell {cell.name} has no weights")
        features = w_ih.shape[1] if w_ih is not None else int(number(self.module, "input_size"))
        return hidden, features, hidden if w_hr is None else w_hr.shape[0]

    def _find(self, name: str, suffix: str, layer: int, direction: int) -> Tensor | None:
        source = self.adapter.parameters.get(name + suffix)
        if source is None:
            source = self.adapter.parameters.get(name)
        if source is None:
            value = self._by_path(name + suffix)
            first = layer == 0 and direction == 0
            return self._by_path(name) if value is None and first else value
        if isinstance(source, str):
            return self._at(source, suffix, layer, direction)
        if callable(source):
            value = source(self.module)
            if not isinstance(value, Tensor):
                raise NotRecurrentError(
                    f"the function that rs.Adapter has for {name} must return a tensor; got "
                    f"{type(value).__name__}"
                )
            return value
        parts = [self._at(path, suffix, layer, direction) for path in source]
        present = [part for part in parts if part is not None]
        return torch.cat(present) if len(present) == len(parts) else None

    def _at(self, path: str, suffix: str, layer: int, direction: int) -> Tensor | None:
        try:
            written = path.format(layer=layer, direction=direction, suffix=suffix)
        except (KeyError, IndexError, ValueError):
            raise NotRecurrentError(
                "a path of rs.Adapter may hold {layer}, {direction} and {suffix}; got " + repr(path)
            ) from None
        return self._by_path(written)

    def _by_path(self, path: str) -> Tensor | None:
        value = self.module
        for part in path.split("."):
            if part.isdigit() and hasattr(value, "__getitem__"):
                try:
                    value = value[int(part)]
                    continue
                except (IndexError, KeyError, TypeError):
                    return None
            value = getattr(value, part, None)
        if isinstance(value, Tensor):
            return value
        stored = self.module.state_dict(keep_vars=True).get(path)
        return stored if isinstance(stored, Tensor) else None


def listed(module: nn.Module) -> str:
    """The parameters of a module, with their shapes, as a text."""
    entries = [f"{name} {tuple(p.shape)}" for name, p in module.named_parameters()]
    more = f" and {len(entries) - 12} more" if len(entries) > 12 else ""
    return (", ".join(entries[:12]) or "none") + more


def number(module: nn.Module, name: str) -> float:
    """An attribute that is a number; 0 where there is none."""
    value = getattr(module, name, 0)
    return float(value) if isinstance(value, int | float) else 0.0


def class_name(module: nn.Module) -> str:
    """What a module's class calls itself."""
    return type(module).__qualname__
