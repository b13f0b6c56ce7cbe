"""What a reverse pass starts from: every number of a run forward, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope._compare.model.model import Change, Inputs, Model, Part, PartIndex
from rnnscope._compare.model.simulate import Simulator
from rnnscope._gradients.backward import PartValues
from rnnscope._layers.sequences import states_before, valid_steps
from rnnscope._layers.structure import Structure

__all__ = ["ForwardPass", "PartForward", "derivable", "run_forward", "stored_parameters"]


@dataclass(frozen=True)
class PartForward(PartValues):
    """The numbers of one layer in one direction."""

    part: Part

    @property
    def backward(self) -> bool:
        """Whether it runs from the end."""
        return self.part.backward


@dataclass(frozen=True)
class ForwardPass:
    """A run forward: its parts by layer and direction, ``valid`` (time, batch), False on padding,
    and ``masks``, what dropout multiplied each layer's outputs with, or None for none."""

    structure: Structure
    parts: Mapping[PartIndex, PartForward]
    valid: Tensor | None
    masks: tuple[Tensor, ...] | None

    @property
    def layers(self) -> int:
        """Layers."""
        return self.structure.num_layers

    @property
    def directions(self) -> int:
        """Directions."""
        return len(self.structure.directions)


def run_forward(
    model: Model,
    inputs: Inputs,
    masks: tuple[Tensor, ...] | None = None,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> ForwardPass:
    """All numbers of a model on inputs that it fits. ``masks`` (time, batch, width) are those of
    dropout, of each layer but the last; ``rounded`` changes the states after every step."""
    for layer, mask in enumerate(masks or ()):
        model = model.adding("reads", Change(("dropout", id(mask)), _times(mask)), layer + 1)
    names = tuple(model.parts[0][0].cell.equations)
    [outcome] = Simulator(inputs, names, rounded).run([model])
    assert outcome is not None, "the inputs fit the reference"
    steps, batch = inputs.steps, inputs.batch
    lengths = inputs.lengths
    if lengths is None:
        lengths = torch.full((batch,), steps, dtype=torch.long, device="cpu")
    parts: dict[PartIndex, PartForward] = {}
    for layer, row in enumerate(model.parts):
        x = inputs.x if layer == 0 else outcome.layers[layer - 1]
        if layer and masks is not None:
            x = x * masks[layer - 1]
        for d, part in enumerate(row):
            values = {name: outcome.steps[name][layer, d].clone() for name in names}
            before = {
                state: states_before(
                    values[state], inputs.initial[state][layer, d], lengths, part.backward
                )
                for state in part.cell.states
            }
            parts[layer, d] = PartForward(part.cell, part.weights, values, before, x.clone(), part)
    valid = None if inputs.lengths is None else valid_steps(inputs.lengths, steps)
    return ForwardPass(model.structure, parts, valid, masks)


def _times(mask: Tensor) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
    return lambda x, finals: x * mask


def stored_parameters(model: Model) -> dict[str, Tensor]:
    """The parameters of all parts by PyTorch's names."""
    weights = [part.stored.named() for row in model.parts for part in row]
    return {name: value for named in weights for name, value in named.items()}


def derivable(model: Model, original: Model) -> bool:
    """Whether the reverse pass of a changed model follows from its equations alone: nothing but
    equations and the order of rows was changed."""
    around = (model.enter, model.inner, model.leave, *model.reads, *model.joins, *model.writes)
    if any(around) or model.skipped or model.rows != "own" or model.shared_state:
        return False
    pairs = [
        (part, before)
        for row, row_before in zip(model.parts, original.parts, strict=True)
        for part, before in zip(row, row_before, strict=True)
    ]
    return all(
        part.stored is before.stored
        and part.cell.states == before.cell.states
        and part.cell.gates == before.cell.gates
        and _plain(part) == _plain(before)
        for part, before in pairs
    )


def _plain(part: Part) -> tuple[object, ...]:
    """All of a part but its weights and equations."""
    if part.first_b_hh is not None or part.only is not None:
        return (part.token,)
    wired = (part.feeds, part.emits, part.ends, part.unapplied, part.restarts, part.in_place)
    return (*wired, part.aligned, part.unmasked, part.flipped, part.after_forward, part.after_below)
