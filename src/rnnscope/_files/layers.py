"""Layers: what ``load`` gives, with all that it took for granted and left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from rnnscope._escaping import printable
from rnnscope._files.stored_layer import StoredLayer

__all__ = ["Layers"]


class Layers(dict[str, nn.Module]):
    """Recurrent layers by name; printed, each with what was assumed of it and what was ignored.

    ``assumed`` holds, for each, what no file of its kind tells and was taken for granted, and what
    the model around it does that the layer does not. ``ignored`` holds, for each, the arrays under
    its name that it does not use, with what they may be. ``forget_bias`` holds, for layers of
    frameworks that add one at run time, the number that was added to the forget gate's bias.
    ``beside`` holds, for each, numbers of the model: of a model in JSON its ``head.weight`` and
    ``head.bias``, of a .nam its trained ``h_0`` and ``c_0``, which a layer takes in its call.
    """

    def __init__(self, layers: Iterable[tuple[StoredLayer, nn.Module]]) -> None:
        stored_layers = list(layers)
        super().__init__({layer.name: module for layer, module in stored_layers})
        self.assumed: dict[str, tuple[str, ...]] = {}
        self.ignored: dict[str, tuple[str, ...]] = {}
        self.forget_bias: dict[str, float] = {}
        self.beside: dict[str, dict[str, Tensor]] = {}
        for layer, _ in stored_layers:
            self.assumed[layer.name] = layer.assumed
            self.ignored[layer.name] = layer.ignored
            self.beside[layer.name] = dict(layer.model_numbers)
            if layer.forget_bias:
                self.forget_bias[layer.name] = layer.forget_bias

    def __repr__(self) -> str:
        return "\n".join(self._lines()) or "no layers"

    def _lines(self) -> Iterator[str]:
        for name, module in self.items():
            yield printable(f"{name or '(no name)'}: {module}")
            for label, texts in (("assumed", self.assumed), ("ignored", self.ignored)):
                for text in texts.get(name, ()):
                    yield printable(f"    {label} {text}")
            numbers = ", ".join(self.beside.get(name, {}))
            if numbers:
                yield printable(f"    beside  {numbers}")
