"""The elementwise functions that equations may use; each fact about one stands here only.

A function with parameters has them in its name, ``leaky_relu(0.01)``, so that a name is all that
an equation or a file needs to hold.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rnnscope.errors import DeclarationError

__all__ = ["FAMILIES", "FUNCTIONS", "Function", "function_named"]


@dataclass(frozen=True)
class Function:
    r"""An elementwise function with all that is derived from it.

    ``derivative`` is given from the function's own value y, as backpropagation needs it; where y
    does not tell it, ``derivative_at`` gives it from the argument, and ``derivative`` raises
    ``DeclarationError``. ``steepest`` is the largest slope anywhere (inf at a jump), ``range`` the
    smallest and largest value (None where there is no largest), ``through_zero`` whether
    |f(a)| <= |a|, ``flattens`` whether the slope is largest at 0 and falls on both sides,
    ``bend`` the largest second derivative: what error bounds need. ``script`` is the expression in
    JavaScript. ``kernel`` is the same on vectors of a compiled kernel (``_kernels.lanes``),
    ``kernel_slope`` its derivative from y there; None where a cell with this function is computed
    by torch alone.

    >>> from rnnscope.cells import apply, from_h, from_x
    >>> cube = Function(
    ...     "cube", "cube", r"\operatorname{cube}",
    ...     forward=lambda a: a**3, forward_=lambda a: a.pow_(3),
    ...     derivative=lambda y: 3 * (y * y) ** (1 / 3), steepest=float("inf"), range=None,
    ...     through_zero=False, script="x * x * x",
    ... )
    >>> apply(cube, from_x("h") + from_h("h")).function.slope(torch.tensor(2.0), torch.tensor(8.0))
    tensor(12.)
    """

    name: str
    symbol: str
    latex: str
    forward: Callable[[Tensor], Tensor]
    forward_: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    steepest: float
    range: tuple[float, float] | None
    through_zero: bool
    script: str
    derivative_at: Callable[[Tensor], Tensor] | None = None
    flattens: bool = False
    bend: float | None = None
    kernel: Callable[[Any], Any] | None = None
    kernel_slope: Callable[[Any], Any] | None = None

    @property
    def largest(self) -> float | None:
        """The largest magnitude; None where there is none."""
        return None if self.range is None else max(map(abs, self.range))

    @property
    def at_zero(self) -> float:
        """f(0)."""
        return float(self.forward(torch.zeros((), dtype=torch.float64, device="cpu")))

    def slope(self, argument: Tensor, value: Tensor) -> Tensor:
        """The derivative, of an argument and the function's value there."""
        if self.derivative_at is not None:
            return self.derivative_at(argument)
        return self.derivative(value)


def _tanh_(value: Tensor) -> Tensor:
    # NumPy's tanh is vectorised where torch's is not: three times as fast on a CPU
    if value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64):
        array = value.numpy()
        np.tanh(array, out=array)
        return value
    return value.tanh_()


def _positive(y: Tensor) -> Tensor:
    return (~(y <= 0)).to(y.dtype)  # of NaN the gradient passes, as in torch


def _inside(y: Any, low: float, high: float, slope: float) -> Any:
    """The slope where y of a kernel lies between two numbers, 0 elsewhere."""
    return y.filled(slope).unless(y.at_most(low), 0).unless(y.at_least(high), 0)


def _softplus(a: Tensor) -> Tensor:
    # not torch's softplus, which is the identity from 20 on: 2e-9 off
    return torch.logaddexp(a, a.new_zeros(()))


FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        f.name: f
        for f in (
            Function(
                name="sigmoid",
                symbol="σ",
                latex=r"\sigma",
                forward=torch.sigmoid,
                forward_=torch.sigmoid_,
                derivative=lambda y: y * (1 - y),
                steepest=0.25,
                range=(0.0, 1.0),
                through_zero=False,
                script="1 / (1 + Math.exp(-x))",
                flattens=True,
                bend=0.0963,
                kernel=lambda a: a.logistic(),
                kernel_slope=lambda y: y * (1 - y),
            ),
            Function(
                name="tanh",
                symbol="tanh",
                latex=r"\tanh",
                forward=torch.tanh,
                forward_=_tanh_,
                derivative=lambda y: 1 - y * y,
                steepest=1.0,
                range=(-1.0, 1.0),
                through_zero=True,
                script="Math.tanh(x)",
                flattens=True,
                bend=0.77,
                kernel=lambda a: a.tangent(),
                kernel_slope=lambda y: 1 - y * y,
            ),
            Function(
                name="relu",
                symbol="relu",
                latex=r"\operatorname{ReLU}",
                forward=torch.relu,
                forward_=torch.relu_,
                derivative=_positive,
                steepest=1.0,
                range=None,
                through_zero=True,
                script="x <= 0 ? 0 : x",
                kernel=lambda a: a.unless(a.at_most(0), 0),
                kernel_slope=lambda y: y.filled(1).unless(y.at_most(0), 0),
            ),
            Function(
                name="linear",
                symbol="linear",
                latex=r"\operatorname{linear}",
                forward=lambda a: a,
                forward_=lambda a: a,
                derivative=torch.ones_like,
                steepest=1.0,
                range=None,
                through_zero=True,
                script="x",
                kernel=lambda a: a,
                kernel_slope=lambda y: y.filled(1),
            ),
            Function(
                # of PyTorch and Keras 3; Keras 2 and ONNX have hard_sigmoid(0.2, 0.5)
                name="hard_sigmoid",
                symbol="hard_sigmoid",
                latex=r"\operatorname{hard\_sigmoid}",
                # not torch's hardsigmoid, whose gradient is 1/6 in float32, 5e-9 off
                forward=lambda a: (a + 3).clamp(0, 6) / 6,
                forward_=lambda a: a.add_(3).clamp_(0, 6).div_(6),
                derivative=lambda y: ((y > 0) & (y < 1)).to(y.dtype) / 6,
                steepest=1 / 6,
                range=(0.0, 1.0),
                through_zero=False,
                script="Math.min(Math.max(x + 3, 0), 6) / 6",
                flattens=True,
                kernel=lambda a: (a + 3).clamped(0, 6) / 6,
                kernel_slope=lambda y: _inside(y, 0, 1, 1 / 6),
            ),
            Function(
                name="softsign",
                symbol="softsign",
                latex=r"\operatorname{softsign}",
                forward=F.softsign,
                forward_=lambda a: a.div_(a.abs().add_(1)),
                derivative=lambda y: (1 - y.abs()).square(),
                steepest=1.0,
                range=(-1.0, 1.0),
                through_zero=True,
                script="x / (1 + Math.abs(x))",
                flattens=True,
                kernel=lambda a: a / (abs(a) + 1),
                kernel_slope=lambda y: (1 - abs(y)) * (1 - abs(y)),
            ),
            Function(
                name="softplus",
                symbol="softplus",
                latex=r"\operatorname{softplus}",
                forward=_softplus,
                forward_=lambda a: torch.logaddexp(a, a.new_zeros(()), out=a),
                derivative=lambda y: -torch.expm1(-y),
                steepest=1.0,
                range=None,
                through_zero=False,
                script="Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))",
            ),
        )
    }
)
"""The functions without parameters, by name."""


def _elu(alpha: float) -> Function:
    """The argument where it is positive, alpha × (exp(a) - 1) elsewhere."""
    at: Callable[[Tensor], Tensor] | None = None
    derivative = _told_by_argument
    if alpha >= 0:
        derivative = lambda y: torch.where(y > 0, 1.0, y + alpha).to(y.dtype)  # noqa: E731
    else:
        at = lambda a: torch.where(a > 0, 1.0, alpha * a.clamp(max=0).exp()).to(a.dtype)  # noqa: E731
    return _member(
        "elu",
        (alpha,),
        forward=lambda a: F.elu(a, alpha),
        forward_=lambda a: F.elu_(a, alpha),
        derivative=derivative,
        derivative_at=at,
        steepest=max(1.0, abs(alpha)),
        through_zero=abs(alpha) <= 1,
        script=f"x > 0 ? x : {alpha!r} * Math.expm1(x)",
    )


def _leaky_relu(alpha: float) -> Function:
    """The argument where it is positive, alpha × a elsewhere."""
    at: Callable[[Tensor], Tensor] | None = None
    derivative = _told_by_argument
    if alpha >= 0:
        derivative = lambda y: torch.full_like(y, alpha).masked_fill(y > 0, 1)  # noqa: E731
    else:
        at = lambda a: torch.full_like(a, alpha).masked_fill(a > 0, 1)  # noqa: E731
    return _member(
        "leaky_relu",
        (alpha,),
        forward=lambda a: F.leaky_relu(a, alpha),
        forward_=lambda a: F.leaky_relu_(a, alpha),
        derivative=derivative,
        derivative_at=at,
        steepest=max(1.0, abs(alpha)),
        through_zero=abs(alpha) <= 1,
        script=f"x > 0 ? x : {alpha!r} * x",
        kernel=lambda a: a.unless(a.at_most(0), a * alpha),
        kernel_slope=(lambda y: y.filled(1).unless(y.at_most(0), alpha)) if at is None else None,
    )


def _thresholded_relu(alpha: float) -> Function:
    """The argument where it is larger than alpha, 0 elsewhere."""
    return _member(
        "thresholded_relu",
        (alpha,),
        forward=lambda a: F.threshold(a, alpha, 0.0),
        forward_=lambda a: F.threshold(a, alpha, 0.0, inplace=True),
        # what passes is told by its value: 0 stands for all that does not
        derivative=lambda y: (y != 0).to(y.dtype),
        steepest=math.inf if alpha else 1.0,
        through_zero=True,
        script=f"x <= {alpha!r} ? 0 : x",
        kernel=lambda a: a.unless(a.at_most(alpha), 0),
        kernel_slope=lambda y: y.filled(1).unless(y.at_most(0), 0).unless(y.below(0), 1),
    )


def _scaled_tanh(alpha: float, beta: float) -> Function:
    """Tanh stretched: alpha × tanh(beta × a)."""
    if alpha == 0:
        raise DeclarationError("scaled_tanh with alpha 0 is 0 everywhere")
    return _member(
        "scaled_tanh",
        (alpha, beta),
        forward=lambda a: torch.tanh(a * beta) * alpha,
        forward_=lambda a: _tanh_(a.mul_(beta)).mul_(alpha),
        derivative=lambda y: beta * (alpha - y * y / alpha),
        steepest=abs(alpha * beta),
        range=(-abs(alpha), abs(alpha)),
        through_zero=abs(alpha * beta) <= 1,
        script=f"{alpha!r} * Math.tanh({beta!r} * x)",
        kernel=lambda a: (a * beta).tangent() * alpha,
        kernel_slope=lambda y: (alpha - y * y * (1 / alpha)) * beta,
    )


def _affine(alpha: float, beta: float) -> Function:
    """A straight line: alpha × a + beta."""
    return _member(
        "affine",
        (alpha, beta),
        forward=lambda a: a * alpha + beta,
        forward_=lambda a: a.mul_(alpha).add_(beta),
        derivative=lambda y: torch.full_like(y, alpha),
        steepest=abs(alpha),
        through_zero=beta == 0 and abs(alpha) <= 1,
        script=f"{alpha!r} * x + {beta!r}",
        kernel=lambda a: a * alpha + beta,
        kernel_slope=lambda y: y.filled(alpha),
    )


def _hard_sigmoid(alpha: float, beta: float) -> Function:
    """A straight line cut to what lies between 0 and 1."""
    return _member(
        "hard_sigmoid",
        (alpha, beta),
        forward=lambda a: (a * alpha + beta).clamp(0, 1),
        forward_=lambda a: a.mul_(alpha).add_(beta).clamp_(0, 1),
        derivative=lambda y: ((y > 0) & (y < 1)).to(y.dtype) * alpha,
        steepest=abs(alpha),
        range=(0.0, 1.0),
        through_zero=False,
        script=f"Math.min(Math.max({alpha!r} * x + {beta!r}, 0), 1)",
        kernel=lambda a: (a * alpha + beta).clamped(0, 1),
        kernel_slope=lambda y: _inside(y, 0, 1, alpha),
    )


def _clip(limit: float) -> Function:
    """The argument, cut to what lies between -limit and limit."""
    if limit <= 0:
        raise DeclarationError(f"clip({limit:g}): the limit must be positive")
    return _member(
        "clip",
        (limit,),
        forward=lambda a: a.clamp(-limit, limit),
        forward_=lambda a: a.clamp_(-limit, limit),
        derivative=lambda y: (y.abs() < limit).to(y.dtype),
        steepest=1.0,
        range=(-limit, limit),
        through_zero=True,
        script=f"Math.min(Math.max(x, {-limit!r}), {limit!r})",
        kernel=lambda a: a.clamped(-limit, limit),
        kernel_slope=lambda y: _inside(y, -limit, limit, 1),
    )


def _told_by_argument(y: Tensor) -> Tensor:
    raise DeclarationError(
        "the derivative does not follow from the function's value, which two arguments share; "
        "use slope(argument, value)"
    )


def _member(
    family: str,
    values: tuple[float, ...],
    *,
    forward: Callable[[Tensor], Tensor],
    forward_: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    steepest: float,
    through_zero: bool,
    script: str,
    range: tuple[float, float] | None = None,
    derivative_at: Callable[[Tensor], Tensor] | None = None,
    kernel: Callable[[Any], Any] | None = None,
    kernel_slope: Callable[[Any], Any] | None = None,
) -> Function:
    written = ", ".join(map(repr, values))
    shown = ", ".join(f"{value:g}" for value in values)
    words = family.replace("_", r"\_")
    return Function(
        name=f"{family}({written})",
        symbol=f"{family}[{shown}]",
        latex=rf"\operatorname{{{words}}}_{{{shown}}}",
        forward=forward,
        forward_=forward_,
        derivative=derivative,
        steepest=steepest,
        range=range,
        through_zero=through_zero,
        script=script,
        derivative_at=derivative_at,
        kernel=kernel,
        kernel_slope=kernel_slope,
    )


FAMILIES: Mapping[str, Callable[..., Function]] = MappingProxyType(
    {
        "elu": _elu,
        "leaky_relu": _leaky_relu,
        "thresholded_relu": _thresholded_relu,
        "scaled_tanh": _scaled_tanh,
        "affine": _affine,
        "hard_sigmoid": _hard_sigmoid,
        "clip": _clip,
    }
)
"""The functions with parameters, by the name without them: ``affine`` of alpha and beta."""

_WITH_PARAMETERS = re.compile(r"(\w{1,40})\(([^()]{1,200})\)")


@lru_cache(maxsize=256)
def function_named(name: str) -> Function:
    """The function of a name, its parameters in parentheses after it.

    >>> function_named("tanh").steepest
    1.0
    >>> function_named("leaky_relu(0.01)").forward(torch.tensor([-1.0, 1.0]))
    tensor([-0.01,  1.00])

    Raises ``DeclarationError`` for a name or parameters that there are not.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    match = _WITH_PARAMETERS.fullmatch(name)
    family = FAMILIES.get(match[1] if match else name)
    if family is None:
        names = [
            *FUNCTIONS,
            *(f"{family_name}({_parameters(of)})" for family_name, of in FAMILIES.items()),
        ]
        raise DeclarationError(f"unknown function {name!r}; equations may use {', '.join(names)}")
    expected = _parameters(family)
    values = []
    for word in match[2].split(",") if match else []:
        try:
            values.append(float(word))
        except ValueError:
            break
    if len(values) != len(expected.split(",")) or not all(map(math.isfinite, values)):
        raise DeclarationError(
            f"{name}: expected {name.partition('(')[0]}({expected}) with finite numbers"
        )
    return family(*values)


def _parameters(family: Callable[..., Function]) -> str:
    return ", ".join(inspect.signature(family).parameters)
