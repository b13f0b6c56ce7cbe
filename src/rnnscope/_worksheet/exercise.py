"""The exercise: every equation of every step as a line with blanks, and what belongs in them.

It derives from the cell's declaration, as everything does; the numbers are those of ``paper``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from torch import Tensor

from rnnscope._layers.sequences import running_order
from rnnscope._layers.structure import Weights
from rnnscope._record.traced import Traced
from rnnscope._worksheet.paper import Paper
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
)
from rnnscope.cells.notation import (
    Digits,
    FunctionCall,
    Notation,
    Shape,
    Symbol,
    Times,
    Total,
    summands,
    text,
)
from rnnscope.errors import ShapeError

__all__ = ["BLANK", "Exercise", "Line", "SheetSection", "SheetStep", "exercise"]

MOST = 600
"""Blanks of a sheet."""
WIDEST = 10
"""Products of one sum."""
BLANK = ("\ue000", "\ue001")
"""What stands around the number of a blank in a line."""


@dataclass(frozen=True)
class Line:
    """symbol = stage = stage: each stage as text, in which a blank is its number between marks."""

    symbol: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class SheetStep:
    """One step of a direction: what goes in, and its lines."""

    time: int
    input_text: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class SheetSection:
    """One layer in one direction: what it reads and starts from, its weights, its steps.

    ``columns`` head the weights, a row of which is one gate of one unit: the parameter, and what
    its column is multiplied with.
    """

    layer: int
    direction: str
    source: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    projection: tuple[tuple[str, ...], ...]
    starts: tuple[str, ...]
    steps: tuple[SheetStep, ...]
    states: Mapping[tuple[str, int], tuple[Decimal, ...]]


@dataclass(frozen=True)
class Exercise:
    """All sections, with how many blanks they have."""

    digits: int
    sections: tuple[SheetSection, ...]
    blanks: int


@dataclass(frozen=True)
class _Node:
    """A part of an equation with its number: given, known by its symbol, or a blank."""

    value: Decimal
    shape: Shape
    parts: tuple[_Node, ...] = ()
    build: Callable[[tuple[Shape, ...]], Shape] | None = None

    @property
    def height(self) -> int:
        return 1 + max(part.height for part in self.parts) if self.parts else 0

    def at(self, depth: int) -> Shape:
        if self.build is None:
            return self.shape
        if self.height <= depth:
            return blank(self.value)
        return self.build(tuple(part.at(depth) for part in self.parts))

    @property
    def stages(self) -> list[Shape]:
        if not self.height:
            return [self.shape, blank(self.value)]
        return [self.at(depth) for depth in range(self.height + 1)]


def blank(value: Decimal) -> Shape:
    """A blank, in which a number belongs."""
    return Digits(f"{BLANK[0]}{value}{BLANK[1]}")


def _columns(matrix: Tensor) -> range:
    return range(matrix.shape[1])


def _entry(vector: str, k: int, matrix: Tensor) -> str:
    return vector if matrix.shape[1] == 1 else f"{vector}[{k}]"


def given(digits: str) -> Shape:
    """A number that is printed; where it is negative with its sign in parentheses, so that a box
    below it holds the sign too."""
    return Digits(f"(\u2212{digits[1:]})" if digits.startswith("-") else digits)


def exercise(trace: Traced, digits: int) -> Exercise:
    """The exercise of the only sequence of a trace, whose weights are rounded to ``digits``.

    Raises ``ShapeError`` where it would not be readable, ``DeclarationError`` where a cell uses a
    function that no pocket calculator has.
    """
    paper = Paper(digits)
    _check_size(trace)
    length = int(trace.lengths[0])
    vectors: list[list[Decimal]] = [
        [paper.number(value) for value in step]
        for step in trace.layer_input(0)[0, :length].double().tolist()
    ]
    sections: list[SheetSection] = []
    for layer in range(trace.structure.num_layers):
        outputs: list[list[Decimal]] = [[] for _ in range(length)]
        for d in range(len(trace.directions)):
            part = _Part(trace, paper, layer, d, vectors)
            sections.append(part.section())
            for time in range(length):
                outputs[time] += part.states["h", time]
        vectors = outputs
    blanks = sum(
        stage.count(BLANK[0])
        for section in sections
        for step in section.steps
        for line in step.lines
        for stage in line.stages
    )
    if blanks > MOST:
        raise ShapeError(
            f"a sheet with {blanks:,} blanks cannot be read; the most is {MOST}. Give fewer steps, "
            f"units, layers or directions"
        )
    return Exercise(digits, tuple(sections), blanks)


def _check_size(trace: Traced) -> None:
    structure = trace.structure
    if trace.call.batch != 1:
        raise ShapeError(f"a worksheet is about one sequence; the input has {trace.call.batch}")
    widest = max(structure.feature_size(layer) for layer in range(structure.num_layers))
    size = widest + structure.output_size
    if size > WIDEST:
        raise ShapeError(
            f"a sum of {size} products in a line cannot be read: {widest} numbers go in, and "
            f"{structure.output_size} states; the most is {WIDEST}. Give fewer units or features"
        )
    lines = int(trace.lengths[0]) * len(trace.cell.equations) * structure.hidden_size
    if lines * structure.num_layers * len(structure.directions) > MOST:
        raise ShapeError(
            f"a sheet of more than {MOST} lines cannot be read. Give fewer steps, units, layers or "
            f"directions"
        )


@dataclass
class _Part:
    """One layer in one direction, worked step by step with the numbers as they were written."""

    trace: Traced
    paper: Paper
    layer: int
    d: int
    vectors: list[list[Decimal]]
    states: dict[tuple[str, int], list[Decimal]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights: Weights = self.trace.weights[self.layer][self.d]
        self.reverse = self.trace.directions[self.d] == "reverse"
        self.values: dict[str, list[Decimal]] = {}
        self.before: dict[str, list[Decimal]] = {
            state: [
                self.paper.number(value)
                for value in self.trace.call.initial[state][self.layer, self.d, 0].tolist()
            ]
            for state in self.trace.cell.states
        }

    def units(self, name: str) -> int:
        """Units of a quantity."""
        return self.trace.structure.state_size(name)

    def section(self) -> SheetSection:
        """The part as it is printed."""
        starts = tuple(self._starts())
        times = running_order(range(len(self.vectors)), self.reverse)
        steps = tuple(self._step(time) for time in times)
        columns, rows = self._weights()
        frozen = {key: tuple(values) for key, values in self.states.items()}
        direction = self.trace.directions[self.d]
        return SheetSection(
            *(self.layer, direction, self._source(), columns, rows),
            self._projection(),
            starts,
            steps,
            frozen,
        )

    def _source(self) -> str:
        if self.layer == 0:
            return ""
        size = self.trace.structure.output_size
        if len(self.trace.directions) == 1:
            return f"x_t of this layer is h_t of layer {self.layer - 1}"
        forward = "x_t[0]" if size == 1 else f"x_t[0] to x_t[{size - 1}]"
        reverse = "x_t[1]" if size == 1 else f"x_t[{size}] to x_t[{2 * size - 1}]"
        below = self.layer - 1
        return f"{forward} is h_t of layer {below}, forward; {reverse} is h_t of its reverse"

    def _starts(self) -> Iterator[str]:
        place = len(self.vectors) + 1 if self.reverse else 0
        for state, values in self.before.items():
            numbers = list(map(self.paper.short, values))
            written = numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"
            yield f"{state}_{place} = {written}"

    def _step(self, time: int) -> SheetStep:
        self.x, self.values = self.vectors[time], {}
        self.notation = Notation(
            bias=self.weights.b_ih is not None, reverse=self.reverse, element=True, step=time + 1
        )
        lines = []
        for name, equation in self.trace.cell.equations.items():
            self.values[name] = []
            nodes = [self._node(equation, unit) for unit in range(self.units(name))]
            self.values[name] = [node.value for node in nodes]
            for unit, node in enumerate(nodes):
                symbol = text(self._symbol(name, self.notation.now, unit, self.units(name)))
                lines.append(Line(symbol, tuple(map(text, node.stages))))
        self.before = {state: self.values[state] for state in self.trace.cell.states}
        self.states |= {(state, time): self.values[state] for state in self.before}
        input_text = ""
        if self.layer == 0:
            numbers = list(map(self.paper.short, self.x))
            written = numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"
            input_text = f"x_{time + 1} = {written}"
        return SheetStep(time, input_text, tuple(lines))

    def _symbol(self, name: str, index: str, unit: int, units: int) -> Symbol:
        return Symbol(name, index, unit if units > 1 else None)

    def _node(self, expr: Expr, unit: int) -> _Node:
        match expr:
            case Number(number):
                value = Decimal(repr(number))
                return _Node(value, Digits(f"{number:g}"))
            case Quantity(name):
                symbol = self._symbol(name, self.notation.now, unit, self.units(name))
                return _Node(self.values[name][unit], symbol)
            case Previous(name):
                symbol = self._symbol(name, self.notation.before, unit, self.units(name))
                return _Node(self.before[name][unit], symbol)
            case Vector(name):
                return self._given(self.weights.vectors[name][unit])
            case FromX() | FromH() | Project():
                return self._sum([(False, term) for term in self._affine(expr, unit)])
            case Apply(name, argument, custom):
                inner = self._node(argument, unit)
                value = self.paper.apply(name, inner.value)
                return _Node(
                    value,
                    inner.shape,
                    (inner,),
                    lambda parts: FunctionCall(name, parts[0], custom),
                )
            case Product(left, right):
                return self._product(self._node(left, unit), self._node(right, unit))
            case Sum():
                terms: list[tuple[bool, _Node]] = []
                for negative, term in summands(expr):
                    if isinstance(term, Weighted) and not negative:
                        terms += [(False, part) for part in self._affine(term, unit)]
                    else:
                        terms.append((negative, self._node(term, unit)))
                return self._sum(terms)
        raise TypeError(f"not an equation: {expr!r}")

    def _given(self, value: Tensor) -> _Node:
        number = self.paper.number(float(value))
        return _Node(number, given(f"{number:f}"))

    def _affine(self, leaf: Weighted, unit: int) -> list[_Node]:
        """The products of a row of a matrix, and its bias."""
        biases: Tensor | None = None
        match leaf:
            case FromX(gate):
                matrix, biases = self.weights.of_x(gate)
                factors = [self._input(k) for k in range(len(self.x))]
            case FromH(gate, of):
                matrix, biases = self.weights.of_h(gate)
                factors = [self._node(of, k) for k in range(matrix.shape[1])]
            case Project(of):
                matrix = self.weights.projection
                factors = [self._node(of, k) for k in range(matrix.shape[1])]
        row = matrix[unit]
        nodes = [self._product(self._given(w), x) for w, x in zip(row, factors, strict=True)]
        return nodes if biases is None else [*nodes, self._given(biases[unit])]

    def _input(self, k: int) -> _Node:
        if self.layer == 0:
            return _Node(self.x[k], given(self.paper.short(self.x[k])))
        return _Node(self.x[k], self._symbol("x", self.notation.now, k, len(self.x)))

    def _product(self, left: _Node, right: _Node) -> _Node:
        value = self.paper.product(left.value, right.value)
        return _Node(value, left.shape, (left, right), lambda parts: Times(parts[0], parts[1]))

    def _sum(self, terms: list[tuple[bool, _Node]]) -> _Node:
        if len(terms) == 1 and not terms[0][0]:
            return terms[0][1]
        signs = [negative for negative, _ in terms]
        nodes = tuple(node for _, node in terms)
        value = self.paper.total([(negative, node.value) for negative, node in terms])

        def build(parts: tuple[Shape, ...]) -> Shape:
            return Total(tuple(zip(signs, parts, strict=True)))

        return _Node(value, nodes[0].shape, nodes, build)

    # the table of weights --------------------------------------------------------------------

    def _weights(self) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, ...], ...]]:
        weights, cell, suffix = self.weights, self.trace.cell, self.weights.suffix
        before = "h_(t+1)" if self.reverse else "h_(t-1)"
        columns = [
            (f"weight_ih{suffix}", _entry("x_t", k, weights.ih)) for k in _columns(weights.ih)
        ]
        columns += [
            (f"weight_hh{suffix}", _entry(before, k, weights.hh)) for k in _columns(weights.hh)
        ]
        if weights.b_ih is not None:
            columns += [(f"bias_ih{suffix}", ""), (f"bias_hh{suffix}", "")]
        rows = []
        for gate in cell.gates:
            for unit in range(weights.hidden_size):
                numbers = self._row(gate, unit)
                label = gate if weights.hidden_size == 1 else f"{gate}, unit {unit}"
                rows.append((label, *numbers))
        for name, vector in weights.vectors.items():
            columns_left = [""] * (len(columns) - 1)
            for unit, value in enumerate(vector):
                label = name if len(vector) == 1 else f"{name}, unit {unit}"
                rows.append((label, self._written(value), *columns_left))
        return tuple(columns), tuple(rows)

    def _row(self, gate: str, unit: int) -> list[str]:
        weights, cell = self.weights, self.trace.cell
        used = gate in cell.gates_from_x, gate in cell.gates_from_h
        parts: list[Any] = [(weights.of_x(gate)[0], used[0]), (weights.of_h(gate)[0], used[1])]
        numbers = [
            self._written(value) if is_used else ""
            for matrix, is_used in parts
            for value in matrix[unit]
        ]
        for (_, biases), is_used in zip(
            (weights.of_x(gate), weights.of_h(gate)), used, strict=True
        ):
            if biases is not None:
                numbers.append(self._written(biases[unit]) if is_used else "")
        return numbers

    def _projection(self) -> tuple[tuple[str, ...], ...]:
        if self.weights.hr is None:
            return ()
        return tuple(
            (f"h, unit {unit}", *map(self._written, row))
            for unit, row in enumerate(self.weights.hr)
        )

    def _written(self, value: Tensor) -> str:
        return f"{self.paper.number(float(value)):f}"
