"""From a module of ``torch.nn`` to its ``Structure``, ``Weights`` and ``Call``; or a refusal.

This is the one file, beside the declarations, that knows the modules apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.call import Call
from rnnscope._layers.sequences import padded
from rnnscope._layers.structure import Structure, Weights
from rnnscope._layers.tensors import plain, require_numbers
from rnnscope.cells import GRU, LSTM, LSTM_PROJECTED, RNN_RELU, RNN_TANH, Cell
from rnnscope.errors import DtypeError, NotRecurrentError, RefusedError, ShapeError

__all__ = [
    "OPENED",
    "RECURRENT",
    "Adopted",
    "Declared",
    "adopt",
    "calls_base",
    "own_forward",
    "refusal",
]

_LAYERS: dict[type, str] = {nn.RNN: "nn.RNN", nn.GRU: "nn.GRU", nn.LSTM: "nn.LSTM"}
_CELLS: dict[type, str] = {
    nn.RNNCell: "nn.RNNCell",
    nn.GRUCell: "nn.GRUCell",
    nn.LSTMCell: "nn.LSTMCell",
}
_RECURRENT = _LAYERS | _CELLS
RECURRENT: tuple[type[nn.Module], ...] = tuple(_RECURRENT)
"""The classes of torch.nn whose instances, and those of their subclasses, are recurrent layers."""

_FACTS = tuple(fact.name for fact in fields(Structure))


@dataclass(frozen=True)
class Adopted(Structure):
    """A module that can be opened, with its structure."""

    module: nn.Module

    @classmethod
    def of(cls, module: Declared) -> Adopted:
        """A module that says itself what it is."""
        structure = module.structure
        return cls(**{name: getattr(structure, name) for name in _FACTS}, module=module)

    @cached_property
    def structure(self) -> Structure:
        """What is known of the module, without the module."""
        return Structure(**{name: getattr(self, name) for name in _FACTS})

    def weights(self, fresh: bool = False) -> tuple[tuple[Weights, ...], ...]:
        """The weights that the last forward used, by layer and direction; not copied.

        ``fresh`` gives those that the next forward would use.
        """
        module: Any = self.module
        if isinstance(module, Declared):
            return tuple(
                tuple(direction_weights.map(plain) for direction_weights in row)
                for row in module.weights()
            )
        if self.single_step:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ih, hh, b_ih, b_hh = (getattr(module, name) for name in names)
            cell_weights = Weights(self.cell, ih, hh, b_ih, b_hh, None, "")
            return ((cell_weights.map(plain),),)
        # the list that forward hands to the fused call: with parametrizations and
        # functional_call these are the tensors really used, which attributes may not be
        names = module._flat_weights_names
        used = [getattr(module, name) for name in names] if fresh else module._flat_weights
        flat = dict(zip(names, map(plain, used), strict=True))
        return tuple(
            tuple(self._of(flat, end) for end in self.suffixes(layer))
            for layer in range(self.num_layers)
        )

    def _of(self, flat: Mapping[str, Tensor], suffix: str) -> Weights:
        return Weights(
            self.cell,
            flat[f"weight_ih{suffix}"],
            flat[f"weight_hh{suffix}"],
            flat.get(f"bias_ih{suffix}"),
            flat.get(f"bias_hh{suffix}"),
            flat.get(f"weight_hr{suffix}"),
            suffix,
        )

    def check_dropout_device(self) -> None:
        """Refuse dropout in training where its masks cannot be drawn again."""
        device = self._any_weight.device.type
        if device != "cpu":
            raise RefusedError(
                f"cannot be opened: {self.kind} with dropout={self.dropout} in training on "
                f"{device} draws its masks inside one fused call, where they cannot be drawn "
                f"again. Call .eval(), or trace a copy on the CPU."
            )

    def call(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        live: bool = False,
        made: bool = False,
    ) -> Call:
        """The call in one form; its tensors are copies, so later changes do not reach it.

        ``live`` keeps the tensors themselves, with their graph, for a module that is about to run;
        ``made``: the module has run, and its weights may be of another type since.
        Raises ``ShapeError`` and ``DtypeError`` for what the layer cannot take.
        """
        x, hx = self.arguments(args, kwargs)
        if isinstance(x, PackedSequence) and not self.single_step:
            self._check_input(x.data, live, packed=True)
            self._check_dtype("x", x.data)
            time_major, lengths = padded(x)
            initial, has_initial = self._initial(hx, time_major, True, live, made)
            if live:
                return Call(time_major, initial, has_initial, True, x, lengths)
            detached = PackedSequence(plain(x.data).detach().clone(), *x[1:])
            # the module orders the states of all layers at once, ``rerun`` those of its layer
            ordered = hx is not None and x.sorted_indices is not None
            faithful = not ordered and _lie_alike((x.data, detached.data), *_pairs(hx, initial))
            time_major = plain(time_major).detach()
            return Call(time_major, initial, has_initial, True, detached, lengths, faithful)
        self._check_input(x, live)
        if not made:
            self._check_dtype("x", x)
        x = x if live else plain(x)
        if self.single_step:
            batched = x.dim() == 2
            time_major = (x if batched else x.unsqueeze(0)).unsqueeze(0)
        else:
            batched = x.dim() == 3
            # as the module does it: kernels round by strides, of dims of length 1 too
            time_major = x if batched else x.unsqueeze(0 if self.batch_first else 1)
            if self.batch_first:
                time_major = time_major.transpose(0, 1)
        self._check_sizes(time_major, live)
        initial, has_initial = self._initial(hx, time_major, batched, live, made)
        # strides are kept: the order of memory decides how a kernel rounds
        kept = time_major if live else time_major.detach().clone()
        faithful = not live and _lie_alike((time_major, kept), *_pairs(hx, initial))
        return Call(kept, initial, has_initial, batched, None, None, faithful)

    def plain_call(self, x: Tensor) -> Call:
        """``call`` of a plain tensor in the form of a batch, which a layer takes without states."""
        time_major = x.transpose(0, 1) if self.batch_first else x
        kept = time_major.detach().clone()
        initial, _ = self._initial(None, time_major, True, False, False)
        return Call(kept, initial, False, True, None, None, _lie_alike((time_major, kept)))

    def passed(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """The input and the initial state among what the module is called with."""
        return _arguments(self.kind, args, kwargs)

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """The same, the states in torch's form."""
        return self.passed(args, kwargs)

    def canonical(self, output: Any, call: Call) -> tuple[Any, tuple[str, ...]]:
        """What the module returned, in the form of torch's layers, and the states of which it
        returned the last ones."""
        return output, self.cell.states

    # what the caller gave, checked ------------------------------------------------------

    @property
    def _form(self) -> str:
        if self.single_step:
            return f"(batch, input={self.input_size}) or (input={self.input_size})"
        order = "(batch, time, " if self.batch_first else "(time, batch, "
        return f"{order}input={self.input_size}) or unbatched (time, input={self.input_size})"

    def _check_input(self, x: Any, live: bool, packed: bool = False) -> None:
        if not isinstance(x, Tensor):
            hint = "torch.as_tensor(x, dtype=torch.float32)"
            if isinstance(x, PackedSequence):
                hint = "one step of it: a cell module takes no PackedSequence"
            raise DtypeError(
                f"{self.kind} takes a tensor {self._form}; got {type(x).__name__}. Pass {hint}."
            )
        if not live or x.is_nested:  # of which no shape can be asked
            require_numbers("x", x)
        if not live:
            for name, weight in self.module.named_parameters():
                require_numbers(name, weight)
        got = tuple(x.shape)
        expected = (2,) if packed else (1, 2) if self.single_step else (2, 3)
        if x.dim() not in expected:
            raise ShapeError(f"x must be {self._form}; got {got}. {self._dims_hint(x)}")
        if x.shape[-1] != self.input_size:
            raise ShapeError(f"x must be {self._form}; got {got}. {self._feature_hint(x)}")

    def _dims_hint(self, x: Tensor) -> str:
        if x.dim() == 1 and self.input_size == 1:
            add = "unsqueeze(0)" if self.batch_first else "unsqueeze(1)"
            return (
                f"For one sequence of {x.shape[0]} single numbers write "
                f"x.unsqueeze(-1).{add}, or unbatched x.unsqueeze(-1)."
            )
        if x.dim() == 1:
            return "For one step of one sequence write x.unsqueeze(0)."
        return "Select or reshape until the dims are these."

    def _feature_hint(self, x: Tensor) -> str:
        if self.input_size == 1 and x.dim() == 2 and not self.single_step:
            order = "(batch, time)" if self.batch_first else "(time, batch)"
            return f"If that is {order} with one number a step, write x.unsqueeze(-1)."
        if not self.single_step and x.dim() == 3 and self.input_size in x.shape[:2]:
            at = tuple(x.shape).index(self.input_size)
            return f"If dim {at} holds the features, move it last: x.movedim({at}, -1)."
        return f"The last dim holds the features; the layer has input_size={self.input_size}."

    def _check_sizes(self, x: Tensor, live: bool) -> None:
        steps, batch = x.shape[:2]
        if steps == 0 or (batch == 0 and not live):
            lack = "no step" if steps == 0 else "no sequence"
            raise ShapeError(
                f"x has {lack} (time {steps}, batch {batch}): there is nothing to compute. "
                f"Give at least one sequence of at least one step."
            )

    def _check_dtype(self, name: str, value: Tensor) -> None:
        if not value.is_floating_point():
            raise DtypeError(
                f"{name} must hold floating point numbers; got {value.dtype}. Write {name}.float()."
            )
        weight = self._any_weight
        if value.dtype != weight.dtype and not torch.is_autocast_enabled(value.device.type):
            raise DtypeError(
                f"{name} is {value.dtype}, the weights are {weight.dtype}; they must be the same. "
                f"Write {name}.to({weight.dtype}), or change the layer with .to({value.dtype})."
            )

    @property
    def _any_weight(self) -> Tensor:
        # not an attribute such as weight_ih_l0: reading a parametrized one computes it anew,
        # which for spectral norm changes its state
        flat: list[Tensor] | None = getattr(self.module, "_flat_weights", None)
        return flat[0] if flat else next(self.module.parameters())

    def _initial(
        self, hx: Any, x: Tensor, batched: bool, live: bool, made: bool
    ) -> tuple[dict[str, Tensor], bool]:
        """The states before the first step, and whether they were given; ``x`` is time-major."""
        batch = x.shape[1]
        states = self.cell.states
        layers, directions = self.num_layers, len(self.directions)
        sizes = [self.state_size(name) for name in states]
        shapes = [(layers, directions, batch, size) for size in sizes]
        if hx is None:
            zeros = (x.new_zeros(shape) for shape in shapes)
            return dict(zip(states, zeros, strict=True)), False
        names = ", ".join(f"{name}_0" for name in states)
        if len(states) > 1 and not (isinstance(hx, tuple | list) and len(hx) == len(states)):
            got = f"{len(hx)} values" if isinstance(hx, tuple | list) else type(hx).__name__
            raise ShapeError(f"{self.kind} takes the initial states as ({names}); got {got}.")
        values = tuple(hx) if len(states) > 1 else (hx,)
        initial: dict[str, Tensor] = {}
        for name, value, shape in zip(states, values, shapes, strict=True):
            if not isinstance(value, Tensor):
                raise DtypeError(f"{name}_0 must be a tensor; got {type(value).__name__}.")
            if not live:
                require_numbers(f"{name}_0", value)
            if not made:
                self._check_dtype(f"{name}_0", value)
            expected = self.state_shape(name, batch, batched)
            if tuple(value.shape) != expected:
                raise ShapeError(self._state_message(name, tuple(value.shape), expected))
            if not live:
                value = plain(value).detach().clone(memory_format=torch.contiguous_format)
            initial[name] = value.reshape(shape)
        return initial, True

    def _state_message(self, name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
        if self.single_step:
            dims = "(batch, hidden)" if len(expected) == 2 else "(hidden)"
        else:
            dims = "(layers × directions, batch, hidden)"
            if len(expected) == 2:
                dims = "(layers × directions, hidden), as x is unbatched"
        text = f"{name}_0 must be {dims} = {expected}; got {got}."
        if len(got) == 3 and (got[1], got[0], got[2]) == expected:
            text += (
                f" batch_first does not apply to states: "
                f"write {name}_0.transpose(0, 1).contiguous()."
            )
        return text


def _pairs(hx: Any, initial: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The initial states that the caller gave, each with its copy in the same form."""
    caller_states = () if hx is None else hx if isinstance(hx, tuple | list) else (hx,)
    return [
        (t, copy.view(t.shape)) for t, copy in zip(caller_states, initial.values(), strict=False)
    ]


ALIGNED = 64
"""Bytes of a line of cache, to which torch aligns what it allocates."""


def _lie_alike(*pairs: tuple[Tensor, Tensor]) -> bool:
    """Whether tensors and their copies have the same strides and the same alignment."""
    return all(
        type(original) in (Tensor, nn.Parameter)
        and original.stride() == copy.stride()
        and (original.data_ptr() - copy.data_ptr()) % ALIGNED == 0
        for original, copy in pairs
    )


def _arguments(kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    names = ("input", "hx")
    arguments = dict(zip(names, args, strict=False)) | dict(kwargs)
    if len(args) > 2 or set(arguments) - set(names) or "input" not in arguments:
        raise ShapeError(
            f"{kind} is called as layer(input, hx=None); got {len(args)} positional arguments"
            + (f" and {', '.join(kwargs)}" if kwargs else "")
            + ". trace(layer, ...) takes what the layer takes."
        )
    return arguments["input"], arguments.get("hx")


class Declared(nn.Module):
    """A module that runs a declared cell by its equations, and says itself what it is.

    ``rnnscope.Recurrent`` is one; here is what is asked of it.
    """

    @property
    def structure(self) -> Structure:
        """Its cell, sizes and options."""
        raise NotImplementedError

    def weights(self) -> tuple[tuple[Weights, ...], ...]:
        """Its parameters by layer and direction, not copied."""
        raise NotImplementedError

    def refusal(self) -> str | None:
        """Why it cannot be opened; None where it can."""
        raise NotImplementedError


OPENED: tuple[type[nn.Module], ...] = (*RECURRENT, Declared)
"""The classes whose instances are recurrent layers."""


def own_forward(module: nn.Module) -> bool:
    """Whether a module of a recurrent class of torch's has a forward of its own."""
    base = _base(module)
    if base is None:
        return False
    return "forward" in vars(module) or type(module).forward is not base.forward


def calls_base(module: nn.Module) -> bool:
    """Whether a forward of its own calls another, as ``super().forward(...)`` does.

    A forward that was put on the instance calls what it was given before anybody could look on.
    """
    if "forward" in vars(module):
        return False
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is None or "forward" in code.co_names


def refusal(module: nn.Module, inner: bool = False) -> str | None:
    """Why a module that looks recurrent cannot be opened; None where it can, or is no such.

    ``inner``: whether it may have a forward of its own that calls torch's, which is opened then.
    Judged by the names of types, so that no optional part of torch is imported.
    """
    if isinstance(module, Declared):
        return module.refusal()
    kind = type(module)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if "quantized" in name or "quantizable" in name or ".qat." in name:
        if any(word in kind.__qualname__ for word in ("LSTM", "GRU", "RNN")):
            return f"{name} is quantised or quantisable: its arithmetic is not nn.LSTM's"
        return None
    if isinstance(module, torch.jit.ScriptModule):
        original = getattr(module, "original_name", "")
        if original in {t.__name__ for t in _RECURRENT}:
            return f"a scripted {original}: TorchScript hides what was called; trace the original"
        return None
    wrapped = getattr(module, "_orig_mod", None)
    if isinstance(wrapped, Declared) or (
        isinstance(wrapped, nn.Module) and _base(wrapped) is not None
    ):
        return "compiled by torch.compile; trace the module that was compiled (._orig_mod)"
    base = _base(module)
    if base is None:
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            return (
                f"{name} has a forward of its own, which the equations do not describe"
                f"{_line_to_write(kind)}"
            )
        return None
    if own_forward(module) and not (inner and calls_base(module)):
        return (
            f"{name} replaces the forward of {_RECURRENT[base]}; nothing is known of its own"
            f"{_line_to_write(kind)}"
        )
    return None


def _line_to_write(kind: type[nn.Module]) -> str:
    """What to write where a class computes a cell that is known."""
    word = next((word for word in ("LSTM", "GRU") if word in kind.__name__), None)
    cell = "my_cell" if word is None else f"rs.cells.{word}"
    return f". If you know which cell it computes, say so: cells={{{kind.__name__}: {cell}}}"


def _base(module: nn.Module) -> type[nn.Module] | None:
    bases = (base for base in _RECURRENT if isinstance(module, base))
    return next(bases, None)


def adopt(module: nn.Module, inner: bool = False) -> Adopted:
    """What a recurrent module is: its cell, sizes and options; ``inner`` is as in ``refusal``.

    >>> adopt(nn.LSTM(3, 4, proj_size=2)).cell.states
    ('h', 'c')

    Raises ``NotRecurrentError`` for a module that is no recurrent layer, and
    ``RefusedError`` for one that cannot be opened.
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise NotRecurrentError(
            f"trace takes a recurrent layer of torch.nn; got the class {module.__name__}: "
            f"make a layer of it, as in {module.__name__}(3, 4)"
        )
    if not isinstance(module, nn.Module):
        raise NotRecurrentError(
            f"trace takes a recurrent layer of torch.nn; got {type(module).__name__}"
        )
    reason = refusal(module, inner)
    if reason is not None:
        raise RefusedError(f"cannot be opened: {reason}")
    if isinstance(module, Declared):
        return Adopted.of(module)
    base = _base(module)
    if base is None:
        inside = [
            name
            for name, child in module.named_modules()
            if name and (_base(child) is not None or isinstance(child, Declared))
        ]
        kind = type(module).__name__
        if not inside:
            raise NotRecurrentError(
                f"{kind} is no recurrent layer, and none is inside it; "
                f"expected one of {', '.join(_RECURRENT.values())}. Which cell a class of your own "
                f"computes, says cells={{{kind}: my_cell}}"
            )
        raise NotRecurrentError(
            f"{kind} is no recurrent layer itself; it holds {', '.join(map(repr, inside[:5]))}. "
            f"Open what runs inside a model with: with rs.watch(model) as seen: model(...)"
        )
    m: Any = module
    common = {
        "module": module,
        "kind": _RECURRENT[base],
        "input_size": m.input_size,
        "hidden_size": m.hidden_size,
        "bias": m.bias,
        "training": m.training,
    }
    if base in _CELLS:
        cells: dict[type, Cell] = {nn.GRUCell: GRU, nn.LSTMCell: LSTM}
        cell = cells.get(base) or _rnn(m.nonlinearity)
        return Adopted(
            **common,
            cell=cell,
            output_size=m.hidden_size,
            num_layers=1,
            bidirectional=False,
            batch_first=False,
            dropout=0.0,
            single_step=True,
        )
    if base is nn.LSTM:
        cell = LSTM_PROJECTED if m.proj_size else LSTM
    else:
        cell = GRU if base is nn.GRU else _rnn(m.nonlinearity)
    return Adopted(
        **common,
        cell=cell,
        output_size=m.proj_size or m.hidden_size,
        num_layers=m.num_layers,
        bidirectional=m.bidirectional,
        batch_first=m.batch_first,
        dropout=m.dropout,
        single_step=False,
    )


def _rnn(nonlinearity: str) -> Cell:
    cells = {"tanh": RNN_TANH, "relu": RNN_RELU}
    if nonlinearity not in cells:
        raise RefusedError(f"cannot be opened: nonlinearity {nonlinearity!r} is not tanh or relu")
    return cells[nonlinearity]
