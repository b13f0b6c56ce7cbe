"""Mistakes between parts: directions, layers, and what is returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words
from rnnscope._compare.model.lengths import ends
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome, Part
from rnnscope._layers.structure import DIRECTIONS

__all__ = ["WIRING"]


def _two(model: Model) -> Iterator[Choice]:
    if model.num_directions > 1:
        yield "", ""


def _reverse_parts(**changes: bool) -> Callable[[Part, Cause], Part | None]:
    def change(part: Part, cause: Cause) -> Part | None:
        if not part.weights.suffix.endswith("_reverse"):
            return None
        return part.marked(cause.name, **changes)

    return change


def _layers(model: Model, cause: Cause, least: int = 0) -> list[int]:
    layers = range(model.num_layers) if cause.layer is None else (cause.layer,)
    return [layer for layer in layers if layer >= least]


def _at_layers(
    where: str, least: int, function: Callable[..., Tensor]
) -> Callable[[Model, Cause], Model | None]:
    """An entry's change at each layer that it concerns."""

    def change(model: Model, cause: Cause) -> Model | None:
        layers = _layers(model, cause, least)
        for layer in layers:
            token = (cause.name, cause.choice, layer)

            def on(*args: Tensor, choice: str = cause.choice) -> Tensor:
                return function(choice, *args)

            model = model.adding(where, Change(token, on), layer)
        return model if layers else None

    return change


def _unused(choice: str, x: Tensor, finals: Sequence[Tensor]) -> Tensor:
    forward = x[..., : x.shape[-1] // 2]
    return torch.cat([forward, forward if choice else torch.zeros_like(forward)], -1)


def _unused_choices(model: Model) -> Iterator[Choice]:
    for _ in _stacked_two(model):
        yield from ((choice, "") for choice in ("", "twice"))


def _stacked_two(model: Model) -> Iterator[Choice]:
    if model.num_directions > 1 and model.num_layers > 1:
        yield "", ""


def _orders(model: Model) -> Iterator[Choice]:
    if model.num_directions > 1:
        yield from (("exchanged", ""), ("interleaved", ""))


def _order(choice: str, joined: Tensor) -> Tensor:
    forward, reverse = joined.chunk(2, -1)
    if choice == "exchanged":
        return torch.cat([reverse, forward], -1)
    return torch.stack([forward, reverse], -1).flatten(-2)


def _merges(model: Model) -> Iterator[Choice]:
    if model.num_directions > 1:
        yield from ((choice, "") for choice in ("sum", "mean", *DIRECTIONS))


def _merge(model: Model, cause: Cause) -> Model:
    def leave(outcome: Outcome, _: Inputs) -> Outcome:
        forward, reverse = outcome.output.chunk(2, -1)
        if cause.choice in DIRECTIONS:
            alone = (forward, reverse)[DIRECTIONS.index(cause.choice)]
            return replace(outcome, output=alone)
        merged = forward + reverse
        return replace(outcome, output=merged / 2 if cause.choice == "mean" else merged)

    return model.adding("inner", Change((cause.name, cause.choice), leave))


def _start_after(part: Part, cause: Cause) -> Part | None:
    if not part.weights.suffix.endswith("_reverse"):
        return None
    return part.marked(cause.name, after_forward=True)


def _start_above(model: Model, cause: Cause) -> Model | None:
    layers = _layers(model, cause, 1)
    changed = {
        (layer, d): part.marked(cause.name, after_below=True)
        for layer in layers
        for d, part in enumerate(model.parts[layer])
    }
    return model.with_parts(changed) if changed else None


def _each_layer(model: Model) -> Iterator[Choice]:
    if model.num_layers > 1:
        yield from ((str(layer), "") for layer in range(model.num_layers))


def _skip(model: Model, cause: Cause) -> Model:
    return replace(model, skipped=model.skipped | {int(cause.choice)})


def _stacked(model: Model) -> Iterator[Choice]:
    if model.num_layers > 1:
        yield "", ""


def _return_lower(model: Model, cause: Cause) -> Model:
    def leave(outcome: Outcome, _: Inputs) -> Outcome:
        return replace(outcome, output=outcome.layers[-2], before=None)

    return model.adding("inner", Change((cause.name,), leave))


def _hand_up(_: str, x: Tensor, finals: Sequence[Tensor]) -> Tensor:
    if not finals:  # the layer below is skipped
        return x
    final = torch.cat(list(finals), -1)
    return final.expand(x.shape[0], *final.shape)


def _always(model: Model) -> Iterator[Choice]:
    yield "", ""


def _add(_: str, joined: Tensor, x: Tensor) -> Tensor:
    return joined + x


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


def _ends(model: Model) -> Iterator[Choice]:
    yield "output_start", ""
    if model.num_directions > 1:
        yield "output_end", ""
        if model.num_layers > 1:
            yield "every_end", ""


def _end(model: Model, cause: Cause) -> Model:
    directions = model.num_directions

    def leave(outcome: Outcome, inputs: Inputs) -> Outcome | None:
        if "h" not in outcome.final:
            return None
        h = outcome.final["h"].clone()
        if outcome.output.shape[-1] != directions * h.shape[-1]:
            return None
        d, at_end = (1, True) if cause.choice == "output_end" else (0, False)
        if cause.choice == "every_end":
            if any(layer.shape[-1] != directions * h.shape[-1] for layer in outcome.layers):
                return None
            for row, layer in zip(h, outcome.layers, strict=True):
                row[1] = ends(layer.chunk(directions, -1)[1], inputs.lengths)
            return replace(outcome, final={**outcome.final, "h": h})
        part = outcome.output.chunk(directions, -1)[d]
        h[-1, d] = ends(part, inputs.lengths) if at_end else part[0]
        return replace(outcome, final={**outcome.final, "h": h})

    return model.adding("inner", Change((cause.name, cause.choice), leave))


def _words(cause: Cause, model: Model) -> Words:
    kind = model.structure.kind
    match cause.name, cause.choice:
        case "reverse_not_turned", _:
            return Words(
                "the reverse direction's outputs are not turned back",
                "output[t] holds both directions' h at step t.",
                "reverse = reverse[::-1]   # before they are joined",
            )
        case "reverse_forward", _:
            return Words(
                "the reverse direction runs forward in time",
                "it reads the sequence from its end.",
                "for t in reversed(range(T)):",
            )
        case "reverse_unused", "twice":
            return Words(
                "upper layers read the forward direction twice",
                f"a layer above reads both directions of the one below in {kind}.",
                "x = np.concatenate([forward, reverse], -1)   # not forward twice",
            )
        case "reverse_unused", _:
            return Words(
                "upper layers ignore the reverse direction",
                f"a layer above reads both directions of the one below in {kind}.",
                "x = np.concatenate([forward, reverse], -1)",
            )
        case "directions_order", "exchanged":
            return Words(
                "the directions are joined in the other order",
                "forward comes first.",
                "np.concatenate([forward, reverse], -1)",
            )
        case "directions_order", _:
            return Words(
                "the directions' units are interleaved",
                "all units of forward come first, then all of reverse.",
                "np.concatenate([forward, reverse], -1)",
            )
        case "directions_merged", alone if alone in DIRECTIONS:
            return Words(
                f"the {alone} direction alone is returned",
                f"{kind} joins both: twice the hidden size.",
                "np.concatenate([forward, reverse], -1)",
            )
        case "directions_merged", how:
            return Words(
                f"the directions are {'summed' if how == 'sum' else 'averaged'}",
                f"{kind} joins them: twice the hidden size.",
                "np.concatenate([forward, reverse], -1)",
            )
        case "reverse_start", _:
            return Words(
                "the reverse direction starts from forward's final state",
                "it has its own initial state.",
                "h = h_0[2 * layer + 1]",
            )
        case "upper_start", _:
            return Words(
                "a layer starts from the final state of the layer below",
                "each has its own initial state.",
                "h = h_0[layer]",
            )
        case "layer_skipped", layer:
            return Words(
                f"layer {layer} is skipped",
                "its input goes on unchanged.",
                "x = run(layer, x) for every layer",
            )
        case "lower_returned", _:
            return Words(
                "the output is that of the layer below the last",
                "output holds the last layer.",
                "return the last layer's outputs",
            )
        case "final_handed_up", _:
            return Words(
                "the layer above reads the final state of the layer below at every step",
                "it reads the output of the layer below, step by step.",
                "x = outputs   # not h_n",
            )
        case "residual", _:
            return Words(
                "a layer's input is added to its output",
                f"{kind} has no residual connection.",
                "x = outputs",
            )
        case "outputs_alias", _:
            return Words(
                "every step's output is the last one",
                "the same array is stored at every step and overwritten.",
                "outputs.append(h.copy())",
            )
        case "final_state", "output_start":
            return Words(
                "the final state is taken at the first step",
                "h_n is h after the last one.",
                "h_n = output[-1]" if not model.structure.batch_first else "h_n = output[:, -1]",
            )
    every = " in every layer" if cause.choice == "every_end" else ""
    return Words(
        f"the final state of reverse is taken at the last position{every}",
        "reverse ends at the first position.",
        "h_n[reverse] = output[0, :, hidden:]",
    )


WIRING = (
    Entry(
        "reverse_not_turned",
        "the directions",
        "layer",
        _two,
        _words,
        _reverse_parts(aligned=False),
        True,
    ),
    Entry(
        "reverse_forward",
        "the directions",
        "layer",
        _two,
        _words,
        _reverse_parts(backward=False),
        True,
    ),
    Entry(
        "reverse_unused",
        "the directions",
        "layer",
        _unused_choices,
        _words,
        model=_at_layers("reads", 1, _unused),
    ),
    Entry(
        "directions_order",
        "the directions",
        "layer",
        _orders,
        _words,
        model=_at_layers("joins", 0, _order),
    ),
    Entry("reverse_start", "the directions", "layer", _two, _words, _start_after, True),
    Entry("upper_start", "the layers", "layer", _stacked, _words, model=_start_above),
    Entry("layer_skipped", "the layers", "global", _each_layer, _words, model=_skip),
    Entry(
        "final_handed_up",
        "the layers",
        "layer",
        _stacked,
        _words,
        model=_at_layers("reads", 1, _hand_up),
    ),
    Entry(
        "residual",
        "the layers",
        "layer",
        _always,
        _words,
        model=_at_layers("writes", 0, _add),
    ),
    Entry("outputs_alias", "the output", "global", _always, _words, model=_alias),
    Entry("final_state", "the final states", "global", _ends, _words, model=_end),
    # after those that read the last layer's output
    Entry("directions_merged", "the directions", "global", _merges, _words, model=_merge),
    Entry("lower_returned", "the layers", "global", _stacked, _words, model=_return_lower),
)
