"""Changes of a whole model by a function of what passes at one place of a run; and of which models
they can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.model import Change, Model

__all__ = [
    "at",
    "at_layers",
    "by_state",
    "chosen",
    "exchanged",
    "layers_of",
    "of_one_size",
    "several_layers",
    "several_parts",
    "two",
]

ModelChange = Callable[[Model, Cause], Model | None]


def two(model: Model) -> bool:
    """Whether there are two directions."""
    return model.num_directions > 1


def several_layers(model: Model) -> bool:
    """Whether there is a layer above another."""
    return model.num_layers > 1


def several_parts(model: Model) -> bool:
    """Whether there are layers or directions that can be taken for each other."""
    return two(model) or several_layers(model)


def by_state(model: Model) -> list[str]:
    """The choice of all states, and where there are several that of each."""
    states = model.structure.cell.states
    return ["", *states] if len(states) > 1 else [""]


def of_one_size(model: Model) -> bool:
    """Whether there are two states, which can be taken for each other."""
    states = model.structure.cell.states
    return len(states) == 2 and len({model.structure.state_size(s) for s in states}) == 1


def exchanged(choice: str, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two states, each in the place of the other, or that of the choice in both places."""
    first, second = states
    if choice:
        return dict.fromkeys(states, states[choice])
    return {first: states[second], second: states[first]}


def at(
    place: str, function: Callable[..., Any], undo: Callable[..., Any] | None = None
) -> Callable[[Model, Cause], Model]:
    """An entry's change: a function of its choice and of what passes there."""

    def changed(model: Model, cause: Cause) -> Model:
        token = (cause.name, cause.choice)
        return model.adding(place, Change(token, partial(function, cause.choice), undo))

    return changed


def chosen(changes: Mapping[str, ModelChange]) -> ModelChange:
    """An entry's change that is another one for each choice."""
    return lambda model, cause: changes[cause.choice](model, cause)


def layers_of(model: Model, cause: Cause, least: int = 0) -> list[int]:
    """The layers that a cause concerns, those below ``least`` left out."""
    layers = range(model.num_layers) if cause.layer is None else (cause.layer,)
    return [layer for layer in layers if layer >= least]


def at_layers(place: str, least: int, function: Callable[..., Any]) -> ModelChange:
    """The same at each layer that the cause concerns."""

    def changed(model: Model, cause: Cause) -> Model | None:
        layers = layers_of(model, cause, least)
        for layer in layers:
            token = (cause.name, cause.choice, layer)
            model = model.adding(place, Change(token, partial(function, cause.choice)), layer)
        return model if layers else None

    return changed
