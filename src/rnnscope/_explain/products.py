"""Matrix products of one unit: written out, and the weights that they use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rnnscope._explain.document import Block, Chain, Chains, Heading, Table
from rnnscope._explain.unit_step import Dot, Operands, UnitStep, entry
from rnnscope.cells import Cell
from rnnscope.cells.algebra import FromH, FromX, Project, Quantity, Vector, Weighted, leaves
from rnnscope.cells.notation import Digits, Notation, Shape, Times, Total, text

__all__ = ["products", "short_products", "weights_table"]


def products(unit_step: UnitStep) -> Iterator[Block]:
    """Where each matrix product comes from: written out where it is short."""
    short = [dot for dot in _dots(unit_step) if dot.remainder is None]
    long = [dot for dot in _dots(unit_step) if dot.remainder is not None]
    if short:
        yield Heading("Products: a row of the weight times the vector")
        yield Chains(tuple(map(_written_out, short)))
    if long:
        sizes = {dot.weight: f"{text(dot.vector)} is {dot.size} products" for dot in long}
        sentence = ", ".join(f"{weight} times {product}" for weight, product in sizes.items())
        yield Heading(f"{sentence}: the three largest, and the sum of the rest")
        rows = []
        for dot in long:
            assert dot.remainder is not None
            row = [text(dot.symbol), "="]
            for k, term in dot.terms:
                row += [text(dot.entry(k)), term.product.text]
            row += [f"{dot.others} others", dot.remainder.text, "=", dot.total.text, str(dot.row)]
            rows.append(tuple(row))
        yield Table((*[""] * (len(rows[0]) - 1), "row"), tuple(rows))
        firsts = {type(dot.leaf): dot for dot in reversed(long)}
        yield Chains(tuple(_worked(dot) for dot in reversed(firsts.values())))


def short_products(unit_step: UnitStep, *, of_step: bool, name: str = "") -> list[Chain]:
    """The products, written out, of what comes from outside the step; or ``of_step``, those in
    the equation of ``name`` that use other quantities of the same step."""
    chains = []
    for dot in _dots(unit_step):
        inner = isinstance(dot.leaf, Project) or any(
            isinstance(leaf, Quantity) for leaf in leaves(dot.leaf)
        )
        used = not of_step or dot.leaf in list(leaves(unit_step.operands.cell.equations[name]))
        if inner == of_step and used:
            chains.append(_written_out(dot))
    return chains


def _dots(unit_step: UnitStep) -> list[Dot]:
    return [dot for dot in unit_step.dots.values() if not dot.zero_state]


def _written_out(dot: Dot) -> Chain:
    pairs = tuple(
        (False, Times(Digits(term.weight.text), Digits(term.input.text))) for _, term in dot.terms
    )
    sums = tuple((False, Digits(term.product.text)) for _, term in dot.terms)
    stages: tuple[Shape, ...] = (Total(pairs), Total(sums)) if len(pairs) > 1 else (pairs[0][1],)
    tail = f"{dot.weight}[{dot.row}]"
    return Chain(dot.symbol, stages, dot.total.text, tail=tail)


def _worked(dot: Dot) -> Chain:
    k, term = dot.terms[0]
    stage = Times(Digits(term.weight.text), Digits(term.input.text))
    return Chain(Times(dot.weight_entry(k), dot.entry(k)), (stage,), term.product.text)


# the weights of one unit ---------------------------------------------------------------------

PROJECTED = "h"
"""The column of a projection, which belongs to no gate."""


def weights_table(unit_steps: list[UnitStep]) -> Table:
    """Every weight that one unit's products use: a row for each number that is multiplied, a
    column for each gate, with the digits that all the steps print."""
    operands = unit_steps[0].operands
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    rows: dict[str, int] = {}
    for leaf in _weighted(operands.cell, unit_steps[0].computations):
        column = leaf.gate if isinstance(leaf, FromX | FromH) else PROJECTED
        for key, value, row in _entries(leaf, unit_steps):
            cells.setdefault(key, {})[column] = value
            rows.setdefault(column, row)
    for vector in _vectors(operands.cell, unit_steps[0].computations):
        value = unit_steps[0].vector_text(vector, operands.all_units.value(Vector(vector)))
        cells[(vector, "", "a number of each unit")] = {next(iter(rows)): value}
    order = [gate for gate in (*operands.cell.gates, PROJECTED) if gate in rows]
    header = ["", "", "times", *(f"{gate} (row {rows[gate]})" for gate in dict.fromkeys(order))]
    lines = [
        (*key, *(values.get(gate, "") for gate in dict.fromkeys(order)))
        for key, values in sorted(cells.items(), key=lambda item: _order(item[0][0]))
    ]
    return Table(tuple(header), tuple(lines), left_columns=3)


def _order(label: str) -> int:
    """Weights before biases, in PyTorch's order; other parameters behind."""
    known = ("W_i", "W_h", "b_i", "b_h", "W_hr")
    return known.index(label) if label in known else len(known)


def _weighted(cell: Cell, names: Iterable[str]) -> list[Weighted]:
    """The matrix products that the equations of some quantities use."""
    used = [
        leaf
        for name in names
        if name in cell.equations
        for leaf in leaves(cell.equations[name])
        if isinstance(leaf, Weighted)
    ]
    return list(dict.fromkeys(used))


def _vectors(cell: Cell, names: Iterable[str]) -> list[str]:
    used = [
        leaf.name
        for name in names
        if name in cell.equations
        for leaf in leaves(cell.equations[name])
        if isinstance(leaf, Vector)
    ]
    return list(dict.fromkeys(used))


def _entries(
    leaf: Weighted, unit_steps: list[UnitStep]
) -> Iterator[tuple[tuple[str, str, str], str, int]]:
    """Each weight of a leaf and its bias: where it stands, its digits, its row."""
    operands = unit_steps[0].operands
    matrix, biases = operands.all_units.matrix(leaf)
    parameter, row = unit_steps[0].place(leaf)
    notation = _any_step(operands)
    label = {FromX: "W_i", FromH: "W_h"}.get(type(leaf), "W_hr")
    for k, weight in enumerate(matrix[operands.unit].tolist()):
        multiplied = text(entry(leaf, k, notation))
        numeral = unit_steps[0].weight_numeral(leaf, k, weight)
        yield (label, parameter, multiplied), numeral.text, row
    symbol = operands.notation.bias_of(leaf)
    if biases is not None and symbol is not None:
        numeral = unit_steps[0].bias_numeral(symbol, float(biases[operands.unit]))
        name = parameter.replace("weight", "bias")
        yield (label.replace("W", "b"), name, "1"), numeral.text, row


def _any_step(operands: Operands) -> Notation:
    """The notation with t in the place of a step's number."""
    bias = operands.weights.b_ih is not None
    return Notation(bias=bias, reverse=operands.reverse, element=True)
