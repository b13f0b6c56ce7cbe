"""What a file holds, layer by layer, as text: sizes, layout, and how its numbers look."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._escaping import fenced, printable
from rnnscope._files.load import build_layers
from rnnscope._files.stored_layer import LoadRequest, StoredLayer, kind_name
from rnnscope._layers.adopt import Adopted, adopt
from rnnscope._layers.structure import Weights
from rnnscope._layouts import Layout

__all__ = ["FileSummary", "summarize"]

_LARGEST = 2048  # units; the eigenvalues of larger matrices take minutes
_WORK = 2**30  # units³ for every megabyte of a file: about two seconds


@dataclass(frozen=True)
class FileSummary:
    """The recurrent layers of a file, to be printed."""

    path: Path
    layers: Sequence[Mapping[str, Any]]

    def data(self) -> dict[str, Any]:
        """Everything that is printed, as JSON has it."""
        return {"file": str(self.path), "layers": [dict(layer) for layer in self.layers]}

    def markdown(self) -> str:
        """The text in a block."""
        return fenced(str(self))

    def __str__(self) -> str:
        count = len(self.layers)
        parts = [printable(f"{self.path.name}: {count} recurrent layer{'s' * (count != 1)}")]
        parts += [_text(layer) for layer in self.layers]
        return "\n\n".join(parts)


def summarize(
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    cell: str | None = None,
    layout: Layout | str | None = None,
    ignore: Sequence[str] = (),
) -> FileSummary:
    """The recurrent layers in a file, as ``rnnscope show`` prints them.

    Raises what ``load`` raises.
    """
    layers = build_layers(Path(path), LoadRequest(cell, ignore=tuple(ignore)), layout, None, layer)
    radii = _SpectralRadii(Path(path).stat().st_size)
    return FileSummary(
        Path(path), [_facts(stored_layer, module, radii) for stored_layer, module in layers]
    )


def _facts(stored_layer: StoredLayer, module: nn.Module, radii: _SpectralRadii) -> dict[str, Any]:
    adopted = adopt(module)
    parameters = list(module.parameters())
    weights = [direction_weights for row in adopted.weights() for direction_weights in row]
    facts: dict[str, Any] = {
        "name": stored_layer.name,
        "module": str(adopted.structure),
        "cell": kind_name(adopted.cell),
        "input_size": adopted.input_size,
        "hidden_size": adopted.hidden_size,
        "num_layers": adopted.num_layers,
        "directions": list(adopted.directions),
        "layout": stored_layer.layout,
        "gates": list(stored_layer.gates),
        "parameters": sum(p.numel() for p in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "spectral_radius": {
            _place(adopted, k): radii.of(direction_weights)
            for k, direction_weights in enumerate(weights)
        },
        "forget_bias": {
            _place(adopted, k): mean
            for k, direction_weights in enumerate(weights)
            if (mean := _forget_bias(direction_weights)) is not None
        },
        "not_finite": {
            name: count for name, p in module.named_parameters() if (count := _not_finite(p))
        },
        "assumed": list(stored_layer.assumed),
        "ignored": list(stored_layer.ignored),
    }
    return facts


def _place(adopted: Adopted, k: int) -> str:
    layer, direction = divmod(k, len(adopted.directions))
    return f"l{layer} {adopted.directions[direction]}"


class _SpectralRadii:
    """The spectral radii of the layers of a file: of a matrix that several layers share once, and
    of no more matrices than its size pays for."""

    def __init__(self, size: int) -> None:
        self._work = _WORK * (1 + size // 1_000_000)
        self._radii: dict[tuple[Any, ...], tuple[Any, float | None]] = {}

    def of(self, weights: Weights) -> dict[str, float | None]:
        """For each gate the largest |eigenvalue| of W_hk, with a projection of W_hr W_hk; None
        where it is not computed."""
        return {gate: self._radius(weights, gate) for gate in weights.cell.gates}

    def _radius(self, weights: Weights, gate: str) -> float | None:
        parts = [weights.of_h(gate)[0], *([] if weights.hr is None else [weights.hr])]
        key = tuple((part.data_ptr(), part.shape, part.stride()) for part in parts)
        if key not in self._radii:
            matrix = parts[0].detach().double()
            if len(parts) > 1:
                matrix = parts[1].detach().double() @ matrix
            units = matrix.shape[0]
            self._work -= units**3
            computed = units <= _LARGEST and self._work >= 0 and bool(matrix.isfinite().all())
            radius = float(torch.linalg.eigvals(matrix).abs().max()) if computed else None
            self._radii[key] = (
                parts,
                radius,
            )  # the parts, so that no other matrix gets their addresses
        return self._radii[key][1]


def _forget_bias(weights: Weights) -> float | None:
    """The mean of b_if + b_hf; None without a forget gate or biases."""
    if "f" not in weights.cell.gates or weights.b_ih is None:
        return None
    rows = weights.rows("f")
    total = weights.b_ih[rows].detach().double()
    if weights.b_hh is not None:
        total = total + weights.b_hh[rows].detach().double()
    return float(total.mean())


def _not_finite(parameter: Tensor) -> int:
    return int((~parameter.detach().isfinite()).sum())


def _text(layer: Mapping[str, Any]) -> str:
    sizes = f"input {layer['input_size']}, hidden {layer['hidden_size']}"
    count = layer["num_layers"]
    stack = f"{count} layer{'s' * (count != 1)}, {' and '.join(layer['directions'])}"
    rows = [
        ("module", layer["module"]),
        ("cell", layer["cell"]),
        ("sizes", f"{sizes}, {stack}"),
        ("layout", f"{layer['layout']}, gates in the order {' '.join(layer['gates'])}"),
        ("parameters", f"{layer['parameters']:,} {layer['dtype']}"),
    ]
    for k, (place, radii) in enumerate(layer["spectral_radius"].items()):
        shown = "   ".join(
            f"{gate} {'not computed' if value is None else f'{value:.3f}'}"
            for gate, value in radii.items()
        )
        rows.append(("" if k else "radius of W_hh", f"{place:10}  {shown}"))
    for k, (place, mean) in enumerate(layer["forget_bias"].items()):
        rows.append(("" if k else "forget bias", f"{place:10}  mean {mean:.3f}"))
    broken = ", ".join(f"{n} in {name}" for name, n in layer["not_finite"].items())
    rows.append(("NaN or inf", broken or "none"))
    for label in ("assumed", "ignored"):
        rows += [("" if k else label, text) for k, text in enumerate(layer[label])]
    lines = [f"    {label:16}{text}".rstrip() for label, text in rows]
    return "\n".join(map(printable, [layer["name"] or "(no name)", *lines]))
