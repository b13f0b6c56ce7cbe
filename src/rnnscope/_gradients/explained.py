"""One gradient as arithmetic: what reaches a number from the loss, from the equations of its step
that use it, and from the step that ran next, with the numbers filled in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from rnnscope._explain.address import Address
from rnnscope._explain.digits import PLACES, Numeral, Ruler, plain
from rnnscope._explain.document import Block as DocumentBlock
from rnnscope._explain.document import Chain, Chains, Document, Heading, Paragraph, Table
from rnnscope._gradients.backward import Block
from rnnscope._gradients.differentiable import part_values, without_graph
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    Number,
    Previous,
    Product,
    Project,
    Quantity,
    Sum,
    evaluate,
    leaves,
)
from rnnscope.cells.notation import Code, Digits, Notation, Shape, Symbol, Times, Total, text
from rnnscope.errors import AddressError

if TYPE_CHECKING:
    from rnnscope._gradients.gradients import Gradients

__all__ = ["explain_gradient"]

SHOWN = 3
"""Products of a long sum that are written out."""

Factor = tuple[Shape, float]


@dataclass(frozen=True)
class Term:
    """A share of a gradient: a product of factors, subtracted where ``negative``; ``word`` says
    where it comes from."""

    factors: tuple[Factor, ...]
    negative: bool = False
    word: str = ""

    @property
    def value(self) -> float:
        """The product, with its sign."""
        product = math.prod(value for _, value in self.factors)
        return -product if self.negative else product


def explain_gradient(
    gradients: Gradients,
    name: str,
    *,
    layer: int | None = None,
    direction: str | None = None,
    batch: int | None = None,
    time: int | Literal["last"] | None = None,
    unit: int | None = None,
) -> Document:
    """See ``Gradients.explain``."""
    trace = gradients._trace
    at = Address(trace, layer, direction, batch)
    at.names(name, 0)
    stem = name.removesuffix("_pre")
    if stem not in trace.cell.equations:
        computed = ", ".join(trace.cell.equations)
        raise AddressError(
            f"g.explain is of {computed}, and of the argument of a gate's function, as "
            f"{next(iter(trace.cell.equations))}_pre; got {name!r}, whose gradient is g[{name!r}]"
        )
    place = _GradientPlace(gradients, at, at.time(time), at.unit(name, unit))
    with without_graph(trace):
        terms = list(place.of_argument(stem) if name.endswith("_pre") else place.of_quantity(name))
        return _document(place, name, terms)


class _GradientPlace:
    """One unit at one step, backwards: its block in float64, and that of the step that ran next."""

    def __init__(self, gradients: Gradients, at: Address, time: int, unit: int) -> None:
        self.gradients, self.at, self.time, self.unit = gradients, at, time, unit
        self.trace = gradients._trace
        self.d = self.trace.directions.index(at.direction)
        after = time - 1 if at.reverse else time + 1
        self.after = after if 0 <= after < at.length else None
        self.block = self._block(time)
        self.next_block = None if self.after is None else self._block(self.after)

    def _block(self, time: int) -> Block:
        part = part_values(self.trace, self.at.layer, self.d)
        rows = torch.tensor([self.at.batch], dtype=torch.long, device=part.x.device)
        precise = replace(part, weights=part.weights.map(lambda weight: weight.double()))
        return precise.section(time, time + 1, rows).block(0, 1)

    def notation(self, time: int) -> Notation:
        """How the equations of one step are written."""
        return Notation(reverse=self.at.reverse, element=True, step=time + 1)

    def gradient(self, name: str, time: int) -> Tensor:
        """dL/d(name) at one step, (unit), in float64."""
        return self.gradients[name][self.at.layer, self.d, self.at.batch, time].double()

    def symbol(self, name: str, time: int) -> Symbol:
        """dL/dh_3."""
        return Symbol(f"dL/d{name}", str(time + 1))

    # terms ------------------------------------------------------------------------------------

    def of_argument(self, gate: str) -> Iterator[Term]:
        """Of the argument of a gate's function: its gradient times the slope."""
        equation = self.trace.cell.equations[gate]
        assert isinstance(equation, Apply), "it has an argument"
        value = float(self.gradient(gate, self.time)[self.unit])
        yield Term(((self.symbol(gate, self.time), value), self._slope(equation, gate)))

    def _slope(self, equation: Apply, gate: str) -> Factor:
        y = self.notation(self.time).quantity(gate)
        return _slope_of(equation, y, self.block, self.unit)

    def of_quantity(self, name: str) -> Iterator[Term]:
        """Of a quantity: from the loss and the layer above, from this step, from the next."""
        cell = self.trace.cell
        if name in cell.states:
            yield from self._from_outside(name)
        yield from self._from_step(Quantity(name), self.block, self.time)
        if name in cell.states and self.next_block is not None:
            assert self.after is not None, "there is a block of it"
            yield from self._from_step(Previous(name), self.next_block, self.after)
            if name == "h":
                yield from self._through_w_hh(self.next_block, self.after)

    def _from_outside(self, name: str) -> Iterator[Term]:
        direct = self.gradients.direct[name][
            self.at.layer, self.d, self.at.batch, self.time, self.unit
        ]
        if float(direct) or (name == "h" and self.at.layer == self.trace.sizes["layer"] - 1):
            word = f"direct: what reaches {name} straight from the loss"
            yield Term(((Symbol("direct", str(self.time + 1)), float(direct)),), word=word)
        if name == "h" and self.at.layer < self.trace.sizes["layer"] - 1:
            above = self.at.layer + 1
            column = self.d * self.trace.structure.output_size + self.unit
            read = self.gradients.layer_input(above)[self.at.batch, self.time, column]
            factors: list[Factor] = [(Symbol("dL/dx", str(self.time + 1)), float(read))]
            mask = self.trace.masks[self.at.layer]
            if mask is not None:
                factor = self.trace.structure.dropout_factor(mask, torch.float64)
                kept = float(factor[self.at.batch, self.time, column])
                factors.append((Symbol("mask", str(self.time + 1)), kept))
            yield Term(tuple(factors), word=f"dL/dx is of layer {above}, feature {column}")

    def _from_step(self, leaf: Expr, block: Block, time: int) -> Iterator[Term]:
        """From the equations of one step that use a leaf as it is."""
        notation = self.notation(time)
        for user, equation in self.trace.cell.equations.items():
            inner, adjoint = equation, user
            if isinstance(equation, Apply):
                inner, adjoint = equation.argument, f"{user}_pre"
            for negative, factors in _local(inner, leaf, block, notation, self.unit):
                value = float(self.gradient(adjoint, time)[self.unit])
                yield Term(((self.symbol(adjoint, time), value), *factors), negative)
            if isinstance(equation, Project) and equation.of == leaf:
                matrix = block.weights.projection
                yield from self._product("W_hr", matrix[:, self.unit], user, time)

    def _through_w_hh(self, block: Block, time: int) -> Iterator[Term]:
        gates = [affine.gate for affine in self.trace.cell.affine if affine.h is not None]
        if gates:
            weights = torch.cat([block.weights.of_h(gate)[0][:, self.unit] for gate in gates])
            values = torch.cat([self.gradient(f"{gate}_from_h", time) for gate in gates])
            total = float((weights * values).sum())
            symbol = Code(f"W_hh[:, {self.unit}] · dL/da_{time + 1}")
            yield Term(((symbol, total),), word=f"da: all gates at time={time}")

    def _product(self, matrix: str, column: Tensor, user: str, time: int) -> Iterator[Term]:
        total = float((column * self.gradient(user, time)).sum())
        symbol = Code(f"{matrix}[:, {self.unit}] · dL/d{user}_{time + 1}")
        yield Term(((symbol, total),), word=f"through {matrix} to {user}")

    def largest(self) -> list[tuple[str, float, float]]:
        """The largest products of W_hh with the gates' gradients of the next step: (entry, weight,
        gradient)."""
        block, time = self.next_block, self.after
        if block is None or time is None:
            return []
        rows: list[tuple[str, float, float]] = []
        for gate in [affine.gate for affine in self.trace.cell.affine if affine.h is not None]:
            weights = block.weights.of_h(gate)[0][:, self.unit].tolist()
            values = self.gradient(f"{gate}_from_h", time).tolist()
            rows += [
                (f"dL/da_h{gate}_{time + 1}[{j}]", weight, value)
                for j, (weight, value) in enumerate(zip(weights, values, strict=True))
            ]
        return sorted(rows, key=lambda row: -abs(row[1] * row[2]))


def _local(
    expr: Expr, leaf: Expr, block: Block, notation: Notation, unit: int
) -> Iterator[tuple[bool, tuple[Factor, ...]]]:
    """The derivative of an expression by a leaf: for each occurrence whether it is subtracted, and
    its factors; without what goes through a matrix."""
    if expr == leaf:
        yield False, ()
        return
    match expr:
        case Sum(left, right, negative):
            yield from _local(left, leaf, block, notation, unit)
            for minus, factors in _local(right, leaf, block, notation, unit):
                yield minus != negative, factors
        case Product(left, right):
            for inside, beside in ((left, right), (right, left)):
                for minus, factors in _local(inside, leaf, block, notation, unit):
                    factor = (notation.shape(beside), _number(beside, block, unit))
                    yield minus, (factor, *factors)
        case Apply():
            for minus, factors in _local(expr.argument, leaf, block, notation, unit):
                slope = _slope_of(expr, notation.shape(expr), block, unit)
                yield minus, (slope, *factors)


def _number(expr: Expr, block: Block, unit: int) -> float:
    if isinstance(expr, Number):
        return float(expr.value)
    return float(evaluate(expr, block).flatten(0, -2)[0, unit])


def _slope_of(expr: Apply, y: Shape, block: Block, unit: int) -> Factor:
    """The slope of a function where it is, written in its value y."""
    value = evaluate(expr, block)
    slope = expr.function.slope(evaluate(expr.argument, block), value)
    one = Digits("1")
    shapes: dict[str, Shape] = {
        "tanh": Total(((False, one), (True, Times(y, y)))),
        "sigmoid": Times(y, Total(((False, one), (True, y)))),
    }
    shape = shapes.get(expr.function.name, Code(f"{expr.function.symbol}'"))
    return shape, float(slope.flatten(0, -2)[0, unit])


# the document -----------------------------------------------------------------------------------


def _document(place: _GradientPlace, name: str, terms: list[Term]) -> Document:
    ruler = Ruler(PLACES)
    truth = float(place.gradient(name, place.time)[place.unit])
    rest = truth - sum(term.value for term in terms)
    sizes = [abs(term.value) for term in terms]
    if abs(rest) > 1e-4 * max([abs(truth), *sizes]):
        # what comes through a matrix that is applied to more than h
        terms = [*terms, Term(((Code("through the other matrices"), rest),))]
    left = place.symbol(name, place.time)
    where = place.at.header(place.time, name, place.unit)
    numerals = [_worked(ruler, term) for term in terms]
    total = ruler.total([(False, n) for _, n in numerals]) if terms else ruler.numeral(0.0)
    blocks: list[DocumentBlock] = [Heading(f"{text(left)} = {total.text}", where)]
    if terms:
        symbolic = _shape([(t.negative, _times([s for s, _ in t.factors])) for t in terms])
        stages = [_shape([(False, shape) for shape, _ in numerals])]
        sums = _shape([(False, Digits(numeral.text)) for _, numeral in numerals])
        if len(terms) > 1 and any(len(term.factors) > 1 for term in terms):
            stages.append(sums)
        if len(terms) == 1 and len(terms[0].factors) == 1:
            stages = []
        blocks.append(Chains((Chain(left, tuple(stages), total.text, symbolic=symbolic),)))
    products = place.largest() if name == "h" else []
    if products:
        blocks.append(Heading(f"W_hh[:, {place.unit}] · dL/da is {_products(len(products))}"))
        blocks.append(_table(products))
    blocks.append(Paragraph(tuple(_closing(place, name, terms, truth))))
    facts = {
        "name": name,
        "value": plain(truth),
        "terms": [
            {
                "factors": [[text(shape), plain(value)] for shape, value in term.factors],
                "value": plain(term.value),
            }
            for term in terms
        ],
    }
    return Document(tuple(blocks), facts)


def _products(count: int) -> str:
    return f"{count} product{'s' * (count != 1)}"


def _times(shapes: list[Shape]) -> Shape:
    product = shapes[0]
    for shape in shapes[1:]:
        product = Times(product, shape)
    return product


def _shape(terms: list[tuple[bool, Shape]]) -> Shape:
    return terms[0][1] if len(terms) == 1 and not terms[0][0] else Total(tuple(terms))


def _worked(ruler: Ruler, term: Term) -> tuple[Shape, Numeral]:
    """A term with its digits, and its product as printed."""
    values = [value for _, value in term.factors]
    if term.negative:
        values[0] = -values[0]
    numeral = ruler.numeral(values[0])
    digits = [numeral]
    for value in values[1:]:
        digits.append(ruler.numeral(value))
        numeral = ruler.product(numeral, digits[-1])
    return _times([Digits(d.text) for d in digits]), numeral


def _table(products: list[tuple[str, float, float]]) -> Table:
    ruler = Ruler(PLACES)
    shown = products[: SHOWN if len(products) > SHOWN + 1 else len(products)]
    rows = [
        (
            entry,
            ruler.numeral(weight).text,
            ruler.numeral(value).text,
            ruler.numeral(weight * value).text,
        )
        for entry, weight, value in shown
    ]
    others = products[len(shown) :]
    if others:
        rest = sum(weight * value for _, weight, value in others)
        rows.append((f"{len(others)} others", "", "", ruler.numeral(rest).text))
    return Table(("", "W_hh", "gradient", "product"), tuple(rows))


def _closing(place: _GradientPlace, name: str, terms: list[Term], truth: float) -> Iterator[str]:
    if not terms:
        yield f"Nothing of the loss reaches {name} here: no later step and no output uses it."
    yield from (term.word for term in terms if term.word)
    after, states = place.after, place.trace.cell.states
    if name in states and after is None:
        yield "This is the step that ran last: nothing comes from a later one."
    elif name in states:
        used = [leaf for e in place.trace.cell.equations.values() for leaf in leaves(e)]
        if Previous(name) in used or any(isinstance(leaf, FromH) for leaf in used):
            yield f'what the next step hands back: g.explain("{name}", time={after}, ...)'
    yield f"g's own number: {Ruler(PLACES).numeral(truth).text}"
