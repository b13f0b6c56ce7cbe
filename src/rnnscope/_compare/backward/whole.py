"""The reverse pass through all layers, right or with mistakes; one call's gradients by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rnnscope._compare.backward.forward import ForwardPass
from rnnscope._compare.backward.reverse import Pass, Slots, UpstreamGradients, parameters, reverse
from rnnscope._compare.model.model import Inputs, PartIndex

__all__ = ["Mistaken", "Reached", "Trial", "WholePass", "below", "part_upstream"]

QUANTITY = "grad."
"""What stands before the name of a quantity whose gradient came back step by step."""


@dataclass(frozen=True)
class Reached:
    """What reaches the outputs of a call: ``h`` (time, batch, direction × unit), and each state's
    last value (layer, direction, batch, unit)."""

    h: Tensor
    final: Mapping[str, Tensor]

    def map(self, change: Callable[[Tensor], Tensor]) -> Reached:
        """The same with every tensor changed."""
        return Reached(change(self.h), {name: change(t) for name, t in self.final.items()})


@dataclass(frozen=True)
class Trial:
    """A call to be judged: its inputs, what reaches its outputs, and dropout's masks (time, batch,
    width), of each layer but the last, or None for none."""

    inputs: Inputs
    reached: Reached
    masks: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Mistaken:
    """A wrong reverse pass: what is changed in each part, and in what each layer hands down;
    ``scale`` multiplies all gradients."""

    parts: Mapping[PartIndex, Slots] = field(default_factory=dict)
    down: Mapping[int, str] = field(default_factory=dict)
    scale: float = 1.0


RIGHT = Mistaken()


def part_upstream(reached: Reached, h: Tensor, place: PartIndex) -> UpstreamGradients:
    """What reaches one part, ``h`` (time, variant, batch, direction × unit) being what reaches its
    layer."""
    layer, d = place
    final = {state: value[layer, d] for state, value in reached.final.items()}
    size = final["h"].shape[-1]
    return UpstreamGradients(h[..., d * size : (d + 1) * size], final)


def below(forward: ForwardPass, layer: int, xs: list[Tensor], choice: str = "") -> Tensor:
    """What a layer hands down, (time, variant, batch, unit), of its directions' parts: to the layer
    below, or of the lowest the gradient of x. ``choice``: "forward" or "reverse" alone, "zero",
    "unmasked" (dropout's mask is left out)."""
    total = xs[choice == "reverse"] if choice in ("forward", "reverse") else sum(xs[1:], xs[0])
    if choice == "zero":
        total = torch.zeros_like(total)
    if layer and forward.masks is not None and choice != "unmasked":
        total = total * forward.masks[layer - 1].unsqueeze(1)
    return total


@dataclass(frozen=True)
class WholePass:
    """Every part's reverse pass, and the gradient of ``x`` (time, batch, feature)."""

    forward: ForwardPass
    mistaken: Mistaken
    runs: Mapping[PartIndex, Pass]
    x: Tensor

    @classmethod
    def of(
        cls,
        forward: ForwardPass,
        reached: Reached,
        mistaken: Mistaken = RIGHT,
        rounded: Callable[[Tensor], Tensor] | None = None,
    ) -> WholePass:
        """From the last layer to the first; ``rounded`` changes what is carried, at every step."""
        runs: dict[PartIndex, Pass] = {}
        h = reached.h.unsqueeze(1)
        for layer in reversed(range(forward.layers)):
            for place in ((layer, d) for d in range(forward.directions)):
                part, slots = forward.parts[place], [mistaken.parts.get(place, {})]
                upstream = part_upstream(reached, h, place)
                runs[place] = reverse(part, upstream, forward.valid, slots, rounded)
            xs = [runs[layer, d].x for d in range(forward.directions)]
            h = below(forward, layer, xs, mistaken.down.get(layer, ""))
        return cls(forward, mistaken, runs, h.squeeze(1))

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """All gradients by name: "x", "h_0" (layer, direction, batch, unit), parameters by
        PyTorch's names, and of ``names`` those of quantities, "grad.f" (layer, direction, batch,
        time, unit)."""
        total = {"x": self.x}
        by_part: dict[str, dict[PartIndex, Tensor]] = {}
        for place, run in self.runs.items():
            for name, value in parameters(run, self.mistaken.parts.get(place, {})).items():
                if name.endswith("_0"):
                    by_part.setdefault(name, {})[place] = value[0]
                else:
                    total[name + run.part.weights.suffix] = value[0]
            for name in (n for n in names if n.startswith(QUANTITY)):
                adjoint = quantity(run, name.removeprefix(QUANTITY))[:, 0].transpose(0, 1)
                by_part.setdefault(name, {})[place] = adjoint
        for name, values in by_part.items():
            rows = (
                torch.stack([values[layer, d] for d in range(self.forward.directions)])
                for layer in range(self.forward.layers)
            )
            total[name] = torch.stack(list(rows))
        scale = self.mistaken.scale
        return total if scale == 1 else {name: scale * value for name, value in total.items()}


def quantity(run: Pass, name: str) -> Tensor:
    """The gradient of a quantity, (time, variant, batch, unit); 0 where nothing reaches it."""
    adjoint = run.adjoint(name)
    return torch.zeros_like(run.part.values["h"]).unsqueeze(1) if adjoint is None else adjoint
