"""Mistakes with the axes: time, batch, and padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words
from rnnscope._compare.model.lengths import moved, turned
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome
from rnnscope._layers.sequences import valid_steps, without_padding

__all__ = ["TIME"]


def _always(model: Model) -> Iterator[Choice]:
    yield "", ""


Enter = Callable[[Inputs], Inputs | None]
Leave = Callable[[Outcome, Inputs], Outcome | None]


def _wrapped(model: Model, cause: Cause, enter: Enter, undo: Leave | None = None) -> Model:
    """Inputs changed on the way in, and what is returned changed back on the way out."""
    return model.adding("enter", Change((cause.name, cause.choice), enter, undo))


def _leaving(model: Model, cause: Cause, leave: Leave) -> Model:
    return model.adding("leave", Change((cause.name, cause.choice), leave))


def _full(inputs: Inputs) -> bool:
    return inputs.lengths is None


# time and batch ------------------------------------------------------------------------------


def _exchange_axes(model: Model, cause: Cause) -> Model:
    def enter(inputs: Inputs) -> Inputs | None:
        if not _full(inputs):
            return None
        if inputs.given:  # states for as many rows as there are steps raise no error
            square = inputs.steps == inputs.batch
            return replace(inputs, x=inputs.x.transpose(0, 1)) if square else None
        initial = {
            name: value.new_zeros(*value.shape[:2], inputs.steps, value.shape[-1])
            for name, value in inputs.initial.items()
        }
        return replace(inputs, x=inputs.x.transpose(0, 1), initial=initial)

    def leave(outcome: Outcome, _: Inputs) -> Outcome:
        return outcome.laid(lambda value: value.transpose(0, 1))

    return _wrapped(model, cause, enter, leave)


def _join_rows(model: Model, cause: Cause) -> Model:
    def enter(inputs: Inputs) -> Inputs | None:
        if inputs.batch == 1 or not _full(inputs):
            return None
        x = inputs.x.transpose(0, 1).flatten(0, 1).unsqueeze(1)
        initial = {name: value[:, :, :1] for name, value in inputs.initial.items()}
        return replace(inputs, x=x, initial=initial)

    def leave(outcome: Outcome, inputs: Inputs) -> Outcome:
        final = {
            name: value.expand(*value.shape[:2], inputs.batch, value.shape[-1])
            for name, value in outcome.final.items()
        }
        rows = (inputs.batch, inputs.steps, -1)
        return outcome.laid(
            lambda value: value.reshape(rows).transpose(0, 1), final=final, before=None
        )

    return _wrapped(model, cause, enter, leave)


def _reversed_choices(model: Model) -> Iterator[Choice]:
    yield from ((choice, "") for choice in ("kept", "turned", "output"))


def _flipped(inputs: Inputs) -> Inputs:
    return replace(inputs, x=turned(inputs.x, inputs.lengths))


def _flip_back(outcome: Outcome, inputs: Inputs) -> Outcome:
    return outcome.laid(lambda value: turned(value, inputs.lengths))


def _flip_output(outcome: Outcome, inputs: Inputs) -> Outcome:
    return replace(outcome, output=turned(outcome.output, inputs.lengths))


def _reverse_time(model: Model, cause: Cause) -> Model:
    match cause.choice:
        case "kept":
            return _wrapped(model, cause, _flipped, _flip_back)
        case "turned":
            return _wrapped(model, cause, _flipped)
    return _leaving(model, cause, _flip_output)


def _delayed_choices(model: Model) -> Iterator[Choice]:
    yield from ((choice, "") for choice in ("output", "input", "wrapped", "early", "rolled"))


def _early(outcome: Outcome, inputs: Inputs) -> Outcome:
    """Each row's output a step early, with zeros after its last."""
    ends = (
        torch.full((inputs.batch,), inputs.steps, dtype=torch.long, device="cpu")
        if inputs.lengths is None
        else inputs.lengths
    )
    later = torch.arange(1, inputs.steps + 1, device="cpu")[:, None] < ends
    moved = torch.where(later.unsqueeze(-1), outcome.output.roll(-1, 0), 0.0)
    return replace(outcome, output=moved)


def _rolled(outcome: Outcome, inputs: Inputs) -> Outcome | None:
    return replace(outcome, output=outcome.output.roll(-1, 0)) if _full(inputs) else None


def _shift(inputs: Inputs) -> Inputs:
    x = torch.cat([torch.zeros_like(inputs.x[:1]), inputs.x[:-1]])
    return replace(inputs, x=x)


def _wrap(inputs: Inputs) -> Inputs | None:
    return replace(inputs, x=inputs.x.roll(1, 0)) if _full(inputs) else None


def _before(outcome: Outcome, inputs: Inputs) -> Outcome | None:
    if outcome.before is None or outcome.before.shape != outcome.output.shape:
        return None
    return replace(outcome, output=outcome.before)


def _delay(model: Model, cause: Cause) -> Model:
    if cause.choice == "input":
        return _wrapped(model, cause, _shift)
    if cause.choice == "wrapped":
        return _wrapped(model, cause, _wrap)
    if cause.choice != "output":
        return _leaving(model, cause, _early if cause.choice == "early" else _rolled)
    return model.adding("inner", Change((cause.name, cause.choice), _before))


def _time_words(cause: Cause, model: Model) -> Words:
    match cause.name, cause.choice:
        case "axes_exchanged", _:
            first = (
                "(batch, time, feature)"
                if model.structure.batch_first
                else "(time, batch, feature)"
            )
            return Words(
                "the axes of batch and time are exchanged",
                f"the recurrence runs over the rows of the batch; x is {first}.",
                "set batch_first to what x is",
            )
        case "rows_joined", _:
            return Words(
                "all rows run as one sequence",
                "the rows of a batch are separate sequences.",
                "x[:, t] at step t: one step of every row",
            )
        case "time_reversed", "kept":
            return Words("time runs backward", "the first step is x[0].", "for t in range(T):")
        case "time_reversed", "turned":
            return Words(
                "the input is reversed in time", "the first step is x[0].", "do not flip x"
            )
        case "time_reversed", _:
            return Words(
                "the output is reversed in time",
                "output[t] is h after step t.",
                "do not flip the output",
            )
        case "delayed", "input":
            return Words(
                "the input comes one step late", "h_t is made from x_t.", "h = step(x[t], h)"
            )
        case "delayed", "wrapped":
            return Words(
                "x[t - 1] is used, at first the last step",
                "h_t is made from x_t.",
                "h = step(x[t], h)",
            )
        case "delayed", "early" | "rolled":
            end = "zeros at the end" if cause.choice == "early" else "the first at the end"
            return Words(
                f"h_(t+1) is returned in place of h_t, {end}",
                "output[t] is h after step t.",
                "output[t] = h",
            )
    return Words(
        "h_(t-1) is returned in place of h_t",
        "output[t] is h after step t.",
        "h = step(x[t], h); outputs.append(h)   # in this order",
    )


# padding -------------------------------------------------------------------------------------


def _padded(model: Model) -> Iterator[Choice]:
    choices = ("front", "front_kept", "moved", "not_masked", "last_at_end", "sorted")
    yield from ((choice, "") for choice in choices)
    if model.num_directions > 1:
        yield "reverse", ""


def _mispad(model: Model, cause: Cause) -> Model:
    def unmasked(inputs: Inputs) -> Inputs | None:
        return replace(inputs, lengths=None)

    def front(inputs: Inputs) -> Inputs | None:
        if inputs.lengths is None:  # nothing is padded
            return inputs
        zeroed = without_padding(inputs.x, valid_steps(inputs.lengths, inputs.steps))
        return replace(inputs, x=moved(zeroed, inputs.lengths, True), lengths=None)

    def back(outcome: Outcome, inputs: Inputs) -> Outcome | None:
        if inputs.lengths is None:
            return outcome
        lengths = inputs.lengths
        return outcome.laid(lambda value: moved(value, lengths, False))

    def at_end(outcome: Outcome, inputs: Inputs) -> Outcome | None:
        if inputs.lengths is None:
            return outcome
        h = outcome.final["h"].clone()
        size = h.shape[-1]
        h[-1, 0] = outcome.output[-1, :, :size]
        return replace(outcome, final={**outcome.final, "h": h})

    def in_order(outcome: Outcome, inputs: Inputs) -> Outcome | None:
        if inputs.lengths is None:
            return outcome
        order = torch.argsort(inputs.lengths, descending=True, stable=True)
        final = {name: value[:, :, order] for name, value in outcome.final.items()}
        return replace(outcome, output=outcome.output[:, order], final=final)

    def at_front(outcome: Outcome, inputs: Inputs) -> Outcome | None:
        if inputs.lengths is None:
            return outcome
        return replace(outcome, output=moved(outcome.output, inputs.lengths, True))

    match cause.choice:
        case "front":
            return _wrapped(model, cause, front, back)
        case "front_kept":
            return _wrapped(model, cause, front)
        case "moved":
            return _leaving(model, cause, at_front)
        case "not_masked":
            return _wrapped(model, cause, unmasked)
        case "reverse":
            parts = {
                (layer, d): part.marked(cause.name, cause.choice, unmasked=True)
                for layer, row in enumerate(model.parts)
                for d, part in enumerate(row)
                if d > 0
            }
            return model.with_parts(parts)
        case "last_at_end":
            return model.adding("inner", Change((cause.name, cause.choice), at_end))
    return _leaving(model, cause, in_order)


def _padding_words(cause: Cause, model: Model) -> Words:
    both = model.num_directions > 1
    match cause.choice:
        case "front":
            return Words(
                "padding stands in front",
                "the state has run over the zeros before the first real step.",
                "pad at the end, and pack",
            )
        case "front_kept":
            return Words(
                "padding stands in front, in the output too",
                "the state has run over the zeros before the first real step, and each row of the "
                "output is moved by its padding.",
                "pad at the end, and pack",
            )
        case "moved":
            return Words(
                "padding stands in front in the output",
                "each row of the output is moved by its padding.",
                "output[:length]   # of each row, the padding behind it",
            )
        case "not_masked":
            return Words(
                "padding is not masked",
                f"the state runs on over the padding{', and reverse starts there' * both}.",
                "h = where(t < lengths, step(x[t], h), h)   # as pack_padded_sequence has it",
            )
        case "reverse":
            return Words(
                "reverse starts in the padding",
                "it starts at each row's own last step; what is flipped is padded in front.",
                "x[:length].flip(0) of each row, then padded again",
            )
        case "last_at_end":
            return Words(
                "the last state is taken at the padded end",
                "each row ends at its own length.",
                "output[lengths - 1, range(batch)]",
            )
    return Words(
        "the rows are left in the order of falling length",
        "they were sorted to be packed, and not put back.",
        "output[:, unsorted_indices]",
    )


TIME = (
    Entry(
        "axes_exchanged",
        "the axes",
        "global",
        _always,
        _time_words,
        model=_exchange_axes,
    ),
    Entry("rows_joined", "the rows of the batch", "global", _always, _time_words, model=_join_rows),
    Entry(
        "time_reversed",
        "the order of time",
        "global",
        _reversed_choices,
        _time_words,
        model=_reverse_time,
    ),
    Entry("delayed", "the order of time", "global", _delayed_choices, _time_words, model=_delay),
    Entry("padding", "the padding", "global", _padded, _padding_words, model=_mispad),
)
