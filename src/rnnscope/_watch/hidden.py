"""Recurrent layers that a model keeps where nn.Module does not look: in plain lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ["hidden_layers", "where_it_is"]

DEPTH = 3
"""So many lists and dicts inside each other are looked into."""

_MODULE_S_OWN = frozenset(name for name in vars(nn.Module()) if name.startswith("_"))

MOST = 1000
"""Members of one list or dict that are looked at: a data set is no model."""


def hidden_layers(
    model: nn.Module, recurrent: Callable[[nn.Module], bool]
) -> dict[int, tuple[nn.Module, str, str]]:
    """Recurrent layers that attributes of a model hold and its ``modules()`` lack, by identity:
    the layer, its name, and what it lies in."""
    registered = {id(module) for module in model.modules()}
    layers: dict[int, tuple[nn.Module, str, str]] = {}
    for prefix, owner in model.named_modules():
        for attribute, value in vars(owner).items():
            if attribute in _MODULE_S_OWN:
                continue
            for path, container, module in _modules_in(value, DEPTH):
                for inner, layer in module.named_modules():
                    name = ".".join(filter(None, (prefix, attribute, path, inner)))
                    if id(layer) not in registered and recurrent(layer):
                        layers.setdefault(id(layer), (layer, name, container or attribute))
    return layers


def _modules_in(value: Any, depth: int) -> Iterator[tuple[str, str, nn.Module]]:
    """Modules in plain lists, tuples, sets and dicts: the path to each, and what holds it."""
    if isinstance(value, nn.Module):
        yield "", "", value
        return
    if depth == 0 or not isinstance(value, list | tuple | set | frozenset | dict):
        return
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    if len(value) > MOST:
        return
    for key, member in pairs:
        for path, container, module in _modules_in(member, depth - 1):
            kind = container or f"a plain {type(value).__name__}"
            yield ".".join(filter(None, (str(key), path))), kind, module


def where_it_is(container: str) -> str:
    """What to write where a layer lies in a plain list or dict, or an attribute past nn.Module."""
    instead = "nn.ModuleDict({...})" if "dict" in container else "nn.ModuleList([...])"
    if not container.startswith("a plain"):
        return (
            f"it is set past nn.Module, which does not know it: not watched, and not in "
            f"parameters(). Write self.{container} = layer, or watch its class"
        )
    return (
        f"it lies in {container}, into which nn.Module does not look: not watched, and not in "
        f"parameters(), so not trained and not saved. Write {instead} in its place, or watch its "
        f"class"
    )
