"""One number of a trace as its equation, with its numbers filled in, and the layer's own value.

What is computed stands in ``hand``, how it is written down in ``document``; here is decided
what to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from rnnscope._explain.address import Address, faithful
from rnnscope._explain.digits import Node, plain
from rnnscope._explain.document import (
    Block,
    Chain,
    Chains,
    Document,
    Heading,
    Paragraph,
    Table,
    noted,
)
from rnnscope._explain.lesson import lesson
from rnnscope._explain.steps import difference, walk
from rnnscope._explain.unit_step import Dot, Hand, tabled
from rnnscope._record.traced import Traced
from rnnscope.cells.algebra import FromH, FromX, Previous, Project, leaves, linear_recurrence, terms
from rnnscope.cells.notation import Call, Digits, Shape, Symbol, Times, Total, text

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
    and states of the trace; every printed line recomputes from the digits printed above it, to
    one unit of its last digit.

    >>> import torch
    >>> from rnnscope import trace
    >>> rnn = torch.nn.RNN(1, 1, bias=False, batch_first=True)
    >>> for weight, value in zip(rnn.parameters(), (0.25, 0.5)):
    ...     _ = torch.nn.init.constant_(weight, value)
    >>> print(explain(trace(rnn, torch.tensor([[[3.0], [4.0], [5.0]]])), "h", time=1))
    h_2 = 0.866179      layer 0, forward, batch 0, time=1 (step 2 of 3), unit 0 of 1
    <BLANKLINE>
    h_2 = tanh(W_ih x_2 + W_hh h_1) = tanh(0.25 × 4 + 0.5 × 0.635149)
                                    = tanh(1.000000 + 0.317574      )
                                    = tanh(1.317574)                  = 0.866179
    <BLANKLINE>
    nn.RNN's own h_2: 0.866179, difference ...e-0... before rounding
    h_1 is h at time=0: tr.explain("h", time=0)

    Raises ``AddressError`` for a name or a place that is not there, for an axis left out that is
    longer than 1, and for padding.
    """
    at = Address(trace, layer, direction, batch)
    if name is None and time is None and at.length > 1:
        return walk(at, at.unit(None, unit))
    at.names(name, 0)  # an unknown name is told before an axis that is missing
    here, step = at.unit(name, unit), at.time(time)
    names = at.names(name, here)
    site, apart = at.site(step, here), tabled(trace.cell, names)
    own = at.owns(names, step, here)
    results = trace.cell.states if name is None else [name]
    (hand,) = faithful(lambda ruler: [Hand(site, ruler, names, apart, own=own)], results)
    blocks = tuple(_blocks(at, hand, name, names, apart, step))
    return Document(blocks, _facts(at, hand, name, names, step))


def _blocks(
    at: Address, hand: Hand, name: str | None, names: list[str], apart: list[str], time: int
) -> Iterator[Block]:
    site = hand.site
    where = at.header(time, name, site.unit)
    if name is None:
        yield Heading(f"Step {site.step}", where)
    else:
        left = text(site.notation.quantity(name))
        yield Heading(f"{left} = {hand.nodes[name].shown.text}", where)
    chained = [each for each in names if each not in apart]
    if name is not None:
        chained.reverse()
    chains = tuple(chain_of(hand, each) for each in chained)
    table = [gates_table(at, hand, apart)] if apart else []
    if chains and name is not None:
        yield Chains(chains)
    yield from table
    if chains and name is None:
        yield Chains(chains)
    yield from products(hand)
    yield Paragraph(tuple(_closing(at, hand, name, names, time)))


def chain_of(hand: Hand, name: str) -> Chain:
    """A quantity's equation, with symbols, with digits, and its result."""
    node, notation = hand.nodes[name], hand.site.notation
    stages = node.stages
    words = _kept_and_new(hand, name)
    if words:
        stages = tuple(noted(stage, words) for stage in stages)
    return Chain(notation.quantity(name), stages, node.shown.text, symbolic=node.symbolic)


def _kept_and_new(hand: Hand, name: str) -> tuple[str, ...]:
    """Which of two terms is what a state keeps of itself."""
    equation = hand.site.cell.equations.get(name)
    if equation is None or linear_recurrence(equation, name) is None:
        return ()
    found = [
        "kept" if Previous(name) in list(leaves(term)) else "new" for _, term in terms(equation)
    ]
    return tuple(found) if sorted(found) == ["kept", "new"] else ()


def gates_table(at: Address, hand: Hand, gates: list[str]) -> Table:
    """A row for each gate: its value, the argument of its function, and the parts of that."""
    notation = hand.site.notation
    nodes = [hand.nodes[gate] for gate in gates]
    arguments = [node.children[0] for node in nodes]
    width = max(len(argument.shown.text) for argument in arguments)
    function = max(len(_function(node)) for node in nodes)
    header = ["", "", "pre "]
    for k, part in enumerate(arguments[0].children):
        header.append(("+ " if k else "= ") + _without_gate(part.symbolic))
    rows: list[tuple[str | Shape, ...]] = []
    for gate, node, argument in zip(gates, nodes, arguments, strict=True):
        left = text(notation.quantity(gate))
        word = hand.site.cell.words.get(gate, "")
        inner = argument.shown.text.rjust(width)
        rows.append(
            (
                f"{left} {word}".strip(),
                node.shown.text,
                f"= {_function(node):>{function}}({inner})",
                *(part.shown.text for part in argument.children),
                str(at.weights.rows(gate).start + hand.site.unit),
            )
        )
    return Table((*header, "row"), tuple(rows), left=1)


def _function(node: Node) -> str:
    assert isinstance(node.symbolic, Call)
    return node.symbolic.function.symbol


def _without_gate(shape: Shape) -> str:
    """W_if x_3 as W x_3: the heading of a column of a table of gates."""
    match shape:
        case Symbol(base, index):
            return f"{base}_{index[:1]}"
        case _:
            matrix, _, vector = text(shape).partition(" ")
            return f"{matrix[:3]} {vector}"


# matrix products ---------------------------------------------------------------------------


def products(hand: Hand) -> Iterator[Block]:
    """Where each matrix product comes from: written out where it is short."""
    dots = [dot for dot in hand.dots.values() if not dot.nothing]
    short = [dot for dot in dots if dot.rest is None]
    long = [dot for dot in dots if dot.rest is not None]
    if short:
        yield Heading("Products: a row of the weight times the vector")
        yield Chains(tuple(_written_out(dot) for dot in short))
    if long:
        sizes = {dot.weight: f"{text(dot.vector)} is {dot.size} products" for dot in long}
        told = ", ".join(f"{weight} times {rest}" for weight, rest in sizes.items())
        yield Heading(f"{told}: the three largest, and the sum of the rest")
        rows = []
        for dot in long:
            assert dot.rest is not None
            row = [text(dot.symbol), "="]
            for k, each in dot.terms:
                row += [text(dot.entry(k)), each.product.text]
            row += [f"{dot.others} others", dot.rest.text, "=", dot.total.text, str(dot.row)]
            rows.append(tuple(row))
        yield Table((*[""] * (len(rows[0]) - 1), "row"), tuple(rows))
        firsts = {type(dot.leaf): dot for dot in reversed(long)}
        yield Chains(tuple(_worked(dot) for dot in reversed(firsts.values())))


def _written_out(dot: Dot) -> Chain:
    pairs = tuple(
        (False, Times(Digits(each.weight.text), Digits(each.input.text))) for _, each in dot.terms
    )
    sums = tuple((False, Digits(each.product.text)) for _, each in dot.terms)
    stages: tuple[Shape, ...] = (Total(pairs), Total(sums)) if len(pairs) > 1 else (pairs[0][1],)
    tail = f"{dot.weight}[{dot.row}]"
    return Chain(dot.symbol, stages, dot.total.text, tail=tail)


def _worked(dot: Dot) -> Chain:
    k, each = dot.terms[0]
    stage = Times(Digits(each.weight.text), Digits(each.input.text))
    return Chain(Times(dot.weight_entry(k), dot.entry(k)), (stage,), each.product.text)


# the end -----------------------------------------------------------------------------------


def _closing(
    at: Address, hand: Hand, name: str | None, names: list[str], time: int
) -> Iterator[str]:
    """The layer's own value, and where the numbers that are given come from."""
    for each in [name] if name is not None else at.trace.cell.states:
        if each in names:
            yield from compared(at, hand, each, time)
    used = _states_used(hand, names)
    if used:
        yield from states_before(at, hand, used, time)
    if at.layer > 0 and any(isinstance(dot.leaf, FromX) for dot in hand.dots.values()):
        below = f"x of layer {at.layer} is h of layer {at.layer - 1} at the same time"
        if len(at.trace.directions) > 1:
            size = at.trace.structure.output_size
            below += f": forward is [0] to [{size - 1}], reverse [{size}] to [{2 * size - 1}]"
        if at.trace.structure.training and at.trace.structure.dropout:
            below += f", after dropout {at.trace.structure.dropout}"
        yield below
    for dot in hand.dots.values():
        if isinstance(dot.leaf, Project):
            unit = max(dot.terms, key=lambda term: _magnitude(term[1].product.truth))[0]
            where = _address(at, time, unit)
            yield (
                f"{text(dot.entry(unit))} counts most of all units; where it comes from: "
                f'tr.explain("{text(dot.entry(unit)).partition("_")[0]}", {where})'
            )


def _magnitude(value: float) -> float:
    return 0.0 if math.isnan(value) else abs(value)


def compared(at: Address, hand: Hand, name: str, time: int) -> Iterator[str]:
    """The layer's own value beside that by hand."""
    own = at.own(name, time, hand.site.unit)
    if own is None:
        return
    shown = hand.nodes[name].shown
    left = text(hand.site.notation.quantity(name))
    kind = at.trace.structure.kind
    ran = at.trace.deviation is not None
    whose = f"{kind}'s own {left}" if name == "h" and ran else f"{left} of this trace"
    printed = hand.ruler.to(own, shown.places if shown.places is not None else hand.ruler.places)
    yield f"{whose}: {printed.text}, difference {difference(shown.truth, own)} before rounding"


def _states_used(hand: Hand, names: list[str]) -> list[str]:
    equations = hand.site.cell.equations
    found = []
    for name in names:
        for leaf in leaves(equations[name]) if name in equations else ():
            match leaf:
                case Previous(state):
                    found.append(state)
                case FromH(_, Previous(state)):
                    found.append(state)
    for dot in hand.dots.values():
        found += [leaf.name for leaf in leaves(dot.leaf) if isinstance(leaf, Previous)]
        if isinstance(dot.leaf, FromH) and isinstance(dot.leaf.of, Previous):
            found.append(dot.leaf.of.name)
    return list(dict.fromkeys(found))


def states_before(at: Address, hand: Hand, used: list[str], time: int) -> Iterator[str]:
    """Where the states of the step before come from."""
    site = hand.site
    for state in used:
        left = text(site.notation.previous(state))
        if at.starts(time):
            initial = f"the initial state {state}_0, "
            if left == f"{state}_0":
                initial = ""
            zero = not bool(site.before[state].any())
            value = f"{left} = 0" if zero else f"{left} is {initial}as it was given to the layer"
            if zero and initial:
                value += f", {initial.rstrip(', ')}"
            yield f"{value}: no step came before"
        else:
            earlier = time + 1 if site.reverse else time - 1
            where = _address(at, earlier, site.unit if at.units(state) > site.unit else 0)
            yield f'{left} is {state} at time={earlier}: tr.explain("{state}", {where})'


def _address(at: Address, time: int, unit: int) -> str:
    sizes = at.trace.sizes
    parts = [f"layer={at.layer}"] if sizes["layer"] > 1 else []
    parts += [f'direction="{at.direction}"'] if sizes["direction"] > 1 else []
    parts += [f"batch={at.batch}"] if sizes["batch"] > 1 else []
    parts += [f"time={time}"]
    parts += [f"unit={unit}"] if at.units("") > 1 else []
    return ", ".join(parts)


def _facts(
    at: Address, hand: Hand, name: str | None, names: list[str], time: int
) -> dict[str, Any]:
    """The same as plain values; numbers that are not finite as words, as JSON has none."""
    values = {each: plain(hand.nodes[each].shown.truth) for each in names}
    own = {each: at.own(each, time, hand.site.unit) for each in names}
    unit = hand.site.unit
    found: dict[str, Any] = {
        "address": {
            "layer": at.layer,
            "direction": at.direction,
            "batch": at.batch,
            "time": time,
            "unit": unit,
        },
        "by_hand": values,
        "own": {each: plain(value) for each, value in own.items() if value is not None},
        "products": [product_facts(dot) for dot in hand.dots.values()],
        "proof": at.trace.proof,
    }
    return found if name is None else {"name": name, "value": values[name], **found}


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
                "weight": plain(each.weight.truth),
                "value": plain(each.input.truth),
                "product": plain(each.product.truth),
            }
            for k, each in dot.terms
        ],
        "rest": None if dot.rest is None else plain(dot.rest.truth),
    }
