"""Dropout in training: whether the gradient is that of the very masks of the call.

The masks cannot be read off a device. But the same seed gives the same masks, so the slope between
two calls beside each other is the gradient along the way, whatever the masks are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnnscope._check.calls import quiet
from rnnscope._check.kernels import Configuration

__all__ = ["wrong_slope"]

STEP = 1e-2
"""How far the two calls are apart, relative to x; float32 then tells the slope to about 1e-4."""

LARGEST = 2e-2
"""Of the slope: how far a right gradient may be off. One that ignores the masks is off by about
as much as it is large."""

SEED = 7


def wrong_slope(configuration: Configuration, device: torch.device, dtype: torch.dtype) -> str:
    """A sentence where the gradient of x, or of the lowest layer's weights, is not the slope; else
    empty. Draws from the random state.

    Raises what the device raises.
    """
    sizes, layer = configuration.sizes, configuration.layer().to(dtype).to(device)
    shape = (sizes.time, sizes.batch, sizes.input)
    x = torch.randn(shape, dtype=dtype, device="cpu").to(device)
    width = layer.proj_size or layer.hidden_size
    upstream = torch.randn(*shape[:2], width, dtype=dtype, device="cpu").to(device)

    def loss(inputs: Tensor) -> Tensor:
        torch.manual_seed(SEED)  # the same masks
        with quiet():
            output, _ = layer(inputs)
        total: Tensor = (output * upstream).sum()
        return total

    if not torch.equal(loss(x), loss(x)):
        return "two calls after the same torch.manual_seed(...) give different numbers"
    inputs = x.clone().requires_grad_()
    with quiet():
        (gradient,) = torch.autograd.grad(loss(inputs), [inputs])
    along = gradient / gradient.norm().clamp_min(torch.finfo(dtype).tiny)
    step = STEP * float(x.norm())
    with torch.no_grad():
        # of float64 sums, so that the difference keeps its digits
        difference = loss(x + step * along).double().cpu() - loss(x - step * along).double().cpu()
    slope = float(difference) / (2 * step)
    expected = float((gradient * along).double().sum().cpu())
    if abs(slope - expected) <= LARGEST * max(abs(slope), abs(expected)):
        return ""
    return (
        f"backward() gives {expected:.6g} along the gradient of x; two calls with the same masks "
        f"give a slope of {slope:.6g}: are the masks of dropout applied on the way back?"
    )
