"""Mistakes with the states: where they start, whether they are carried, what is fed back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.changes import (
    at,
    by_state,
    exchanged,
    of_one_size,
    several_layers,
    several_parts,
    two,
)
from rnnscope._compare.mistakes.entry import Entry
from rnnscope._compare.mistakes.gates import confusable, confuse
from rnnscope._compare.mistakes.weights import forget_gates, scaled_biases
from rnnscope._compare.mistakes.words import declared
from rnnscope._compare.model.batched import separable
from rnnscope._compare.model.model import Inputs, Model, Part
from rnnscope._layers.structure import DIRECTIONS

__all__ = ["STATES"]

# the initial states --------------------------------------------------------------------------

States = Mapping[str, Tensor]


def _initial(
    change: Callable[[str, States], States | None],
) -> Callable[[Model, Cause], Model]:
    """An entry's change of the initial states, (layer, direction, batch, unit) each."""

    def enter(choice: str, inputs: Inputs) -> Inputs | None:
        states = change(choice, inputs.initial)
        if states is None:
            return None
        # of a run that starts from zeros nobody sees what was given
        given = inputs.given and any(bool(value.any()) for value in states.values())
        return replace(inputs, initial=states, given=given)

    return at("enter", enter)


def _of_rows(
    change: Callable[[str, Tensor], Tensor | None],
) -> Callable[[Model, Cause], Model]:
    """An entry's change of each initial state by itself."""

    def changed(choice: str, states: States) -> States | None:
        values = {name: change(choice, value) for name, value in states.items()}
        fitting = {name: value for name, value in values.items() if value is not None}
        return fitting if len(fitting) == len(values) else None

    return _initial(changed)


def _ignored(model: Model) -> Iterator[str]:
    yield from (state or "all" for state in by_state(model))
    if several_layers(model):
        yield "upper"
    if two(model):
        yield from DIRECTIONS


def _ignore(choice: str, states: States) -> States:
    if choice == "upper":
        return {
            name: torch.cat([value[:1], torch.zeros_like(value[1:])])
            for name, value in states.items()
        }
    if choice in DIRECTIONS:
        others = [direction != choice for direction in DIRECTIONS]
        used = torch.tensor(others, dtype=torch.bool, device="cpu")
        return {n: torch.where(used[:, None, None], v, 0) for n, v in states.items()}
    return {
        name: torch.zeros_like(value) if choice in ("all", name) else value
        for name, value in states.items()
    }


def _batch_first(_: str, value: Tensor) -> Tensor | None:
    layers, directions, batch = value.shape[:3]
    if layers * directions != batch:
        return None
    return value.flatten(0, 1).transpose(0, 1).reshape(value.shape)


def _reshaped(choice: str, value: Tensor) -> Tensor | None:
    layers, directions, batch = value.shape[:3]
    if batch == 1:
        return None
    if choice == "back":
        return value.flatten(0, 1).transpose(0, 1).reshape(value.shape)
    return value.reshape(batch, layers * directions, -1).transpose(0, 1).reshape(value.shape)


def _firsts(model: Model) -> Iterator[str]:
    yield "part"
    if two(model) and several_layers(model):
        yield "layer"
    yield from by_state(model)[1:]


def _only_first(choice: str, states: States) -> States:
    if choice == "layer":
        return {name: value[:1].expand_as(value) for name, value in states.items()}
    return {
        name: value[:1, :1].expand_as(value) if choice in ("part", name) else value
        for name, value in states.items()
    }


def _orders(model: Model) -> Iterator[str]:
    if two(model) and several_layers(model):
        yield from ("", "added")
    if several_layers(model):
        yield "layers"
    if two(model):
        yield "directions"


def _reorder(choice: str, value: Tensor) -> Tensor:
    layers, directions = value.shape[:2]
    if choice == "added":
        rows = torch.arange(layers, device="cpu")[:, None] + torch.arange(directions, device="cpu")
        return value.flatten(0, 1)[rows]
    if choice:
        return value.flip(("layers", "directions").index(choice))
    return value.reshape(directions, layers, *value.shape[2:]).transpose(0, 1)


def _initial_facts(cause: Cause, model: Model) -> dict[str, object]:
    states, choice = model.structure.cell.states, cause.choice
    row = f"[layer * {model.num_directions} + direction]" if two(model) else "[layer]"
    state = choice if choice in states and cause.name == "initial_first" else "h"
    return {
        "names": f"{choice}_0" if choice in states else " and ".join(f"{s}_0" for s in states),
        "firsts": " and ".join(f"{s}_0[0]" for s in states),
        "target": next((s for s in states if s != choice), ""),
        "order": "(layers × directions, batch, hidden), batch_first or not",
        "row": f"{state} = {state}_0{row}",
    }


# the first step, and what is carried ---------------------------------------------------------


def _carry_exchanged(model: Model, cause: Cause) -> Model | None:
    """With h in c's place at every step but the first: at every step, and before all too, which
    puts the initial states right."""
    parts = {place: confuse(part, replace(cause, choice="both")) for place, part in model.places()}
    changed = {place: part for place, part in parts.items() if part is not None}
    if len(changed) < len(parts):
        return None
    return _initial(exchanged)(model.with_parts(changed), cause)


def _first_choices(model: Model) -> Iterator[str]:
    yield from scaled_biases(model.first)
    yield "all"


def _skip_first(part: Part, cause: Cause) -> Part | None:
    b_hh = part.parameter("b_hh")
    if b_hh is None:
        return None
    first = (b_hh if part.first_b_hh is None else part.first_b_hh).clone()
    first[slice(None) if cause.choice == "all" else part.stored.rows(cause.choice)] = 0
    return part.marked(cause.name, cause.choice, first_b_hh=first)


def _never(part: Part, cause: Cause) -> Part:
    restarts = frozenset({cause.choice} if cause.choice else part.cell.states)
    return part.marked(cause.name, cause.choice, restarts=restarts)


FEW = 64
"""Units up to which it is tried whether a state is overwritten unit by unit."""


def _overwritable(model: Model) -> bool:
    return 1 < model.first.stored.hidden_size <= FEW and separable(model.first.cell)


def _overwrite(model: Model, cause: Cause) -> Model:
    return model.with_each_part(lambda part: part.marked(cause.name, in_place=True))


def _several_rows(_: str, inputs: Inputs) -> Inputs | None:
    return inputs if inputs.batch > 1 else None


def _chain(model: Model, cause: Cause) -> Model:
    return replace(at("enter", _several_rows)(model, cause), rows="chained")


# projection and what is handed on ------------------------------------------------------------


def _unproject(model: Model, cause: Cause) -> Model | None:
    cell, choice = model.structure.cell, cause.choice
    unprojected = (n for n in cell.equations if n not in cell.gates and n not in cell.states)
    source = next(unprojected, None)
    if source is None or (choice != "not_fed_back" and cause != cause.everywhere()):
        return None  # what is returned is skipped as a whole
    if choice == "unused" and model.num_layers > 1:
        return None  # the layer above reads as many numbers as the projection gives
    names = {"not_fed_back": ["feeds"], "unused": ["feeds", "emits", "ends"]}.get(choice)
    if names is None:
        # of several layers h_n stays as it is: the sizes would differ from layer to layer
        names = ["emits", "ends"] if model.num_layers == 1 else ["emits"]
    layer = model.num_layers - 1 if choice == "skipped" else cause.layer
    return model.with_parts(
        {
            place: part.marked(cause.name, choice, **dict.fromkeys(names, source))
            for place, part in model.places(layer, cause.direction)
        }
    )


def _emit(part: Part, cause: Cause) -> Part:
    return part.marked(cause.name, cause.choice, emits=cause.choice)


def _unprojected(model: Model) -> bool:
    return bool(forget_gates(model.first)) and not model.structure.cell.projected


STATES = declared(
    """
    initial_ignored upper
        layers above the first start from zeros
        each has its own rows of h_0.
        {row}
    initial_ignored forward
        the forward direction starts from zeros
        each direction has its own rows of h_0.
        {row}
    initial_ignored reverse
        the reverse direction starts from zeros
        each direction has its own rows of h_0.
        {row}
    initial_ignored *
        {names} not used
        the run starts from zeros instead.
        start from the given {names}
    initial_exchanged *
        {target} starts from {choice}_0
        the tuple is (h_0, c_0).
        h, c = initial
    initial_exchanged
        h_0 and c_0 exchanged
        the tuple is (h_0, c_0).
        h, c = initial
    initial_batch_first
        the initial state is read batch first
        it is {order}.
        h = h_0[layer]
    initial_reshaped
        the initial state is reshaped to (batch, layers × directions, hidden)
        it is {order}; reshape scrambles it.
        h = h_0[layer]   # or h_0.transpose(0, 1)
    initial_reshaped back
        the initial state is reshaped from (batch, layers × directions, hidden)
        it is {order}; reshape scrambles it.
        h = h_0[layer]   # of h_0.transpose(0, 1), where batch comes first
    initial_first part
        every layer and direction starts from {firsts}
        each has its own row of h_0.
        {row}
    initial_first layer
        every layer starts from the initial states of layer 0
        each has its own rows of h_0.
        {row}
    initial_first *
        every layer and direction takes {choice} from {choice}_0[0]
        each has its own row of {choice}_0.
        {row}
    initial_order
        the rows of h_0 are read direction by direction
        h_0 lies layer by layer, the directions of a layer next to each other.
        {row}
    initial_order added
        the rows of h_0 are read as h_0[layer + direction]
        h_0 lies layer by layer, the directions of a layer next to each other.
        {row}
    initial_order layers
        the layers of the initial states are in the opposite order
        layer 0 comes first.
        {row}
    initial_order directions
        the directions of the initial states are exchanged
        in each layer forward comes first.
        {row}
    carried_exchanged
        h and c are exchanged from one step to the next
        the first step takes them in order, and hands them on in the other one.
        return (h, c)   # in the order in which the step takes them
    first_bias all
        b_hh is skipped at the first step
        also where the state before is zero, W_hh h + b_hh is not: b_hh is left.
        h @ W_hh.T + b_hh at every step
    first_bias *
        b_h{choice} is skipped at the first step
        also where the state before is zero, W_hh h + b_hh is not: b_hh is left.
        h @ W_hh.T + b_hh at every step
    never_carried
        the state is never carried on
        every step starts from the initial state.
        h = step(x[t], h)   # and use this h in the next step
    never_carried *
        {choice} is never carried on
        every step takes {choice} from the initial state.
        h, c = step(x[t], (h, c))   # and use both in the next step
    in_place
        the state is overwritten while the step still reads it
        each unit reads the new h of the units before it; all read the h of the step before.
        new[k] = ... for every unit k; then h = new
    rows_chained
        each row starts where the row before ended
        the rows of a batch are separate sequences.
        h = h_0[:, row] before each row
    projection not_fed_back
        the projected state is not fed back
        W_hh multiplies the projected h of the step before.
        h = (o * tanh(c)) @ W_hr.T   # and this h in the next step
    projection skipped
        the projection is skipped
        with proj_size the output is W_hr (o × tanh(c)).
        h = (o * tanh(c)) @ W_hr.T
    projection unused
        the projection is not used, neither in what is returned nor in what is fed back
        with proj_size h is W_hr (o × tanh(c)), which W_hh multiplies in the next step.
        h = (o * tanh(c)) @ W_hr.T
    emitted
        {choice} is returned in place of h
        the output is h at every step.
        outputs.append(h)
    """,
    Entry(
        "initial_ignored", "the initial states", "global", model=_initial(_ignore), options=_ignored
    ),
    Entry(
        "initial_exchanged",
        "the initial states",
        "global",
        model=_initial(exchanged),
        options=by_state,
        where=of_one_size,
    ),
    Entry(
        "initial_batch_first",
        "the initial states",
        "global",
        model=_of_rows(_batch_first),
        where=several_parts,
    ),
    Entry(
        "initial_reshaped",
        "the initial states",
        "global",
        model=_of_rows(_reshaped),
        where=several_parts,
    ),
    Entry(
        "initial_first",
        "the initial states",
        "global",
        model=_initial(_only_first),
        options=_firsts,
        where=several_parts,
    ),
    Entry(
        "initial_order", "the initial states", "global", model=_of_rows(_reorder), options=_orders
    ),
    Entry(
        "carried_exchanged",
        "the carried state",
        "global",
        model=_carry_exchanged,
        where=confusable,
        concerns=("the cell state",),
        exactly="At every step but the first h stands in c's place and c in h's; searched where "
        "initial states are not zero, else it is `confused both`.",
    ),
    Entry(
        "first_bias",
        "b_ih and b_hh",
        "parts",
        _skip_first,
        options=_first_choices,
        where=lambda model: model.first.weights.b_hh is not None,
    ),
    Entry("never_carried", "the carried state", "parts", _never, options=by_state),
    Entry(
        "in_place",
        "the states within a step",
        "global",
        model=_overwrite,
        where=_overwritable,
        alone=True,
        concerns=("the carried state",),
        exactly="Unit k is computed from the new h of units 0 to k - 1, the old h of the others.",
    ),
    Entry("rows_chained", "the rows of the batch", "global", model=_chain),
    Entry(
        "projection",
        "the projection",
        "parts",
        model=_unproject,
        where=lambda model: model.structure.cell.projected,
    ),
    Entry(
        "emitted",
        "the output",
        "layer",
        _emit,
        options=lambda model: (s for s in model.structure.cell.states if s != "h"),
        where=_unprojected,
    ),
    facts=_initial_facts,
)
