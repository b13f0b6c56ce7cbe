"""The algebra of equations: what a cell is declared in, and everything else is derived from.

An equation is a small immutable tree. Its leaves are quantities of the same step, states of
the step before, parameters, and the affine parts: ``from_x(k)`` is W_ik x + b_ik,
``from_h(k)`` is W_hk h_(t-1) + b_hk, and ``project(e)`` is W_hr e. Its nodes are +, -, ×
and elementwise functions. The module knows no cell and no layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from rnnscope.cells.functions import FUNCTIONS, Function, function_named

__all__ = [
    "FUNCTIONS",
    "Apply",
    "Environment",
    "Expr",
    "FromH",
    "FromX",
    "Function",
    "Number",
    "Previous",
    "Product",
    "Project",
    "Quantity",
    "Sum",
    "Vector",
    "Weighted",
    "affine_split",
    "asked_together",
    "elementwise",
    "linear_recurrence",
    "evaluate",
    "leaves",
    "nodes",
    "ordered",
    "terms",
]


class Expr:
    """A node of an equation; Python's operators build larger ones."""

    __slots__ = ()

    def __add__(self, operand: Expr | float) -> Expr:
        return Sum(self, as_expr(operand))

    def __radd__(self, operand: float) -> Expr:
        return Sum(as_expr(operand), self)

    def __sub__(self, operand: Expr | float) -> Expr:
        return Sum(self, as_expr(operand), negative=True)

    def __rsub__(self, operand: float) -> Expr:
        return Sum(as_expr(operand), self, negative=True)

    def __mul__(self, operand: Expr | float) -> Expr:
        return Product(self, as_expr(operand))

    def __rmul__(self, operand: float) -> Expr:
        return Product(as_expr(operand), self)

    def map(self, change: Callable[[Expr], Expr | None]) -> Expr:
        """The same with every node replaced for which ``change`` gives an expression.

        It is asked from the outside in, and not of what stands inside a replaced node.

        >>> gate = Apply("tanh", Quantity("a") + Quantity("b"))
        >>> gate.map(lambda e: Number(1.0) if e == Quantity("b") else None).argument.right
        Number(value=1.0)
        """
        changed = change(self)
        if changed is not None:
            return changed
        match self:
            case Sum(left, right) | Product(left, right):
                return replace(self, left=left.map(change), right=right.map(change))
            case Apply(_, argument):
                return replace(self, argument=argument.map(change))
            case FromH(_, of) | Project(of):
                return replace(self, of=of.map(change))
            case _:
                return self


@dataclass(frozen=True, slots=True)
class Number(Expr):
    """A constant."""

    value: float


@dataclass(frozen=True, slots=True)
class Quantity(Expr):
    """A quantity of the same step, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Previous(Expr):
    """A state of the step before, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Vector(Expr):
    """A parameter with one number per unit, such as a peephole's weight."""

    name: str


@dataclass(frozen=True, slots=True)
class FromX(Expr):
    """W_ik x + b_ik: what the input of the step says to gate k."""

    gate: str


@dataclass(frozen=True, slots=True)
class FromH(Expr):
    """W_hk e + b_hk; e is the state of the step before unless told otherwise."""

    gate: str
    of: Expr = Previous("h")


@dataclass(frozen=True, slots=True)
class Project(Expr):
    """W_hr e: a state made smaller (LSTM with ``proj_size``)."""

    of: Expr


Weighted = FromX | FromH | Project
"""The leaves that hold a matrix product."""


@dataclass(frozen=True, slots=True)
class Sum(Expr):
    """left + right, or left - right."""

    left: Expr
    right: Expr
    negative: bool = False
    summands: tuple[tuple[bool, Expr], ...] = field(init=False, repr=False, compare=False)
    added: tuple[Weighted, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        summands = tuple(terms(self))
        added = (e for negative, e in summands if isinstance(e, Weighted) and not negative)
        object.__setattr__(self, "summands", summands)
        object.__setattr__(self, "added", tuple(added))  # the affine parts of these


@dataclass(frozen=True, slots=True)
class Product(Expr):
    """left × right, elementwise."""

    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Apply(Expr):
    """function(argument), elementwise; the function is named as ``function_named`` knows it.

    ``custom`` is a function of one's own, which no name would find.
    """

    name: str
    argument: Expr
    custom: Function | None = None
    function: Function = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", self.custom or function_named(self.name))

    def __reduce__(self) -> tuple[type[Apply], tuple[object, ...]]:
        # by the name alone: what the function is made of does not pickle
        return Apply, (self.name, self.argument, self.custom)


def as_expr(value: Expr | float) -> Expr:
    """A number becomes a ``Number``; an expression stays what it is."""
    return value if isinstance(value, Expr) else Number(float(value))


def terms(expr: Expr, negative: bool = False) -> Iterator[tuple[bool, Expr]]:
    """The summands of an expression from left to right, each with whether it is subtracted.

    Only nested sums on the left are opened, and on the right where a sum stands there:
    a - (b + c) is a, -b, -c.
    """
    if isinstance(expr, Sum):
        yield from terms(expr.left, negative)
        yield from terms(expr.right, negative != expr.negative)
    else:
        yield negative, expr


def ordered(expr: Expr) -> Expr:
    """The same with the two operands of each + and × in one order: which is no other equation,
    and rounds to the same number.

    >>> ordered(Quantity("o") * Quantity("c")) == ordered(Quantity("c") * Quantity("o"))
    True
    """

    def with_operands_in_order(expr: Expr) -> Expr | None:
        match expr:
            case Sum(left, right, negative=False) | Product(left, right):
                left, right = sorted((ordered(left), ordered(right)), key=repr)
                return type(expr)(left, right)
        return None

    return expr.map(with_operands_in_order)


def nodes(expr: Expr) -> Iterator[Expr]:
    """Every node, from the outside in and from left to right, and what matrices multiply."""
    yield expr
    match expr:
        case Sum(left, right) | Product(left, right):
            yield from nodes(left)
            yield from nodes(right)
        case Apply(_, inner) | FromH(_, inner) | Project(inner):
            yield from nodes(inner)


def leaves(expr: Expr) -> Iterator[Expr]:
    """Every leaf, from left to right; an affine part comes before what it multiplies."""
    waiting = [expr]
    while waiting:
        match waiting.pop():
            case Sum(left, right) | Product(left, right):
                waiting += (right, left)
            case Apply(_, argument):
                waiting.append(argument)
            case (FromH(_, of) | Project(of)) as affine:
                yield affine
                waiting.append(of)
            case leaf:
                yield leaf


def elementwise(expr: Expr) -> Iterator[Expr]:
    """The leaves that enter as they are, not through a matrix product."""
    match expr:
        case Sum(left, right) | Product(left, right):
            yield from elementwise(left)
            yield from elementwise(right)
        case Apply(_, argument):
            yield from elementwise(argument)
        case FromH() | Project():
            return
        case _:
            yield expr


def asked_together(expr: Expr) -> Iterator[tuple[Weighted, ...]]:
    """The affine parts as ``evaluate`` asks for them: those that one sum adds, at once."""
    match expr:
        case Sum():
            if expr.added:
                yield expr.added
            for negative, term in expr.summands:
                if negative or not isinstance(term, Weighted):
                    yield from asked_together(term)
        case Product(left, right):
            yield from asked_together(left)
            yield from asked_together(right)
        case Apply(_, argument):
            yield from asked_together(argument)
        case FromX() | FromH() | Project():
            yield (expr,)


class Environment(Protocol):
    """Where ``evaluate`` finds the values of leaves."""

    def value(self, leaf: Quantity | Previous | Vector) -> Tensor:
        """The tensor of a quantity, state or vector parameter; never changed in place."""

    def products(self, leaves: tuple[Weighted, ...], out: Tensor | None) -> Tensor:
        """The sum of affine parts, written into ``out`` where given."""


def evaluate(expr: Expr, env: Environment, out: Tensor | None = None) -> Tensor:
    """The value of an expression.

    With ``out`` the result is written there, with as few passes over memory as the
    structure allows, and nothing may require gradients. Without ``out`` every operation makes
    a new tensor, so autograd can follow.
    """
    match expr:
        case Number(number):
            # float64, so that a function of it is exact; a number takes the type of what it meets
            if out is not None:
                return out.fill_(number)
            return torch.tensor(number, dtype=torch.float64, device="cpu")
        case Quantity() | Previous() | Vector():
            value = env.value(expr)
            return value if out is None else out.copy_(value)
        case FromX() | FromH() | Project():
            return env.products((expr,), out)
        case Apply(_, argument):
            if out is None:
                return expr.function.forward(evaluate(argument, env))
            return expr.function.forward_(evaluate(argument, env, out))
        case Product(Number(number), right):
            inner = evaluate(right, env, out)
            return inner * number if out is None else inner.mul_(number)
        case Product(left, right):
            if out is None:
                return evaluate(left, env) * evaluate(right, env)
            if isinstance(left, Quantity | Previous | Vector):
                left, right = right, left
            return evaluate(left, env, out).mul_(evaluate(right, env))
        case Sum():
            return _evaluate_sum(expr, env, out)
    raise TypeError(f"not an equation: {expr!r}")


def _evaluate_sum(expr: Sum, env: Environment, out: Tensor | None) -> Tensor:
    summands = expr.summands
    addends: Sequence[tuple[bool, Expr]]
    if expr.added:
        # the matrix products of a sum are one
        total = env.products(expr.added, out)
        addends = [pair for pair in summands if pair[0] or not isinstance(pair[1], Weighted)]
    elif isinstance(summands[0][1], Number):
        # 1 - z: begin with the tensor, and add the number to it
        (_, number), (negative, second), *addends = summands
        total = evaluate(second, env, out)
        assert isinstance(number, Number), "it was found to be one"
        if negative:
            total = number.value - total if out is None else total.neg_().add_(number.value)
        else:
            total = total + number.value if out is None else total.add_(number.value)
    else:
        (_, first), *addends = summands
        total = evaluate(first, env, out)
    for negative, term in addends:
        total = _add(total, -1 if negative else 1, term, env, in_place=out is not None)
    return total


def _add(total: Tensor, sign: int, term: Expr, env: Environment, in_place: bool) -> Tensor:
    if isinstance(term, Number):
        return total.add_(sign * term.value) if in_place else total + sign * term.value
    if not in_place:
        value = evaluate(term, env)
        return total + value if sign > 0 else total - value
    if isinstance(term, Product) and not isinstance(term.left, Number):
        return total.addcmul_(evaluate(term.left, env), evaluate(term.right, env), value=sign)
    return total.add_(evaluate(term, env), alpha=sign)


def linear_recurrence(expr: Expr, state: str) -> tuple[Expr, Expr] | None:
    """Split an equation into (factor, addend) with expr = factor × Previous(state) + addend.

    None where the state of the step before enters in any other way, or more than once: then
    the equation is no linear recurrence, and must be run step by step.
    """
    factor: Expr | None = None
    addend: Expr | None = None
    for negative, term in terms(expr):
        if not any(leaf == Previous(state) for leaf in leaves(term)):
            if addend is None:
                if negative:
                    return None
                addend = term
            else:
                addend = Sum(addend, term, negative)
            continue
        match term:
            case Product(left, Previous(name)) | Product(Previous(name), left) if (
                name == state and factor is None and not negative
            ):
                factor = left
            case _:
                return None
    if factor is None or addend is None:
        return None
    if any(leaf == Previous(state) for leaf in leaves(factor)):
        return None
    return factor, addend


def affine_split(expr: Expr, state: str) -> tuple[Expr, Expr] | None:
    """Split an equation into (factor, addend) with expr = factor × Previous(state) + addend, where
    the state of the step before enters as often as it likes, but only times what does not hold it.

    None where it enters in another way: squared, through a function, or through a matrix. More is
    split than by ``linear_recurrence``: c_(t-1) + i g has the factor 1, f (c_(t-1) + i g) f.

    >>> affine_split(Previous("c") + Quantity("i"), "c")
    (Number(value=1.0), Quantity(name='i'))
    """
    parts = _affine_parts(expr, Previous(state))
    if parts is None:
        return None
    factor, addend = parts
    return None if factor is None else (factor, Number(0.0) if addend is None else addend)


def _affine_parts(expr: Expr, state: Previous) -> tuple[Expr | None, Expr | None] | None:
    """The factor of a state and what is added, None for a part that is zero; None where the state
    enters otherwise."""
    if expr == state:
        return Number(1.0), None
    if not any(leaf == state for leaf in leaves(expr)):
        return None, expr
    match expr:
        case Sum(left, right, negative):
            first, second = _affine_parts(left, state), _affine_parts(right, state)
            if first is None or second is None:
                return None
            factor, addend = (_total(a, b, negative) for a, b in zip(first, second, strict=True))
            return factor, addend
        case Product(left, right):
            held, scale = (left, right) if any(e == state for e in leaves(left)) else (right, left)
            parts = _affine_parts(held, state)
            if parts is None or any(leaf == state for leaf in leaves(scale)):
                return None
            factor, addend = (None if part is None else _scaled(part, scale) for part in parts)
            return factor, addend
    return None


def _total(left: Expr | None, right: Expr | None, negative: bool) -> Expr | None:
    if right is None:
        return left
    if left is None:
        return _scaled(right, Number(-1.0)) if negative else right
    return Sum(left, right, negative)


def _scaled(part: Expr, scale: Expr) -> Expr:
    return scale if part == Number(1.0) else Product(scale, part)
