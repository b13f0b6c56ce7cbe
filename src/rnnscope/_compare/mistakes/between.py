"""Mistakes between layers, and in the axis along which the reverse direction is turned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words
from rnnscope._compare.model.model import Change, Model, Part
from rnnscope._compare.model.shared_state import can_share

__all__ = ["BETWEEN"]

# functions ------------------------------------------------------------------------------------

EPS = 1e-5
"""As torch.nn.LayerNorm has it."""


def _normed(x: Tensor) -> Tensor:
    away = x - x.mean(-1, keepdim=True)
    return away / (away.square().mean(-1, keepdim=True) + EPS).sqrt()


APPLIED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "layer_norm": _normed,
}


def _functions(model: Model) -> Iterator[Choice]:
    if model.num_layers > 1:
        yield from ((name, "") for name in APPLIED)


def _apply_between(model: Model, cause: Cause) -> Model | None:
    function = APPLIED[cause.choice]

    def read(x: Tensor, finals: Sequence[Tensor]) -> Tensor:
        return function(x)

    above = range(1, model.num_layers) if cause.layer is None else (cause.layer,)
    if cause.layer is not None and model.num_layers == 2:
        return None  # there is only one place between layers
    layers = [layer for layer in above if layer > 0]
    for layer in layers:
        model = model.adding("reads", Change((cause.name, cause.choice, layer), read), layer)
    return model if layers else None


def _function_words(cause: Cause, model: Model) -> Words:
    name = cause.choice.replace("_", " ")
    return Words(
        f"{name} between layers",
        f"{model.structure.kind} hands the outputs of a layer to the next as they are.",
        "x = outputs",
    )


# one state for all layers ---------------------------------------------------------------------


def _stacked(model: Model) -> Iterator[Choice]:
    if model.num_layers > 1 and model.num_directions == 1:
        yield "", ""


def _share(model: Model, cause: Cause) -> Model | None:
    return replace(model, shared_state=True) if can_share(model) else None


def _shared_words(cause: Cause, model: Model) -> Words:
    both = ", ".join(model.structure.cell.states)
    return Words(
        "one state for all layers",
        f"at every step a layer starts from the {both} of the layer below; each has its own.",
        "state[k] = cell(x, state[k]) for every layer k",
    )


# the axis that is turned ----------------------------------------------------------------------

TURNS = {
    "feature": ("feature", "feature"),
    "feature_only": ("feature", ""),
    "batch": ("batch", ""),
    "output": ("", "time"),
}
"""Along which axes what the reverse direction reads, and what it hands on, is reversed."""


def _two(model: Model) -> Iterator[Choice]:
    if model.num_directions > 1:
        yield from ((choice, "") for choice in TURNS)


def _turn(part: Part, cause: Cause) -> Part | None:
    if not part.weights.suffix.endswith("_reverse"):
        return None
    return part.marked(cause.name, cause.choice, backward=False, flipped=TURNS[cause.choice])


def _turned_words(cause: Cause, model: Model) -> Words:
    time = 1 if model.structure.batch_first else 0
    if cause.choice == "output":
        return Words(
            "the reverse direction runs forward, and its outputs are turned back",
            "it reads the sequence from its end.",
            f"x = x.flip({time})   # before it runs, as well as behind it",
        )
    axis_name, axis = (
        ("rows of the batch", 1 - time) if cause.choice == "batch" else ("features", 2)
    )
    back = ", and its outputs are not turned back" * (cause.choice != "feature")
    return Words(
        f"the reverse direction reverses the {axis_name}, not the steps{back}",
        "it reads the sequence from its end.",
        f"x = x.flip({time})   # not x.flip({axis})",
    )


BETWEEN = (
    Entry(
        "between",
        "the layers",
        "layer",
        _functions,
        _function_words,
        model=_apply_between,
        exactly="Of what a layer above the first reads, all features together; layer_norm has eps "
        "1e-5 and no weights.",
    ),
    Entry(
        "turned_wrongly",
        "the directions",
        "layer",
        _two,
        _turned_words,
        _turn,
        True,
        concerns=("the order of time",),
        exactly="`feature`: x[..., ::-1] is read in the order of time, and the units of the "
        "outputs are reversed; `feature_only`: they are not. `batch`: the rows are reversed, those "
        "of the outputs are not. `output`: x is read in the order of time, the outputs reversed.",
    ),
    Entry(
        "state_shared",
        "the carried state",
        "global",
        _stacked,
        _shared_words,
        model=_share,
        concerns=("the layers", "the initial states"),
        exactly="In one direction: at a step layer k starts from the state of layer k − 1 after "
        "that step, layer 0 from that of the last layer before; at first from row 0 of h_0.",
    ),
)
