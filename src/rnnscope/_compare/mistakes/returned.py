"""Mistakes in what is returned once all is computed: the final states, the output, the names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

from torch import Tensor

from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.changes import at, exchanged, of_one_size, several_layers, two
from rnnscope._compare.mistakes.entry import Entry
from rnnscope._compare.mistakes.words import declared
from rnnscope._compare.model.model import Inputs, Model, Outcome

__all__ = ["RETURNED"]

States = Mapping[str, Tensor]


def _final(change: Callable[[str, States], States]) -> Callable[[Model, Cause], Model]:
    """An entry's change of the final states, (layer, direction, batch, unit) each."""

    def leave(choice: str, outcome: Outcome, inputs: Inputs) -> Outcome | None:
        if outcome.final.keys() != inputs.initial.keys():  # their sizes differ by layer
            return None
        return replace(outcome, final=change(choice, outcome.final))

    return at("leave", leave)


def _orders(model: Model) -> Iterator[str]:
    if two(model):
        yield "directions"
    if several_layers(model):
        yield from ("layers", "last")
        if two(model):
            yield "by_direction"
            if len(model.structure.cell.states) > 1:
                yield from (f"by_direction:{s}" for s in model.structure.cell.states)


def _order(choice: str, states: States) -> States:
    if choice.startswith("by_direction"):
        chosen = choice.partition(":")[2]
        return {
            name: value.transpose(0, 1).reshape(value.shape) if chosen in ("", name) else value
            for name, value in states.items()
        }
    if choice == "last":
        return {name: value[-1:].expand_as(value) for name, value in states.items()}
    axis = ("layers", "directions").index(choice)
    return {name: value.flip(axis) for name, value in states.items()}


def _reverse_units(_: str, outcome: Outcome, inputs: Inputs) -> Outcome:
    return replace(outcome, output=outcome.output.flip(-1))


def _pairs_of_gates(model: Model) -> Iterator[str]:
    cell = model.first.cell
    gates = [gate for gate in cell.gates if gate not in cell.states]
    return map(":".join, combinations(gates, 2))


def _rename(choice: str, outcome: Outcome, inputs: Inputs) -> Outcome | None:
    first, second = choice.split(":")
    steps = outcome.steps
    if first not in steps or second not in steps:  # they are not recorded
        return None
    return replace(outcome, steps={**steps, first: steps[second], second: steps[first]})


def _facts(cause: Cause, model: Model) -> dict[str, object]:
    first, _, second = cause.choice.partition(":")
    states = f"{second}_n" if second else "the final states"
    state = "c" if second == "c" else "h"
    row = f"{state}_n[layer{' * 2 + direction' * two(model)}] = {state}"
    return {"first": first, "second": second, "states": states, "row": row}


RETURNED = declared(
    """
    final_exchanged
        h_n and c_n exchanged
        the tuple is (h_n, c_n).
        return y, (h, c)
    final_exchanged h
        h_n in place of c_n
        the tuple is (h_n, c_n), each its own.
        return y, (h, c)
    final_order directions
        the directions of the final states are exchanged
        in each layer forward comes first.
        {row}
    final_order layers
        the layers of the final states are in the opposite order
        layer 0 comes first.
        {row}
    final_order last
        the final states are those of the last layer for every layer
        each layer has its own.
        {row}
    final_order *
        the rows of {states} lie direction by direction
        they lie layer by layer, the directions of a layer next to each other.
        {row}
    units_reversed
        the units of the output are reversed
        output[..., k] is unit k of h.
        do not flip the last axis
    names_exchanged
        {first} and {second} are recorded under each other's names
        what is called {first} is {second}.
        {{"{first}": {first}, "{second}": {second}}}
    """,
    Entry(
        "final_exchanged", "the final states", "global", model=_final(exchanged), where=of_one_size
    ),
    Entry("final_order", "the final states", "global", model=_final(_order), options=_orders),
    Entry("units_reversed", "the output", "global", model=at("leave", _reverse_units)),
    Entry(
        "names_exchanged",
        "the recorded gates",
        "global",
        model=at("leave", _rename),
        options=_pairs_of_gates,
    ),
    facts=_facts,
)
