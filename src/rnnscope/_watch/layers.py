"""The recurrent layers in a model: which can be recorded, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from rnnscope._layers.adapter import Adapter, Parameters, adapter_of
from rnnscope._layers.adopt import OPENED, refusal
from rnnscope._layers.unknown import unknown_layers
from rnnscope.errors import RefusedError

__all__ = ["class_word", "layers_of"]


def class_word(module: nn.Module) -> str:
    """What a layer's class is called."""
    kind = type(module)
    inner = kind.__module__.startswith("torch.nn.modules")
    return f"nn.{kind.__name__}" if inner else kind.__name__


def layers_of(
    model: nn.Module, cells: Mapping[type[nn.Module], Adapter]
) -> tuple[dict[int, tuple[nn.Module, tuple[str, ...]]], dict[str, str]]:
    """The recurrent layers in a model by identity, with all their names (tied layers have
    several); and those that cannot be recorded, by name, with the reason."""
    layers: dict[int, tuple[nn.Module, tuple[str, ...]]] = {}
    refused: dict[str, str] = {}
    recognised: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if "_orig_mod" in module._modules:
            continue  # torch.compile's shell of a module, which follows: its calls are seen there
        foreign = adapter_of(module, cells) is not None
        why = _refusal(module, cells) if foreign else refusal(module, inner=True)
        if why is None and (foreign or isinstance(module, OPENED)):
            names = layers[id(module)][1] if id(module) in layers else ()
            layers[id(module)] = (module, (*names, name))
            recognised[name] = module
        # the parts of what is refused already need not be told
        if why is not None and not any(_is_inside(name, above) for above in refused):
            refused[name] = why
            recognised[name] = module
    unknown = unknown_layers(model, recognised)
    order = [name for name, _ in model.named_modules(remove_duplicate=False)]
    refused = dict(sorted({**unknown, **refused}.items(), key=lambda pair: order.index(pair[0])))
    return layers, refused


def _refusal(module: nn.Module, cells: Mapping[type[nn.Module], Adapter]) -> str | None:
    """Why a module does not fit what ``cells`` says of its class. Dropout is another matter: it
    may be switched off before the call."""
    adapter = adapter_of(module, cells)
    assert adapter is not None, "asked of foreign modules"
    try:
        Parameters(module, adapter).sizes(
            0, "" if Parameters(module, adapter).single_step else "_l0"
        )
    except RefusedError as error:
        return str(error)
    return None


def _is_inside(name: str, above: str) -> bool:
    return not above or name == above or name.startswith(f"{above}.")
