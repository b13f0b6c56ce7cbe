"""Which layers, shapes and ways of calling are checked: those in which kernels have been wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["KERNELS", "SIZES", "Configuration", "Kernel", "LayerSizes", "configurations"]


@dataclass(frozen=True)
class LayerSizes:
    """How large a layer and its input are."""

    input: int
    hidden: int
    batch: int
    time: int

    def __str__(self) -> str:
        return f"input {self.input}, hidden {self.hidden}, batch {self.batch}, time {self.time}"


SIZES = (
    LayerSizes(1, 1, 1, 1),
    LayerSizes(3, 5, 3, 7),
    LayerSizes(7, 33, 110, 5),
    LayerSizes(64, 128, 8, 20),
    LayerSizes(4, 3, 257, 257),
)
"""The smallest; odd ones; a batch of 110; sizes of a usual model; batch × time above 65,536, where
kernels that count in 16 bits begin anew."""

MOST = 20_000
"""Steps of all rows up to which a layer is checked in every way; larger ones in one."""


@dataclass(frozen=True)
class Kernel:
    """A layer of ``torch.nn`` whose computing is one piece of code on a device."""

    title: str
    layer: Callable[..., nn.RNNBase]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def projects(self) -> bool:
        """Whether h is projected, to fewer numbers than c has."""
        return bool(self.options.get("projected"))


KERNELS = (
    Kernel("nn.RNN, tanh", nn.RNN),
    Kernel("nn.RNN, relu", nn.RNN, {"nonlinearity": "relu"}),
    Kernel("nn.GRU", nn.GRU),
    Kernel("nn.LSTM", nn.LSTM),
    Kernel("nn.LSTM, proj_size", nn.LSTM, {"projected": True}),
)


@dataclass(frozen=True)
class Configuration:
    """One layer and one way to call it."""

    kernel: Kernel
    sizes: LayerSizes
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    initial: bool = False
    packed: bool = False
    dropout: float = 0.0

    def __str__(self) -> str:
        words = [str(self.sizes)]
        words += [f"{self.layers} layers"] * (self.layers > 1)
        words += ["bidirectional"] * self.bidirectional + ["no biases"] * (not self.bias)
        words += ["given initial states"] * self.initial + ["packed"] * self.packed
        words += [f"dropout {self.dropout:g} in training"] * (self.dropout > 0)
        return ", ".join(words)

    def layer(self) -> nn.RNNBase:
        """A layer with weights of its own; draws from the random state."""
        options = {name: v for name, v in self.kernel.options.items() if name != "projected"}
        if self.kernel.projects:
            options["proj_size"] = max(1, self.sizes.hidden // 2)
        return self.kernel.layer(
            self.sizes.input,
            self.sizes.hidden,
            num_layers=self.layers,
            bidirectional=self.bidirectional,
            bias=self.bias,
            dropout=self.dropout,
            **options,
        )


def configurations(kernel: Kernel, all_sizes: Sequence[LayerSizes]) -> Iterator[Configuration]:
    """Every way in which one kernel is checked."""
    for sizes in all_sizes:
        if kernel.projects and sizes.hidden < 2:
            continue  # a projection has fewer numbers than the state
        yield Configuration(kernel, sizes)
        if sizes.batch * sizes.time > MOST:
            continue
        yield Configuration(kernel, sizes, 2, bidirectional=True, initial=True)
        yield Configuration(kernel, sizes, 2, bias=False, initial=True)
        yield Configuration(kernel, sizes, 1, bidirectional=True, packed=True)
        yield Configuration(kernel, sizes, 2, dropout=0.5)
