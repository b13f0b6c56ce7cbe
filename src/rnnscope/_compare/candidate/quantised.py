"""A layer that torch itself has quantised, and the reference quantised in the same way."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["dequantised", "dynamically_quantised", "quantised_alike"]

DYNAMIC = "torch.ao.nn.quantized.dynamic"


def dynamically_quantised(module: nn.Module) -> nn.Module | None:
    """The one layer in a module that ``torch.ao.quantization.quantize_dynamic`` has made; None
    where there is none, or several."""
    found = [each for each in module.modules() if type(each).__module__.startswith(DYNAMIC)]
    recurrent = [each for each in found if type(each).__name__ in ("LSTM", "GRU")]
    return recurrent[0] if len(recurrent) == 1 else None


def quantised_alike(layer: nn.Module, module: nn.Module) -> nn.Module | None:
    """A copy of a layer of torch, quantised as a module is; None where torch cannot."""
    dtype = getattr(module, "dtype", torch.qint8)
    whole = nn.Sequential(copy.deepcopy(layer))
    try:
        # making modules draws random numbers
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.ao.quantization import quantize_dynamic

            quantize: Any = quantize_dynamic
            alike: nn.Module = quantize(whole, {type(layer)}, dtype=dtype)[0]
    except (ImportError, RuntimeError, ValueError, AttributeError):
        return None
    return alike if type(alike) is type(module) else None


def dequantised(module: Any, layer: nn.Module) -> nn.Module | None:
    """A copy of a layer of torch with the weights of a quantised one; None where these are of
    another size."""
    exact = copy.deepcopy(layer)
    stored: dict[str, Tensor] = {**module.get_weight(), **module.get_bias()}
    with torch.no_grad():
        for name, parameter in exact.named_parameters():
            value = stored.get(name)
            if value is None or value.shape != parameter.shape:
                return None
            value = value.dequantize() if value.is_quantized else value
            parameter.copy_(value.to(parameter.dtype))
    return exact
