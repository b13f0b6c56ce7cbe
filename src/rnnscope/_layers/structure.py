"""What a recurrent module is: its cell, sizes, options and weights, apart from the module itself.

From these follow the forms of what it takes and returns, and torch's own computation of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnnscope._escaping import printable
from rnnscope._layers.call import Call
from rnnscope._layers.sequences import caller_order, packed_order
from rnnscope._layers.tensors import plain
from rnnscope.cells import GRU, RNN_RELU, RNN_TANH, Cell

__all__ = ["DIRECTIONS", "PARAMETERS", "Returned", "Structure", "Weights"]

DIRECTIONS = ("forward", "reverse")
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
"""PyTorch's names, without the layer's number."""

_Fused = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer in one direction, rows stacked in the order of the gates.

    Shapes: ``ih`` (gates × hidden, input), ``hh`` (gates × hidden, output), ``b_ih`` and
    ``b_hh`` (gates × hidden) or None, ``hr`` (projected, hidden) or None.
    ``suffix`` is what PyTorch's names end in, such as ``_l0_reverse`` (empty for a cell module).
    ``vectors`` are the parameters with one number per unit, (hidden) each, by name.
    """

    cell: Cell
    ih: Tensor
    hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    hr: Tensor | None
    suffix: str
    vectors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def hidden_size(self) -> int:
        """Units: rows of one gate."""
        return self.ih.shape[0] // len(self.cell.gates)

    def rows(self, gate: str) -> slice:
        """The rows of a gate in the stacked parameters."""
        k = tuple(self.cell.gates).index(gate)
        return slice(k * self.hidden_size, (k + 1) * self.hidden_size)

    def of_x(self, gate: str) -> tuple[Tensor, Tensor | None]:
        """W_ik (hidden, input) and b_ik (hidden)."""
        rows = self.rows(gate)
        return self.ih[rows], None if self.b_ih is None else self.b_ih[rows]

    def of_h(self, gate: str) -> tuple[Tensor, Tensor | None]:
        """W_hk (hidden, output) and b_hk (hidden)."""
        rows = self.rows(gate)
        return self.hh[rows], None if self.b_hh is None else self.b_hh[rows]

    @property
    def projection(self) -> Tensor:
        """W_hr (projected, hidden)."""
        assert self.hr is not None, "the cell projects, so the module has weight_hr"
        return self.hr

    @classmethod
    def of_named(
        cls, cell: Cell, parameters: Mapping[str, Tensor], suffix: str, sizes: tuple[int, int, int]
    ) -> Weights:
        """From the parameters by PyTorch's names, as ``named`` gives them; ``sizes`` are those of
        the hidden state, the input and the output.

        Gates that no equation asks for have rows of zeros here, and none in the parameters.
        """
        hidden, features, outputs = sizes
        by_name = {name: parameters.get(name + suffix) for name in PARAMETERS}
        vectors = {name: parameters[name + suffix] for name in cell.vectors}
        like = next(iter(parameters.values()))
        rows = len(cell.gates) * hidden
        biased = by_name["bias_ih"] is not None or by_name["bias_hh"] is not None

        def stacked(name: str, used: tuple[str, ...], *columns: int) -> Tensor:
            part = by_name[name]
            if part is None:
                return like.new_zeros(rows, *columns)
            return _stacked(part, used, cell, hidden)

        return cls(
            cell,
            stacked("weight_ih", cell.gates_from_x, features),
            stacked("weight_hh", cell.gates_from_h, outputs),
            stacked("bias_ih", cell.gates_from_x) if biased else None,
            stacked("bias_hh", cell.gates_from_h) if biased else None,
            by_name["weight_hr"],
            suffix,
            vectors,
        )

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order in which ``map`` changes them."""
        optional = (self.ih, self.hh, self.b_ih, self.b_hh, self.hr, *self.vectors.values())
        return [tensor for tensor in optional if tensor is not None]

    def named(self) -> dict[str, Tensor]:
        """The parameters under PyTorch's names, in PyTorch's order: the rows of those gates whose
        equations use them."""
        of_x, of_h = self.cell.gates_from_x, self.cell.gates_from_h
        pairs = {
            "weight_ih": self._rows_of(self.ih, of_x),
            "weight_hh": self._rows_of(self.hh, of_h),
            "bias_ih": self._rows_of(self.b_ih, of_x),
            "bias_hh": self._rows_of(self.b_hh, of_h),
            "weight_hr": self.hr,
            **self.vectors,
        }
        return {name + self.suffix: t for name, t in pairs.items() if t is not None}

    def _rows_of(self, stacked: Tensor | None, gates: tuple[str, ...]) -> Tensor | None:
        """The rows of these gates; None where there are none."""
        if stacked is None or not gates:
            return None
        if len(gates) == len(self.cell.gates):
            return stacked
        return torch.cat([stacked[self.rows(gate)] for gate in gates])

    def row_of_x(self, gate: str, unit: int) -> int:
        """The row of a gate's unit in the parameter weight_ih."""
        return self.cell.gates_from_x.index(gate) * self.hidden_size + unit

    def row_of_h(self, gate: str, unit: int) -> int:
        """The row of a gate's unit in the parameter weight_hh."""
        return self.cell.gates_from_h.index(gate) * self.hidden_size + unit

    def replaced(self, changes: Mapping[str, Tensor]) -> Weights:
        """The same with other tensors, by PyTorch's names."""
        used = {
            "weight_ih": self.cell.gates_from_x,
            "weight_hh": self.cell.gates_from_h,
            "bias_ih": self.cell.gates_from_x,
            "bias_hh": self.cell.gates_from_h,
        }

        def of(name: str, original: Any) -> Any:
            change = changes.get(name + self.suffix)
            if change is None:
                return original
            if name not in used:
                return change
            return _stacked(change, used[name], self.cell, self.hidden_size)

        return Weights(
            self.cell,
            of("weight_ih", self.ih),
            of("weight_hh", self.hh),
            of("bias_ih", self.b_ih),
            of("bias_hh", self.b_hh),
            of("weight_hr", self.hr),
            self.suffix,
            {name: of(name, vector) for name, vector in self.vectors.items()},
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Weights:
        """The same with every tensor changed."""

        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return Weights(
            self.cell,
            change(self.ih),
            change(self.hh),
            optional(self.b_ih),
            optional(self.b_hh),
            optional(self.hr),
            self.suffix,
            {name: change(vector) for name, vector in self.vectors.items()},
        )


def _stacked(part: Tensor, used: tuple[str, ...], cell: Cell, hidden: int) -> Tensor:
    """The rows of all gates, of which ``part`` has those that are used; zeros for the others."""
    if len(used) == len(cell.gates):
        return part
    blocks = dict(zip(used, part.chunk(len(used)), strict=True))
    zeros = part.new_zeros(hidden, *part.shape[1:])
    return torch.cat([blocks.get(gate, zeros) for gate in cell.gates])


@dataclass(frozen=True)
class Returned:
    """What a layer returned, in one form: ``h`` (time, batch, direction × output) of the last
    layer, ``final`` maps each state to (layer, direction, batch, unit)."""

    h: Tensor
    final: Mapping[str, Tensor]


@dataclass(frozen=True)
class Structure:
    """What a recurrent module is: its cell, sizes and options. ``kind`` is as in nn.LSTM.

    ``reverse``: it runs from the end only; ``declared``: it computes by the declared equations
    themselves, as ``rnnscope.Recurrent`` does; ``foreign``: a module of somebody's own, of which
    the user says which cell it computes (``Adapter``).
    """

    kind: str
    cell: Cell
    input_size: int
    hidden_size: int
    output_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    batch_first: bool
    dropout: float
    single_step: bool
    training: bool
    reverse: bool = field(default=False, kw_only=True)
    declared: bool = field(default=False, kw_only=True)
    foreign: bool = field(default=False, kw_only=True)

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the directions."""
        if self.reverse:
            return DIRECTIONS[1:]
        return DIRECTIONS if self.bidirectional else DIRECTIONS[:1]

    def suffixes(self, layer: int) -> tuple[str, ...]:
        """What PyTorch's names of a layer's parameters end in, by direction."""
        if self.single_step:
            return ("",)
        ends = ("_reverse" if direction == "reverse" else "" for direction in self.directions)
        return tuple(f"_l{layer}{end}" for end in ends)

    def feature_size(self, layer: int) -> int:
        """Size of a layer's input."""
        return self.input_size if layer == 0 else self.output_size * len(self.directions)

    def state_size(self, state: str) -> int:
        """Units of a state: h has the output's size, which a projection makes smaller."""
        return self.output_size if state == "h" else self.hidden_size

    def dropout_factor(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """What dropout multiplied with; ``mask`` is True where it let numbers pass."""
        factor = mask.to(dtype)
        return factor if self.dropout == 1 else factor.div_(1 - self.dropout)

    def __str__(self) -> str:
        """As it would be written to build it."""
        parts = [str(self.input_size), str(self.hidden_size)]
        if self.declared:
            parts.insert(0, self.cell.name)
        elif self.cell is RNN_RELU:
            parts.append("nonlinearity='relu'")
        if self.cell.projected:
            parts.append(f"proj_size={self.output_size}")
        if self.num_layers > 1:
            parts.append(f"num_layers={self.num_layers}")
        for option in ("bidirectional", "reverse", "batch_first"):
            if getattr(self, option):
                parts.append(f"{option}=True")
        if not self.bias:
            parts.append("bias=False")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        return printable(f"{self.kind}({', '.join(parts)})")

    def state_shape(self, state: str, batch: int, batched: bool = True) -> tuple[int, ...]:
        """The shape of h_n or c_n, or of the initial state, as the module takes and returns it."""
        rows = () if self.single_step else (self.num_layers * len(self.directions),)
        return (*rows, *((batch,) if batched else ()), self.state_size(state))

    def outgoing(self, h: Tensor, call: Call) -> Tensor | PackedSequence:
        """Hidden states (time, batch, direction × output) in the form in which this call returns
        its output."""
        if self.single_step:
            return h[0] if call.batched else h[0, 0]
        if call.packed is not None:
            return PackedSequence(call.pack(h), *call.packed[1:])
        if not call.batched:
            return h.squeeze(1)
        return h.transpose(0, 1) if self.batch_first else h

    def returning(self, h: Tensor | None, final: Mapping[str, Tensor], call: Call) -> Any:
        """What the module returns: (output, h_n), (output, (h_n, c_n)), or the states alone of a
        module of one step.

        ``h`` (time, batch, direction × output) of the last layer; ``final`` maps states to
        (layer, direction, batch, unit).
        """
        values = tuple(
            value.reshape(self.state_shape(name, call.batch, call.batched))
            for name, value in final.items()
        )
        states = values[0] if len(values) == 1 else values
        return states if h is None else (self.outgoing(h, call), states)

    def returned(self, output: Any, call: Call) -> Returned:
        """What the layer returned, in one form; shares memory with it."""
        if self.single_step:
            values = tuple(output) if isinstance(output, tuple) else (output,)
            values = tuple(map(plain, values))
            values = tuple(v.detach() if call.batched else v.detach().unsqueeze(0) for v in values)
            final = dict(zip(self.cell.states, (v[None, None] for v in values), strict=True))
            return Returned(values[0].unsqueeze(0), final)
        h: Any = output[0]
        states = output[1]
        states = tuple(states) if isinstance(states, tuple) else (states,)
        if isinstance(h, PackedSequence):
            h = pad_packed_sequence(h)[0]
        elif not call.batched:
            h = h.unsqueeze(1)
        elif self.batch_first:
            h = h.transpose(0, 1)
        shape = (self.num_layers, len(self.directions), call.batch, -1)
        final = {
            name: plain(value).detach().reshape(shape)
            for name, value in zip(self.cell.states, states, strict=True)
        }
        return Returned(plain(h).detach(), final)

    # torch's own computation, as the module calls it --------------------------------------

    def rerun(
        self,
        x: Tensor,
        packed: PackedSequence | None,
        initial: Mapping[str, Tensor],
        weights: tuple[Weights, ...],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One layer by the fused call that the module itself makes.

        ``x`` (time, batch, feature), or the packed data where ``packed`` gives its order;
        ``initial`` maps states to (direction, batch, unit) in the caller's order. Returns the
        output in the form of ``x``, and the last states in the form of ``initial``.
        """
        states = list(initial.values())
        if packed is not None:
            states = [packed_order(value, packed) for value in states]
        hx = states[0] if len(states) == 1 else tuple(states)
        flat = [t for w in weights for t in w.named().values()]
        layer_options = (self.bias, 1, 0.0, self.training, self.bidirectional)
        if packed is None:
            output, *final = self._fused(x, hx, flat, *layer_options, False)
        else:
            output, *final = self._fused(x, packed.batch_sizes, hx, flat, *layer_options)
            final = [caller_order(value, packed) for value in final]
        return output, dict(zip(initial, final, strict=True))

    def replay(
        self,
        x: Tensor,
        packed: PackedSequence | None,
        initial: Mapping[str, Tensor],
        weights: tuple[Weights, ...],
        grad_mode: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``rerun`` as a call in this grad mode rounds, without a graph.

        Kernels of training round otherwise than those of inference. On a CPU, with the tensors
        of the call itself, every bit is that of the call.
        """
        autograd: Any = torch._C._autograd
        # nothing is saved for a backward pass, nor seen by hooks of the caller's
        discard = saved_tensors_hooks(lambda tensor: tensor.new_empty(0), lambda tensor: tensor)
        hooks = discard if autograd._saved_tensors_hooks_is_enabled() else nullcontext()
        with torch.set_grad_enabled(grad_mode), hooks:
            output, final = self.rerun(x, packed, initial, weights)
        return output.detach(), {name: value.detach() for name, value in final.items()}

    @property
    def _fused(self) -> _Fused:
        name = {RNN_TANH: "rnn_tanh", RNN_RELU: "rnn_relu", GRU: "gru"}.get(self.cell, "lstm")
        fused: _Fused = getattr(torch._VF, name)
        return fused

    def step(self, x: Tensor, states: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
        """One step by torch's own cell; with ``proj_size``, which no cell has, by the layer's
        own call on one step. ``x`` (batch, feature); states (batch, unit)."""
        values = tuple(states.values())
        if weights.hr is not None:
            flat = list(weights.named().values())
            hx = tuple(value.unsqueeze(0) for value in values)
            options = (self.bias, 1, 0.0, False, False, False)
            _, *final = self._fused(x.unsqueeze(0), hx, flat, *options)
            return {name: t[0] for name, t in zip(states, final, strict=True)}
        names = {RNN_TANH: "rnn_tanh_cell", RNN_RELU: "rnn_relu_cell", GRU: "gru_cell"}
        cell: Any = getattr(torch._VF, names.get(self.cell, "lstm_cell"))
        after = cell(
            x,
            values[0] if len(values) == 1 else values,
            weights.ih,
            weights.hh,
            weights.b_ih,
            weights.b_hh,
        )
        return dict(zip(states, (after,) if len(values) == 1 else after, strict=True))
