"""One unit at one step of a cell, worked by hand: every equation as a tree of printed numbers.

Truth is float64 arithmetic on the weights, input and states as they were used; what is printed
keeps to ``arithmetic``. Everything derives from the cell's declaration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor
from torch.nn.functional import linear

from rnnscope._explain.digits import Dotted, Node, Ruler, Shown
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
    Call,
    Code,
    Notation,
    Shape,
    Symbol,
    Times,
    Total,
    summands,
    text,
)
from rnnscope.errors import DeclarationError

__all__ = ["Dot", "Hand", "Site", "expressions", "needed", "tabled"]

WRITTEN_OUT = 8
"""Up to so many products are written out."""
LARGEST = 3
"""So many are shown of more."""


@dataclass(frozen=True)
class Site:
    """One unit at one step of one sequence, and all that goes into it, in float64.

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

    @cached_property
    def notation(self) -> Notation:
        """How its equations are written, with the step's number."""
        bias = self.weights.b_ih is not None
        return Notation(bias=bias, reverse=self.reverse, element=True, step=self.step)

    @cached_property
    def everything(self) -> _EveryUnit:
        """Every unit's numbers, which matrix products of other than x and h need."""
        return _EveryUnit(self)


class _EveryUnit:
    """The environment of ``evaluate`` for all units of a site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.found: dict[str, Tensor] = {}

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        match leaf:
            case Quantity(name):
                if name not in self.found:
                    self.found[name] = evaluate(self.site.cell.equations[name], self)
                return self.found[name]
            case Previous(name):
                return self.site.before[name]
            case Vector(name):
                if name not in self.site.vectors:
                    raise DeclarationError(
                        f"cell {self.site.cell.name} uses the parameter {name}, and the layer "
                        f"has none of that name"
                    )
                return self.site.vectors[name]

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        found = [linear(self.vector(leaf), *self.matrix(leaf)) for leaf in leaves]
        return sum(found[1:], found[0])

    def vector(self, leaf: Weighted) -> Tensor:
        """What a matrix is applied to."""
        return self.site.x if isinstance(leaf, FromX) else evaluate(leaf.of, self)

    def matrix(self, leaf: Weighted) -> tuple[Tensor, Tensor | None]:
        """Matrix and bias."""
        weights = self.site.weights
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
    ``rest`` is then the sum of the ``others``, and None where there are none.
    """

    leaf: Weighted
    symbol: Shape
    weight: str
    row: int
    size: int
    total: Shown
    terms: tuple[tuple[int, Dotted], ...]
    rest: Shown | None
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
    def nothing(self) -> bool:
        """Whether the vector is a state that is zero, as h_0 is where none was given."""
        return _of_state(self.leaf) and all(each.input.truth == 0 for _, each in self.terms)

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
    found: dict[str, Expr] = dict(cell.equations)
    for name, equation in cell.equations.items():
        for leaf in leaves(equation):
            part = part_name(leaf)
            if part is not None:
                found.setdefault(part, leaf)
        if isinstance(equation, Apply):
            found[f"{name}_pre"] = equation.argument
    return found


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
    found = {name}
    waiting = [name]
    known = expressions(cell)
    while waiting:
        for used in _beside(known[waiting.pop()]):
            if used not in found:
                found.add(used)
                waiting.append(used)
    return [each for each in known if each in found]


def tabled(cell: Cell, names: Iterable[str]) -> list[str]:
    """Gates that are a function of the same affine parts, if two or more: a table's rows."""
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


class Hand:
    """The equations of a site as trees of printed numbers.

    ``apart`` names the gates whose matrix products are given as one number each, to be shown
    apart; products of a single term are otherwise written in the equation. ``carried`` are
    states before as they were printed, ``listed`` weights as they were printed, ``own`` the
    trace's values, which will be printed beside.
    """

    def __init__(
        self,
        site: Site,
        ruler: Ruler,
        names: Iterable[str],
        apart: Iterable[str] = (),
        carried: Mapping[str, Shown] | None = None,
        listed: Mapping[str, Shown] | None = None,
        own: Mapping[str, float] | None = None,
    ) -> None:
        self.site = site
        self.ruler = ruler
        self.carried = dict(carried or {})
        self.listed = listed
        self.own = dict(own or {})
        self.nodes: dict[str, Node] = {}
        self.dots: dict[Expr, Dot] = {}
        self.singles: dict[str, Shown] = {}  # weights that stand alone in an equation
        self._apart = False
        known, wanted, apart = expressions(site.cell), set(names), set(apart)
        for name, expr in known.items():
            if name in wanted:
                self._apart = name in apart
                self.nodes[name] = self._node(expr)

    def faithful(self, results: Iterable[str]) -> bool:
        """Whether the results are printed as their true values rounded, and all else nearly."""
        strict = set(results)
        return all(
            self.ruler.faithful(node.shown, 0.501 if name in strict else 1.501)
            and (name not in strict or self._as_own(name))
            for name, node in self.nodes.items()
        )

    def _as_own(self, name: str) -> bool:
        """Whether a result has the digits of the trace's value, where they agree so far."""
        shown = self.nodes[name].shown
        own = self.own.get(name, shown.truth)
        return shown.places is None or (
            abs(own - shown.truth) > shown.unit / 10
            or self.ruler.to(own, shown.places).text == shown.text
        )

    def _node(self, expr: Expr) -> Node:
        ruler, symbolic = self.ruler, self.site.notation.shape(expr)
        match expr:
            case Number(number):
                return Node(symbolic, ruler.given(number))
            case Quantity(name):
                return Node(symbolic, self.nodes[name].shown)
            case Previous(name):
                return Node(symbolic, self._state(name, self.site.unit))
            case Vector(name):
                value = self.site.everything.value(expr)
                return Node(symbolic, ruler.given(float(value[self.site.unit])))
            case FromX() | FromH() | Project():
                parts = self._affine(expr)
                return parts[0] if len(parts) == 1 else self._sum([(False, p) for p in parts])
            case Apply(name, argument, given):
                inner = self._node(argument)
                shown = ruler.apply(expr.function, inner.shown)
                return Node(symbolic, shown, (inner,), lambda found: Call(name, found[0], given))
            case Product(left, right):
                children = self._node(left), self._node(right)
                shown = ruler.product(children[0].shown, children[1].shown)
                return Node(symbolic, shown, children, lambda found: Times(found[0], found[1]))
            case Sum():
                terms: list[tuple[bool, Node]] = []
                for negative, term in summands(expr):
                    if isinstance(term, FromX | FromH | Project) and not negative:
                        terms += [(False, part) for part in self._affine(term)]
                    else:
                        terms.append((negative, self._node(term)))
                return self._sum(terms)
        raise TypeError(f"not an equation: {expr!r}")

    def _sum(self, terms: list[tuple[bool, Node]]) -> Node:
        signs = [negative for negative, _ in terms]
        children = tuple(node for _, node in terms)
        shown = self.ruler.total([(negative, node.shown) for negative, node in terms])

        def build(found: tuple[Shape, ...]) -> Shape:
            return Total(tuple(zip(signs, found, strict=True)))

        return Node(build(tuple(child.symbolic for child in children)), shown, children, build)

    def _state(self, name: str, unit: int) -> Shown:
        if name in self.carried and unit == self.site.unit:
            return self.carried[name]
        return self.ruler.given(float(self.site.before[name][unit]))

    def _affine(self, leaf: Weighted) -> list[Node]:
        """The product and, where there is one, the bias."""
        site = self.site
        everything = site.everything
        matrix, biases = everything.matrix(leaf)
        weights: list[float] = matrix[site.unit].tolist()
        inputs: list[float] = everything.vector(leaf).tolist()
        single = len(weights) == 1 and not self._apart
        if single:
            parts = [self._single(leaf, weights[0], inputs[0])]
        else:
            dot = self._dot(leaf, weights, inputs)
            parts = [Node(dot.symbol, dot.total)]
        symbol = site.notation.bias_of(leaf)
        if biases is not None and symbol is not None:
            value = float(biases[site.unit])
            shown = self._weight(symbol, value)
            if single:
                self.singles[text(symbol)] = shown
            parts.append(Node(symbol, shown, kept=self._kept(symbol)))
        return parts

    def _kept(self, symbol: Symbol) -> bool:
        return self.listed is not None and text(symbol) in self.listed

    def _weight(self, symbol: Symbol, value: float, places: int | None = None) -> Shown:
        if self.listed is not None and text(symbol) in self.listed:
            return self.listed[text(symbol)]
        return self.ruler.given(value, places)

    def _single(self, leaf: Weighted, weight: float, value: float) -> Node:
        """A product of one weight and one number, written in the equation."""
        act = self.site.notation.product(leaf)
        assert isinstance(act.matrix, Symbol)
        left, right = self.ruler.factors(weight, value)
        left = self._weight(act.matrix, weight, left.places)
        self.singles[text(act.matrix)] = left
        if isinstance(leaf, FromH) and isinstance(leaf.of, Previous):
            right = self.carried.get(leaf.of.name, right)
        elif not isinstance(leaf, FromX):
            right = self._node(leaf.of).shown
        children = (
            Node(act.matrix, left, kept=self._kept(act.matrix)),
            Node(act.vector, right),
        )
        shown = self.ruler.product(left, right)
        return Node(act, shown, children, lambda found: Times(found[0], found[1]))

    def _dot(self, leaf: Weighted, weights: list[float], inputs: list[float]) -> Dot:
        if leaf not in self.dots:
            if len(weights) <= WRITTEN_OUT:
                total, written = self.ruler.dot(weights, inputs)
                terms, rest = tuple(enumerate(written)), None
            else:
                total, terms, rest = self._largest(weights, inputs)
            name, row = self._place(leaf)
            symbol = self.site.notation.product(leaf)
            self.dots[leaf] = Dot(
                leaf, symbol, name, row, len(weights), total, terms, rest, self.site.notation
            )
        return self.dots[leaf]

    def _largest(
        self, weights: list[float], inputs: list[float]
    ) -> tuple[Shown, tuple[tuple[int, Dotted], ...], Shown]:
        products = [w * x for w, x in zip(weights, inputs, strict=True)]
        order = sorted(range(len(products)), key=lambda k: -_size(products[k]))
        chosen, others = order[:LARGEST], order[LARGEST:]
        ruler = self.ruler
        truth = math.fsum(products) if all(map(math.isfinite, products)) else sum(products)
        places = max(ruler.natural(truth), ruler.natural(products[chosen[0]]))
        found = []
        for k in chosen:
            left, right = ruler.factors(weights[k], inputs[k], places)
            shown = ruler.result(products[k], left.value * right.value, 10.0**-places)
            found.append((k, Dotted(left, right, shown)))
        rest = ruler.to(sum(products[k] for k in others), places)
        parts = [(False, each.product) for _, each in found]
        return ruler.total([*parts, (False, rest)]), tuple(found), rest

    def _place(self, leaf: Weighted) -> tuple[str, int]:
        """The stacked parameter and its row."""
        weights, unit = self.site.weights, self.site.unit
        match leaf:
            case FromX(gate):
                return f"weight_ih{weights.suffix}", weights.rows(gate).start + unit
            case FromH(gate):
                return f"weight_hh{weights.suffix}", weights.rows(gate).start + unit
            case Project():
                return f"weight_hr{weights.suffix}", unit


def _size(product: float) -> float:
    return math.inf if math.isnan(product) else abs(product)
