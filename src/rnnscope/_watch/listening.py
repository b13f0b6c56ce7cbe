"""What backward() hands to the outputs of a call, heard at the nodes of their graph."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from rnnscope._gradients.received import Received
from rnnscope._gradients.upstream import chained, tensors
from rnnscope._layers.structure import Structure
from rnnscope._opening.capture import Captured
from rnnscope._opening.modes import undisturbed

__all__ = ["listen_to", "listen_to_plain", "why_no_graph"]


def listen_to_plain(received: Received, structure: Structure, output: Any) -> None:
    """Let the outputs of a plain call tell what backward() hands to them: by the nodes of their
    graph, so that the tensors, which are the caller's, stay as they are."""
    received.total = structure.single_step and chained(output)

    def receive(k: int, number: int, gradients: tuple[Any, ...]) -> None:
        gradient = gradients[number]
        if received.on and gradient is not None:
            undisturbed(received.add, k, gradient)

    for k, tensor in enumerate(tensors(output)):
        if tensor.grad_fn is not None:
            number = tensor.output_nr
            received.listen(k, tensor.grad_fn, number, partial(receive, k, number))


def listen_to(received: Received, taken: Captured) -> None:
    """The same of a call that was captured in full, which may have another form."""
    structure = taken.adopted
    received.total = structure.single_step and chained(taken.output)

    def receive(k: int, number: int, shape: torch.Size, gradients: tuple[Any, ...]) -> None:
        gradient = gradients[number]
        if received.on and gradient is not None:
            undisturbed(received.add, k, gradient.reshape(shape))

    for k, tensor in enumerate(tensors(taken.output)):
        source = taken.sources.get(k, tensor)
        if source.grad_fn is not None:
            number = source.output_nr
            hook = partial(receive, k, number, tensor.shape)
            received.listen(k, source.grad_fn, number, hook)
    lead = 0 if structure.single_step else 1
    for k, tensor in enumerate(tensors(taken.output)[lead:], lead):
        name = structure.cell.states[k - lead]
        joined = taken.adopted.foreign and tensor.grad_fn is None and k not in taken.sources
        if joined and received.listening and name in taken.final_states:
            # a state for each layer, of which one tensor was made here
            received.unheard = (
                f"{structure.kind} returns {name} in several tensors, of which no backward() "
                f"is heard: give what reaches the outputs, seen[name].gradients(output=..., "
                f"{name}_n=...)"
            )


def why_no_graph(kind: str, grad_mode: bool) -> str:
    """Why no gradient can come to a call."""
    if not grad_mode:
        return "it ran under torch.no_grad() or torch.inference_mode()"
    return (
        f"no parameter of this {kind} requires gradients, and neither does its input (it is "
        f"frozen). Set p.requires_grad_() on one, or x.requires_grad_(); or give what reaches its "
        f"outputs: seen[name].gradients(output=..., h_n=...)"
    )
