"""What a loss says of what a layer returned: the gradients that enter it from outside.

They come from a loss, followed by autograd to the outputs, or from the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnscope._gradients.backward import Backward
from rnnscope._gradients.differentiable import Differentiable, part_values
from rnnscope._layers.sequences import at_steps, last_steps, without_padding
from rnnscope._layers.tensors import plain, require_numbers
from rnnscope._opening.buffers import working_type
from rnnscope.errors import AddressError, DtypeError, GradientError, ShapeError

__all__ = [
    "Upstream",
    "chained",
    "checked_loss",
    "gradients_of",
    "tensors",
    "upstream_from_arguments",
    "upstream_from_loss",
]

CHAIN = 4
"""Operations between a cell's c and its h, at most."""
ALTERNATIVE = "gradients(output=..., h_n=...)"


class Upstream:
    """What a loss says of what a layer returned: ``h`` (time, batch, direction × output), and each
    state's last value (layer, direction, batch, unit)."""

    def __init__(self, h: Tensor, final: Mapping[str, Tensor]) -> None:
        self.h, self.final = h, dict(final)

    @classmethod
    def of(
        cls,
        trace: Differentiable,
        returned: Any,
        gradients: list[Tensor | None],
        total: bool = False,
    ) -> Upstream:
        """Upstream from the gradients of ``tensors(returned)``; None where a tensor has none.

        ``total``: the gradient of a state holds what comes to it through other states, too.
        """
        filled = [
            torch.zeros_like(plain(tensor).detach())
            if gradient is None
            else plain(gradient).detach()
            for tensor, gradient in zip(tensors(returned), gradients, strict=True)
        ]
        structure = trace.structure
        states = filled
        output: Tensor | PackedSequence | None = None
        if not structure.single_step:
            output, states = filled[0], filled[1:]
            if isinstance(returned[0], PackedSequence):
                output = PackedSequence(output, *returned[0][1:])
        final = states[0] if len(states) == 1 else tuple(states)
        form = structure.returned(final if output is None else (output, final), trace.call)
        dtype = working_type(trace.call.x.dtype)
        h = torch.zeros_like(form.h) if structure.single_step else form.h
        upstream = cls(h.to(dtype), {name: value.to(dtype) for name, value in form.final.items()})
        if total:
            upstream._subtract_indirect(trace)
        return upstream

    def direct(
        self, trace: Differentiable, state: str, layer: int, d: int, h: Tensor | None
    ) -> Tensor | None:
        """What reaches a state's values (time, batch, unit) from outside of its layer; None
        where nothing does. ``h`` (time, batch, direction × output) is what reaches all h."""
        final = self.final[state][layer, d]
        if h is None and not final.any():
            return None
        call, size = trace.call, final.shape[-1]
        if h is None:
            direct = final.new_zeros(call.steps, call.batch, size)
        else:
            direct = without_padding(h[..., d * size : (d + 1) * size].clone(), call.valid)
        reverse = trace.directions[d] == "reverse"
        direct[at_steps(last_steps(trace.lengths, reverse))] += final
        return direct

    def _subtract_indirect(self, trace: Differentiable) -> None:
        """Of a single step: subtract from each state's gradient what comes through other states."""
        part = part_values(trace, 0, 0)
        block = part.block(0, 1)
        states = {name: value[0] for name, value in self.final.items()}
        adjoints = Backward(part, {}, False, None).within(block, states)
        for name in trace.cell.states:
            through = adjoints.combined(block.feeds[name], states[name].shape[-1])
            self.final[name] = self.final[name] - through


def tensors(returned: Any) -> list[Tensor]:
    """What a layer returned, flat: output (the data where it is packed), then the states."""
    if isinstance(returned, Tensor):
        return [returned]
    if isinstance(returned, PackedSequence):
        return [returned.data]
    return [tensor for part in returned for tensor in tensors(part)]


def chained(returned: Any) -> bool:
    """Whether a state was computed from another that is returned too, as nn.LSTMCell computes h
    from the very c: then autograd's gradient of c holds what comes through h."""
    flat = tensors(returned)
    nodes = {tensor.grad_fn for tensor in flat[1:] if tensor.grad_fn is not None}
    layer = [flat[0].grad_fn]
    for _ in range(CHAIN):
        layer = [below for node in layer if node is not None for below, _ in node.next_functions]
        if nodes.intersection(layer):
            return True
    return False


def checked_loss(loss: Any) -> Tensor:
    """A loss that is one number; raises ``DtypeError`` and ``ShapeError`` for anything else."""
    if not isinstance(loss, Tensor):
        raise DtypeError(f"the loss must be a tensor of one number; got {type(loss).__name__}")
    require_numbers("the loss", loss)
    loss = plain(loss)
    if loss.numel() != 1:
        raise ShapeError(
            f"the loss must be one number; got {tuple(loss.shape)}. Sum it, or give what reaches "
            f"the layer's outputs: gradients(output=..., h_n=...)"
        )
    number: Tensor = loss
    return number


def upstream_from_loss(trace: Differentiable, returned: Any, loss: Any) -> Upstream:
    """What reaches the layer's outputs from a loss, by autograd; the graph stays as it is."""
    loss = checked_loss(loss)
    flat = tensors(returned)
    live = [tensor for tensor in flat if tensor.requires_grad]
    if not live:
        raise GradientError(
            f"this trace has no graph (made of a layer and an input of which nothing requires "
            f"gradients, under no_grad, by check=False, or from a file), so no loss can be "
            f"followed to it: trace with gradients enabled, or give what reaches the outputs: "
            f"{ALTERNATIVE}"
        )
    live_gradients = iter(gradients_of(loss, live))
    gradients = [next(live_gradients) if tensor.requires_grad else None for tensor in flat]
    if _depends_on_gradients(loss, live):
        raise GradientError(
            "the loss is computed from gradients that went through this call (create_graph=True, "
            "as a gradient penalty is), and so depends on it by more than its outputs. Run the "
            "layer as plain operations, rs.unfuse(layer), and ask autograd; or give what reaches "
            f"the outputs alone: {ALTERNATIVE}"
        )
    if all(gradient is None for gradient in gradients):
        raise GradientError(
            "the loss does not depend on this trace: it was not computed from tr.output, tr.h_n "
            "or the other last states of this very call"
        )
    total = trace.structure.single_step and chained(returned)
    return Upstream.of(trace, returned, gradients, total)


def _depends_on_gradients(loss: Tensor, outputs: list[Tensor]) -> bool:
    """Whether the backward pass of a backward pass leads from a loss into the call, past its
    outputs."""
    ends = {output.grad_fn for output in outputs}
    second = [
        node for node in _nodes([loss.grad_fn], ends) if "BackwardBackward" in type(node).__name__
    ]
    if not second:
        return False
    parents = [parent for end in ends if end is not None for parent, _ in end.next_functions]
    inside = set(_nodes(parents, set()))
    return any(node in inside for node in _nodes(second, ends))


def _nodes(roots: list[Any], ends: set[Any]) -> Iterator[Any]:
    """The nodes of a graph from some roots on, without leaves, and not beyond ``ends``."""
    waiting, reached = list(roots), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in reached or node in ends:
            continue
        reached.add(node)
        if node.next_functions:
            yield node
        waiting += [parent for parent, _ in node.next_functions]


def gradients_of(loss: Tensor, inputs: list[Any]) -> tuple[Tensor | None, ...]:
    """By autograd, the graph kept; raises ``GradientError`` where there is none."""
    if not loss.requires_grad:
        raise GradientError(
            f"the loss has no graph: it was detached, or computed under no_grad. Compute it from "
            f"what the layer returned, or give what reaches that: {ALTERNATIVE}"
        )
    try:
        return torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise GradientError(
            f"the graph of the loss is gone, as backward() frees it: call gradients(loss) before "
            f"loss.backward(), or loss.backward(retain_graph=True), or give what reaches the "
            f"outputs: {ALTERNATIVE}. rs.watch keeps by itself what a backward() inside it brings: "
            f"seen[name].grad"
        ) from error


def upstream_from_arguments(
    trace: Differentiable, returned: Any, upstream: Mapping[str, Any]
) -> Upstream:
    """What reaches the outputs, as the caller says: by ``output`` and ``h_n``."""
    names = [f"{state}_n" for state in trace.cell.states]
    if not trace.structure.single_step:
        names = ["output", *names]
    gradients: list[Tensor | None] = []
    for name in upstream:
        if name not in names:
            raise AddressError(
                f"{trace.structure.kind} returns no {name}; it returns {', '.join(names)}"
            )
    for name, tensor in zip(names, tensors(returned), strict=True):
        value = upstream.get(name)
        if isinstance(value, PackedSequence):
            value = value.data
        if value is not None:
            if not isinstance(value, Tensor):
                raise DtypeError(
                    f"{name} must be a tensor, the gradient of a loss with respect to tr.{name}; "
                    f"got {type(value).__name__}"
                )
            require_numbers(name, value)
            value = plain(value)
            if value.shape != tensor.shape:
                raise ShapeError(
                    f"{name} must be the gradient with respect to tr.{name}, "
                    f"{tuple(tensor.shape)}; got {tuple(value.shape)}"
                )
        gradients.append(value)
    return Upstream.of(trace, returned, gradients)
