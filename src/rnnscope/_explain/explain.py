"""One number of a trace as its equation, with its numbers filled in, and the layer's own value.

``unit_step`` computes, ``document`` writes; this module decides what to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from rnnscope._explain.address import Address, faithful
from rnnscope._explain.digits import Computation, Ruler, plain
from rnnscope._explain.document import (
    Block,
    Chain,
    Chains,
    Document,
    Heading,
    Paragraph,
    Table,
    with_words,
)
from rnnscope._explain.lesson import lesson
from rnnscope._explain.products import products
from rnnscope._explain.steps import difference, explain_steps, lower_layer
from rnnscope._explain.unit_step import Dot, PrintedNumbers, UnitStep, table_rows
from rnnscope._layers.structure import Weights
from rnnscope._record.traced import Traced
from rnnscope.cells.algebra import FromH, FromX, Previous, Project, leaves, linear_recurrence, terms
from rnnscope.cells.notation import FunctionCall, Shape, Symbol, text

__all__ = ["Explanation", "explain", "lesson"]

Explanation = Document
"""What ``explain`` returns: ``text()``, ``latex()``, ``markdown()`` and ``data()``."""


def explain(
    trace: Traced,
    name: str | None = None,
    *,
    layer: int | None = None,
    direction: str | None = None,
    batch: int | None = None,
    time: int | Literal["last"] | None = None,
    unit: int | None = None,
) -> Explanation:
    """One number as its equation with symbols, with this trace's numbers, and its result.

    Without a name, all equations of the step; without a time as well, the walk over the steps.
    An axis may be left out where its length is 1. Numbers are float64 arithmetic on the weights
    and states of the trace. Every printed line is what the printed numbers give, rounded to its
    last digit; where no few digits make that the layer's own state, the state, or in the last
    resort each line, may be one unit of its last digit away.

    >>> import torch
    >>> from rnnscope import trace
    >>> rnn = torch.nn.RNN(1, 1, bias=False, batch_first=True)
    >>> for weight, value in zip(rnn.parameters(), (0.25, 0.5)):
    ...     _ = torch.nn.init.constant_(weight, value)
    >>> print(explain(trace(rnn, torch.tensor([[[3.0], [4.0], [5.0]]])), "h", time=1))
    h_2 = 0.866179      layer 0, forward, batch 0, time=1 (step 2 of 3), unit 0 of 1
    <BLANKLINE>
    h_2 = tanh(W_ih x_2 + W_hh h_1) = tanh(0.25 × 4  + 0.5 × 0.635149)
                                    = tanh(1.0000000 + 0.3175745     )
                                    = tanh(1.3175745)                  = 0.866179
    <BLANKLINE>
    nn.RNN's own h_2: 0.866179, difference ...e-0... before rounding
    h_1 is h at time=0: tr.explain("h", time=0)

    Raises ``AddressError`` for a name or a place that is not there, for an axis left out that is
    longer than 1, and for padding.
    """
    at = Address(trace, layer, direction, batch)
    if name is None and time is None and at.length > 1:
        return explain_steps(at, at.unit(None, unit))
    at.names(name, 0)  # an unknown name is refused before an axis that is missing
    operands = at.operands(unit=at.unit(name, unit), time=at.time(time))
    names = at.names(name, operands.unit)
    in_table = table_rows(trace.cell, names)
    trace_values = at.trace_values(names, operands.time, operands.unit)

    known_places: dict[tuple[int, int], dict[str, int]] = {}

    def work(ruler: Ruler) -> list[UnitStep]:
        digits = ruler.places, ruler.guard
        first = digits not in known_places
        places = known_places.setdefault(digits, {})
        printed = PrintedNumbers(trace=trace_values, places=places)
        for _ in range(1 + first):  # the second pass knows the digits that each number needs
            unit_step = UnitStep(operands, ruler, names, in_table, printed)
        return [unit_step]

    (unit_step,) = faithful(work, trace.cell.states if name is None else [name])
    return Document(tuple(_blocks(at, unit_step, name)), _facts(at, unit_step, name))


def _blocks(at: Address, unit_step: UnitStep, name: str | None) -> Iterator[Block]:
    operands, in_table = unit_step.operands, unit_step.in_table
    where = at.header(operands.time, name, operands.unit)
    if name is None:
        yield Heading(f"Step {operands.step}", where)
    else:
        symbol = text(operands.notation.quantity(name))
        yield Heading(f"{symbol} = {unit_step.result(name).text}", where)
    order = [quantity for quantity in unit_step.computations if quantity not in in_table]
    if name is not None:
        order.reverse()
    chains = tuple(chain_of(unit_step, quantity) for quantity in order)
    table = [gates_table(at, unit_step)] if in_table else []
    if chains and name is not None:
        yield Chains(chains)
    yield from table
    if chains and name is None:
        yield Chains(chains)
    yield from products(unit_step)
    yield Paragraph(tuple(_closing(at, unit_step, name)))


def chain_of(unit_step: UnitStep, name: str) -> Chain:
    """A quantity's equation, with symbols, with digits, and its result."""
    computation, notation = unit_step.computations[name], unit_step.operands.notation
    stages = computation.stages
    words = _kept_and_new(unit_step, name)
    if words:
        stages = tuple(with_words(stage, words) for stage in stages)
    return Chain(
        notation.quantity(name), stages, computation.numeral.text, symbolic=computation.symbolic
    )


def _kept_and_new(unit_step: UnitStep, name: str) -> tuple[str, ...]:
    """A word for each of two terms: which one a state keeps of itself, and which one is new."""
    equation = unit_step.operands.cell.equations.get(name)
    if equation is None or linear_recurrence(equation, name) is None:
        return ()
    words = [
        "kept" if Previous(name) in list(leaves(term)) else "new" for _, term in terms(equation)
    ]
    return tuple(words) if sorted(words) == ["kept", "new"] else ()


def gates_table(at: Address, unit_step: UnitStep) -> Table:
    """A row for each gate: its value, the argument of its function, and the parts of that."""
    notation, gates = unit_step.operands.notation, unit_step.in_table
    computations = [unit_step.computations[gate] for gate in gates]
    arguments = [computation.children[0] for computation in computations]
    width = max(len(argument.numeral.text) for argument in arguments)
    function = max(len(_function(computation)) for computation in computations)
    header = ["", "", "pre "]
    for k, part in enumerate(arguments[0].children):
        header.append(("+ " if k else "= ") + _without_gate(part.symbolic))
    rows: list[tuple[str | Shape, ...]] = []
    for gate, computation, argument in zip(gates, computations, arguments, strict=True):
        symbol = text(notation.quantity(gate))
        word = unit_step.operands.cell.words.get(gate, "")
        inner = argument.numeral.text.rjust(width)
        rows.append(
            (
                f"{symbol} {word}".strip(),
                computation.numeral.text,
                f"= {_function(computation):>{function}}({inner})",
                *(part.numeral.text for part in argument.children),
                str(_row(at.weights, gate, unit_step.operands.unit)),
            )
        )
    return Table((*header, "row"), tuple(rows))


def _row(weights: Weights, gate: str, unit: int) -> int:
    """The row of a gate's unit in weight_ih; in weight_hh where no equation uses the former."""
    if gate in weights.cell.gates_from_x:
        return weights.row_of_x(gate, unit)
    return weights.row_of_h(gate, unit)


def _function(computation: Computation) -> str:
    assert isinstance(computation.symbolic, FunctionCall)
    return computation.symbolic.function.symbol


def _without_gate(shape: Shape) -> str:
    """W_if x_3 as W x_3: the heading of a column of a table of gates."""
    match shape:
        case Symbol(base, index):
            return f"{base}_{index[:1]}"
        case _:
            matrix, _, vector = text(shape).partition(" ")
            return f"{matrix[:3]} {vector}"


# the end -----------------------------------------------------------------------------------


def _closing(at: Address, unit_step: UnitStep, name: str | None) -> Iterator[str]:
    """The layer's own value, and where the numbers come from that were not computed here."""
    for result in [name] if name is not None else at.trace.cell.states:
        if result in unit_step.computations:
            yield from compared(at, unit_step, result)
    yield from states_before(at, unit_step)
    if any(isinstance(dot.leaf, FromX) for dot in unit_step.dots.values()):
        yield from lower_layer(at)
    for dot in unit_step.dots.values():
        if isinstance(dot.leaf, Project):
            unit = max(dot.terms, key=lambda term: _magnitude(term[1].product.truth))[0]
            where = _address(at, unit_step.operands.time, unit)
            yield (
                f"{text(dot.entry(unit))} counts most of all units; where it comes from: "
                f'tr.explain("{text(dot.entry(unit)).partition("_")[0]}", {where})'
            )


def _magnitude(value: float) -> float:
    return 0.0 if math.isnan(value) else abs(value)


def compared(at: Address, unit_step: UnitStep, name: str) -> Iterator[str]:
    """The layer's own value beside that by hand."""
    operands, ruler = unit_step.operands, unit_step.ruler.of_states
    trace_value = at.trace_value(name, operands.time, operands.unit)
    if trace_value is None:
        return
    numeral = unit_step.result(name)
    symbol = text(operands.notation.quantity(name))
    kind = at.trace.structure.kind
    ran = at.trace.deviation is not None
    whose = f"{kind}'s own {symbol}" if name == "h" and ran else f"{symbol} of this trace"
    places = ruler.places if numeral.places is None else numeral.places
    printed, gap = ruler.to(trace_value, places), difference(numeral.truth, trace_value)
    yield f"{whose}: {printed.text}, difference {gap} before rounding"


def _states_used(unit_step: UnitStep) -> list[str]:
    """The states of the step before that the equations name."""
    equations = unit_step.operands.cell.equations
    states = []
    for name in unit_step.computations:
        for leaf in leaves(equations[name]) if name in equations else ():
            match leaf:
                case Previous(state):
                    states.append(state)
                case FromH(_, Previous(state)):
                    states.append(state)
    for dot in unit_step.dots.values():
        states += [leaf.name for leaf in leaves(dot.leaf) if isinstance(leaf, Previous)]
        if isinstance(dot.leaf, FromH) and isinstance(dot.leaf.of, Previous):
            states.append(dot.leaf.of.name)
    return list(dict.fromkeys(states))


def states_before(at: Address, unit_step: UnitStep) -> Iterator[str]:
    """Where the states of the step before come from."""
    operands, time = unit_step.operands, unit_step.operands.time
    for state in _states_used(unit_step):
        symbol = text(operands.notation.previous(state))
        if at.starts(time):
            yield at.start(state)
        else:
            earlier = time + 1 if operands.reverse else time - 1
            where = _address(at, earlier, operands.unit if at.units(state) > operands.unit else 0)
            yield f'{symbol} is {state} at time={earlier}: tr.explain("{state}", {where})'


def _address(at: Address, time: int, unit: int) -> str:
    sizes = at.trace.sizes
    parts = [f"layer={at.layer}"] if sizes["layer"] > 1 else []
    parts += [f'direction="{at.direction}"'] if sizes["direction"] > 1 else []
    parts += [f"batch={at.batch}"] if sizes["batch"] > 1 else []
    parts += [f"time={time}"]
    parts += [f"unit={unit}"] if at.units("") > 1 else []
    return ", ".join(parts)


def _facts(at: Address, unit_step: UnitStep, name: str | None) -> dict[str, Any]:
    """The same as plain values; numbers that are not finite as words, as JSON has none."""
    operands = unit_step.operands
    values = {
        quantity: plain(computation.numeral.truth)
        for quantity, computation in unit_step.computations.items()
    }
    trace_values = at.trace_values(values, operands.time, operands.unit)
    facts: dict[str, Any] = {
        "address": {
            "layer": at.layer,
            "direction": at.direction,
            "batch": at.batch,
            "time": operands.time,
            "unit": operands.unit,
        },
        "by_hand": values,
        "own": {quantity: plain(value) for quantity, value in trace_values.items()},
        "products": [product_facts(dot) for dot in unit_step.dots.values()],
        "proof": at.trace.proof,
    }
    return facts if name is None else {"name": name, "value": values[name], **facts}


def product_facts(dot: Dot) -> dict[str, Any]:
    """A matrix product as plain values."""
    return {
        "symbol": text(dot.symbol),
        "weight": dot.weight,
        "row": dot.row,
        "size": dot.size,
        "total": plain(dot.total.truth),
        "terms": [
            {
                "column": k,
                "of": text(dot.entry(k)),
                "weight": plain(term.weight.truth),
                "value": plain(term.input.truth),
                "product": plain(term.product.truth),
            }
            for k, term in dot.terms
        ],
        "rest": None if dot.remainder is None else plain(dot.remainder.truth),
    }
