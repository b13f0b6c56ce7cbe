"""One unit at one step of a cell, worked by hand: every equation as a tree of printed numbers.

Truth is float64 arithmetic on the weights, input and states as they were used; the printed digits
follow the rules of ``digits``. Everything derives from the cell's declaration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor
from torch.nn.functional import linear

from rnnscope._explain.digits import Computation, DotTerm, Numeral, Ruler
from rnnscope._layers.structure import Weights
from rnnscope.cells import Cell, part_name
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    FromX,
    Number,
    Previous,
    Product,
    Project,
    Quantity,
    Sum,
    Vector,
    Weighted,
    evaluate,
    leaves,
)
from rnnscope.cells.notation import (
    Code,
    FunctionCall,
    Notation,
    Shape,
    Symbol,
    Times,
    Total,
    summands,
    text,
)
from rnnscope.errors import DeclarationError

__all__ = [
    "Dot",
    "Operands",
    "PrintedNumbers",
    "UnitStep",
    "expressions",
    "needed",
    "table_rows",
]

WRITTEN_OUT = 8
"""Up to so many products are written out."""
LARGEST = 3
"""So many are shown of more."""


@dataclass(frozen=True)
class Operands:
    """All that goes into one unit at one step of one sequence, in float64.

    ``x`` (feature) and ``before`` (state to units) are whole vectors; ``step`` counts from 1.
    """

    weights: Weights
    x: Tensor
    before: Mapping[str, Tensor]
    unit: int
    step: int
    reverse: bool
    vectors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """The cell's declaration."""
        return self.weights.cell

    @property
    def time(self) -> int:
        """The position of the step in the input."""
        return self.step - 1

    @cached_property
    def notation(self) -> Notation:
        """How its equations are written, with the step's number."""
        bias = self.weights.b_ih is not None
        return Notation(bias=bias, reverse=self.reverse, element=True, step=self.step)

    @cached_property
    def all_units(self) -> _AllUnits:
        """Every unit's numbers, which matrix products of other than x and h need."""
        return _AllUnits(self)


class _AllUnits:
    """The environment of ``evaluate`` for all units of a step."""

    def __init__(self, operands: Operands) -> None:
        self.operands = operands
        self.quantities: dict[str, Tensor] = {}

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        match leaf:
            case Quantity(name):
                if name not in self.quantities:
                    self.quantities[name] = evaluate(self.operands.cell.equations[name], self)
                return self.quantities[name]
            case Previous(name):
                return self.operands.before[name]
            case Vector(name):
                if name not in self.operands.vectors:
                    raise DeclarationError(
                        f"cell {self.operands.cell.name} uses the parameter {name}, and the layer "
                        f"has none of that name"
                    )
                return self.operands.vectors[name]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        values = [linear(self.vector(leaf), *self.matrix(leaf)) for leaf in leaves]
        return sum(values[1:], values[0])

    def vector(self, leaf: Weighted) -> Tensor:
        """What a matrix is applied to."""
        return self.operands.x if isinstance(leaf, FromX) else evaluate(leaf.of, self)

    def matrix(self, leaf: Weighted) -> tuple[Tensor, Tensor | None]:
        """Matrix and bias."""
        weights = self.operands.weights
        match leaf:
            case FromX(gate):
                return weights.of_x(gate)
            case FromH(gate):
                return weights.of_h(gate)
            case Project():
                return weights.projection, None


@dataclass(frozen=True)
class Dot:
    """A matrix product at one unit: a row of a weight times a vector.

    ``terms`` are all products where they are few, else the largest, each with its index;
    ``remainder`` is then the sum of the ``others``, and None where there are none.
    """

    leaf: Weighted
    symbol: Shape
    weight: str
    row: int
    size: int
    total: Numeral
    terms: tuple[tuple[int, DotTerm], ...]
    remainder: Numeral | None
    notation: Notation

    @property
    def vector(self) -> Shape:
        """What the weight is applied to."""
        return self.notation.product(self.leaf).vector

    @property
    def others(self) -> int:
        """Products that are not shown one by one."""
        return self.size - len(self.terms)

    @property
    def zero_state(self) -> bool:
        """Whether the vector is a state of zeros, as h_0 is where the call names none."""
        return _of_state(self.leaf) and all(term.input.truth == 0 for _, term in self.terms)

    def entry(self, k: int) -> Shape:
        """The name of one number of the vector, such as x_3[0]."""
        match self.leaf:
            case FromX():
                return Symbol("x", self.notation.now, k)
            case FromH(_, Previous(name)):
                return Symbol(name, self.notation.before, k)
            case Project(Quantity(name)) | FromH(_, Quantity(name)):
                return Symbol(name, self.notation.now, k)
            case FromH(_, of) | Project(of):
                return Code(f"({text(self.notation.shape(of))})[{k}]")

    def weight_entry(self, k: int) -> Shape:
        """The name of one number of the weight, as PyTorch's state_dict has it."""
        return Code(f"{self.weight}[{self.row}, {k}]")


def expressions(cell: Cell) -> dict[str, Expr]:
    """Every name that can be explained: quantities, and their parts."""
    by_name: dict[str, Expr] = dict(cell.equations)
    for name, equation in cell.equations.items():
        for leaf in leaves(equation):
            part = part_name(leaf)
            if part is not None:
                by_name.setdefault(part, leaf)
        if isinstance(equation, Apply):
            by_name[f"{name}_pre"] = equation.argument
    return by_name


def _beside(expr: Expr) -> Iterable[str]:
    """Quantities of the same unit that an expression uses; not those inside matrix products."""
    match expr:
        case Quantity(name):
            yield name
        case Sum(left, right) | Product(left, right):
            yield from _beside(left)
            yield from _beside(right)
        case Apply(_, argument):
            yield from _beside(argument)


def needed(cell: Cell, name: str) -> list[str]:
    """A quantity and all of the same unit that it is computed from, in order of computation."""
    names = {name}
    waiting = [name]
    by_name = expressions(cell)
    while waiting:
        for used in _beside(by_name[waiting.pop()]):
            if used not in names:
                names.add(used)
                waiting.append(used)
    return [quantity for quantity in by_name if quantity in names]


def table_rows(cell: Cell, names: Iterable[str]) -> list[str]:
    """The gates that fill a table: two or more that are functions of the same affine parts."""
    groups: dict[tuple[type, ...], list[str]] = {}
    for name in names:
        equation = cell.equations.get(name)
        if isinstance(equation, Apply):
            parts = summands(equation.argument)
            plain = all(
                not negative and (isinstance(leaf, FromX) or _of_state(leaf))
                for negative, leaf in parts
            )
            if plain:
                groups.setdefault(tuple(type(leaf) for _, leaf in parts), []).append(name)
    largest = max(groups.values(), key=len, default=[])
    order = [gate for gate in cell.gates if gate in largest]
    return order if len(order) > 1 else []


def _of_state(leaf: Expr) -> bool:
    return isinstance(leaf, FromH) and isinstance(leaf.of, Previous)


@dataclass(frozen=True)
class PrintedNumbers:
    """Numbers that the document prints elsewhere: states before and weights, with their digits,
    and the trace's own values, beside which the results will stand."""

    states: Mapping[str, Numeral] = field(default_factory=dict)
    weights: Mapping[str, Numeral] = field(default_factory=dict)
    trace: Mapping[str, float] = field(default_factory=dict)


NOTHING_PRINTED = PrintedNumbers()


class UnitStep:
    """The equations of one unit at one step as trees of printed numbers.

    ``in_table`` names the gates that a table shows: each of their matrix products is one number
    there; products of a single term are otherwise written in the equation.
    """

    def __init__(
        self,
        operands: Operands,
        ruler: Ruler,
        names: Iterable[str],
        in_table: Iterable[str] = (),
        printed: PrintedNumbers = NOTHING_PRINTED,
    ) -> None:
        self.operands = operands
        self.ruler = ruler
        self.printed = printed
        self.in_table = tuple(in_table)
        self.computations: dict[str, Computation] = {}
        self.dots: dict[Expr, Dot] = {}
        self.singles: dict[str, Numeral] = {}  # weights that stand alone in an equation
        self._in_table = False
        wanted = set(names)
        for name, expr in expressions(operands.cell).items():
            if name in wanted:
                self._in_table = name in self.in_table
                self.computations[name] = self._computation(expr)

    def result(self, name: str) -> Numeral:
        """The number of a quantity, as it is printed."""
        return self.computations[name].numeral

    def faithful(self, results: Iterable[str]) -> bool:
        """Whether the results are their true values rounded, and all other numbers nearly so."""
        strict = set(results)
        return all(
            self.ruler.faithful(computation.numeral, 0.501 if name in strict else 1.501)
            and (name not in strict or self._as_trace(name))
            for name, computation in self.computations.items()
        )

    def _as_trace(self, name: str) -> bool:
        """Whether a result has the digits of the trace's value, where the two agree so far."""
        numeral = self.result(name)
        value = self.printed.trace.get(name, numeral.truth)
        return numeral.places is None or (
            abs(value - numeral.truth) > numeral.unit / 10
            or self.ruler.to(value, numeral.places).text == numeral.text
        )

    def _computation(self, expr: Expr) -> Computation:
        ruler, symbolic = self.ruler, self.operands.notation.shape(expr)
        match expr:
            case Number(number):
                return Computation(symbolic, ruler.numeral(number))
            case Quantity(name):
                return Computation(symbolic, self.result(name))
            case Previous(name):
                return Computation(symbolic, self._state(name, self.operands.unit))
            case Vector(name):
                value = self.operands.all_units.value(expr)
                return Computation(symbolic, ruler.numeral(float(value[self.operands.unit])))
            case FromX() | FromH() | Project():
                parts = self._affine(expr)
                return parts[0] if len(parts) == 1 else self._sum([(False, p) for p in parts])
            case Apply(name, argument, function):
                inner = self._computation(argument)
                numeral = ruler.apply(expr.function, inner.numeral)
                return Computation(
                    symbolic,
                    numeral,
                    (inner,),
                    lambda parts: FunctionCall(name, parts[0], function),
                )
            case Product(left, right):
                children = self._computation(left), self._computation(right)
                numeral = ruler.product(children[0].numeral, children[1].numeral)
                return Computation(
                    symbolic, numeral, children, lambda parts: Times(parts[0], parts[1])
                )
            case Sum():
                terms: list[tuple[bool, Computation]] = []
                for negative, term in summands(expr):
                    if isinstance(term, FromX | FromH | Project) and not negative:
                        terms += [(False, part) for part in self._affine(term)]
                    else:
                        terms.append((negative, self._computation(term)))
                return self._sum(terms)
        raise TypeError(f"not an equation: {expr!r}")

    def _sum(self, terms: list[tuple[bool, Computation]]) -> Computation:
        signs = [negative for negative, _ in terms]
        children = tuple(computation for _, computation in terms)
        numeral = self.ruler.total(
            [(negative, computation.numeral) for negative, computation in terms]
        )

        def build(parts: tuple[Shape, ...]) -> Shape:
            return Total(tuple(zip(signs, parts, strict=True)))

        return Computation(
            build(tuple(child.symbolic for child in children)), numeral, children, build
        )

    def _state(self, name: str, unit: int) -> Numeral:
        if name in self.printed.states and unit == self.operands.unit:
            return self.printed.states[name]
        return self.ruler.numeral(float(self.operands.before[name][unit]))

    def _affine(self, leaf: Weighted) -> list[Computation]:
        """The product and, where there is one, the bias."""
        operands = self.operands
        all_units = operands.all_units
        matrix, biases = all_units.matrix(leaf)
        weights: list[float] = matrix[operands.unit].tolist()
        inputs: list[float] = all_units.vector(leaf).tolist()
        single = len(weights) == 1 and not self._in_table
        if single:
            parts = [self._single(leaf, weights[0], inputs[0])]
        else:
            dot = self._dot(leaf, weights, inputs)
            parts = [Computation(dot.symbol, dot.total)]
        symbol = operands.notation.bias_of(leaf)
        if biases is not None and symbol is not None:
            value = float(biases[operands.unit])
            numeral = self._weight(symbol, value)
            if single:
                self.singles[text(symbol)] = numeral
            parts.append(Computation(symbol, numeral, keeps_symbol=self._listed(symbol)))
        return parts

    def _listed(self, symbol: Symbol) -> bool:
        return text(symbol) in self.printed.weights

    def _weight(self, symbol: Symbol, value: float, places: int | None = None) -> Numeral:
        if text(symbol) in self.printed.weights:
            return self.printed.weights[text(symbol)]
        return self.ruler.numeral(value, places)

    def _single(self, leaf: Weighted, weight: float, value: float) -> Computation:
        """A product of one weight and one number, written in the equation."""
        act = self.operands.notation.product(leaf)
        assert isinstance(act.matrix, Symbol)
        weight_numeral, factor = self.ruler.factors(weight, value)
        weight_numeral = self._weight(act.matrix, weight, weight_numeral.places)
        self.singles[text(act.matrix)] = weight_numeral
        if isinstance(leaf, FromH) and isinstance(leaf.of, Previous):
            factor = self.printed.states.get(leaf.of.name, factor)
        elif not isinstance(leaf, FromX):
            factor = self._computation(leaf.of).numeral
        children = (
            Computation(act.matrix, weight_numeral, keeps_symbol=self._listed(act.matrix)),
            Computation(act.vector, factor),
        )
        numeral = self.ruler.product(weight_numeral, factor)
        return Computation(act, numeral, children, lambda parts: Times(parts[0], parts[1]))

    def _dot(self, leaf: Weighted, weights: list[float], inputs: list[float]) -> Dot:
        if leaf not in self.dots:
            if len(weights) <= WRITTEN_OUT:
                total, written = self.ruler.dot(weights, inputs)
                terms, remainder = tuple(enumerate(written)), None
            else:
                total, terms, remainder = self._largest(weights, inputs)
            name, row = self._place(leaf)
            symbol = self.operands.notation.product(leaf)
            self.dots[leaf] = Dot(
                leaf,
                symbol,
                name,
                row,
                len(weights),
                total,
                terms,
                remainder,
                self.operands.notation,
            )
        return self.dots[leaf]

    def _largest(
        self, weights: list[float], inputs: list[float]
    ) -> tuple[Numeral, tuple[tuple[int, DotTerm], ...], Numeral]:
        products = [w * x for w, x in zip(weights, inputs, strict=True)]
        order = sorted(range(len(products)), key=lambda k: -_size(products[k]))
        chosen, smaller = order[:LARGEST], order[LARGEST:]
        ruler = self.ruler
        truth = math.fsum(products) if all(map(math.isfinite, products)) else sum(products)
        places = max(ruler.natural(truth), ruler.natural(products[chosen[0]]))
        terms = []
        for k in chosen:
            weight, value = ruler.factors(weights[k], inputs[k], places)
            numeral = ruler.result(products[k], weight.value * value.value, 10.0**-places)
            terms.append((k, DotTerm(weight, value, numeral)))
        remainder = ruler.to(sum(products[k] for k in smaller), places)
        parts = [(False, term.product) for _, term in terms]
        return ruler.total([*parts, (False, remainder)]), tuple(terms), remainder

    def _place(self, leaf: Weighted) -> tuple[str, int]:
        """The stacked parameter and its row."""
        weights, unit = self.operands.weights, self.operands.unit
        match leaf:
            case FromX(gate):
                return f"weight_ih{weights.suffix}", weights.row_of_x(gate, unit)
            case FromH(gate):
                return f"weight_hh{weights.suffix}", weights.row_of_h(gate, unit)
            case Project():
                return f"weight_hr{weights.suffix}", unit


def _size(product: float) -> float:
    return math.inf if math.isnan(product) else abs(product)
