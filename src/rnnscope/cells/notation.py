"""Equations as text, LaTeX and MathML, in the terms and the order of PyTorch's documentation.

An equation is first laid out as a ``Shape``, a small tree of what is seen: symbols, digits,
sums, products. One shape gives all three forms, and shapes may hold digits in the place of
symbols, which is how an explanation fills in its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

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
)
from rnnscope.cells.functions import Function, function_named

__all__ = [
    "Act",
    "FunctionCall",
    "Code",
    "Digits",
    "Notation",
    "Noted",
    "Shape",
    "Symbol",
    "Times",
    "Total",
    "latex",
    "mathml",
    "text",
]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A letter with an index, such as h_(t-1) or W_ih; ``unit`` picks one number of it."""

    base: str
    index: str = ""
    unit: int | None = None


@dataclass(frozen=True, slots=True)
class Digits:
    """A number as it is printed."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A name as it stands in a program, such as weight_ih_l0[25, 0]."""

    text: str


@dataclass(frozen=True, slots=True)
class Total:
    """A sum; each term with whether it is subtracted."""

    terms: tuple[tuple[bool, Shape], ...]


@dataclass(frozen=True, slots=True)
class Times:
    """left × right; ``elementwise`` where both are vectors (⊙)."""

    left: Shape
    right: Shape
    elementwise: bool = False


@dataclass(frozen=True, slots=True)
class Act:
    """A matrix applied to a vector: W x."""

    matrix: Shape
    vector: Shape


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A function of an argument; ``custom`` is one that its name would not find."""

    name: str
    argument: Shape
    custom: Function | None = None

    @property
    def function(self) -> Function:
        """The function with all that is known of it."""
        return self.custom or function_named(self.name)


@dataclass(frozen=True, slots=True)
class Noted:
    """A shape with a word on what it is."""

    shape: Shape
    word: str


Shape = Symbol | Digits | Code | Total | Times | Act | FunctionCall | Noted
"""What is seen of an equation."""


@dataclass(frozen=True)
class Notation:
    """How equations are laid out.

    ``bias`` False leaves the biases out; ``reverse`` takes the step before from t+1;
    ``element`` writes one unit's equation (× for ⊙); ``step`` puts a number in the place of t,
    counted from 1.

    >>> from rnnscope.cells import GRU
    >>> print(text(Notation().equation("n", GRU.equations["n"])))
    n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_(t-1) + b_hn))
    >>> print(text(Notation(bias=False, reverse=True).equation("n", GRU.equations["n"])))
    n_t = tanh(W_in x_t + r_t ⊙ (W_hn h_(t+1)))
    >>> print(text(Notation(element=True, step=3).equation("h", GRU.equations["h"])))
    h_3 = (1 - z_3) × n_3 + z_3 × h_2
    """

    bias: bool = True
    reverse: bool = False
    element: bool = False
    step: int | None = None

    @property
    def now(self) -> str:
        """The index of the step itself."""
        return "t" if self.step is None else str(self.step)

    @property
    def before(self) -> str:
        """The index of the step that came before."""
        if self.step is None:
            return "(t+1)" if self.reverse else "(t-1)"
        return str(self.step + 1 if self.reverse else self.step - 1)

    def quantity(self, name: str) -> Symbol:
        """A quantity of the step."""
        return Symbol(name, self.now)

    def previous(self, name: str) -> Symbol:
        """A state of the step before."""
        return Symbol(name, self.before)

    def vector(self, name: str) -> Symbol:
        """A parameter; w_ci is w with the index ci."""
        base, _, index = name.partition("_")
        return Symbol(base, index)

    def product(self, leaf: FromX | FromH | Project) -> Act:
        """The matrix product of an affine part, without its bias."""
        match leaf:
            case FromX(gate):
                return Act(Symbol("W", f"i{gate}"), self.quantity("x"))
            case FromH(gate, of):
                return Act(Symbol("W", f"h{gate}"), self.shape(of))
            case Project(of):
                return Act(Symbol("W", "hr"), self.shape(of))

    def bias_of(self, leaf: FromX | FromH | Project) -> Symbol | None:
        """The bias of an affine part; a projection has none."""
        if not self.bias or isinstance(leaf, Project):
            return None
        return Symbol("b", ("i" if isinstance(leaf, FromX) else "h") + leaf.gate)

    def shape(self, expr: Expr) -> Shape:
        """The layout of an expression."""
        match expr:
            case Number(value):
                return Digits(f"{value:g}")
            case Quantity(name):
                return self.quantity(name)
            case Previous(name):
                return self.previous(name)
            case Vector(name):
                return self.vector(name)
            case FromX() | FromH() | Project():
                product, bias = self.product(expr), self.bias_of(expr)
                return product if bias is None else Total(((False, product), (False, bias)))
            case Apply(name, argument, custom):
                return FunctionCall(name, self.shape(argument), custom)
            case Product(left, right):
                plain = isinstance(left, Number) or isinstance(right, Number)
                times = not (self.element or plain)
                return Times(self.shape(left), self.shape(right), elementwise=times)
            case Sum():
                return Total(tuple(self._summands(expr)))
        raise TypeError(f"not an equation: {expr!r}")

    def _summands(self, expr: Expr) -> list[tuple[bool, Shape]]:
        shapes: list[tuple[bool, Shape]] = []
        for negative, term in summands(expr):
            shape = self.shape(term)
            if isinstance(shape, Total) and not negative:
                shapes += shape.terms  # W x + b beside others
            else:
                shapes.append((negative, shape))
        return shapes

    def equation(self, name: str, expr: Expr) -> tuple[Symbol, Shape]:
        """Left and right side of a quantity's equation."""
        return self.quantity(name), self.shape(expr)


def summands(expr: Expr) -> list[tuple[bool, Expr]]:
    """The terms of a sum as it is written: a subtracted sum stays one term, in parentheses."""
    if isinstance(expr, Sum) and not expr.negative:
        return [*summands(expr.left), *summands(expr.right)]
    if isinstance(expr, Sum):
        return [*summands(expr.left), (True, expr.right)]
    return [(False, expr)]


Equation = tuple[Symbol, Shape]


@dataclass(frozen=True)
class _Form:
    """What a form of writing needs to know; sums, products and parentheses follow from it."""

    symbol: Callable[[Symbol], str]
    digits: Callable[[str], str]
    code: Callable[[str], str]
    call: Callable[[Function, str], str]
    note: Callable[[str, str], str]
    group: Callable[[str], str]
    join: Callable[[str, str], str]
    operators: tuple[str, str, str, str, str]  # +, -, ×, ⊙, =
    negative: Callable[[str], str]

    def write(self, shape: Shape) -> str:
        plus, minus, times, odot, _ = self.operators
        match shape:
            case Symbol():
                return self.symbol(shape)
            case Digits(text):
                return self._number(text)
            case Code(text):
                return self.code(text)
            case Noted(inner, word):
                return self.note(self.write(inner), word)
            case FunctionCall(_, argument):
                return self.call(shape.function, self.write(argument))
            case Act(matrix, vector):
                return self.join(self.write(matrix), self._factor(vector))
            case Times(left, right, elementwise):
                sign = odot if elementwise else times
                return self._factor(left, first=True) + sign + self._factor(right)
            case Total(parts):
                written = ""
                for k, (subtracted, term) in enumerate(parts):
                    bare, flipped = _sign(term)
                    negative = subtracted != flipped
                    inside = self.write(bare)
                    if isinstance(bare, Total):
                        inside = self.group(inside)
                    if k == 0:
                        written = self.negative(inside) if negative else inside
                    else:
                        written += (minus if negative else plus) + inside
                return written

    def _number(self, text: str) -> str:
        if text.startswith("-"):
            return self.negative(self.digits(text[1:]))
        return self.digits(text)

    def _factor(self, shape: Shape, first: bool = False) -> str:
        inside = self.write(shape)
        negative = isinstance(shape, Digits) and shape.text.startswith("-") and not first
        return self.group(inside) if negative or isinstance(shape, Total | Act | Times) else inside


def _sign(shape: Shape) -> tuple[Shape, bool]:
    """A term without its leading minus, and whether it had one: a + -3 is written a - 3."""
    match shape:
        case Digits(text) if text.startswith("-"):
            return Digits(text[1:]), True
        case Noted(inner, word):
            bare, negative = _sign(inner)
            return Noted(bare, word), negative
        case Times(Digits(text) as left, right, elementwise) if text.startswith("-"):
            return Times(_sign(left)[0], right, elementwise), True
        case _:
            return shape, False


def _text_symbol(symbol: Symbol) -> str:
    unit = "" if symbol.unit is None else f"[{symbol.unit}]"
    return f"{symbol.base}_{symbol.index}{unit}" if symbol.index else symbol.base + unit


_TEXT = _Form(
    symbol=_text_symbol,
    digits=str,
    code=str,
    call=lambda function, inside: f"{function.symbol}({inside})",
    note=lambda inside, word: f"{inside} ({word})",
    group=lambda inside: f"({inside})",
    join=lambda left, right: f"{left} {right}",
    operators=(" + ", " - ", " × ", " ⊙ ", " = "),
    negative=lambda inside: f"-{inside}",
)


def _latex_symbol(symbol: Symbol) -> str:
    base = symbol.base if len(symbol.base) == 1 else rf"\mathrm{{{_latex_words(symbol.base)}}}"
    index = symbol.index.strip("()")
    unit = "" if symbol.unit is None else f"[{symbol.unit}]"
    if not index:
        return base + unit
    if len(index) > 1:
        index = f"{{{_latex_words(index)}}}"
    return f"{base}_{index}{unit}"


def _latex_words(words: str) -> str:
    return words.replace("_", r"\_")


def _latex_digits(digits: str) -> str:
    if digits in ("inf", "nan"):
        return r"\infty" if digits == "inf" else r"\mathrm{NaN}"
    mantissa, e, exponent = digits.partition("e")
    return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if e else mantissa


_LATEX = _Form(
    symbol=_latex_symbol,
    digits=_latex_digits,
    code=lambda name: rf"\texttt{{{_latex_words(name)}}}",
    call=lambda function, inside: f"{function.latex}({inside})",
    note=lambda inside, word: rf"\underbrace{{{inside}}}_{{\text{{{word}}}}}",
    group=lambda inside: f"({inside})",
    join=lambda left, right: f"{left} {right}",
    operators=(" + ", " - ", r" \times ", r" \odot ", " = "),
    negative=lambda inside: f"-{inside}",
)


def _mi(name: str) -> str:
    return f"<mi>{escape(name)}</mi>"


def _mo(sign: str) -> str:
    return f"<mo>{escape(sign)}</mo>"


def _mathml_symbol(symbol: Symbol) -> str:
    index = symbol.index.strip("()")
    written = _mi(symbol.base)
    if index:
        left, sign, right = index.partition("-") if "-" in index else index.partition("+")
        inside = _mi(left) if left.isalpha() else f"<mn>{escape(left)}</mn>"
        if sign:
            inside = (
                f"<mrow>{inside}{_mo('−' if sign == '-' else sign)}<mn>{escape(right)}</mn></mrow>"
            )
        written = f"<msub>{written}{inside}</msub>"
    if symbol.unit is not None:
        written = f"<mrow>{written}{_mo('[')}<mn>{symbol.unit}</mn>{_mo(']')}</mrow>"
    return written


def _mathml_digits(digits: str) -> str:
    if digits in ("inf", "nan"):
        return _mi("∞" if digits == "inf" else "NaN")
    mantissa, e, exponent = digits.partition("e")
    if not e:
        return f"<mn>{mantissa}</mn>"
    power = f"<msup><mn>10</mn><mn>{int(exponent)}</mn></msup>"
    return f"<mrow><mn>{mantissa}</mn>{_mo('·')}{power}</mrow>"


def _mathml_call(function: Function, inside: str) -> str:
    return f"<mrow>{_mi(function.symbol)}{_mo('⁡')}<mrow>{_mo('(')}{inside}{_mo(')')}</mrow></mrow>"


_MATHML = _Form(
    symbol=_mathml_symbol,
    digits=_mathml_digits,
    code=lambda name: f'<mtext class="code">{escape(name)}</mtext>',
    call=_mathml_call,
    note=lambda inside, word: (
        f"<munder><munder><mrow>{inside}</mrow>{_mo('⏟')}</munder><mtext>{escape(word)}</mtext></munder>"
    ),
    group=lambda inside: f"<mrow>{_mo('(')}{inside}{_mo(')')}</mrow>",
    join=lambda left, right: f"{left}{_mo('⁢')}{right}",
    operators=(_mo("+"), _mo("−"), _mo("×"), _mo("⊙"), _mo("=")),
    negative=lambda inside: f"<mrow>{_mo('−')}{inside}</mrow>",
)


def _write(form: _Form, of: Shape | Equation) -> str:
    if isinstance(of, tuple):
        left, right = of
        return form.write(left) + form.operators[4] + form.write(right)
    return form.write(of)


def text(of: Shape | Equation) -> str:
    """A shape, or an equation (left, right), as plain text.

    >>> from rnnscope.cells import LSTM
    >>> text(Notation().equation("c", LSTM.equations["c"]))
    'c_t = f_t ⊙ c_(t-1) + i_t ⊙ g_t'
    """
    return _write(_TEXT, of)


def latex(of: Shape | Equation) -> str:
    r"""A shape, or an equation (left, right), as LaTeX, without dollars.

    >>> from rnnscope.cells import LSTM
    >>> print(latex(Notation().equation("i", LSTM.equations["i"])))
    i_t = \sigma(W_{ii} x_t + b_{ii} + W_{hi} h_{t-1} + b_{hi})
    """
    return _write(_LATEX, of)


def mathml(of: Shape | Equation) -> str:
    """A shape, or an equation (left, right), as a MathML element.

    >>> from rnnscope.cells import LSTM
    >>> print(mathml(Notation().quantity("h")))
    <math><msub><mi>h</mi><mi>t</mi></msub></math>
    """
    inside = _write(_MATHML, of)
    return f"<math>{inside}</math>"
