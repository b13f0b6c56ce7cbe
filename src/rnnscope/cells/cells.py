"""The cells, each declared once, as in PyTorch's documentation, and what declares one's own.

Text, LaTeX, values, error bounds and explanations all derive from these declarations. A cell of
one's own is written in the same words, and run by ``rnnscope.Recurrent``; here the recurrent
network of leaky units in continuous time, τ h' = -h + tanh(W x + U h), by Euler's steps of dt:

>>> from rnnscope.cells import Cell, from_h, from_x, previous, quantity, tanh
>>> dt_by_tau = 0.1
>>> leaky = Cell(
...     name="leaky",
...     gates="n",
...     equations={
...         "n": tanh(from_x("n") + from_h("n")),
...         "h": (1 - dt_by_tau) * previous("h") + dt_by_tau * quantity("n"),
...     },
... )
>>> leaky.states
('h',)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any

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
    Vector,
    asked_together,
    leaves,
    linear_recurrence,
    ordered,
)
from rnnscope.cells.functions import FUNCTIONS, Function
from rnnscope.errors import DeclarationError


def apply(function: str | Function, argument: Expr) -> Expr:
    """function(argument), elementwise: by a name such as "softsign" or "leaky_relu(0.01)", or a
    ``Function`` of one's own.

    >>> apply("leaky_relu(0.01)", from_x("h") + from_h("h")).name
    'leaky_relu(0.01)'

    Raises ``DeclarationError`` for an unknown name, and tells all that there are.
    """
    if isinstance(function, Function):
        has_name = function.name in FUNCTIONS and FUNCTIONS[function.name] is function
        return Apply(function.name, argument, None if has_name else function)
    return Apply(function, argument)


def sigmoid(argument: Expr) -> Expr:
    """σ(argument).

    >>> sigmoid(from_x("z") + from_h("z")) == GRU.equations["z"]
    True
    """
    return Apply("sigmoid", argument)


def tanh(argument: Expr) -> Expr:
    """tanh(argument).

    >>> tanh(from_x("h") + from_h("h")) == RNN_TANH.equations["h"]
    True
    """
    return Apply("tanh", argument)


def relu(argument: Expr) -> Expr:
    """max(argument, 0).

    >>> relu(from_x("h") + from_h("h")) == RNN_RELU.equations["h"]
    True
    """
    return Apply("relu", argument)


def quantity(name: str) -> Expr:
    """A quantity of the same step, computed by an equation above.

    >>> quantity("o") * tanh(quantity("c")) == LSTM.equations["h"]
    True
    """
    return Quantity(name)


def previous(name: str) -> Expr:
    """A quantity's value at the step before, which makes it a state.

    >>> keeps = {"h": from_x("h") + previous("h")}
    >>> Cell("sum", "h", keeps).states
    ('h',)
    """
    return Previous(name)


def vector(name: str) -> Expr:
    """A parameter with one number per unit, such as a peephole's weights.

    >>> own = {"h": tanh(from_x("h") + vector("u") * previous("h"))}
    >>> Cell("independent units", "h", own).vectors
    ('u',)
    """
    return Vector(name)


def from_x(gate: str) -> Expr:
    """W_ik x_t + b_ik, the input's part of gate k.

    >>> Cell("memoryless", "n", {"h": tanh(from_x("n"))}).parts
    ('n_from_x', 'h_pre')
    """
    return FromX(gate)


def from_h(gate: str, of: Expr | None = None) -> Expr:
    """W_hk h_(t-1) + b_hk, the state's part of gate k; ``of`` replaces h_(t-1).

    >>> after = tanh(from_x("n") + quantity("r") * from_h("n"))
    >>> before = tanh(from_x("n") + from_h("n", quantity("r") * previous("h")))
    >>> after == GRU.equations["n"], before == GRU_RESET_BEFORE.equations["n"]
    (True, True)
    """
    return FromH(gate) if of is None else FromH(gate, of)


def project(of: Expr) -> Expr:
    """W_hr of, the projection of an LSTM with ``proj_size``.

    >>> project(quantity("m")) == LSTM_PROJECTED.equations["h"]
    True
    """
    return Project(of)


@dataclass(frozen=True, eq=False)
class Cell:
    """One step of a recurrent layer, as equations.

    ``gates`` names the blocks of rows in the stacked weights, in PyTorch's order.
    ``equations`` maps each quantity to its expression, in the order in which they are
    computed; the one named ``h`` is what the layer hands on. A state is a quantity whose
    value at the step before some equation uses. ``words`` says what a quantity is, in a word.

    >>> from rnnscope.cells import Cell, from_h, from_x, tanh
    >>> elman = Cell(name="Elman", gates="h", equations={"h": tanh(from_x("h") + from_h("h"))})
    >>> elman.states, elman.parts
    (('h',), ('h_from_x', 'h_from_h', 'h_pre'))

    Raises ``DeclarationError`` where an equation uses a quantity that is not computed before
    it, a gate that is not named, or where there is no ``h``.
    """

    name: str
    gates: tuple[str, ...] | str
    equations: Mapping[str, Expr]
    words: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    departures: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "gates", tuple(self.gates))
        object.__setattr__(self, "equations", MappingProxyType(dict(self.equations)))
        object.__setattr__(self, "words", MappingProxyType(dict(self.words)))
        if "h" not in self.equations:
            raise DeclarationError(
                f"cell {self.name}: no equation for h, which the layer hands on; "
                f"got {', '.join(self.equations) or 'none'}"
            )
        for name in self.gates:
            if not name.isidentifier():
                raise DeclarationError(
                    f"cell {self.name}: {name!r} cannot name a gate; write a word of letters, "
                    f"digits and _"
                )
        for name in self.equations:
            if not name.isidentifier() or name == "x":
                raise DeclarationError(
                    f"cell {self.name}: {name!r} cannot name a quantity; write a word of letters, "
                    f"digits and _, other than x, which is the layer's input"
                )
        above: set[str] = set()
        for name, equation in self.equations.items():
            self._check(name, equation, above)
            above.add(name)

    def _check(self, name: str, equation: Expr, above: set[str]) -> None:
        for leaf in leaves(equation):
            match leaf:
                case Quantity("x") | Previous("x"):
                    raise DeclarationError(
                        f"cell {self.name}: the equation of {name} uses x itself, which has a "
                        f"number for each feature and not for each unit; write from_x(k) with a "
                        f"gate k of its own"
                    )
                case Quantity(used) if used not in above:
                    raise DeclarationError(
                        f"cell {self.name}: the equation of {name} uses {used}, which is not "
                        f"computed before it; move the equation of {used} up, or write "
                        f"previous({used!r}) for its value at the step before"
                    )
                case Previous(used) if used not in self.equations:
                    raise DeclarationError(
                        f"cell {self.name}: the equation of {name} uses {used} of the step "
                        f"before, which no equation computes"
                    )
                case FromX(gate) | FromH(gate) if gate not in self.gates:
                    raise DeclarationError(
                        f"cell {self.name}: the equation of {name} uses the weights of gate "
                        f"{gate}; gates is {''.join(self.gates)!r}"
                    )
                case FromH(_, of) | Project(of) if all(isinstance(e, Number) for e in leaves(of)):
                    raise DeclarationError(
                        f"cell {self.name}: the equation of {name} multiplies a matrix with a "
                        f"number; a matrix is multiplied with a quantity, as in "
                        f"from_h(k, quantity('r') * previous('h'))"
                    )

    def with_functions(self, functions: Mapping[str, str | Function]) -> Cell:
        """The same cell with other activations: of gates, or of a state's one function.

        >>> hard = LSTM.with_functions({k: "hard_sigmoid(0.2, 0.5)" for k in "ifo"})
        >>> hard.equations["i"].name
        'hard_sigmoid(0.2, 0.5)'
        >>> LSTM.with_functions({"h": "softsign"}).departures.partition("; ")[0]
        'h by softsign'

        Raises ``DeclarationError`` for a quantity that there is not, or whose equation has no
        function or more than one.
        """
        equations = dict(self.equations)
        for name, function in functions.items():
            if name not in equations:
                raise DeclarationError(
                    f"cell {self.name} computes no {name!r}; it has {', '.join(equations)}"
                )
            equations[name], count = _with_function(equations[name], function)
            if count != 1:
                raise DeclarationError(
                    f"cell {self.name}: the equation of {name} has {count or 'no'} function"
                    f"{'s' * (count > 1)}; one can be replaced"
                )
        if all(equations[name] == self.equations[name] for name in functions):
            return self
        words = [
            f"{name} by {function.name if isinstance(function, Function) else function}"
            for name, function in functions.items()
        ]
        departures = "; ".join([", ".join(words), *([self.departures] if self.departures else [])])
        return replace(self, equations=equations, departures=departures)

    # a cell is never changed: a copy of a model, or a pickled one, has the same

    def __copy__(self) -> Cell:
        return self

    def __deepcopy__(self, _: Any) -> Cell:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        for name, cell in DECLARED.items():
            if cell is self:
                return _declared, (name,)
        facts = (dict(self.equations), dict(self.words), self.source, self.departures)
        return Cell, (self.name, self.gates, *facts)

    @cached_property
    def states(self) -> tuple[str, ...]:
        """The quantities carried from step to step; h first."""
        used = {
            leaf.name
            for equation in self.equations.values()
            for leaf in leaves(equation)
            if isinstance(leaf, Previous)
        }
        return ("h", *(name for name in self.equations if name in used - {"h"}))

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """Gates and states, in the order of the equations."""
        return tuple(self.equations)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """``k_from_x`` and ``k_from_h`` of each gate, and ``k_pre``, its activation's argument."""
        names: list[str] = []
        for name, equation in self.equations.items():
            for leaf in leaves(equation):
                part = part_name(leaf)
                if part is not None and part not in names:
                    names.append(part)
            if isinstance(equation, Apply):
                names.append(f"{name}_pre")
        return tuple(names)

    @cached_property
    def stepwise(self) -> bool:
        """Whether a state other than h enters the next step in another way than as factor × state
        + what is added, so that its steps are computed one after the other.

        >>> LSTM.stepwise, LSTM_PEEPHOLE.stepwise
        (False, True)
        """
        for name, equation in self.equations.items():
            carried = {leaf.name for leaf in leaves(equation) if isinstance(leaf, Previous)} - {"h"}
            split = linear_recurrence(equation, name) if carried == {name} else None
            parts = [leaf for part in split or () for leaf in leaves(part)]
            if carried and (split is None or any(leaf == Previous(name) for leaf in parts)):
                return True
        return False

    @cached_property
    def gates_from_x(self) -> tuple[str, ...]:
        """The gates whose equations use W_ik x + b_ik, in the order of the gates."""
        used = self._gates_of(FromX)
        return tuple(gate for gate in self.gates if gate in used)

    @cached_property
    def gates_from_h(self) -> tuple[str, ...]:
        """The gates whose equations use W_hk h + b_hk, of h or of what is in its place."""
        used = self._gates_of(FromH)
        return tuple(gate for gate in self.gates if gate in used)

    def _gates_of(self, kind: type[FromX] | type[FromH]) -> set[str]:
        return {
            leaf.gate
            for equation in self.equations.values()
            for leaf in leaves(equation)
            if isinstance(leaf, kind)
        }

    @cached_property
    def vectors(self) -> tuple[str, ...]:
        """Names of the parameters with one number per unit."""
        names = (
            leaf.name
            for equation in self.equations.values()
            for leaf in leaves(equation)
            if isinstance(leaf, Vector)
        )
        return tuple(dict.fromkeys(names))

    def range(self, name: str) -> tuple[float, float] | None:
        """The smallest and the largest value that a quantity can have, where its functions tell
        it; None where they do not.

        >>> LSTM.range("f"), LSTM.range("h"), LSTM.range("c")
        ((0.0, 1.0), (-1.0, 1.0), None)
        """
        return self._ranges[name]

    @cached_property
    def _ranges(self) -> dict[str, tuple[float, float] | None]:
        ranges: dict[str, tuple[float, float] | None] = {}
        for name, equation in self.equations.items():
            ranges[name] = self._range(equation, ranges)
        return ranges

    def _range(
        self, expr: Expr, above: Mapping[str, tuple[float, float] | None]
    ) -> tuple[float, float] | None:
        match expr:
            case Apply():
                return expr.function.range
            case Quantity(name):
                return above[name]
            case Product(left, right):
                first, second = self._range(left, above), self._range(right, above)
                if first is not None and second is not None:
                    corners = [a * b for a in first for b in second]
                    return min(corners), max(corners)
        return None

    @cached_property
    def projected(self) -> bool:
        """Whether h is a projection (W_hr), so that it has its own size."""
        return any(
            isinstance(leaf, Project)
            for equation in self.equations.values()
            for leaf in leaves(equation)
        )

    @cached_property
    def affine(self) -> tuple[Affine, ...]:
        """What x and h say to each gate, and how the equations ask for it."""
        expressions = tuple(self.equations.values())
        groups = [group for equation in expressions for group in asked_together(equation)]
        used = {leaf for equation in expressions for leaf in leaves(equation)}
        by_gate = []
        for gate in self.gates:
            x, h = FromX(gate), FromH(gate)
            gate_groups = [
                g for g in groups if any(not isinstance(e, Project) and e.gate == gate for e in g)
            ]
            summed = bool(gate_groups) and all(group == (x, h) for group in gate_groups)
            by_gate.append(
                Affine(gate, x if x in used else None, h if h in used else None, (x, h), summed)
            )
        return tuple(by_gate)


@dataclass(frozen=True)
class Affine:
    """The affine parts of a gate: ``x`` is W_ik x + b_ik and ``h`` is W_hk h_(t-1) + b_hk, None
    where no equation uses it; ``summed``: equations ask for their sum only, as ``both``."""

    gate: str
    x: FromX | None
    h: FromH | None
    both: tuple[FromX, FromH]
    summed: bool


def _declared(name: str) -> Cell:
    return DECLARED[name]


def _with_function(expr: Expr, function: str | Function) -> tuple[Expr, int]:
    """An equation with all its functions replaced by one, and how many there were; what a matrix
    is applied to stays as it is."""
    replaced: list[Expr] = []

    def change(expr: Expr) -> Expr | None:
        match expr:
            case Apply(_, argument):
                replaced.append(expr)
                return apply(function, argument.map(change))
            case FromH() | Project():
                return expr
        return None

    return expr.map(change), len(replaced)


def part_name(leaf: Expr) -> str | None:
    """The name under which a trace records an affine part; None for other leaves.

    >>> part_name(from_x("f")), part_name(previous("c"))
    ('f_from_x', None)
    """
    match leaf:
        case FromX(gate):
            return f"{gate}_from_x"
        case FromH(gate):
            return f"{gate}_from_h"
        case _:
            return None


@cache
def quantity_names(cell: Cell) -> tuple[str, ...]:
    """All that can be recorded of a cell: parts and quantities, in the order of the equations.

    >>> quantity_names(RNN_TANH)
    ('h_from_x', 'h_from_h', 'h_pre', 'h')
    """
    names: list[str] = []
    for name, equation in cell.equations.items():
        names += [p for leaf in leaves(equation) if (p := part_name(leaf)) and p not in names]
        if isinstance(equation, Apply):
            names.append(f"{name}_pre")
        names.append(name)
    return tuple(names)


i, f, g, o, c, r, z, n, m = (Quantity(name) for name in "ifgocrznm")
h_prev, c_prev = Previous("h"), Previous("c")

RNN_TANH = Cell(
    name="RNN",
    gates="h",
    equations={"h": tanh(from_x("h") + from_h("h"))},
    words={"h": "hidden state"},
    source="Elman 1990",
    departures="two biases, b_ih and b_hh, whose sum is all that counts",
)

RNN_RELU = Cell(
    name="RNN",
    gates="h",
    equations={"h": relu(from_x("h") + from_h("h"))},
    words={"h": "hidden state"},
    source="Elman 1990; relu as in Le, Jaitly and Hinton 2015",
    departures="two biases, b_ih and b_hh, whose sum is all that counts",
)

GRU = Cell(
    name="GRU",
    gates="rzn",
    equations={
        "r": sigmoid(from_x("r") + from_h("r")),
        "z": sigmoid(from_x("z") + from_h("z")),
        "n": tanh(from_x("n") + r * from_h("n")),
        "h": (1 - z) * n + z * h_prev,
    },
    words={"r": "reset", "z": "update", "n": "new", "h": "hidden state"},
    source="Cho et al. 2014, eq. 5-8",
    departures="r multiplies W_hn h + b_hn, after the product, not h before it",
)

_LSTM_GATES = {
    "i": sigmoid(from_x("i") + from_h("i")),
    "f": sigmoid(from_x("f") + from_h("f")),
    "g": tanh(from_x("g") + from_h("g")),
    "o": sigmoid(from_x("o") + from_h("o")),
    "c": f * c_prev + i * g,
}
_LSTM_WORDS = {
    "i": "input",
    "f": "forget",
    "g": "new",
    "o": "output",
    "c": "cell state",
    "h": "hidden state",
}

LSTM = Cell(
    name="LSTM",
    gates="ifgo",
    equations={**_LSTM_GATES, "h": o * tanh(c)},
    words=_LSTM_WORDS,
    source="Hochreiter and Schmidhuber 1997; the forget gate by Gers et al. 2000",
    departures="no peepholes; two biases, b_ih and b_hh, whose sum is all that counts",
)

LSTM_PROJECTED = Cell(
    name="LSTM",
    gates="ifgo",
    equations={**_LSTM_GATES, "m": o * tanh(c), "h": project(m)},
    words={**_LSTM_WORDS, "m": "state before projection"},
    source="Sak et al. 2014, eq. 1-7 (recurrent projection)",
    departures="no peepholes; the projection has no bias",
)

GRU_RESET_BEFORE = Cell(
    name="GRU with the reset before the product",
    gates="rzn",
    equations={
        **GRU.equations,
        "n": tanh(from_x("n") + from_h("n", r * h_prev)),
        "h": (1 - z) * n + z * h_prev,
    },
    words=GRU.words,
    source="Cho et al. 2014, eq. 5-8; Keras with reset_after=False, ONNX linear_before_reset=0",
    departures="two biases, b_ih and b_hh, whose sum is all that counts",
)


def _sees(gate: str, state: Expr) -> Expr:
    """A gate of an LSTM that sees a cell state through a peephole."""
    return sigmoid(from_x(gate) + from_h(gate) + Vector(f"peephole_{gate}") * state)


LSTM_PEEPHOLE = Cell(
    name="LSTM with peepholes",
    gates="ifgo",
    equations={
        "i": _sees("i", c_prev),
        "f": _sees("f", c_prev),
        "g": _LSTM_GATES["g"],
        "c": f * c_prev + i * g,
        "o": _sees("o", c),
        "h": o * tanh(c),
    },
    words=_LSTM_WORDS,
    source="Gers and Schmidhuber 2000; ONNX LSTM with the input P",
    departures="i and f see c_(t-1), o sees c_t; two biases, whose sum is all that counts",
)

LSTM_COUPLED = Cell(
    name="LSTM with f = 1 - i",
    gates="igo",
    equations={
        "i": _LSTM_GATES["i"],
        "f": 1 - i,
        "g": _LSTM_GATES["g"],
        "o": _LSTM_GATES["o"],
        "c": f * c_prev + i * g,
        "h": o * tanh(c),
    },
    words=_LSTM_WORDS,
    source="Greff et al. 2017, CIFG; ONNX LSTM with input_forget=1",
    departures="the forget gate has no weights of its own",
)

LSTM_COUPLED_PEEPHOLE = Cell(
    name="LSTM with peepholes and f = 1 - i",
    gates="igo",
    equations={
        "i": _sees("i", c_prev),
        "f": 1 - i,
        "g": _LSTM_GATES["g"],
        "c": f * c_prev + i * g,
        "o": _sees("o", c),
        "h": o * tanh(c),
    },
    words=_LSTM_WORDS,
    source="ONNX LSTM with the input P and input_forget=1",
    departures="the forget gate has no weights of its own; i sees c_(t-1), o sees c_t",
)

CELLS = {
    "rnn_tanh": RNN_TANH,
    "rnn_relu": RNN_RELU,
    "gru": GRU,
    "lstm": LSTM,
    "lstm_projected": LSTM_PROJECTED,
}
"""Every cell that ``torch.nn`` has, under the name by which files refer to it."""

DECLARED = CELLS | {
    "gru_reset_before": GRU_RESET_BEFORE,
    "lstm_peephole": LSTM_PEEPHOLE,
    "lstm_coupled": LSTM_COUPLED,
    "lstm_coupled_peephole": LSTM_COUPLED_PEEPHOLE,
}
"""These, and the cells that ``torch.nn`` lacks and ``rnnscope.Recurrent`` runs."""


def as_declared(cell: Cell) -> Cell:
    """The cell declared here that has the same gates and equations, else the cell itself.

    >>> mine = Cell("mine", "h", {"h": tanh(from_h("h") + from_x("h"))})
    >>> as_declared(mine) is RNN_TANH
    True
    """
    meaning = _meaning(cell)
    return next(
        (candidate for candidate in DECLARED.values() if _meaning(candidate) == meaning), cell
    )


@cache
def _meaning(cell: Cell) -> tuple[tuple[str, ...], dict[str, Expr]]:
    return tuple(cell.gates), {name: ordered(equation) for name, equation in cell.equations.items()}
