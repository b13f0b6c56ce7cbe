"""Autograd, the judge of the gradients: a private run of the layer, and what rounding allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import Variable

from rnnscope._gradients.differentiable import Differentiable
from rnnscope._gradients.upstream import Upstream
from rnnscope._layers.call import Call
from rnnscope._layers.run import CallByEquations, run_call
from rnnscope._layers.structure import Returned, Structure, Weights
from rnnscope._opening.bounds import Rounding
from rnnscope._record.difference import absolute_difference
from rnnscope.errors import VerificationError

__all__ = ["Judgement", "coarse", "judge"]

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
"""How far the gradients may lie from autograd's, relative to the largest; a sum over thousands of
places rounds no better, and a wrong factor anywhere is off by far more."""

FLOOR = 1e-3
"""A tensor whose largest gradient is smaller than this share of the largest of all is measured
against that share: what has vanished has no digits of its own."""

MOVED = 128
"""And so many times what a change of weights, input and states by their last bits makes of them."""

AMPLIFIED = 4
"""Ours may differ by so many times what two precisions make of autograd's own gradients."""

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Judgement:
    """The largest difference from autograd's gradients, relative to the largest gradient, and what
    is allowed: None where the layer's products are coarser than its numbers. ``nonfinite`` names
    a gradient of NaN or infinite numbers. Without a judge all is None."""

    deviation: float | None = None
    tolerance: float | None = None
    nonfinite: str | None = None


def judge(trace: Differentiable, upstream: Upstream, equations: Mapping[str, Tensor]) -> Judgement:
    """Compare gradients by the equations with autograd's; raises ``VerificationError`` where they
    differ by more than rounding."""
    dtype = upstream.h.dtype
    autograd = _by_autograd(trace, upstream, dtype)
    for name, value in autograd.items():
        if not (math.isfinite(_largest(value)) and math.isfinite(_largest(equations[name]))):
            return Judgement(math.nan, None, name)
    worst, name = _largest_difference(equations, autograd)
    if coarse(trace):
        return Judgement(worst)
    tolerance = TOLERANCE[trace.call.x.dtype]
    if worst > tolerance:
        exact = autograd
        if dtype == torch.float32:
            # oneDNN's LSTM sums the gradients of biases one by one, which rounds worse than
            # ours over some 10,000 places: autograd in float64 decides. And where autograd
            # itself moves with the precision, as in a chaotic layer, so may we.
            exact = _by_autograd(trace, upstream, torch.float64)
            worst, name = min((worst, name), _largest_difference(equations, exact))
            tolerance = max(tolerance, AMPLIFIED * _largest_difference(autograd, exact)[0])
        # and where its gradients move with the last bits of what it is given
        last_bit = torch.finfo(dtype).eps
        moved = _by_autograd(trace, upstream, torch.float64, last_bit)
        tolerance = max(tolerance, MOVED * _largest_difference(moved, exact)[0])
    if worst > tolerance:
        raise VerificationError(
            f"the gradient of {name} by the equations is not autograd's: the largest "
            f"difference is {worst:.3g} of the largest gradient, {tolerance:.0e} is "
            f"allowed. gradients(..., check=False) gives those by the equations alone."
        )
    return Judgement(worst, tolerance)


def _largest_difference(
    equations: Mapping[str, Tensor], autograd: Mapping[str, Tensor]
) -> tuple[float, str]:
    """The largest difference, relative to the largest of that tensor, and where."""
    sizes = {name: _size(value) for name, value in autograd.items()}
    least = max(FLOOR * max(sizes.values()), _TINY)
    off = {
        name: float(absolute_difference(equations[name].to(value.dtype), value).max())
        / max(sizes[name], least)
        for name, value in autograd.items()
    }
    name = max(off, key=lambda name: off[name])
    return off[name], name


def _largest(value: Tensor) -> float:
    """The largest |number|; NaN where there is one."""
    if not value.numel():
        return 0.0
    low, high = torch.aminmax(value)
    return max(-float(low), float(high))


def _size(value: Tensor) -> float:
    """The largest finite |number|."""
    largest = _largest(value)
    return largest if math.isfinite(largest) else _largest(value.nan_to_num(0.0, 0.0, 0.0))


def coarse(trace: Differentiable) -> str | None:
    """The precision of the layer's products, where it was lower than that of its input."""
    x = trace.call.x
    if trace.precision != str(x.dtype).removeprefix("torch.") or x.dtype not in TOLERANCE:
        return trace.precision
    return "float32 with TF32" if Rounding.of(x.dtype, x.device, x.dtype).cast else None


def _by_autograd(
    trace: Differentiable, upstream: Upstream, dtype: torch.dtype, moved: float = 0.0
) -> dict[str, Tensor]:
    """The gradients of parameters, x (time, batch, feature) and initial states by autograd, in a
    run of the detached layer: torch's own, or for a declared cell that of its equations. ``moved``
    is a share by which every number that it is given is changed, up or down."""
    structure, call = trace.structure, trace.call
    device = call.x.device.type

    generator = torch.Generator("cpu")
    generator.manual_seed(0)

    def signs(number: Tensor) -> Tensor:
        ups = torch.randint(2, number.shape, generator=generator, device="cpu")
        return (2 * ups - 1).to(number)

    def leaf(value: Tensor) -> Tensor:
        number = value.detach().to(dtype)
        if moved:
            number = number * (1 + moved * signs(number))
        # nothing writes into it; autograd follows no tensor of inference mode
        return (number.clone() if number.is_inference() else number).requires_grad_()

    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device, enabled=False),
        torch.backends.cudnn.flags(enabled=device != "cuda"),
    ):
        weights = tuple(tuple(part.map(leaf) for part in row) for row in trace.weights)
        initial = {name: leaf(value) for name, value in call.initial.items()}
        x = leaf(call.x)
        fresh = replace(call, x=x, initial=initial)
        masks = tuple(
            None if mask is None else structure.dropout_factor(mask, dtype).transpose(0, 1)
            for mask in trace.masks
        )
        run = _by_equations if structure.declared or structure.foreign else _by_torch
        returned = run(structure, fresh, weights, masks)
        names: dict[str, Tensor] = {"x": x}
        names |= {f"{name}_0": value for name, value in initial.items()}
        leaves = [t for row in weights for part in row for t in part.tensors()]
        pairs = [(returned.h, upstream.h)]
        pairs += [(returned.final[name], value) for name, value in upstream.final.items()]
        pairs = [(value, gradient) for value, gradient in pairs if value.requires_grad]
        inputs = [*leaves, *names.values()]
        gradients: tuple[Tensor | None, ...] = (None,) * len(inputs)
        if pairs:  # there are none for a cell whose h is a number
            values = tuple(value for value, _ in pairs)
            entering = tuple(_kept(gradient, dtype) for _, gradient in pairs)
            # the engine itself: with grad_outputs, autograd.grad imports sympy, and adds a filter
            # of warnings; a loss that sums value × gradient has everything in memory once more
            gradients = Variable._execution_engine.run_backward(
                values,
                entering,
                False,
                False,
                tuple(inputs),
                allow_unreachable=True,
                accumulate_grad=False,
            )
    filled = iter(
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(inputs, gradients, strict=True)
    )
    # by the names of the parameters, which have the rows that the equations use
    by_name = {
        name: gradient
        for row in weights
        for part in row
        for name, gradient in part.map(lambda _: next(filled)).named().items()
    }
    return by_name | dict(zip(names, filled, strict=True))


def _kept(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    # a graph keeps no tensor of inference mode
    return gradient.clone().to(dtype) if gradient.is_inference() else gradient.to(dtype)


def _by_equations(
    structure: Structure,
    call: Call,
    weights: tuple[tuple[Weights, ...], ...],
    masks: tuple[Tensor | None, ...],
) -> Returned:
    ran = run_call(CallByEquations(structure, call, weights, frozenset(), masks))
    return Returned(ran.hidden, ran.final)


def _by_torch(
    structure: Structure,
    call: Call,
    weights: tuple[tuple[Weights, ...], ...],
    masks: tuple[Tensor | None, ...],
) -> Returned:
    if structure.single_step:
        states = {name: value[0, 0] for name, value in call.initial.items()}
        after = structure.step(call.x[0], states, weights[0][0])
        return Returned(after["h"].unsqueeze(0), {n: t[None, None] for n, t in after.items()})
    flow = call.x if call.packed is None else call.pack(call.x)
    finals: list[dict[str, Tensor]] = []
    for layer, row in enumerate(weights):
        mask = masks[layer]
        if mask is not None:
            flow = flow * (mask if call.packed is None else call.pack(mask))
        initial = {name: value[layer] for name, value in call.initial.items()}
        flow, final = structure.rerun(flow, call.packed, initial, row)
        finals.append(final)
    h = flow if call.packed is None else call.unpacked(flow)
    return Returned(h, {name: torch.stack([f[name] for f in finals]) for name in call.initial})
