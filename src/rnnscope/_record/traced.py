"""What is read of a trace: a record of one call, with the layer, the call and the proof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor

from rnnscope._layers.call import Call
from rnnscope._layers.structure import Structure, Weights
from rnnscope._record.record import Index
from rnnscope.cells import Cell

__all__ = ["Proven", "RecordedCall", "Traced"]


class Proven(Protocol):
    """What of a proof is read here."""

    @property
    def deviation(self) -> float:
        """The largest difference from the layer's own numbers."""

    @property
    def tolerance(self) -> float:
        """What rounding allows there."""


class Traced(Protocol):
    """What an explanation reads of a trace."""

    @property
    def structure(self) -> Structure:
        """What the layer is."""

    @property
    def call(self) -> Call:
        """How it was called."""

    @property
    def cell(self) -> Cell:
        """Its equations."""

    @property
    def weights(self) -> tuple[tuple[Weights, ...], ...]:
        """By layer and direction."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The same by PyTorch's names."""

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the directions."""

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each axis but the last."""

    @property
    def deviation(self) -> float | None:
        """None where the layer did not run."""

    @property
    def proofs(self) -> Mapping[str, Proven]:
        """By state; empty where the layer did not run."""

    @property
    def proof(self) -> str:
        """What was verified."""

    @property
    def output(self) -> Any:
        """What the layer returned."""

    @property
    def h_n(self) -> Tensor:
        """The last hidden states."""

    @property
    def c_n(self) -> Tensor:
        """The last cell states."""

    lengths: Tensor

    def __contains__(self, name: object, /) -> bool:
        """Whether a quantity is recorded."""

    def __getitem__(self, name: str, /) -> Tensor:
        """A quantity (layer, direction, batch, time, unit)."""

    def layer_input(self, layer: int) -> Tensor:
        """A layer's input (batch, time, feature)."""

    def before(self, state: str, layer: int, direction: str) -> Tensor:
        """A state before each step (batch, time, unit)."""

    def position(self, axis: str, index: Index, size: int | None = None) -> int | slice:
        """An index, checked and made non-negative."""


class RecordedCall(Traced, Protocol):
    """What is computed again from a trace: a rerun, its gradients."""

    @property
    def valid(self) -> Tensor:
        """(batch, time), False on padding."""

    @property
    def masks(self) -> tuple[Tensor | None, ...]:
        """What dropout let pass of each layer's input."""

    @property
    def final(self) -> dict[str, Tensor]:
        """The last states as returned, (layer, direction, batch, unit)."""

    def items(self) -> Iterable[tuple[str, Tensor]]:
        """The quantities by name."""
