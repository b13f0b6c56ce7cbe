"""Backpropagation through time: the gradient of a loss with respect to every number of a call.

Derived from the declared equations and the trace's own numbers and weights, layer by layer from the
top; judged by autograd on a private run of the layer.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from rnnscope._escaping import printable
from rnnscope._explain.document import Document
from rnnscope._gradients.backward import Backward, Gradient, adjoints_of_x
from rnnscope._gradients.differentiable import Differentiable, part_values, without_graph
from rnnscope._gradients.explained import explain_gradient
from rnnscope._gradients.judge import Judgement, coarse, judge
from rnnscope._gradients.reverse import Reverse
from rnnscope._gradients.saved import save_record
from rnnscope._gradients.upstream import Upstream
from rnnscope._record.absent import OF_A_TRACE, absent_attribute
from rnnscope._record.record import Record
from rnnscope.errors import AddressError

__all__ = ["Gradients"]

ABSENT = OF_A_TRACE | {
    "view": "tr.view(path, gradients=g) makes a page with them",
    "plot": "rs.plot.gradient_norm(g) and rs.plot.quantity(g, name) draw them",
    "h_n": "g.direct['h'] is what reaches h from the loss, at each sequence's end from h_n too",
    "c_n": "g.direct['c'] is what reaches c from the loss",
    "output": "g.direct['h'] is what reaches h from the loss",
    "weights": "g.parameters holds the gradients of the weights, by PyTorch's names",
    "x": "g['x', 0] is the gradient of the input",
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
            reverse = Reverse(trace, upstream)
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
        judgement = judge(trace, upstream, self._comparable) if check else Judgement()
        self.deviation, self.tolerance = judgement.deviation, judgement.tolerance
        self.nonfinite = judgement.nonfinite

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

    def explain(
        self,
        name: str,
        *,
        layer: int | None = None,
        direction: str | None = None,
        batch: int | None = None,
        time: int | Literal["last"] | None = None,
        unit: int | None = None,
    ) -> Document:
        """One gradient as arithmetic, with its numbers filled in: what reaches the number straight
        from the loss, from the equations of its step that use it, and from the next step.

        ``name`` is a quantity, or the argument of a gate's function, as "f_pre"; an axis may be
        left out where its length is 1.

        >>> from rnnscope import trace
        >>> rnn = torch.nn.RNN(1, 1, bias=False)
        >>> for weight, value in zip(rnn.parameters(), (0.25, 0.5)):
        ...     _ = torch.nn.init.constant_(weight, value)
        >>> tr = trace(rnn, torch.tensor([[[3.0]], [[4.0]], [[5.0]]]))
        >>> print(tr.gradients(tr.output[-1].sum()).explain("h_pre", time=2))
        dL/dh_pre_3 = 0.129023      layer 0, forward, batch 0, time=2 (step 3 of 3), unit 0 of 1
        <BLANKLINE>
        dL/dh_pre_3 = dL/dh_3 × (1 - h_3 × h_3)
                    = 1 × 0.129023              = 0.129023
        <BLANKLINE>
        g's own number: 0.129023

        Raises ``AddressError`` for a name or a place that is not there, and for padding.
        """
        return explain_gradient(
            self, name, layer=layer, direction=direction, batch=batch, time=time, unit=unit
        )

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

    # on disk ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the gradients to a file, as "run.record", from which ``load_record`` reads them:
        all quantities, those of the parameters and initial states, and ``direct``.

        Raises ``FileError`` where the place cannot be written, an existing file is then as it was,
        and for the ending of another kind of file, as .pt.
        """
        groups = {"parameters": self.parameters, "initial": self.initial, "direct": self.direct}
        save_record(path, self, "gradients", groups)

    # the judge -------------------------------------------------------------------------------

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
            return f"Not verified in {coarse(self._trace)}; beside {text}."
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
