"""Mistakes with the axes: time, batch, and padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.changes import at, chosen, two
from rnnscope._compare.mistakes.entry import Entry
from rnnscope._compare.mistakes.words import declared
from rnnscope._compare.model.lengths import moved, turned
from rnnscope._compare.model.model import Inputs, Model, Outcome
from rnnscope._layers.sequences import valid_steps, without_padding

__all__ = ["TIME"]

# time and batch ------------------------------------------------------------------------------


def _axes_turned(_: str, inputs: Inputs) -> Inputs | None:
    if inputs.lengths is not None:
        return None
    x = inputs.x.transpose(0, 1)
    if inputs.given:  # states for as many rows as there are steps raise no error
        return replace(inputs, x=x) if inputs.steps == inputs.batch else None
    initial = {
        name: value.new_zeros(*value.shape[:2], inputs.steps, value.shape[-1])
        for name, value in inputs.initial.items()
    }
    return replace(inputs, x=x, initial=initial)


def _axes_back(outcome: Outcome, _: Inputs) -> Outcome:
    return outcome.laid(lambda value: value.transpose(0, 1))


def _joined(_: str, inputs: Inputs) -> Inputs | None:
    if inputs.batch == 1 or inputs.lengths is not None:
        return None
    x = inputs.x.transpose(0, 1).flatten(0, 1).unsqueeze(1)
    initial = {name: value[:, :, :1] for name, value in inputs.initial.items()}
    return replace(inputs, x=x, initial=initial)


def _cut(outcome: Outcome, inputs: Inputs) -> Outcome:
    final = {
        name: value.expand(*value.shape[:2], inputs.batch, value.shape[-1])
        for name, value in outcome.final.items()
    }
    rows = (inputs.batch, inputs.steps, -1)
    return outcome.laid(lambda value: value.reshape(rows).transpose(0, 1), final=final, before=None)


def _flipped(_: str, inputs: Inputs) -> Inputs:
    return replace(inputs, x=turned(inputs.x, inputs.lengths))


def _flip_back(outcome: Outcome, inputs: Inputs) -> Outcome:
    return outcome.laid(lambda value: turned(value, inputs.lengths))


def _flip_output(_: str, outcome: Outcome, inputs: Inputs) -> Outcome:
    return replace(outcome, output=turned(outcome.output, inputs.lengths))


def _later(choice: str, inputs: Inputs) -> Inputs | None:
    """X a step late, with zeros first or with its last step."""
    if choice == "wrapped":
        return replace(inputs, x=inputs.x.roll(1, 0)) if inputs.lengths is None else None
    return replace(inputs, x=torch.cat([torch.zeros_like(inputs.x[:1]), inputs.x[:-1]]))


def _early(choice: str, outcome: Outcome, inputs: Inputs) -> Outcome | None:
    """Each row's output a step early, with zeros after its last, or with the first one."""
    output, lengths = outcome.output.roll(-1, 0), inputs.lengths
    if choice == "rolled":
        return replace(outcome, output=output) if lengths is None else None
    times = torch.arange(1, inputs.steps + 1, device="cpu")[:, None, None]
    inside = times < (inputs.steps if lengths is None else lengths[:, None])
    return replace(outcome, output=torch.where(inside, output, 0.0))


def _before(_: str, outcome: Outcome, inputs: Inputs) -> Outcome | None:
    if outcome.before is None or outcome.before.shape != outcome.output.shape:
        return None
    return replace(outcome, output=outcome.before)


# padding -------------------------------------------------------------------------------------


def _unmasked(_: str, inputs: Inputs) -> Inputs:
    return replace(inputs, lengths=None)


def _front(_: str, inputs: Inputs) -> Inputs:
    if inputs.lengths is None:  # nothing is padded
        return inputs
    zeroed = without_padding(inputs.x, valid_steps(inputs.lengths, inputs.steps))
    return replace(inputs, x=moved(zeroed, inputs.lengths, True), lengths=None)


def _padded(
    change: Callable[[Outcome, Tensor], Outcome],
) -> Callable[[str, Outcome, Inputs], Outcome]:
    """A change of what comes of padded rows, given their lengths."""

    def leave(_: str, outcome: Outcome, inputs: Inputs) -> Outcome:
        return outcome if inputs.lengths is None else change(outcome, inputs.lengths)

    return leave


def _moved_back(outcome: Outcome, inputs: Inputs) -> Outcome:
    lengths = inputs.lengths
    return outcome if lengths is None else outcome.laid(lambda value: moved(value, lengths, False))


def _moved_output(outcome: Outcome, lengths: Tensor) -> Outcome:
    return replace(outcome, output=moved(outcome.output, lengths, True))


def _last_at_end(outcome: Outcome, lengths: Tensor) -> Outcome:
    h = outcome.final["h"].clone()
    h[-1, 0] = outcome.output[-1, :, : h.shape[-1]]
    return replace(outcome, final={**outcome.final, "h": h})


def _in_order(outcome: Outcome, lengths: Tensor) -> Outcome:
    order = torch.argsort(lengths, descending=True, stable=True)
    final = {name: value[:, :, order] for name, value in outcome.final.items()}
    return replace(outcome, output=outcome.output[:, order], final=final)


def _run_over_padding(model: Model, cause: Cause) -> Model:
    return model.with_parts(
        {
            place: part.marked(cause.name, cause.choice, unmasked=True)
            for place, part in model.places(direction="reverse")
        }
    )


PADDING = {
    "front": at("enter", _front, _moved_back),
    "front_kept": at("enter", _front),
    "moved": at("leave", _padded(_moved_output)),
    "not_masked": at("enter", _unmasked),
    "last_at_end": at("inner", _padded(_last_at_end)),
    "sorted": at("leave", _padded(_in_order)),
    "reverse": _run_over_padding,
}
REVERSED = {
    "kept": at("enter", _flipped, _flip_back),
    "turned": at("enter", _flipped),
    "output": at("leave", _flip_output),
}
DELAYED = {
    "output": at("inner", _before),
    "input": at("enter", _later),
    "wrapped": at("enter", _later),
    "early": at("leave", _early),
    "rolled": at("leave", _early),
}


def _paddings(model: Model) -> Iterator[str]:
    yield from (choice for choice in PADDING if choice != "reverse" or two(model))


def _facts(cause: Cause, model: Model) -> dict[str, object]:
    axes = "(batch, time, feature)" if model.structure.batch_first else "(time, batch, feature)"
    return {"axes": axes, "reverse": ", and reverse starts there" * two(model)}


TIME = declared(
    """
    axes_exchanged
        the axes of batch and time are exchanged
        the recurrence runs over the rows of the batch; x is {axes}.
        set batch_first to what x is
    rows_joined
        all rows run as one sequence
        the rows of a batch are separate sequences.
        x[:, t] at step t: one step of every row
    time_reversed kept
        time runs backward
        the first step is x[0].
        for t in range(T):
    time_reversed turned
        the input is reversed in time
        the first step is x[0].
        do not flip x
    time_reversed output
        the output is reversed in time
        output[t] is h after step t.
        do not flip the output
    delayed output
        h_(t-1) is returned in place of h_t
        output[t] is h after step t.
        h = step(x[t], h); outputs.append(h)   # in this order
    delayed input
        the input comes one step late
        h_t is made from x_t.
        h = step(x[t], h)
    delayed wrapped
        x[t - 1] is used, at first the last step
        h_t is made from x_t.
        h = step(x[t], h)
    delayed early
        h_(t+1) is returned in place of h_t, zeros at the end
        output[t] is h after step t.
        output[t] = h
    delayed rolled
        h_(t+1) is returned in place of h_t, the first at the end
        output[t] is h after step t.
        output[t] = h
    padding front
        padding stands in front
        the state has run over the zeros before the first real step.
        pad at the end, and pack
    padding front_kept
        padding stands in front, in the output too
        the state has run over the zeros before the first real step, and each row of the output is \
        moved by its padding.
        pad at the end, and pack
    padding moved
        padding stands in front in the output
        each row of the output is moved by its padding.
        output[:length]   # of each row, the padding behind it
    padding not_masked
        padding is not masked
        the state runs on over the padding{reverse}.
        h = where(t < lengths, step(x[t], h), h)   # as pack_padded_sequence has it
    padding reverse
        reverse starts in the padding
        it starts at each row's own last step; what is flipped is padded in front.
        x[:length].flip(0) of each row, then padded again
    padding last_at_end
        the last state is taken at the padded end
        each row ends at its own length.
        output[lengths - 1, range(batch)]
    padding sorted
        the rows are left in the order of falling length
        they were sorted to be packed, and not put back.
        output[:, unsorted_indices]
    """,
    Entry("axes_exchanged", "the axes", "global", model=at("enter", _axes_turned, _axes_back)),
    Entry("rows_joined", "the rows of the batch", "global", model=at("enter", _joined, _cut)),
    Entry("time_reversed", "the order of time", "global", model=chosen(REVERSED)),
    Entry("delayed", "the order of time", "global", model=chosen(DELAYED)),
    Entry("padding", "the padding", "global", model=chosen(PADDING), options=_paddings),
    facts=_facts,
)
