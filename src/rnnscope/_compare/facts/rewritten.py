"""Equations that are not the declared ones: each change of one place in them, tried by itself.

A port may have an equation that nobody has listed: f * (c + i * g) for f * c + i * g, a function
that covers half of a sum, a gate that meets another state. Such changes are made of the declared
equations themselves, so that a cell of one's own has them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from rnnscope._compare.facts.agreement import enumerated
from rnnscope._compare.facts.finding import left_by_model
from rnnscope._compare.mistakes import CATALOGUE, Words, applied
from rnnscope._compare.mistakes.cause import Cause, Causes, in_order
from rnnscope._compare.mistakes.entry import changed_cell
from rnnscope._compare.model.misfit import misfits, worst
from rnnscope._compare.model.model import Model, Part, PartIndex
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._compare.model.steps import OpenedPart
from rnnscope._compare.search.one_part import PartSearch
from rnnscope._compare.search.search import Search
from rnnscope._compare.search.trials import NEAR
from rnnscope._compare.work import is_over
from rnnscope.cells import Cell
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
    leaves,
    nodes,
    ordered,
)
from rnnscope.cells.functions import Function
from rnnscope.cells.notation import Notation, text

__all__ = ["rewritten"]

Told = tuple[Cause, Words]

TANH = (
    f"scaled_tanh(1.7159,{2 / 3})",
    "scaled_tanh(1.7159,0.6667)",
    "scaled_tanh(1.7159,0.6666)",
    "scaled_tanh(1.0,0.5)",
    "scaled_tanh(1.0,2.0)",
)
LINEAR = ("relu", "leaky_relu(0.01)", "leaky_relu(0.1)", "leaky_relu(0.2)", "elu(1.0)", "softplus")
INSTEAD = {
    "tanh": (*TANH, "sigmoid", *LINEAR, "hard_sigmoid(0.2,0.5)"),
    "sigmoid": ("tanh", "scaled_tanh(0.5,1.0)", "relu", "softplus"),
    "relu": ("tanh", "sigmoid", *LINEAR[1:], "clip(1.0)"),
}
"""What may stand in place of a function."""

LIMITS = ("1.0", "2.0", "3.0", "5.0", "10.0")
"""At which the argument of a function may be cut."""

ABS = Function(
    "abs",
    "abs",
    r"\operatorname{abs}",
    forward=torch.abs,
    forward_=torch.abs_,
    derivative=torch.ones_like,
    steepest=1.0,
    range=None,
    through_zero=True,
    script="Math.abs(x)",
    derivative_at=torch.sign,
)
"""What a sigmoid makes symmetric of which one branch has a wrong sign."""

MIXED = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5)
"""Shares of an old state in the new one, as of zoneout."""

STEPS = 2
"""Steps on which all of them are run where no step is known by itself."""

TOGETHER = 64
"""Those that are run before it is asked whether work is left."""

FEW = 8
"""Those that fit of which so many are confirmed."""


@dataclass(frozen=True)
class Rewriting:
    """Equations in place of those of a cell, by name; ``alike``: changed in the same way."""

    equations: tuple[tuple[str, Expr], ...]
    alike: bool = True

    def of(self, part: Part) -> Part:
        """A part with them."""
        return part.marked(
            "rewritten", self.equations, cell=changed_cell(part.cell, self.equations)
        )

    @property
    def size(self) -> int:
        """How much there is to read in them."""
        return sum(1 for _, equation in self.equations for _ in nodes(equation))

    def told(self, model: Model, layer: int | None, direction: str | None) -> Told:
        """As it is told, where it stands in one layer or direction alone."""
        part, kind = model.parts[0][0], model.structure.kind
        bias = part.stored.b_ih is not None
        notation = Notation(bias=bias)
        names = [name for name, _ in self.equations]
        first = names[0]
        yours, right = (
            text(notation.equation(first, equation))
            for equation in (dict(self.equations)[first], part.cell.equations[first])
        )
        several = f", and {enumerated(names[1:])} in the same way" if names[1:] else ""
        if not self.alike:
            rest = [text(notation.equation(*pair)) for pair in self.equations[1:]]
            several = f", and {enumerated(rest)}"
        title = (
            f"the equation of {first} is another one"
            if len(names) == 1
            else f"the equations of {enumerated(names)} are other ones"
        )
        sentence = f"you compute {yours}{several}; {kind} computes {right}."
        choice = f"{'+'.join(names)}:{yours}"
        cause = Cause("rewritten", choice, layer=layer, direction=direction)
        return cause, Words(title, sentence, _code(first, part.cell.equations[first], bias))


def rewritten(
    search: Search, shown: Sequence[Observation], mistakes: int
) -> tuple[tuple[Told, ...], float] | None:
    """The equation that explains everything to rounding, beside so many ``mistakes`` in the
    weights, none or one, with what is left; None where there is none. It is looked for where a
    ``search`` found nothing."""
    model, parts, opened = search.model, search.parts, search.opened()
    wrong = [part for part in opened.values() if worst_of(part) > 1]
    rewritings = rewritings_of(model.parts[0][0].cell)
    if not rewritings:
        return None
    layer, direction, places = _places(model, opened, wrong)
    if mistakes and len(places) < sum(map(len, model.parts)):
        return None  # the mistake stands in every part
    explaining = _in_parts(wrong, rewritings, parts, mistakes) if wrong else []
    if not opened and not mistakes:
        explaining = _in_whole_runs(model, shown, rewritings)
    tried = math.log10(len(rewritings) * len(parts.choices.every) ** mistakes)
    for rewriting, causes in explaining[:FEW]:
        with_mistakes = applied(model, tuple(causes)) if causes else model
        if with_mistakes is None or (causes and worst(with_mistakes, shown) <= 1):
            continue  # the equation changes nothing here
        mistaken = with_mistakes.parts
        changed = with_mistakes.with_parts(
            {(k, d): rewriting.of(mistaken[k][d]) for k, d in places}
        )
        left = left_by_model(changed, shown, tried)
        if left is not None:
            told = [(c, CATALOGUE[c.name].words(c, model)) for c in in_order(causes)]
            return (rewriting.told(model, layer, direction), *told), left
    return None


def _places(
    model: Model, opened: Mapping[PartIndex, OpenedPart], wrong: Sequence[OpenedPart]
) -> tuple[int | None, str | None, list[PartIndex]]:
    """The layer and direction in which an equation may be another one, None for all, with the
    parts there: those that are wrong, where all steps are known and some parts are right."""
    every = [(k, d) for k, row in enumerate(model.parts) for d in range(len(row))]
    places = [part.place for part in wrong]
    if len(opened) < len(every) or not wrong or len(wrong) == len(every):
        return None, None, every
    layers, directions = {k for k, _ in places}, {d for _, d in places}
    layer = layers.pop() if len(layers) == 1 and model.num_layers > 1 else None
    d = directions.pop() if len(directions) == 1 and model.num_directions > 1 else None
    places = [p for p in every if layer in (None, p[0]) and d in (None, p[1])]
    return layer, None if d is None else model.structure.directions[d], places


def worst_of(part: OpenedPart) -> float:
    """How far a part is from the single steps that are known of it."""
    return float(part.misfit([part.part]).worst[0])


Found = list[tuple[Rewriting, Causes]]


def _in_parts(
    wrong: Sequence[OpenedPart], rewritings: Sequence[Rewriting], parts: PartSearch, mistakes: int
) -> Found:
    """What explains every part that is wrong, the least to read first."""
    remaining, explaining = list(rewritings), list[tuple[Rewriting, Causes]]()
    for k, witness in enumerate(wrong):
        cells = [variant.of(witness.part).cell for variant in remaining]
        fitting = [(remaining[j], causes) for j, causes in parts.beside(witness, cells, mistakes)]
        explaining = [pair for pair in fitting if k == 0 or pair in explaining]
        remaining = list(dict.fromkeys(rewriting for rewriting, _ in explaining))
        if not remaining:
            break
    return sorted(explaining, key=lambda pair: pair[0].size)


def _in_whole_runs(
    model: Model, shown: Sequence[Observation], rewritings: Sequence[Rewriting]
) -> Found:
    """What comes close to the first steps of a row, run whole."""
    one_way = model.num_directions == 1 and not model.parts[0][0].backward
    first = few_steps(shown[0], STEPS if one_way else shown[0].inputs.steps, 1)
    if not first.count:
        return []
    nothing: Causes = frozenset()
    close: Found = []
    for start in range(0, len(rewritings), TOGETHER):
        if is_over():
            break
        chunk = rewritings[start : start + TOGETHER]
        models = [model.with_each_part(variant.of) for variant in chunk]
        ratios = misfits([first], models, [first.simulator]).worst.tolist()
        pairs = zip(chunk, ratios, strict=True)
        close += [(variant, nothing) for variant, ratio in pairs if ratio <= NEAR]
    return sorted(close, key=lambda pair: pair[0].size)


# every change of one place --------------------------------------------------------------------


@lru_cache(maxsize=64)
def rewritings_of(cell: Cell) -> tuple[Rewriting, ...]:
    """Every change of one place in the equations of a cell, and of all places that have the same
    function; none of them the same as another."""
    explaining: dict[tuple[tuple[str, Expr], ...], Rewriting] = {}
    own = {name: ordered(equation) for name, equation in cell.equations.items()}
    above: list[str] = []
    for name, equation in cell.equations.items():
        later = tuple(n for n in cell.equations if n not in above and name not in _made_of(cell, n))
        made_of = _Leaves(tuple(above), later, cell.states, tuple(cell.gates), cell.projected)
        for changed in made_of.changed(equation):
            if ordered(changed) != own[name] and _is_equation(changed):
                explaining.setdefault(((name, ordered(changed)),), Rewriting(((name, changed),)))
        if name in cell.states:
            for share in MIXED:
                mixed = share * Previous(name) + (1 - share) * equation
                explaining.setdefault(((name, mixed),), Rewriting(((name, mixed),)))
            added = Previous(name) + equation
            explaining.setdefault(((name, added),), Rewriting(((name, added),)))
        above.append(name)
    several = (_of_all_functions(cell), True), (_of_overwritten_states(cell), False)
    for each, alike in several:
        for equations in each:
            sorted_terms = tuple((name, ordered(equation)) for name, equation in equations.items())
            explaining.setdefault(sorted_terms, Rewriting(tuple(equations.items()), alike))
    return tuple(explaining.values())


def _made_of(cell: Cell, name: str) -> set[str]:
    """A quantity, and all those of the same step that it is made of."""
    whole, waiting = {name}, [name]
    while waiting:
        used = leaves(cell.equations[waiting.pop()])
        fresh = {leaf.name for leaf in used if isinstance(leaf, Quantity)} - whole
        whole |= fresh
        waiting += fresh
    return whole


def _is_equation(expr: Expr) -> bool:
    """Whether anything of the step stands in it."""
    return any(not isinstance(leaf, Number) for leaf in leaves(expr))


@dataclass(frozen=True)
class _Leaves:
    """What an equation may be made of: the quantities ``above`` it, those that come ``later`` and
    are not made of it, states, gates; h that is ``projected`` has fewer numbers than they."""

    above: tuple[str, ...]
    later: tuple[str, ...]
    states: tuple[str, ...]
    gates: tuple[str, ...]
    projected: bool

    @property
    def every(self) -> list[Expr]:
        """The quantities of this step, and the states of the step before."""
        states = (name for name in self.states if not (self.projected and name == "h"))
        return [*map(Quantity, self.above), *map(Previous, states)]

    def changed(self, expr: Expr) -> Iterator[Expr]:
        """The expression with one of its nodes changed."""
        yield from self._here(expr)
        match expr:
            case Sum(left, right) | Product(left, right):
                yield from (replace(expr, left=variant) for variant in self.changed(left))
                yield from (replace(expr, right=variant) for variant in self.changed(right))
            case Apply(_, argument):
                yield from (replace(expr, argument=variant) for variant in self.changed(argument))
            case FromH(_, of) | Project(of) if of != Previous("h"):
                yield from (replace(expr, of=variant) for variant in self.changed(of))

    def _here(self, expr: Expr) -> Iterator[Expr]:
        match expr:
            case Quantity() | Previous():
                yield from (leaf for leaf in self.every if leaf != expr)
                yield 1 - expr
                yield Apply("tanh", expr)
                if isinstance(expr, Previous) and not (self.projected and expr.name == "h"):
                    yield from (leaf * expr for leaf in map(Quantity, self.above))
            case Project():
                yield Apply("tanh", expr)
            case FromH(gate, of):
                yield from (FromH(other, of) for other in self.gates if other != gate)
                yield from (leaf * expr for leaf in map(Quantity, self.above))
                yield FromH(gate, Apply("tanh", of))
                yield 2 * expr
                if not self.projected:
                    yield from self._of_operand(gate, of)
            case FromX(gate):
                yield from (FromX(other) for other in self.gates if other != gate)
                yield from (leaf * expr for leaf in map(Quantity, self.above))
                yield 2 * expr
            case Sum(left, right, negative):
                if isinstance(left, FromX) and isinstance(right, FromH) and not self.projected:
                    yield FromH(right.gate, right.of + left)
                yield from (left, right)
                yield replace(expr, negative=not negative)
                if negative:
                    yield right - left
                yield from _drawn_in(left, right, negative)
            case Product(left, right):
                yield from (left, right)
                yield from _drawn_out(left, right)
            case Apply():
                yield from _of_function(expr)

    def _of_operand(self, gate: str, of: Expr) -> Iterator[Expr]:
        """What a matrix may meet in place of h."""
        yield from (FromH(gate, leaf) for leaf in self.every if leaf != of)
        for later in map(Quantity, self.later):
            yield FromH(gate, later)
            if later.name in self.states:
                yield FromH(gate, Apply("tanh", later))
        for leaf in map(Quantity, self.above):
            yield FromH(gate, leaf * of)
            yield FromH(gate, (1 - leaf) * of)


def _drawn_in(left: Expr, right: Expr, negative: bool) -> Iterator[Expr]:
    """A factor of one summand before the whole sum: a × b + c as a × (b + c)."""
    for product, rest, first in ((left, right, True), (right, left, False)):
        if not isinstance(product, Product):
            continue
        for factor, other in ((product.left, product.right), (product.right, product.left)):
            summands = (other, rest) if first else (rest, other)
            yield Product(factor, Sum(*summands, negative))


def _drawn_out(left: Expr, right: Expr) -> Iterator[Expr]:
    """A factor of a sum before one summand alone: a × (b + c) as a × b + c; of a function inside
    it: a × f(b) as f(a × b)."""
    for factor, other in ((left, right), (right, left)):
        match other:
            case Sum(first, second, negative):
                yield Sum(Product(factor, first), second, negative)
                yield Sum(first, Product(factor, second), negative)
            case Apply(_, argument):
                yield replace(other, argument=Product(factor, argument))


def _of_function(expr: Apply) -> Iterator[Expr]:
    """Another function of an argument, none, the same twice, or of a part of it."""
    yield expr.argument
    yield from _other_functions(expr)
    match expr.argument:
        case Sum(left, right, negative):
            yield Sum(_with_argument(expr, left), right, negative)
            yield Sum(left, _with_argument(expr, right), negative)
            yield Sum(_with_argument(expr, left), _with_argument(expr, right), negative)
        case Product(left, right):
            yield Product(left, _with_argument(expr, right))
            yield Product(_with_argument(expr, left), right)


def _with_argument(function: Apply, argument: Expr) -> Apply:
    """The function of another argument; it may be one of the user's own."""
    return replace(function, argument=argument)


def _other_functions(expr: Apply) -> Iterator[Expr]:
    argument = expr.argument
    if expr.name != "relu":  # which twice is itself
        yield _with_argument(expr, expr)
    inside = ("sigmoid", "tanh", "relu")
    yield from (_with_argument(expr, Apply(n, argument)) for n in inside if n != expr.name)
    yield from (Apply(instead, argument) for instead in INSTEAD.get(expr.name, ()))
    yield from (_with_argument(expr, Apply(f"clip({limit})", argument)) for limit in LIMITS)
    yield from (_with_argument(expr, factor * argument) for factor in (2.0, 0.5))
    yield _with_argument(expr, Apply("abs", argument, ABS))
    yield Product(argument, Apply("sigmoid", argument))


def _of_all_functions(cell: Cell) -> Iterator[Mapping[str, Expr]]:
    """The equations with one function changed wherever it stands, where that is in several; or the
    arguments of all functions of sums cut."""
    functions = {
        node.name: node
        for e in cell.equations.values()
        for node in nodes(e)
        if isinstance(node, Apply)
    }
    placeholder = Quantity("a")
    for name, function in functions.items():
        for template in _other_functions(_with_argument(function, placeholder)):

            def everywhere(expr: Expr, name: str = name, template: Expr = template) -> Expr | None:
                if not isinstance(expr, Apply) or expr.name != name:
                    return None
                inside = expr.argument
                return template.map(lambda e: inside if e == placeholder else None)

            yield from _where_changed(cell, everywhere)
    for limit in LIMITS:

        def cut(expr: Expr, limit: str = limit) -> Expr | None:
            if not isinstance(expr, Apply) or not isinstance(expr.argument, Sum):
                return None
            return replace(expr, argument=Apply(f"clip({limit})", expr.argument))

        yield from _where_changed(cell, cut)


def _where_changed(cell: Cell, change: Callable[[Expr], Expr | None]) -> Iterator[dict[str, Expr]]:
    """The equations that a change of all nodes changes, where these are several."""
    changed = {name: equation.map(change) for name, equation in cell.equations.items()}
    changed = {n: e for n, e in changed.items() if e != cell.equations[n]}
    if len(changed) > 1:
        yield changed


def _of_overwritten_states(cell: Cell) -> Iterator[Mapping[str, Expr]]:
    """The equations from one on, where the state before has been scaled by a gate in its own place:
    a product of that gate and W h is then W of what stands there, or has the factor twice."""
    names = list(cell.equations)
    for k, gate in enumerate(names):
        for state in cell.states if gate in cell.gates and not cell.projected else ():
            for start in range(k + 1, len(names)):
                later = {name: cell.equations[name] for name in names[start:]}
                for first in (_drawn_inside(gate, state), lambda _: None):
                    scaled = {n: e.map(first).map(_scaled(gate, state)) for n, e in later.items()}
                    changed = {n: e for n, e in scaled.items() if e != cell.equations[n]}
                    if len(changed) > 1:
                        yield changed


def _scaled(gate: str, state: str) -> Callable[[Expr], Expr | None]:
    before = Previous(state)
    return lambda expr: Quantity(gate) * before if expr == before else None


def _drawn_inside(gate: str, state: str) -> Callable[[Expr], Expr | None]:
    """What a gate scales once W has met the state, without the gate."""

    def inside(expr: Expr) -> Expr | None:
        match expr:
            case Product(left, FromH(_, of) as of_h) if left == Quantity(gate):
                return of_h if of == Previous(state) else None
        return None

    return inside


# words ----------------------------------------------------------------------------------------


def _code(name: str, expr: Expr, bias: bool) -> str:
    """An equation as a line of a program in which a state keeps its name from step to step."""
    return f"{name} = {_written(expr, bias)}"


def _written(expr: Expr, bias: bool, inside: bool = False) -> str:
    match expr:
        case Number(value):
            return f"{value:g}"
        case FromX(gate):
            whole = f"x @ W_i{gate}.T" + f" + b_i{gate}" * bias
            return f"({whole})" if inside else whole
        case FromH(gate, of):
            whole = f"{_written(of, bias, True)} @ W_h{gate}.T" + f" + b_h{gate}" * bias
            return f"({whole})" if inside else whole
        case Project(of):
            return f"({_written(of, bias)}) @ W_hr.T"
        case Sum(left, right, negative):
            sign = "-" if negative else "+"
            whole = f"{_written(left, bias)} {sign} {_written(right, bias, negative)}"
            return f"({whole})" if inside else whole
        case Product(left, right):
            return f"{_written(left, bias, True)} * {_written(right, bias, True)}"
        case Apply(function, argument):
            return f"{function}({_written(argument, bias)})"
    return getattr(expr, "name", str(expr))
