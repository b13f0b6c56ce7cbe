"""What ``backward()`` handed to the outputs of a call that a watch saw."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from rnnscope._gradients.differentiable import Differentiable
from rnnscope._gradients.gradients import Gradients
from rnnscope._gradients.upstream import Upstream, checked_loss, gradients_of, tensors
from rnnscope._layers.tensors import plain
from rnnscope.errors import GradientError

__all__ = ["Received"]

_numbers = count()
UNHEARD = "its outputs have no graph"


class Received:
    """What ``backward()`` handed to the outputs of one call, summed over its passes.

    ``listening``: whether a graph leads to these outputs; ``on``: whether what comes is kept;
    ``silent`` tells why none can come, ``frozen`` that nothing in a call with gradients asks for
    one; ``unheard`` why part of it does not come.
    """

    def __init__(self, check: bool) -> None:
        self.check, self.listening, self.on, self.total = check, False, True, False
        self.silent, self.frozen, self.unheard = "", False, ""
        self.gradients: dict[int, Tensor] = {}
        self._gradients: Gradients | None = None
        self._mark = f"rnnscope {id(self)} {next(_numbers)}"

    def listen(self, k: int, node: Any, number: int, receive: Callable[..., None]) -> None:
        """Take what reaches the k-th returned tensor, the output ``number`` of a node of the
        graph; and mark the node, which lives as long as the graph does."""
        self.listening = True
        node.register_prehook(receive)
        node.metadata.setdefault(self._mark, {})[k] = number

    def upstream(self, trace: Differentiable, returned: Any, loss: Any) -> Upstream:
        """What reaches the outputs of the call from a loss, found in its graph by the marks."""
        loss = checked_loss(loss)
        if self.unheard:
            raise GradientError(self.unheard)
        if not self.listening:
            raise GradientError(f"no loss leads to this call: {self.silent or UNHEARD}")
        edges = self._edges(loss.grad_fn)
        if loss.requires_grad and not edges:
            raise GradientError(
                "the loss does not depend on this call: it was not computed from what the layer "
                "returned then, or its graph was cut on the way, as by detach()"
            )
        live_gradients = iter(gradients_of(loss, list(edges.values())))
        by_tensor = dict.fromkeys(range(len(tensors(returned))), None) | {
            k: next(live_gradients) for k in edges
        }
        shapes = [tensor.shape for tensor in tensors(returned)]
        gradients = [
            None if g is None else plain(g).detach().reshape(shapes[k])
            for k, g in by_tensor.items()
        ]
        return Upstream.of(trace, returned, gradients, self.total)

    def _edges(self, root: Any) -> dict[int, Any]:
        """The marked outputs of the nodes behind a loss, by the number of the returned tensor."""
        edges: dict[int, Any] = {}
        visited, waiting = {root}, [root]
        while waiting:
            node = waiting.pop()
            if node is None:
                continue
            for k, number in node.metadata.get(self._mark, {}).items():
                edges[k] = GradientEdge(node, number)
            for below, _ in node.next_functions:
                if below not in visited:
                    visited.add(below)
                    waiting.append(below)
        return edges

    def add(self, k: int, gradient: Tensor) -> None:
        """Add the gradient of the k-th returned tensor; several passes sum, as in ``p.grad``."""
        total = self.gradients.get(k)
        gradient = plain(gradient).detach()
        self.gradients[k] = gradient.clone() if total is None else total + gradient
        self._gradients = None

    def call_gradients(self, trace: Differentiable, returned: Any) -> Gradients | None:
        """The gradients of the call; None before the first backward pass, and of a call under
        no_grad. Raises ``GradientError`` with the reason where the layer is frozen."""
        if self.unheard:
            raise GradientError(self.unheard)
        if not self.listening and self.frozen:
            raise GradientError(f"no backward() reaches this call: {self.silent}")
        if self._gradients is None and self.gradients:
            by_tensor = [self.gradients.get(k) for k in range(len(tensors(returned)))]
            with torch.inference_mode(False), torch.no_grad():
                upstream = Upstream.of(trace, returned, by_tensor, self.total)
            self._gradients = Gradients(trace, upstream, self.check)
        return self._gradients
