"""Mistakes in what is returned once all is computed: the final states, the output, the names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.entry import Choice, Entry, Words
from rnnscope._compare.model.model import Change, Inputs, Model, Outcome

__all__ = ["RETURNED"]

States = Mapping[str, Tensor]


def _final(
    change: Callable[[States, Cause], States],
) -> Callable[[Model, Cause], Model]:
    """An entry's change of the final states, (layer, direction, batch, unit) each."""

    def on(model: Model, cause: Cause) -> Model:
        states = set(model.structure.cell.states)

        def leave(outcome: Outcome, _: Inputs) -> Outcome | None:
            if outcome.final.keys() != states:  # their sizes differ from layer to layer
                return None
            return replace(outcome, final=change(outcome.final, cause))

        return model.adding("leave", Change((cause.name, cause.choice), leave))

    return on


def _exchangeable(model: Model) -> Iterator[Choice]:
    states = model.structure.cell.states
    if len(states) == 2 and len({model.structure.state_size(s) for s in states}) == 1:
        yield from (("", ""), ("h", ""))


def _exchange(states: States, cause: Cause) -> States:
    first, second = states
    if cause.choice:
        return dict.fromkeys(states, states[cause.choice])
    return {first: states[second], second: states[first]}


def _orders(model: Model) -> Iterator[Choice]:
    if model.num_directions > 1:
        yield "directions", ""
    if model.num_layers > 1:
        yield "layers", ""
        yield "last", ""
    if model.num_directions > 1 and model.num_layers > 1:
        yield "by_direction", ""
        if len(model.structure.cell.states) > 1:
            yield from ((f"by_direction:{s}", "") for s in model.structure.cell.states)


def _order(states: States, cause: Cause) -> States:
    if cause.choice.startswith("by_direction"):
        chosen = cause.choice.partition(":")[2]
        return {
            name: value.transpose(0, 1).reshape(value.shape) if chosen in ("", name) else value
            for name, value in states.items()
        }
    if cause.choice == "last":
        return {name: value[-1:].expand_as(value) for name, value in states.items()}
    axis = ("layers", "directions").index(cause.choice)
    return {name: value.flip(axis) for name, value in states.items()}


def _always(model: Model) -> Iterator[Choice]:
    yield "", ""


def _reverse_units(model: Model, cause: Cause) -> Model:
    def leave(outcome: Outcome, _: Inputs) -> Outcome:
        return replace(outcome, output=outcome.output.flip(-1))

    return model.adding("leave", Change((cause.name,), leave))


def _named(model: Model) -> Iterator[Choice]:
    part = model.parts[0][0]
    gates = [gate for gate in part.cell.gates if gate not in part.cell.states]
    yield from ((f"{first}:{second}", "") for first, second in combinations(gates, 2))


def _rename(model: Model, cause: Cause) -> Model:
    first, second = cause.choice.split(":")

    def leave(outcome: Outcome, _: Inputs) -> Outcome | None:
        steps = outcome.steps
        if first not in steps or second not in steps:  # they are not recorded
            return None
        return replace(outcome, steps={**steps, first: steps[second], second: steps[first]})

    return model.adding("leave", Change((cause.name, cause.choice), leave))


def _words(cause: Cause, model: Model) -> Words:
    two = model.num_directions > 1
    rows = f"h_n[layer{' * 2 + direction' * two}] = h"
    rows = rows.replace("h", "c") if cause.choice.endswith(":c") else rows
    match cause.name, cause.choice:
        case "final_exchanged", "h":
            return Words(
                "h_n in place of c_n", "the tuple is (h_n, c_n), each its own.", "return y, (h, c)"
            )
        case "final_exchanged", _:
            return Words("h_n and c_n exchanged", "the tuple is (h_n, c_n).", "return y, (h, c)")
        case "units_reversed", _:
            return Words(
                "the units of the output are reversed",
                "output[..., k] is unit k of h.",
                "do not flip the last axis",
            )
        case "names_exchanged", choice:
            first, second = choice.split(":")
            return Words(
                f"{first} and {second} are recorded under each other's names",
                f"what is called {first} is {second}.",
                f'{{"{first}": {first}, "{second}": {second}}}',
            )
        case "final_order", "directions":
            return Words(
                "the directions of the final states are exchanged",
                "in each layer forward comes first.",
                rows,
            )
        case "final_order", "layers":
            return Words(
                "the layers of the final states are in the opposite order",
                "layer 0 comes first.",
                rows,
            )
        case "final_order", "last":
            return Words(
                "the final states are those of the last layer for every layer",
                "each layer has its own.",
                rows,
            )
    state = cause.choice.partition(":")[2]
    return Words(
        f"the rows of {f'{state}_n' if state else 'the final states'} lie direction by direction",
        "they lie layer by layer, the directions of a layer next to each other.",
        rows,
    )


RETURNED = (
    Entry(
        "final_exchanged",
        "the final states",
        "global",
        _exchangeable,
        _words,
        model=_final(_exchange),
    ),
    Entry("final_order", "the final states", "global", _orders, _words, model=_final(_order)),
    Entry("units_reversed", "the output", "global", _always, _words, model=_reverse_units),
    Entry("names_exchanged", "the recorded gates", "global", _named, _words, model=_rename),
)
