"""One unit at one step of a cell, worked by hand: every equation as a tree of printed numbers.

Truth is float64 arithmetic on the weights, input and states as they were used; the printed digits
follow the rules of ``digits``. Everything derives from the cell's declaration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping
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
    "entry",
    "Operands",
    "PrintedNumbers",
    "UnitStep",
    "expressions",
    "needed",
    "table_rows",
]

WRITTEN_OUT = 8
"""Up to so many products of one sum are written out."""
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
    stacked: bool = False  # x is the h of the layer below

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
        return entry(self.leaf, k, self.notation)

    def weight_entry(self, k: int) -> Shape:
        """The name of one number of the weight, as PyTorch's state_dict has it."""
        return Code(f"{self.weight}[{self.row}, {k}]")


def entry(leaf: Weighted, k: int, notation: Notation) -> Shape:
    """The name of one number of the vector that a weight is applied to, such as x_3[0]."""
    match leaf:
        case FromX():
            return Symbol("x", notation.now, k)
        case FromH(_, Previous(name)):
            return Symbol(name, notation.before, k)
        case Project(Quantity(name)) | FromH(_, Quantity(name)):
            return Symbol(name, notation.now, k)
        case FromH(_, of) | Project(of):
            return Code(f"({text(notation.shape(of))})[{k}]")


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
    and the trace's own values, beside which the results will stand.

    ``places`` holds the decimals of each number that is not computed here, by its name: the most
    that any of its products needs, once all that use it were worked. ``carried`` tells whether the
    states before are those that were printed. Up to ``written_out`` products of a sum are printed
    one by one, of more the largest.
    """

    states: Mapping[str, Numeral] = field(default_factory=dict)
    weights: Mapping[str, Numeral] = field(default_factory=dict)
    trace: Mapping[str, float] = field(default_factory=dict)
    places: MutableMapping[str, int] = field(default_factory=dict)
    carried: bool = True
    written_out: int = WRITTEN_OUT


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
        printed: PrintedNumbers | None = None,
    ) -> None:
        self.operands = operands
        self.ruler = ruler
        self.printed = PrintedNumbers() if printed is None else printed
        self.in_table = tuple(in_table)
        self.computations: dict[str, Computation] = {}
        self.dots: dict[Expr, Dot] = {}
        self.singles: dict[str, Numeral] = {}  # weights that stand alone in an equation
        self._in_table = False
        wanted = set(names)
        for name, expr in expressions(operands.cell).items():
            if name in wanted:
                self._in_table = name in self.in_table
                self.computations[name] = self._computation(expr, self._ruler_of(name))

    def result(self, name: str) -> Numeral:
        """The number of a quantity, as it is printed."""
        return self.computations[name].numeral

    def weight_numeral(self, leaf: Weighted, k: int, value: float) -> Numeral:
        """A weight with the digits that it has in every product."""
        matrix = self.operands.notation.product(leaf).matrix
        parameter, row = self.place(leaf)
        if text(matrix) in self.singles:
            return self.singles[text(matrix)]
        return self._given(f"{parameter}[{row}, {k}]", value)

    def bias_numeral(self, symbol: Symbol, value: float) -> Numeral:
        """A bias with the digits that it has in every equation."""
        return self._weight(symbol, value)

    def vector_text(self, vector: str, values: Tensor) -> str:
        """The unit's number of a vector parameter, with the digits that it has elsewhere."""
        symbol = self.operands.notation.vector(vector)
        return self._given(text(symbol), float(values[self.operands.unit])).text

    def faithful(self, results: Iterable[str], carry: bool = True) -> bool:
        """Whether the results are their true values rounded, and all other numbers nearly so; with
        ``carry``, whether the states before were carried here as they were printed."""
        strict = set(results)
        # roundings add up where each line is exactly what the printed numbers give
        nearly = 2.501 if self.ruler.exact else 1.501
        return (self.printed.carried or not carry) and all(
            self._ruler_of(name).faithful(computation.numeral, 0.501 if name in strict else nearly)
            and (name not in strict or self._as_trace(name))
            for name, computation in self.computations.items()
        )

    def _ruler_of(self, name: str) -> Ruler:
        return self.ruler.of_states if name in self.operands.cell.states else self.ruler

    def _as_trace(self, name: str) -> bool:
        """Whether a result has the digits of the trace's value, where the two agree so far."""
        numeral = self.result(name)
        value = self.printed.trace.get(name, numeral.truth)
        return numeral.places is None or (
            abs(value - numeral.truth) > numeral.unit / 10
            or self._ruler_of(name).to(value, numeral.places).text == numeral.text
        )

    def _computation(self, expr: Expr, ruler: Ruler | None = None) -> Computation:
        """An expression worked by hand; ``ruler`` is for its last operation alone."""
        ruler, symbolic = ruler or self.ruler, self.operands.notation.shape(expr)
        match expr:
            case Number(number):
                return Computation(symbolic, ruler.numeral(number))
            case Quantity(name):
                return Computation(symbolic, self.result(name))
            case Previous(name):
                return Computation(symbolic, self._state(name, self.operands.unit))
            case Vector(name):
                value = self.operands.all_units.value(expr)
                return Computation(
                    symbolic, self._given(text(symbolic), float(value[self.operands.unit]))
                )
            case FromX() | FromH() | Project():
                parts = self._affine(expr, ruler)
                if len(parts) == 1:
                    return parts[0]
                return self._sum([(False, part) for part in parts], ruler)
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
                return self._sum(terms, ruler)
        raise TypeError(f"not an equation: {expr!r}")

    def _sum(self, terms: list[tuple[bool, Computation]], ruler: Ruler) -> Computation:
        signs = [negative for negative, _ in terms]
        children = tuple(computation for _, computation in terms)
        numeral = ruler.total([(negative, computation.numeral) for negative, computation in terms])

        def build(parts: tuple[Shape, ...]) -> Shape:
            return Total(tuple(zip(signs, parts, strict=True)))

        return Computation(
            build(tuple(child.symbolic for child in children)), numeral, children, build
        )

    def _state(self, name: str, unit: int) -> Numeral:
        value = float(self.operands.before[name][unit])
        symbol = Symbol(name, self.operands.notation.before, unit)
        places = self.ruler.of_states.natural(value)
        return self._printed_state(name, unit) or self._given(text(symbol), value, places)

    def _printed_state(self, name: str, unit: int) -> Numeral | None:
        """A state of the step before as it was printed there; None of other units."""
        return self.printed.states.get(name) if unit == self.operands.unit else None

    def _given(self, name: str, value: float, places: int | None = None) -> Numeral:
        """A number that is not computed here: everywhere with the same digits."""
        known = self.printed.places
        wanted = self.ruler.natural(value) if places is None else places
        known[name] = max(known.get(name, wanted), wanted)
        return self.ruler.of_states.numeral(value, known[name])

    def _affine(self, leaf: Weighted, ruler: Ruler | None = None) -> list[Computation]:
        """The product, written by ``ruler``, and where there is one the bias."""
        operands = self.operands
        all_units = operands.all_units
        matrix, biases = all_units.matrix(leaf)
        weights: list[float] = matrix[operands.unit].tolist()
        inputs: list[float] = all_units.vector(leaf).tolist()
        single = len(weights) == 1 and not self._in_table
        if single:
            parts = [self._single(leaf, weights[0], inputs[0])]
        else:
            dot = self._dot(leaf, weights, inputs, ruler or self.ruler)
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
        return self._given(text(symbol), value, places)

    def _single(self, leaf: Weighted, weight: float, value: float) -> Computation:
        """A product of one weight and one number, written in the equation."""
        act = self.operands.notation.product(leaf)
        assert isinstance(act.matrix, Symbol)
        weight_places, places = self.ruler.factor_places(weight, value)
        if self.multiplies_states(leaf):
            places = self._places_of_state(weight, value)
        weight_numeral = self._weight(act.matrix, weight, weight_places)
        self.singles[text(act.matrix)] = weight_numeral
        if isinstance(leaf, FromX) or isinstance(leaf.of, Previous):
            factor = self._factor(leaf, 0, value, places)
        else:
            factor = self._computation(leaf.of).numeral
        children = (
            Computation(act.matrix, weight_numeral, keeps_symbol=self._listed(act.matrix)),
            Computation(act.vector, factor),
        )
        numeral = self.ruler.product(weight_numeral, factor)
        return Computation(act, numeral, children, lambda parts: Times(parts[0], parts[1]))

    def _factor(self, leaf: Weighted, k: int, value: float, places: int) -> Numeral:
        """One number of the vector that a weight is applied to."""
        if isinstance(leaf, FromH) and isinstance(leaf.of, Previous):
            printed = self._printed_state(leaf.of.name, k)
            if printed is not None:
                return printed
        if not isinstance(leaf, FromX) and k == self.operands.unit:
            inner = [part.name for part in leaves(leaf.of) if isinstance(part, Quantity)]
            if all(name in self.computations for name in inner):
                return self._computation(leaf.of).numeral
        return self._given(text(entry(leaf, k, self.operands.notation)), value, places)

    def _factors(
        self, leaf: Weighted, k: int, weight: float, value: float, places: int
    ) -> tuple[Numeral, Numeral]:
        """A weight and the number that it multiplies, each with its digits."""
        parameter, row = self.place(leaf)
        weight_places, value_places = self.ruler.factor_places(weight, value, places)
        if self.multiplies_states(leaf):
            value_places = self._places_of_state(weight, value)
        return (
            self._given(f"{parameter}[{row}, {k}]", weight, weight_places),
            self._factor(leaf, k, value, value_places),
        )

    def multiplies_states(self, leaf: Weighted) -> bool:
        """Whether a matrix multiplies states of the step before, or of the layer below."""
        if isinstance(leaf, FromX):
            return self.operands.stacked
        return isinstance(leaf.of, Previous)

    def _places_of_state(self, weight: float, value: float) -> int:
        """Decimals of a state that a weight multiplies: those of every state, and more where the
        weight is above 1."""
        ruler = self.ruler.of_states
        return (
            ruler.factor_places(weight, value, ruler.places)[1]
            if abs(weight) > 1
            else (ruler.natural(value))
        )

    def _dot(self, leaf: Weighted, weights: list[float], inputs: list[float], ruler: Ruler) -> Dot:
        if leaf not in self.dots:
            terms: tuple[tuple[int, DotTerm], ...]
            remainder: Numeral | None = None
            if len(weights) <= self.printed.written_out:
                written = self.ruler.dot(self._all_factors(leaf, weights, inputs))
                terms = tuple(enumerate(written))
            else:
                terms, remainder = self._largest(leaf, weights, inputs)
            addends = [term.product for _, term in terms]
            addends += [] if remainder is None else [remainder]
            total = addends[0]  # the only product is not rounded again
            if len(addends) > 1:
                total = ruler.total([(False, addend) for addend in addends])
            name, row = self.place(leaf)
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

    def _all_factors(
        self, leaf: Weighted, weights: list[float], inputs: list[float]
    ) -> list[tuple[Numeral, Numeral]]:
        pairs = list(zip(weights, inputs, strict=True))
        sizes = [abs(weight * value) for weight, value in pairs]
        largest = self.ruler.natural(max(filter(math.isfinite, sizes), default=0.0))
        return [
            self._factors(leaf, k, weight, value, max(largest, self.ruler.natural(size)))
            for k, ((weight, value), size) in enumerate(zip(pairs, sizes, strict=True))
        ]

    def _largest(
        self, leaf: Weighted, weights: list[float], inputs: list[float]
    ) -> tuple[tuple[tuple[int, DotTerm], ...], Numeral]:
        products = [w * x for w, x in zip(weights, inputs, strict=True)]
        order = sorted(range(len(products)), key=lambda k: -_size(products[k]))
        chosen, smaller = order[:LARGEST], order[LARGEST:]
        ruler = self.ruler
        truth = math.fsum(products) if all(map(math.isfinite, products)) else sum(products)
        places = max(ruler.natural(truth), ruler.natural(products[chosen[0]]))
        terms = []
        for k in chosen:
            weight, value = self._factors(leaf, k, weights[k], inputs[k], places)
            numeral = ruler.product(weight, value)
            terms.append((k, DotTerm(weight, value, numeral)))
        remainder = ruler.to(sum(products[k] for k in smaller), places)
        return tuple(terms), remainder

    def place(self, leaf: Weighted) -> tuple[str, int]:
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
