"""The activations of a layer of Keras: those of its configuration, or its version's own.

Source: keras/src/activations/activations.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnnscope._files.content import FileContent
from rnnscope._files.stored_layer import LoadRequest
from rnnscope.cells import LSTM, RNN_RELU, RNN_TANH, Cell
from rnnscope.errors import RefusedError

__all__ = ["LayerConfig", "with_activations"]

_ACTIVATIONS = {
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "linear": "linear",
    "softsign": "softsign",
    "softplus": "softplus",
    "elu": "elu(1.0)",
    "leaky_relu": "leaky_relu(0.2)",
}


@dataclass(frozen=True)
class LayerConfig:
    """What a model's description says of one recurrent layer."""

    kind: str
    facts: Mapping[str, Any]
    merge: str | None = None
    wrapped: bool = False


def with_activations(
    content: FileContent,
    place: str,
    layer: tuple[Cell, str],
    config: LayerConfig | None,
    request: LoadRequest,
) -> tuple[Cell, list[str]]:
    """The cell with its activations, and what was assumed of them."""
    cell, layout = layer
    text = str(content.metadata.get("keras_version", ""))
    match = re.match(r"(\d{1,3})(?:\.(\d{1,3}))?", text)
    version = (int(match[1]), int(match[2] or 0)) if match else None
    assumed: list[str] = []
    if config is None:
        inner, outer = "sigmoid", "tanh"
        if layout == "keras1" or (version is not None and version < (2, 3)):
            inner = "hard_sigmoid"  # the default until Keras 2.3
        if cell is RNN_TANH:
            outer = request.requested_nonlinearity or "tanh"
            assumed += [] if request.requested_nonlinearity else ["activation='tanh'"]
        else:
            text = text or ("1" if layout == "keras1" else "")
            which = f", the default of Keras {text}" if text else ""
            assumed.append(f"activation='tanh', recurrent_activation='{inner}'{which}")
    else:
        outer = _name(config.facts.get("activation", "tanh"))
        inner = _name(
            config.facts.get(
                "recurrent_activation", config.facts.get("inner_activation", "sigmoid")
            )
        )
        if config.kind.startswith("CuDNN"):
            inner, outer = "sigmoid", "tanh"
    a, r = (_function(place, function, version) for function in (outer, inner))
    if cell is RNN_TANH:
        standard_cell = {"tanh": RNN_TANH, "relu": RNN_RELU}.get(a)
        return standard_cell or cell.with_functions({"h": a}), assumed
    if (a, r) == ("tanh", "sigmoid"):
        return cell, assumed
    changes = dict.fromkeys("ifo" if cell is LSTM else "rz", r) if r != "sigmoid" else {}
    if a != "tanh":
        changes |= dict.fromkeys("gh" if cell is LSTM else "n", a)
    return cell.with_functions(changes), assumed


def _name(value: Any) -> str:
    """An activation's name; Keras writes some as a class with a configuration."""
    if value is None:
        return "linear"
    if isinstance(value, dict):
        inside = value.get("config")
        return str(inside if isinstance(inside, str) else value.get("class_name"))
    return str(value)


def _function(place: str, name: str, version: tuple[int, int] | None) -> str:
    if name == "hard_sigmoid":
        # Keras 3 took PyTorch's; before it was x / 5 + 1 / 2
        return "hard_sigmoid" if version and version >= (3, 0) else "hard_sigmoid(0.2, 0.5)"
    if name not in _ACTIVATIONS:
        raise RefusedError(
            f"{place}: activation {name!r} is not known here; "
            f"known are hard_sigmoid, {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]
