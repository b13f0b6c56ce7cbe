"""A recurrent module that is not torch's, as a layer that can be opened.

Modules pass their states in several forms: those of torch, one for each layer, with the batch
first, or as a step of a sequence; here all become those of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.adapter import Adapter, Parameters, adapter_of, class_name, number
from rnnscope._layers.adopt import Adopted, adopt
from rnnscope._layers.arguments import SAY_WHICH, Arguments, arguments_of
from rnnscope._layers.call import Call
from rnnscope._layers.sequences import padded, valid_steps, without_padding
from rnnscope._layers.steps import DirectionInput, run_direction
from rnnscope._layers.structure import Weights
from rnnscope.errors import RefusedError, ShapeError

__all__ = ["Foreign", "adopt_with"]


OPTIONS = (
    "If a call is one step, say rs.Adapter(cell, ..., single_step=True); if the batch comes first, "
    "batch_first=True"
)


def adopt_with(
    module: Any, cells: Mapping[type[nn.Module], Adapter], inner: bool = False
) -> Adopted:
    """What a module is, by ``cells`` where they name its class; else as ``adopt`` says."""
    adapter = adapter_of(module, cells) if isinstance(module, nn.Module) else None
    return adopt(module, inner) if adapter is None else Foreign.of_adapter(module, adapter)


@dataclass(frozen=True)
class Foreign(Adopted):
    """A module of somebody's own, with the cell that it is said to compute; ``passed_on`` is what
    the latest call passed to it."""

    adapter: Adapter
    passed_on: list[Any] = field(default_factory=list, compare=False)

    @classmethod
    def of_adapter(cls, module: nn.Module, adapter: Adapter) -> Foreign:
        """The module's structure, from its attributes and the shapes of its parameters; raises
        ``RefusedError`` for parameters that are not there or do not fit the cell."""
        parameters = Parameters(module, adapter)
        single_step = parameters.single_step
        drops = [m for m in module.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        drawn = max([number(module, "dropout"), *(float(m.p) for m in drops)])
        if module.training and drawn > 0:
            raise RefusedError(
                f"cannot be opened: {class_name(module)} with dropout in training draws masks that "
                f"cannot be seen. Call .eval()."
            )
        directions = 2 if parameters.bidirectional else 1
        hidden, features, outputs = parameters.sizes(0, "" if single_step else "_l0")
        biased = any(name.startswith("bias") for name in parameters.named(0, 0, single_step))
        batch_first = adapter.batch_first
        if batch_first is None:
            batch_first = getattr(module, "batch_first", False) is True
        return cls(
            kind=class_name(module),
            cell=adapter.cell,
            input_size=features,
            hidden_size=hidden,
            output_size=outputs,
            num_layers=parameters.layers,
            bidirectional=directions == 2,
            bias=biased,
            batch_first=batch_first and not single_step,
            dropout=0.0,
            single_step=single_step,
            training=module.training,
            foreign=True,
            module=module,
            adapter=adapter,
        )

    def weights(self, fresh: bool = False) -> tuple[tuple[Weights, ...], ...]:
        """The parameters as they are now, by layer and direction; not copied."""
        parameters = Parameters(self.module, self.adapter)
        return tuple(
            tuple(
                Weights.of_named(
                    self.cell,
                    parameters.named(layer, d, self.single_step),
                    suffix,
                    (self.hidden_size, self.feature_size(layer), self.output_size),
                )
                for d, suffix in enumerate(self.suffixes(layer))
            )
            for layer in range(self.num_layers)
        )

    def call(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        live: bool = False,
        made: bool = False,
    ) -> Call:
        """The call in one form; see ``Adopted.call``."""
        self.passed_on[:] = [args, kwargs]
        return super().call(args, kwargs, live, made)

    # the call ------------------------------------------------------------------------------

    def passed(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """The input and the initial states among what the module is called with."""
        arguments = self._arguments(args, kwargs)
        return arguments.x, arguments.state

    @property
    def unused_arguments(self) -> tuple[str, ...]:
        """The tensors of the latest call, by name, that are neither the input nor a state."""
        return self._arguments(*self.passed_on).others if self.passed_on else ()

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        return arguments_of(self.module, self.adapter, args, kwargs, self._like_state)

    def _like_state(self, value: Any) -> bool:
        """Whether a value may be an initial state, by its type and its last dimension."""
        if isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
            return bool(value) and all(map(self._like_state, value))
        sizes = {self.state_size(name) for name in self.cell.states}
        number = isinstance(value, Tensor) and value.is_floating_point()
        return number and value.dim() > 0 and value.shape[-1] in sizes

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """The same, the states in torch's form."""
        x, initial = self.passed(args, kwargs)
        if initial is None:
            return x, None
        tensor = x.data if isinstance(x, PackedSequence) else x
        if not isinstance(tensor, Tensor):
            return x, None
        batched = isinstance(x, PackedSequence) or x.dim() == (2 if self.single_step else 3)
        if isinstance(x, PackedSequence):
            batch = int(x.batch_sizes[0])
        elif not batched:
            batch = 1
        else:
            batch = x.shape[0 if self.single_step or self.batch_first else 1]
        states = self._states(initial, batch, batched)
        if states is None:
            raise ShapeError(
                f"{self.kind}: its initial state {_form(initial)} has another form than (layers × "
                f"directions, batch, unit) for each of {', '.join(self.cell.states)}, with batch "
                f"{batch} here. {OPTIONS}. {SAY_WHICH}"
            )
        return x, states[0] if len(states) == 1 else states

    def canonical(self, output: Any, call: Call) -> tuple[Any, tuple[str, ...]]:
        """What the module returned, in the form of torch's layers, and the states of which it
        returned the last ones. Those that it did not return are NaN.

        Raises ``ShapeError`` where no part of it is h.
        """
        states: tuple[Tensor, ...] | None
        if isinstance(output, Mapping):
            output = self._by_names(output)
        if self.single_step:
            states = self._states(output, call.batch, call.batched)
            if states is None and isinstance(output, tuple | list) and len(output) == 2:
                states = self._states(output[1], call.batch, call.batched)
            if states is None and isinstance(output, tuple | list) and output:
                states = self._states(output[:1], call.batch, call.batched)
            if states is None and isinstance(output, Tensor):
                states = self._states((output,), call.batch, call.batched)
            if states is None:
                raise ShapeError(f"{self.kind} returned {_form(output)}, in which no h is found")
            return self._filled(None, states, call)
        several = isinstance(output, tuple | list) and not isinstance(output, PackedSequence)
        first = output[0] if several and output else output
        expected = self._output_shape(call)
        data = first.data if isinstance(first, PackedSequence) else first
        if not isinstance(data, Tensor) or tuple(data.shape) != expected:
            raise ShapeError(
                f"{self.kind} returned {_form(first)}; its h at every step has the shape "
                f"{expected}. What is computed behind h is no part of the cell: name the class of "
                f"the part inside that returns h. {OPTIONS}"
            )
        states = (
            self._states(output[1], call.batch, call.batched) if several and output[1:] else None
        )
        return self._filled(first, states or (), call)

    def _by_names(self, output: Mapping[Any, Any]) -> Any:
        """What a module returned by names, in the order in which torch's layers return it."""
        states = [
            next((output[key] for key in (f"{name}_n", f"{name}n", name) if key in output), None)
            for name in self.cell.states
        ]
        if self.single_step:
            return tuple(state for state in states if state is not None)
        outputs = ("output", "outputs", "out", "hidden_states", "h")
        h = next((output[key] for key in outputs if key in output), states[0])
        final = tuple(output.get(f"{name}_n") for name in self.cell.states)
        return (h, final) if all(isinstance(state, Tensor) for state in final) else h

    def _output_shape(self, call: Call) -> tuple[int, ...]:
        size = self.output_size * len(self.directions)
        if call.packed is not None:
            return (*call.packed.data.shape[:-1], size)
        if not call.batched:
            return (call.steps, size)
        lead = (call.batch, call.steps) if self.batch_first else (call.steps, call.batch)
        return (*lead, size)

    def _filled(
        self, h: Any, states: tuple[Tensor, ...], call: Call
    ) -> tuple[Any, tuple[str, ...]]:
        precision = states[0].dtype if h is None else getattr(h, "data", h).dtype
        # what comes back in another type is rounded, and proves nothing
        returned = tuple(
            name
            for name, state in zip(self.cell.states, states, strict=False)
            if state.dtype == precision
        )
        filled = list(states)
        for name in self.cell.states[len(states) :]:
            shape = self.state_shape(name, call.batch, call.batched)
            filled.append(call.x.new_full(shape, torch.nan))
        final = filled[0] if len(filled) == 1 else tuple(filled)
        return (final if h is None else (h, final)), returned

    def _states(self, value: Any, batch: int, batched: bool) -> tuple[Tensor, ...] | None:
        """States in torch's form, from any in which modules pass them; None where it is no such."""
        names = self.cell.states
        if isinstance(value, Tensor):
            value = (value,)
        if not isinstance(value, tuple | list):
            return None
        if len(value) == len(names) and all(isinstance(v, Tensor) for v in value):
            parts = [[v] for v in value]
        elif all(isinstance(v, tuple | list) and len(v) == len(names) for v in value):
            parts = [[entry[k] for entry in value] for k in range(len(names))]  # layer by layer
        elif len(value) == len(names) and all(isinstance(v, tuple | list) for v in value):
            parts = [list(v) for v in value]
        elif len(names) == 1 and all(isinstance(v, Tensor) for v in value):
            parts = [list(value)]
        else:
            return None
        states = [
            self._state(name, tensors, batch, batched)
            for name, tensors in zip(names, parts, strict=True)
        ]
        fitting = tuple(state for state in states if state is not None)
        return fitting if len(fitting) == len(names) else None

    def _state(self, name: str, tensors: list[Any], batch: int, batched: bool) -> Tensor | None:
        if not tensors or not all(isinstance(t, Tensor) for t in tensors):
            return None
        tensor = tensors[0] if len(tensors) == 1 else torch.stack(tensors)
        expected = self.state_shape(name, batch, batched)
        rows = self.num_layers * len(self.directions)
        if tuple(tensor.shape) == expected:
            return tensor
        if batched and rows > 1 and tuple(tensor.shape) == (batch, rows, expected[-1]):
            return tensor.transpose(0, 1)
        fits = tensor.numel() == batch * expected[-1] and tensor.shape[-1] == expected[-1]
        return tensor.reshape(expected) if rows == 1 and fits else None

    # its computation, by the equations -----------------------------------------------------

    def replay(
        self,
        x: Tensor,
        packed: PackedSequence | None,
        initial: Mapping[str, Tensor],
        weights: tuple[Weights, ...],
        grad_mode: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One layer by the equations of the cell; see ``Structure.replay``."""
        call = Call(x, initial, True, True, packed, None)
        flow, valid = x, None
        if packed is not None:
            flow = call.unpacked(x)
            lengths = padded(PackedSequence(x, *packed[1:]))[1]
            valid = None if lengths is None else valid_steps(lengths, flow.shape[0])
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            passages = [
                run_direction(
                    DirectionInput(
                        direction_weights.map(lambda t: t.to(flow.dtype)),
                        flow,
                        {name: value[d].to(flow.dtype) for name, value in initial.items()},
                        valid,
                        direction == "reverse",
                    ),
                    frozenset(),
                )
                for d, (direction_weights, direction) in enumerate(
                    zip(weights, self.directions, strict=True)
                )
            ]
        h = torch.cat([passage.quantities["h"] for passage in passages], dim=-1)
        h = without_padding(h, valid)
        final = {name: torch.stack([p.final[name] for p in passages]) for name in initial}
        return (h if packed is None else call.pack(h)), final

    def step(self, x: Tensor, states: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
        """One step by the equations of the cell."""
        entry = DirectionInput(weights, x.unsqueeze(0), states, None, False)
        return dict(run_direction(entry, frozenset()).final)


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, PackedSequence):
        return f"a PackedSequence of {tuple(value.data.shape)}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(map(_form, value)) or 'nothing'}"
    return type(value).__name__
