"""What is read off a step of the layer's output: a readout as data, and PyTorch's own predictions.

A readout is a chain of stages, each an nn.Linear or an elementwise function, and at its end a
softmax over classes; with a single output, that number itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnnscope.cells.functions import FUNCTIONS, Function
from rnnscope.errors import ShapeError

__all__ = ["BEST", "LinearStage", "Readout", "Stage"]

BEST = 5
"""Classes that are shown at a step."""
_ELEMENTWISE: dict[type[nn.Module], str] = {
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
}
_TAKEN = "nn.Linear, nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Dropout and a last nn.LogSoftmax"


@dataclass(frozen=True)
class LinearStage:
    """W v + b; ``name`` is the module's in its nn.Sequential, with a dot behind it."""

    name: str
    weight: Tensor
    bias: Tensor | None

    def __call__(self, value: Tensor) -> Tensor:
        """As torch computes it, (..., features) → (..., outputs)."""
        return F.linear(value, self.weight, self.bias)


Stage = LinearStage | Function


@dataclass(frozen=True)
class Readout:
    """The stages of a readout, with its weights as they were when the page was made.

    ``text`` is how it was built, as PyTorch writes it.
    """

    stages: tuple[Stage, ...]
    text: str = ""

    @classmethod
    def of(cls, module: Any) -> Readout:
        """From an nn.Linear, or an nn.Sequential of such as the page can compute.

        Raises ``TypeError`` for anything else and ``ValueError`` for dropout that works.
        """
        stages = tuple(_stages(module, ""))
        linear = [stage for stage in stages if isinstance(stage, LinearStage)]
        if not linear:
            raise TypeError(f"readout has no nn.Linear; got {_kind(module)}")
        if linear[-1].weight.shape[0] > 1 and not isinstance(stages[-1], LinearStage):
            raise TypeError(
                f"readout must end with nn.Linear or a softmax over the classes; got "
                f"{stages[-1].name} at its end: leave it out where the page is made"
            )
        for before, after in pairwise(linear):
            if before.weight.shape[0] != after.weight.shape[1]:
                raise ShapeError(
                    f"readout does not fit together: {before.name}weight gives "
                    f"{before.weight.shape[0]} numbers, {after.name}weight takes "
                    f"{after.weight.shape[1]}"
                )
        return cls(stages, str(module) if isinstance(module, nn.Linear) else "nn.Sequential")

    @property
    def linear(self) -> list[LinearStage]:
        """Its linear stages, in their order."""
        return [stage for stage in self.stages if isinstance(stage, LinearStage)]

    @property
    def features(self) -> int:
        """How many numbers it reads."""
        return self.linear[0].weight.shape[1]

    @property
    def outputs(self) -> int:
        """How many numbers it gives."""
        return self.linear[-1].weight.shape[0]

    @property
    def single(self) -> bool:
        """Whether it gives one number, of which a softmax would always be 1."""
        return self.outputs == 1

    @property
    def numbers(self) -> int:
        """How many weights it has."""
        return sum(
            s.weight.numel() + (0 if s.bias is None else s.bias.numel()) for s in self.linear
        )

    def predictions(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """PyTorch's own of each step: the most probable classes and their probabilities.

        ``output`` is (batch, time, feature), both results (batch, time, class). Of a readout with
        a single output, class 0 and that number.
        """
        places, values = [], []
        with torch.no_grad():
            for row in output:  # one sequence at once: a vocabulary is long
                value = row.to(self.linear[0].weight)
                for stage in self.stages:
                    value = stage(value) if isinstance(stage, LinearStage) else stage.forward(value)
                if not self.single:
                    value = value.softmax(-1)
                top, place = value.topk(min(BEST, self.outputs), dim=-1)
                places.append(place.to("cpu"))
                values.append(top.to("cpu"))
        return torch.stack(places), torch.stack(values)


def _stages(module: Any, name: str) -> Iterator[Stage]:
    if isinstance(module, nn.Module) and (module._forward_hooks or module._forward_pre_hooks):
        raise TypeError(
            f"readout has forward hooks{f' at {name}' if name else ''}, which no page can run: "
            f"give a module without"
        )
    if isinstance(module, nn.Module) and any(p.is_meta for p in module.parameters()):
        raise TypeError("readout is on the device meta, where no number is: load its weights first")
    kind = type(module)
    if isinstance(module, nn.Linear) and kind.forward is nn.Linear.forward:
        bias: Tensor | None = module.bias  # None without one, whatever its annotation
        yield LinearStage(
            f"{name}.".lstrip("."),
            module.weight.detach(),
            None if bias is None else bias.detach(),
        )
    elif isinstance(module, nn.Sequential) and kind.forward is nn.Sequential.forward:
        parts = list(module.named_children())
        for k, (inner, part) in enumerate(parts):
            place = f"{name}.{inner}".lstrip(".")
            last = k == len(parts) - 1
            if isinstance(part, nn.LogSoftmax | nn.Softmax):
                if not last or name:
                    raise TypeError(
                        f"readout must end with its softmax; {_kind(part)} is {place} of it"
                    )
                continue  # over the classes, which the page does
            yield from _stages(part, place)
    elif kind in _ELEMENTWISE:
        yield FUNCTIONS[_ELEMENTWISE[kind]]
    elif isinstance(module, nn.Dropout):
        if module.training and module.p > 0:
            raise ValueError(
                "readout is in training mode and has dropout, so that each prediction is drawn: "
                "call readout.eval() first"
            )
    elif kind is not nn.Identity:
        where = f" at {name}" if name else ""
        raise TypeError(
            f"readout must be an nn.Linear, or an nn.Sequential of {_TAKEN}; got "
            f"{_kind(module)}{where}"
        )


def _kind(value: Any) -> str:
    return type(value).__name__
