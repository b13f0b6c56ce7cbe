"""What may look at torch's operations beside the numbers that they give: then torch computes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["numbers_alone"]


def numbers_alone(tensors: Iterable[Tensor]) -> bool:
    """Whether operations on these tensors are asked for their numbers and nothing else, so that
    code which torch does not see may compute them: no graph, no derivative forward, no
    transformation of ``torch.func``, no mode or subclass that looks at operations, no tracing, and
    the type of number that the tensors have.

    >>> x = torch.ones(2, requires_grad=True)
    >>> numbers_alone([x]), numbers_alone([x.detach()])
    (False, True)
    """
    seen_by_torch = (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or forward_ad._current_level >= 0
    )
    if seen_by_torch:
        return False
    graph = torch.is_grad_enabled()
    return not any(
        type(t) not in (Tensor, nn.Parameter)
        or (graph and t.requires_grad)
        or torch._C._functorch.is_functorch_wrapped_tensor(t)
        or t.layout != torch.strided
        or torch.is_autocast_enabled(t.device.type)
        for t in tensors
    )
