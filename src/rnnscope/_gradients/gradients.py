"""Backpropagation through time: the gradient of a loss with respect to every number of a call.

Derived from the declared equations and the trace's own numbers and weights, layer by layer from the
top; judged by autograd on a private run of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn.utils.rnn import PackedSequence

from rnnscope._edit import Editable, dropout_factor
from rnnscope._escaping import printable
from rnnscope._gradients.backward import (
    Backward,
    Block,
    Gradient,
    PartValues,
    adjoint_of,
    adjoints_of_x,
)
from rnnscope._layers.call import Call
from rnnscope._layers.run import run_call
from rnnscope._layers.sequences import at_steps, last_steps, without_padding
from rnnscope._layers.structure import Returned, Structure, Weights
from rnnscope._layers.tensors import plain, require_numbers
from rnnscope._opening.bounds import Rounding
from rnnscope._opening.buffers import working_type
from rnnscope._record.absent import OF_A_TRACE, absent_attribute
from rnnscope._record.difference import absolute_difference
from rnnscope._record.labels import Labels
from rnnscope._record.record import Record
from rnnscope.cells import quantity_names
from rnnscope.cells.algebra import FromH, FromX
from rnnscope.errors import AddressError, DtypeError, GradientError, ShapeError, VerificationError

__all__ = [
    "Differentiable",
    "Gradients",
    "Received",
    "Upstream",
    "chained",
    "part_values",
    "tensors",
    "upstream_from_arguments",
    "upstream_from_loss",
    "without_graph",
]

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
"""How far the gradients may lie from autograd's, relative to the largest; a sum over thousands of
places rounds no better, and a wrong factor anywhere is off by far more."""
FLOOR = 1e-3
"""A tensor whose largest gradient is smaller than this share of the largest of all is measured
against that share: what has vanished has no digits of its own."""


CHAIN = 4
"""Operations between a cell's c and its h, at most."""


class Differentiable(Editable, Protocol):
    """What the reverse pass needs of a trace."""

    labels: Labels

    @property
    def precision(self) -> str:
        """The type in which the layer formed its products."""


@contextmanager
def without_graph(trace: Differentiable) -> Iterator[None]:
    """Compute without a graph and in the numbers' own precision, whatever the caller has set."""
    device = trace.call.x.device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        yield


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


def _checked_loss(loss: Any) -> Tensor:
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


ALTERNATIVE = "gradients(output=..., h_n=...)"


def upstream_from_loss(trace: Differentiable, returned: Any, loss: Any) -> Upstream:
    """What reaches the layer's outputs from a loss, by autograd; the graph stays as it is."""
    loss = _checked_loss(loss)
    flat = tensors(returned)
    live = [tensor for tensor in flat if tensor.requires_grad]
    if not live:
        raise GradientError(
            f"this trace has no graph (made of a layer and an input of which nothing requires "
            f"gradients, under no_grad, by check=False, or from a file), so no loss can be "
            f"followed to it: trace with gradients enabled, or give what reaches the outputs: "
            f"{ALTERNATIVE}"
        )
    live_gradients = iter(_gradients_of(loss, live))
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


def _gradients_of(loss: Tensor, inputs: list[Any]) -> tuple[Tensor | None, ...]:
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


def part_values(trace: Differentiable, layer: int, d: int) -> PartValues:
    """The numbers of one layer in one direction, time first."""
    direction = trace.directions[d]
    dtype = working_type(trace.call.x.dtype)
    weights = trace.weights[layer][d]
    return PartValues(
        trace.cell,
        weights if weights.ih.dtype == dtype else weights.map(lambda t: t.to(dtype)),
        {name: value[layer, d].transpose(0, 1) for name, value in trace.items()},
        {s: trace.before(s, layer, direction).transpose(0, 1) for s in trace.cell.states},
        trace.layer_input(layer).transpose(0, 1),
    )


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
        loss = _checked_loss(loss)
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
        found = iter(_gradients_of(loss, list(edges.values())))
        by_tensor = dict.fromkeys(range(len(tensors(returned))), None) | {
            k: next(found) for k in edges
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


ABSENT = OF_A_TRACE | {
    "view": "tr.view(path, gradients=g) makes a page with them",
    "plot": "rs.plot.gradient_norm(g) and rs.plot.quantity(g, name) draw them",
    "h_n": "g.direct['h'] is what reaches h from the loss, at each sequence's end from h_n too",
    "c_n": "g.direct['c'] is what reaches c from the loss",
    "output": "g.direct['h'] is what reaches h from the loss",
    "weights": "g.parameters holds the gradients of the weights, by PyTorch's names",
    "x": "g['x', 0] is the gradient of the input",
    "save": "g.to_xarray() and g.to_pandas() export them",
}
"""What is asked of gradients and stands elsewhere."""


class Gradients(Record):
    """The gradient of a loss with respect to every number inside a call, total through time.

    A record with the trace's names, dims and addresses: ``g["c"]`` (layer, direction, batch, time,
    unit) is dL/dc, for every gate, part, pre-activation and state, recorded or not; ``g["x", 0]``
    of a layer's input; ``g.h_0``, ``g.c_0`` of the initial states. ``direct["h"]`` is what reaches
    each h straight from the loss, which is all that a hook sees; ``parameters`` maps PyTorch's
    names to the totals, ``parameters_at(time)`` to one step's part. ``deviation`` is the largest
    difference from autograd's gradients of parameters, input and initial states, relative to the
    largest gradient; None where it was not judged.
    """

    def __init__(self, trace: Differentiable, upstream: Upstream, check: bool = True) -> None:
        if not isinstance(check, bool):
            raise ValueError(f"check must be True or False; got {check!r}")
        self._trace, self.upstream = trace, upstream
        self.structure, self.call = trace.structure, trace.call
        with without_graph(trace):
            reverse = _Reverse(trace, upstream)
            reverse.run()
        cell = trace.cell
        names = [n for row in trace.weights for part in row for n in part.named()]
        super().__init__(
            reverse.values(),
            tuple(x.transpose(0, 1) for x in reverse.inputs),
            trace.lengths,
            trace.directions,
            {"h": "projected"} if cell.projected else {},
            {"output": "output is only returned: write g.direct['h'] for what reaches it"}
            | {name: f"{name} is a parameter: write g.parameters[{name!r}]" for name in names}
            | {f"{s}_0": f"{s}_0 is an initial state: write g.{s}_0" for s in cell.states}
            | {f"{s}_n": f"{s}_n is only returned: write g.direct[{s!r}]" for s in cell.states},
        )
        self.labels = trace.labels
        self.initial = {
            name: torch.stack(
                [torch.stack([states[name] for states in row]) for row in reverse.initial]
            )
            for name in cell.states
        }
        self.parameters: dict[str, Tensor] = {
            name: t
            for row in reverse.gradients
            for g in row
            for name, t in g.weights.named().items()
        }
        self.deviation: float | None = None
        self.nonfinite: str | None = None
        self.tolerance: float | None = None
        if check:
            self._judge()

    # what else there is ----------------------------------------------------------------------

    @cached_property
    def direct(self) -> Record:
        """What reaches each state straight from the loss: from ``output`` in the last layer, and
        from ``h_n`` and its like at each sequence's last step."""
        lead = self["h"].shape[:2]
        by_state: dict[str, Tensor] = {}
        for state in self._trace.cell.states:
            zeros = self.upstream.h.new_zeros(*lead, *self[state].shape[2:])
            for layer in range(lead[0]):
                for d in range(lead[1]):
                    top = self.upstream.h if layer == lead[0] - 1 and state == "h" else None
                    value = self.upstream.direct(self._trace, state, layer, d, top)
                    if value is not None:
                        zeros[layer, d] = value.transpose(0, 1)
            by_state[state] = zeros
        inputs = tuple(x.new_zeros(()).expand(x.shape) for x in self._inputs if x is not None)
        projected = {"h": "projected"} if self._trace.cell.projected else {}
        return Record(by_state, inputs, self.lengths, self.directions, projected)

    def parameters_at(self, time: int) -> dict[str, Tensor]:
        """One step's part of the parameters' gradients, by PyTorch's names; over all steps they
        sum to ``parameters``. Computed when asked for.

        ``time`` is the position in the input, for both directions. Raises ``AddressError`` for a
        step that there is not.
        """
        at = self.position("time", time)
        if isinstance(at, slice):
            raise AddressError(f"parameters_at takes one step; got time={time}")
        by_name: dict[str, Tensor] = {}
        with without_graph(self._trace):
            for layer in range(self.structure.num_layers):
                for d in range(len(self.directions)):
                    part = part_values(self._trace, layer, d)
                    backward = Backward(part, {}, False, None)
                    block = part.block(at, at + 1)
                    states = {
                        state: self[state][layer, d, :, at : at + 1].transpose(0, 1)
                        for state in part.cell.states
                    }
                    adjoints = backward.within(block, states)
                    gradient = Gradient(part.weights)
                    gradient.add(adjoints, backward.gates, adjoints_of_x(adjoints, part.weights))
                    by_name |= gradient.weights.named()
        return by_name

    if TYPE_CHECKING:
        h_0: Tensor
        c_0: Tensor
    else:

        def __getattr__(self, name: str) -> Tensor:
            """``h_0``, ``c_0`` and their like, in the form in which the layer takes them."""
            state, _, suffix = name.rpartition("_")
            initial = self.__dict__.get("initial", {})
            if suffix != "0" or state not in initial:
                raise absent_attribute("Gradients", name, ABSENT)
            shape = self.structure.state_shape(state, self.call.batch, self.call.batched)
            return initial[state].reshape(shape)

    # the judge -------------------------------------------------------------------------------

    def _judge(self) -> None:
        dtype = self.upstream.h.dtype
        autograd = _by_autograd(self._trace, self.upstream, dtype)
        equations = self._comparable
        for name, value in autograd.items():
            if not bool(value.isfinite().all() and equations[name].isfinite().all()):
                self.nonfinite, self.deviation = name, math.nan
                return
        worst, name = _largest_difference(equations, autograd)
        self.tolerance = None if _coarse(self._trace) else TOLERANCE[self.call.x.dtype]
        if self.tolerance is not None and worst > self.tolerance:
            exact = autograd
            if dtype == torch.float32:
                # oneDNN's LSTM sums the gradients of biases one by one, which rounds worse than
                # ours over some 10,000 places: autograd in float64 decides. And where autograd
                # itself moves with the precision, as in a chaotic layer, so may we.
                exact = _by_autograd(self._trace, self.upstream, torch.float64)
                worst, name = min((worst, name), _largest_difference(equations, exact))
                self.tolerance = max(
                    self.tolerance, AMPLIFIED * _largest_difference(autograd, exact)[0]
                )
            # and where its gradients move with the last bits of what it is given
            last_bit = torch.finfo(dtype).eps
            moved = _by_autograd(self._trace, self.upstream, torch.float64, last_bit)
            self.tolerance = max(self.tolerance, MOVED * _largest_difference(moved, exact)[0])
        self.deviation = worst
        if self.tolerance is not None and worst > self.tolerance:
            raise VerificationError(
                f"the gradient of {name} by the equations is not autograd's: the largest "
                f"difference is {worst:.3g} of the largest gradient, {self.tolerance:.0e} is "
                f"allowed. gradients(..., check=False) gives those by the equations alone."
            )

    @property
    def _comparable(self) -> dict[str, Tensor]:
        """The gradients that autograd gives too: of parameters, initial states and the input."""
        numbers = self.parameters | {f"{n}_0": v for n, v in self.initial.items()}
        numbers["x"] = self.layer_input(0).transpose(0, 1)
        return numbers

    @property
    def proof(self) -> str:
        """One sentence: what the gradients were compared with."""
        if self.deviation is None:
            return "Not verified: derived from the equations alone."
        if self.nonfinite is not None:
            return f"Not verified: the gradient of {self.nonfinite} holds NaN or infinite numbers."
        text = (
            f"autograd's of the parameters, the input and the initial states, in a private run of "
            f"{printable(self.structure.kind)}: largest difference {self.deviation:.0e} of the "
            f"largest"
        )
        if self.tolerance is None:
            return f"Not verified in {_coarse(self._trace)}; beside {text}."
        return f"Equal to {text}; {self.tolerance:.0e} is allowed."

    def __repr__(self) -> str:
        groups: dict[tuple[int, ...], list[str]] = {}
        for name, value in self.items():
            groups.setdefault(tuple(value.shape), []).append(name)
        lines = [f"Gradients of {self.structure}"]
        for shape, names in groups.items():
            dims = ", ".join(
                f"{dim} {size}" for dim, size in zip(self.dims[names[0]], shape, strict=True)
            )
            lines.append(f"  {' '.join(names):<12} ({dims})")
        lines.append(f"  parameters   {' '.join(self.parameters)}")
        return "\n".join([*lines, self.proof])


_TINY = torch.finfo(torch.float64).tiny

MOVED = 128
"""And so many times what a change of weights, input and states by their last bits makes of them."""

AMPLIFIED = 4
"""Ours may differ by so many times what two precisions make of autograd's own gradients."""


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


def _size(value: Tensor) -> float:
    finite = value.masked_fill(~value.isfinite(), 0)
    return float(finite.abs().max()) if value.numel() else 0.0


def _coarse(trace: Differentiable) -> str | None:
    """The precision of the layer's products, where it was lower than that of its input."""
    x = trace.call.x
    if trace.precision != str(x.dtype).removeprefix("torch.") or x.dtype not in TOLERANCE:
        return trace.precision
    return "float32 with TF32" if Rounding.of(x.dtype, x.device, x.dtype).cast else None


class _Reverse:
    """The layers from the top to the bottom."""

    def __init__(self, trace: Differentiable, upstream: Upstream) -> None:
        self.trace, self.upstream = trace, upstream
        structure, call = trace.structure, trace.call
        self.structure = structure
        self.dtype = upstream.h.dtype
        self.lead = (structure.num_layers, len(structure.directions))
        self.shape = (call.steps, call.batch)
        self.stored: dict[str, Tensor] = {}
        self.same: dict[str, str] = {}
        self.whole: dict[str, Tensor] = {}
        self.inputs: list[Tensor] = []
        self.initial: list[list[dict[str, Tensor]]] = []
        self.gradients: list[list[Gradient]] = []

    def run(self) -> None:
        """Fill ``stored``, ``inputs``, ``initial`` and ``gradients``."""
        reached: Tensor | None = self.upstream.h
        for layer in reversed(range(self.structure.num_layers)):
            weights = self.trace.weights[layer]
            x = self.upstream.h.new_zeros(*self.shape, weights[0].ih.shape[1])
            initial, gradients = [], []
            for d in range(len(weights)):
                backward, gradient = self._direction(layer, d, reached, x)
                initial.append(backward.carry)
                gradients.append(gradient)
            self.inputs.insert(0, x)
            self.initial.insert(0, initial)
            self.gradients.insert(0, gradients)
            mask = self.trace.masks[layer]
            reached = x
            if mask is not None:
                reached = x * dropout_factor(mask, self.structure.dropout, x.dtype).transpose(0, 1)

    def _direction(
        self, layer: int, d: int, reached: Tensor | None, x: Tensor
    ) -> tuple[Backward, Gradient]:
        trace = self.trace
        part = part_values(trace, layer, d)
        direct = {
            state: value
            for state in part.cell.states
            if (
                value := self.upstream.direct(
                    trace, state, layer, d, reached if state == "h" else None
                )
            )
            is not None
        }
        backward = Backward(part, direct, trace.directions[d] == "reverse", trace.call.valid)
        gradient = Gradient(part.weights)
        if not self.whole:
            self._plan(part.block(0, 1).derived())
        of_h = self.whole["of_h"][layer, d]
        for start, stop, adjoints in backward.blocks(of_h):
            of_x = of_h[start:stop]
            if "of_x" in self.whole:
                place = self.whole["of_x"][layer, d, start:stop]
                of_x = adjoints_of_x(adjoints, part.weights, place)
            gradient.add(adjoints, backward.gates, of_x)
            x[start:stop].view(-1, x.shape[-1]).addmm_(of_x.flatten(0, 1), part.weights.ih)
            for name, value in self.stored.items():
                adjoint = adjoint_of(adjoints.block, name)
                units = value.shape[-1]
                adjoints.combined(adjoint, units, out=value[layer, d, start:stop])
        return backward, gradient

    def _plan(self, block: Block) -> None:
        """Memory for every quantity; one place for those whose adjoints are the same."""
        cell, units = block.cell, self.structure.hidden_size
        gates = tuple(cell.gates)

        def new(size: int) -> Tensor:
            return self.upstream.h.new_empty(*self.lead, *self.shape, size)

        wide = len([affine for affine in cell.affine if affine.h is not None]) * units
        self.whole["of_h"] = new(wide)
        shared = all(
            affine.x is not None
            and affine.h is not None
            and block.at.get(FromX(affine.gate)) is block.at.get(FromH(affine.gate))
            for affine in cell.affine
        )
        if not shared:
            self.whole["of_x"] = new(len(gates) * units)
        first: dict[int, str] = {}
        for k, affine in enumerate(affine for affine in cell.affine if affine.h is not None):
            self.same[f"{affine.gate}_from_h"] = f"of_h {k}"
            first.setdefault(id(block.at.get(FromH(affine.gate))), f"of_h {k}")
        for k, affine in enumerate(cell.affine):
            if affine.x is not None:
                place = f"of_h {k}" if shared else f"of_x {k}"
                self.same[f"{affine.gate}_from_x"] = place
                first.setdefault(id(block.at.get(FromX(affine.gate))), place)
        for name in quantity_names(cell):
            if name in self.same:
                continue
            adjoint = adjoint_of(block, name)
            if adjoint and id(adjoint) in first:
                self.same[name] = first[id(adjoint)]
                continue
            first[id(adjoint)] = name
            self.stored[name] = new(self.structure.state_size(name))

    def values(self) -> dict[str, Tensor]:
        """Every quantity (layer, direction, batch, time, unit)."""
        units = self.structure.hidden_size
        quantities: dict[str, Tensor] = {}
        for name in quantity_names(self.trace.cell):
            place = self.same.get(name, name)
            if place in self.stored:
                value = self.stored[place]
            else:
                which, _, k = place.partition(" ")
                value = self.whole[which][..., int(k) * units : (int(k) + 1) * units]
            quantities[name] = value.transpose(2, 3)
        return quantities


# autograd, the judge ---------------------------------------------------------------------------


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
        number = value.detach().to(dtype).clone()
        if moved:
            number *= 1 + moved * signs(number)
        return number.requires_grad_()

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
            None if mask is None else dropout_factor(mask, structure.dropout, dtype).transpose(0, 1)
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
        # one number, not grad_outputs, for which torch imports sympy, and that adds a filter of
        # warnings; what flows back is the same bit for bit, 1 × each gradient
        gradients: tuple[Tensor | None, ...] = (None,) * len(inputs)
        if pairs:  # there are none for a cell whose h is a number
            parts = [(value * _kept(gradient, dtype)).sum() for value, gradient in pairs]
            total = torch.stack(parts).sum()
            gradients = torch.autograd.grad(total, inputs, allow_unused=True)
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
    ran = run_call(structure, call, weights, frozenset(), masks)
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
