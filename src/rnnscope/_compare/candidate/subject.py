"""What a comparison asks of what is compared, be it numbers or calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from rnnscope._compare.candidate.inputs import described, doubled
from rnnscope._compare.candidate.own_weights import ParameterDifference
from rnnscope._compare.candidate.tensors import GPU_ROUNDINGS
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.observed import UNIT, Observation, few_steps
from rnnscope._compare.model.simulate import Simulator
from rnnscope._compare.tolerance import allowed
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.sequences import valid_steps

__all__ = ["Subject", "Told", "dtype_of", "rounding", "turned"]

Told = tuple[Cause, Words]
"""A mistake that is known without a search."""


class Subject(ABC):
    """What a comparison asks of either; what only calls can tell is empty for numbers.

    ``model`` is what the candidate should be; ``given`` whether the caller gave x; ``raised``
    whether some inputs made the candidate raise; ``unread`` says which final states came back in a
    shape, and which recorded arrays under a name, that is not known; ``untried`` names families of
    mistakes that may stand where it raised or in what was not read, so that they are not called
    right; ``keeps_state`` whether what one call leaves behind may reach the next; ``sliced``
    whether what is searched is part of what is shown.
    """

    model: Model
    dtypes: tuple[torch.dtype, ...]
    adopted: Adopted
    given = True
    raised = False
    sliced = True
    keeps_state = False
    seed = 0

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.unread: list[str] = []
        self.untried: set[str] = set()
        self.findings: list[str] = []

    @abstractmethod
    def shown(self) -> list[Observation]:
        """What the verdict speaks of, and every explanation must give."""

    @abstractmethod
    def searched(self) -> list[Observation]:
        """What mistakes are searched with."""

    @abstractmethod
    def read(self) -> list[Told]:
        """Mistakes in the form of what came back, undone to read it."""

    def described(self, inputs: Inputs) -> str:
        """Sizes, states and biases of a call, in a line."""
        return described(self.adopted, inputs, self.model, None if self.given else self.seed)

    def others(self) -> list[Observation]:
        """More drawn inputs, before it is said that two agree."""
        return []

    def direct(self) -> list[Told]:
        """Mistakes that calls alone tell."""
        return []

    def only_rows(self, rows: Sequence[int]) -> Subject | None:
        """Some of the rows that were recorded, as if there were no others; None of calls."""
        return None

    def as_coarse(self, unit: float) -> Subject | None:
        """The numbers that were recorded, as if computing had rounded to ``unit``; None of calls,
        which may return all digits."""
        return None

    def at_own_size(self) -> Subject | None:
        """What was compared at other sizes, at those of the reference; None where it was not."""
        return None

    def without_influence(self) -> list[str]:
        """Sentences on parameters, features, states and steps that change nothing."""
        return []

    def agrees_at_zero(self) -> list[str]:
        """A sentence on the parameters, or x, without which it agrees."""
        return []

    def with_dropout(self) -> list[str]:
        """A question about dropout, where the reference has some that may be in the numbers."""
        return []

    def quantised_by_torch(self) -> tuple[str, float, Subject | None] | None:
        """How torch has quantised it, by how much it differs from the reference that torch
        quantises in the same way, and a layer with its weights where these are others; None where
        it has not."""
        return None

    def other_kind(self) -> tuple[str, bool]:
        """A sentence where the candidate is a layer of another kind, or holds none but such;
        whether it is one itself."""
        return "", False

    def other_weights(self) -> tuple[list[ParameterDifference], Model | None]:
        """The candidate's own parameters of the same names that differ, and the model with them."""
        return [], None

    # what both kinds share ----------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows of a final state: layers × directions."""
        return self.adopted.num_layers * len(self.adopted.directions)

    def observation(
        self,
        model: Model,
        inputs: Inputs,
        unit: float,
        output: Tensor | None,
        final: Mapping[str, Tensor],
        quantities: Mapping[str, Tensor],
    ) -> Observation:
        """What was given or returned, in float64, with what rounding to ``unit`` allows a model."""
        simulator = Simulator(inputs, tuple(quantities))
        tolerance = allowed(model, inputs, unit, simulator, keep=True)
        double = None if output is None else output.double()
        of_steps, states = doubled(quantities), doubled(final)
        return Observation(inputs, double, unit, states, of_steps, tolerance, simulator)

    def on_padding(self, output: Tensor | None, inputs: Inputs) -> list[str]:
        """A note, where numbers stand on padding: they are not compared."""
        if output is None or inputs.lengths is None:
            return []
        beyond = ~valid_steps(inputs.lengths, inputs.steps)
        if not bool((output[beyond] != 0).any()):
            return []
        return [
            f"on padding your output is not zero, and is not compared: {self.adopted.kind} with "
            f"pad_packed_sequence has zeros there"
        ]

    def some_of(self, observation: Observation) -> Observation:
        """The first steps and rows, where later ones do not reach back; everything where they
        do."""
        inputs = observation.inputs
        rows = inputs.batch if inputs.batch <= 16 else 8
        one_way = len(self.adopted.directions) == 1 and not self.adopted.reverse
        return few_steps(observation, 6 if one_way and inputs.steps > 8 else inputs.steps, rows)

    def batch_first(self, states: Collection[str]) -> list[Told]:
        """That these states came back batch first."""
        if not states:
            return []
        names = [f"{state}_n" for state in self.adopted.cell.states if state in states]
        complete = len(names) == len(self.adopted.cell.states)
        subject = "the final states come" if complete and len(names) > 1 else f"{names[0]} comes"
        words = Words(
            f"{subject} back batch first",
            f"{self.adopted.kind} returns {' and '.join(names)} as (layers × directions, batch, "
            f"hidden), batch_first or not.",
            ", ".join(f"{name}.swapaxes(0, 1)" for name in names),
        )
        return [(Cause("final_axes"), words)]


def rounding(*dtypes: torch.dtype, on_gpu: bool = False) -> float:
    """The rounding unit of the coarsest of these types; no coarser than float32's, which is
    coarser on a GPU."""
    unit = max(UNIT.get(dtype, UNIT[torch.float32]) for dtype in dtypes)
    return GPU_ROUNDINGS * unit if on_gpu and unit == UNIT[torch.float32] else unit


def turned(value: Tensor) -> Tensor:
    """A state of as many rows as sequences, (layer, direction, batch, unit), that was read the
    other way."""
    return value.flatten(0, 1).transpose(0, 1).reshape(value.shape)


def dtype_of(adopted: Adopted) -> torch.dtype:
    """The type of a layer's parameters."""
    return adopted.weights(fresh=True)[0][0].ih.dtype
