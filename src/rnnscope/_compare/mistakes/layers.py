"""Mistakes between parts: directions, layers, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.changes import at, at_layers, layers_of, several_layers, two
from rnnscope._compare.mistakes.entry import Entry
from rnnscope._compare.mistakes.words import declared
from rnnscope._compare.model.lengths import ends
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome, Part, PartIndex
from rnnscope._compare.model.shared_state import can_share
from rnnscope._layers.structure import DIRECTIONS

__all__ = ["WIRING"]

EPS = 1e-5
"""As torch.nn.LayerNorm has it."""

TURNS = {
    "feature": ("feature", "feature"),
    "feature_only": ("feature", ""),
    "batch": ("batch", ""),
    "output": ("", "time"),
}
"""Along which axes what the reverse direction reads, and what it hands on, is reversed."""


# the reverse direction -----------------------------------------------------------------------


def _of_reverse(part: Part, cause: Cause) -> Part | None:
    if not part.weights.suffix.endswith("_reverse"):
        return None
    changes: dict[str, dict[str, Any]] = {
        "reverse_not_turned": {"aligned": False},
        "reverse_forward": {"backward": False},
        "reverse_start": {"after_forward": True},
        "turned_wrongly": {"backward": False, "flipped": TURNS.get(cause.choice)},
    }
    return part.marked(cause.name, cause.choice, **changes[cause.name])


def _stacked(model: Model) -> bool:
    return two(model) and several_layers(model)


def _unused(choice: str, x: Tensor, finals: Sequence[Tensor]) -> Tensor:
    forward = x[..., : x.shape[-1] // 2]
    return torch.cat([forward, forward if choice else torch.zeros_like(forward)], -1)


def _keep_apart(model: Model, cause: Cause) -> Model:
    """In layers above the first with zeros in the columns of the other direction."""
    changed: dict[PartIndex, Part] = {}
    for (layer, d), part in model.places():
        W_ih = part.parameter("ih")
        if layer > 0 and W_ih is not None:
            halves = list(W_ih.chunk(2, 1))
            halves[1 - d] = torch.zeros_like(halves[1 - d])
            changed[layer, d] = part.weighted(cause.name, ih=torch.cat(halves, 1))
    return model.with_parts(changed)


def _order(choice: str, joined: Tensor) -> Tensor:
    forward, reverse = joined.chunk(2, -1)
    if choice == "exchanged":
        return torch.cat([reverse, forward], -1)
    return torch.stack([forward, reverse], -1).flatten(-2)


def _merge(choice: str, outcome: Outcome, _: Inputs) -> Outcome:
    halves = outcome.output.chunk(2, -1)
    if choice in DIRECTIONS:
        return replace(outcome, output=halves[DIRECTIONS.index(choice)])
    merged = halves[0] + halves[1]
    return replace(outcome, output=merged / 2 if choice == "mean" else merged)


def _turned_facts(cause: Cause, model: Model) -> dict[str, object]:
    time = 1 if model.structure.batch_first else 0
    batch = cause.choice == "batch"
    return {
        "time": time,
        "axis": 1 - time if batch else 2,
        "of": "rows of the batch" if batch else "features",
        "back": ", and its outputs are not turned back" * (cause.choice != "feature"),
    }


# layers --------------------------------------------------------------------------------------


def _start_above(model: Model, cause: Cause) -> Model | None:
    layers = layers_of(model, cause, 1)
    changed = {
        (layer, d): part.marked(cause.name, after_below=True)
        for (layer, d), part in model.places()
        if layer in layers
    }
    return model.with_parts(changed) if changed else None


def _each_layer(model: Model) -> Iterator[str]:
    return map(str, range(model.num_layers))


def _skip(model: Model, cause: Cause) -> Model:
    return replace(model, skipped=model.skipped | {int(cause.choice)})


def _return_lower(_: str, outcome: Outcome, inputs: Inputs) -> Outcome:
    return replace(outcome, output=outcome.layers[-2], before=None)


def _hand_up(_: str, x: Tensor, finals: Sequence[Tensor]) -> Tensor:
    if not finals:  # the layer below is skipped
        return x
    final = torch.cat(list(finals), -1)
    return final.expand(x.shape[0], *final.shape)


def _add(_: str, joined: Tensor, x: Tensor) -> Tensor:
    return joined + x


def _normed(x: Tensor) -> Tensor:
    away = x - x.mean(-1, keepdim=True)
    return away / (away.square().mean(-1, keepdim=True) + EPS).sqrt()


APPLIED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "layer_norm": _normed,
}


def _apply_between(model: Model, cause: Cause) -> Model | None:
    if cause.layer is not None and model.num_layers == 2:
        return None  # there is only one place between layers
    return at_layers("reads", 1, lambda choice, x, finals: APPLIED[choice](x))(model, cause)


def _share(model: Model, cause: Cause) -> Model | None:
    return replace(model, shared_state=True) if can_share(model) else None


# what is returned of the last layer ------------------------------------------------------------


def _alias(model: Model, cause: Cause) -> Model:
    def leave(outcome: Outcome, inputs: Inputs) -> Outcome:
        halves = outcome.output.chunk(model.num_directions, -1)
        last = [
            half[0] if part.backward and part.aligned else ends(half, inputs.lengths)
            for part, half in zip(model.parts[-1], halves, strict=True)
        ]
        joined = torch.cat(last, -1)
        return replace(outcome, output=joined.expand_as(outcome.output))

    return model.adding("inner", Change((cause.name,), leave))


def _end_choices(model: Model) -> Iterator[str]:
    yield "output_start"
    if model.num_directions > 1:
        yield "output_end"
        if model.num_layers > 1:
            yield "every_end"


def _end(choice: str, outcome: Outcome, inputs: Inputs) -> Outcome | None:
    if "h" not in outcome.final:
        return None
    h = outcome.final["h"].clone()
    layers = outcome.layers if choice == "every_end" else [outcome.output]
    if any(layer.shape[-1] != h.shape[1] * h.shape[-1] for layer in layers):
        return None
    for row, layer in zip(h[-len(layers) :], layers, strict=True):
        halves = layer.chunk(len(row), -1)
        if choice == "output_start":
            row[0] = halves[0][0]
        else:
            row[1] = ends(halves[1], inputs.lengths)
    return replace(outcome, final={**outcome.final, "h": h})


WIRING = declared(
    """
    reverse_not_turned
        the reverse direction's outputs are not turned back
        output[t] holds both directions' h at step t.
        reverse = reverse[::-1]   # before they are joined
    reverse_forward
        the reverse direction runs forward in time
        it reads the sequence from its end.
        for t in reversed(range(T)):
    reverse_unused
        upper layers ignore the reverse direction
        a layer above reads both directions of the one below in {kind}.
        x = np.concatenate([forward, reverse], -1)
    reverse_unused twice
        upper layers read the forward direction twice
        a layer above reads both directions of the one below in {kind}.
        x = np.concatenate([forward, reverse], -1)   # not forward twice
    directions_apart
        above the first layer each direction reads its own direction of the layer below alone
        {kind} hands both directions of a layer to both of the next; two separate stacks do not \
        meet before the top.
        x = np.concatenate([forward, reverse], -1)   # after every layer
    directions_order exchanged
        the directions are joined in the other order
        forward comes first.
        np.concatenate([forward, reverse], -1)
    directions_order interleaved
        the directions' units are interleaved
        all units of forward come first, then all of reverse.
        np.concatenate([forward, reverse], -1)
    reverse_start
        the reverse direction starts from forward's final state
        it has its own initial state.
        h = h_0[2 * layer + 1]
    upper_start
        a layer starts from the final state of the layer below
        each has its own initial state.
        h = h_0[layer]
    layer_skipped
        layer {choice} is skipped
        its input goes on unchanged.
        x = run(layer, x) for every layer
    final_handed_up
        the layer above reads the final state of the layer below at every step
        it reads the output of the layer below, step by step.
        x = outputs   # not h_n
    residual
        a layer's input is added to its output
        {kind} has no residual connection.
        x = outputs
    outputs_alias
        every step's output is the last one
        the same array is stored at every step and overwritten.
        outputs.append(h.copy())
    final_state output_start
        the final state is taken at the first step
        h_n is h after the last one.
        h_n = output[{last}]
    final_state output_end
        the final state of reverse is taken at the last position
        reverse ends at the first position.
        h_n[reverse] = output[0, :, hidden:]
    final_state every_end
        the final state of reverse is taken at the last position in every layer
        reverse ends at the first position.
        h_n[reverse] = output[0, :, hidden:]
    directions_merged sum
        the directions are summed
        {kind} joins them: twice the hidden size.
        np.concatenate([forward, reverse], -1)
    directions_merged mean
        the directions are averaged
        {kind} joins them: twice the hidden size.
        np.concatenate([forward, reverse], -1)
    directions_merged *
        the {choice} direction alone is returned
        {kind} joins both: twice the hidden size.
        np.concatenate([forward, reverse], -1)
    lower_returned
        the output is that of the layer below the last
        output holds the last layer.
        return the last layer's outputs
    between
        {function} between layers
        {kind} hands the outputs of a layer to the next as they are.
        x = outputs
    turned_wrongly *
        the reverse direction reverses the {of}, not the steps{back}
        it reads the sequence from its end.
        x = x.flip({time})   # not x.flip({axis})
    turned_wrongly output
        the reverse direction runs forward, and its outputs are turned back
        it reads the sequence from its end.
        x = x.flip({time})   # before it runs, as well as behind it
    state_shared
        one state for all layers
        at every step a layer starts from the {states} of the layer below; each has its own.
        state[k] = cell(x, state[k]) for every layer k
    """,
    Entry(
        "reverse_not_turned", "the directions", "layer", _of_reverse, where=two, reverse_only=True
    ),
    Entry("reverse_forward", "the directions", "layer", _of_reverse, where=two, reverse_only=True),
    Entry(
        "reverse_unused",
        "the directions",
        "layer",
        model=at_layers("reads", 1, _unused),
        where=_stacked,
    ),
    Entry(
        "directions_apart",
        "the directions",
        "global",
        model=_keep_apart,
        where=_stacked,
        exactly="In the place of the other direction zeros are read, as by two stacks of one "
        "direction each: TensorFlow's bidirectional_dynamic_rnn over MultiRNNCell.",
    ),
    Entry(
        "directions_order",
        "the directions",
        "layer",
        model=at_layers("joins", 0, _order),
        where=two,
    ),
    Entry("reverse_start", "the directions", "layer", _of_reverse, where=two, reverse_only=True),
    Entry("upper_start", "the layers", "layer", model=_start_above, where=several_layers),
    Entry(
        "layer_skipped",
        "the layers",
        "global",
        model=_skip,
        options=_each_layer,
        where=several_layers,
    ),
    Entry(
        "final_handed_up",
        "the layers",
        "layer",
        model=at_layers("reads", 1, _hand_up),
        where=several_layers,
    ),
    Entry("residual", "the layers", "layer", model=at_layers("writes", 0, _add)),
    Entry("outputs_alias", "the output", "global", model=_alias),
    Entry(
        "final_state",
        "the final states",
        "global",
        model=at("inner", _end),
        options=_end_choices,
        facts=lambda cause, model: {"last": ":, -1" if model.structure.batch_first else "-1"},
    ),
    # after those that read the last layer's output
    Entry(
        "directions_merged",
        "the directions",
        "global",
        model=at("inner", _merge),
        options=("sum", "mean", *DIRECTIONS),
        where=two,
    ),
    Entry(
        "lower_returned",
        "the layers",
        "global",
        model=at("inner", _return_lower),
        where=several_layers,
    ),
    Entry(
        "between",
        "the layers",
        "layer",
        model=_apply_between,
        options=APPLIED,
        where=several_layers,
        facts=lambda cause, model: {"function": cause.choice.replace("_", " ")},
        exactly="Of what a layer above the first reads, all features together; layer_norm has eps "
        "1e-5 and no weights.",
    ),
    Entry(
        "turned_wrongly",
        "the directions",
        "layer",
        _of_reverse,
        options=TURNS,
        where=two,
        facts=_turned_facts,
        reverse_only=True,
        concerns=("the order of time",),
        exactly="`feature`: x[..., ::-1] is read in the order of time, and the units of the "
        "outputs are reversed; `feature_only`: they are not. `batch`: the rows are reversed, those "
        "of the outputs are not. `output`: x is read in the order of time, the outputs reversed.",
    ),
    Entry(
        "state_shared",
        "the carried state",
        "global",
        model=_share,
        where=lambda model: several_layers(model) and not two(model),
        facts=lambda cause, model: {"states": ", ".join(model.structure.cell.states)},
        concerns=("the layers", "the initial states"),
        exactly="In one direction: at a step layer k starts from the state of layer k − 1 after "
        "that step, layer 0 from that of the last layer before; at first from row 0 of h_0.",
    ),
)
