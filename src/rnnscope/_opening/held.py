"""A call held as it was made, to be opened later: what went in, the weights used, what came out.

Most calls are plain: a module of torch's own, ordinary tensors on a CPU, no mode of anybody's. Of
these a few copies are all that is taken, so that a loop of single steps runs at its own pace; all
other calls are captured in full (``capture.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from rnnscope._layers.adopt import ALIGNED, RECURRENT, Adopted, adopt
from rnnscope._layers.call import Call
from rnnscope._opening.capture import Captured, Snapshot, snapshot_of

__all__ = ["Held", "HeldModule", "PlainCall", "plain_call", "weights_now"]

_FLOATS = (torch.float32, torch.float64)
_FUNCTORCH: Any = torch._C._functorch
_KEYS = {
    True: ("training", "input_size", "hidden_size", "bias", "nonlinearity"),
    False: (
        *("training", "input_size", "hidden_size", "bias", "mode", "num_layers", "batch_first"),
        *("dropout", "bidirectional", "proj_size"),
    ),
}
_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(eq=False, slots=True, weakref_slot=True)
class Held:
    """One plain call: copies of the input ``x``, of the initial ``states`` (none where none were
    given), and of what was ``returned``, all in the form in which the module has them.

    ``alike``: the copies lie in memory as the caller's tensors did. ``captured`` makes the same of
    it that a capture in full does.
    """

    adopted: Adopted
    snapshot: Snapshot
    x: Tensor
    states: tuple[Tensor, ...]
    returned: tuple[Tensor, ...]
    grad_mode: bool
    alike: bool

    @property
    def call(self) -> Call:
        """What went in, in one form. Raises what ``Adopted.call`` raises."""
        states = self.states
        hx = None if not states else states[0] if len(states) == 1 else states
        call = self.adopted.call((self.x, hx), {})
        return replace(call, faithful=call.faithful and self.alike)

    @property
    def output(self) -> Any:
        """What the module returned, as it returns it."""
        if self.adopted.single_step:
            return self.returned if len(self.returned) > 1 else self.returned[0]
        output, *states = self.returned
        return output, states[0] if len(states) == 1 else tuple(states)

    def captured(self) -> Captured:
        """The call as a capture; raises what ``Adopted.call`` raises."""
        return Captured(
            self.adopted,
            self.call,
            self.snapshot,
            self.snapshot.weights,
            self.output,
            self.x.dtype,
            None,
            grad_mode=self.grad_mode,
            final_states=self.adopted.cell.states,
        )


@dataclass(eq=False)
class HeldModule:
    """What is known of a module from its latest plain call, as long as its options are the same."""

    key: tuple[Any, ...]
    adopted: Adopted
    snapshot: ReferenceType[Snapshot] | None = None
    copies: list[Tensor] = field(default_factory=list)
    latest: ReferenceType[Held] | None = None

    def used(self, module: nn.Module) -> Snapshot:
        """The weights of the call that has just been made; shared while their numbers are the
        same, of which versions would not tell where somebody writes past them (``p.data``)."""
        snapshot = None if self.snapshot is None else self.snapshot()
        if snapshot is not None and self._unchanged(module):
            return snapshot
        snapshot = snapshot_of(module, self.adopted.weights())
        self.snapshot = ref(snapshot)
        self.copies = [
            copy for row in snapshot.weights for part in row for copy in part.named().values()
        ]
        return snapshot

    def _unchanged(self, module: nn.Module) -> bool:
        live = _weights_of(module, self.adopted.single_step)
        return len(live) == len(self.copies) and all(
            tensor.dtype is copy.dtype and torch.equal(tensor, copy)
            for tensor, copy in zip(live, self.copies, strict=True)
        )


_modules: WeakKeyDictionary[nn.Module, HeldModule] = WeakKeyDictionary()


def _weights_of(module: Any, single_step: bool) -> list[Tensor]:
    if not single_step:
        return [weight for weight in module._flat_weights if weight is not None]
    parameters = module._parameters
    return [w for name in _CELL_WEIGHTS if (w := parameters[name]) is not None]


@dataclass(eq=False, slots=True)
class PlainCall:
    """A plain call that is about to be made."""

    module: nn.Module
    known: HeldModule
    x: Tensor
    states: tuple[Tensor, ...]

    def held(self, output: Any) -> Held:
        """What is kept of the call, which returned this."""
        returned = _flat(output)
        grad_mode = torch.is_grad_enabled()  # the context below enables it
        with torch._C._InferenceMode(False):
            snapshot = self.known.used(self.module)
            latest = None if self.known.latest is None else self.known.latest()
            before = () if latest is None else latest.returned[-len(self.states) :]
            states = tuple(
                before[k] if k < len(before) and _same(value, before[k]) else _copy(value)
                for k, value in enumerate(self.states)
            )
            x = _copy(self.x)
            held = Held(
                self.known.adopted,
                snapshot,
                x,
                states,
                tuple(map(_copy, returned)),
                grad_mode,
                self.known.adopted.num_layers == 1 or _lies_alike(self.x, x),
            )
        self.known.latest = ref(held)
        return held


def _flat(output: Any) -> tuple[Tensor, ...]:
    if isinstance(output, Tensor):
        return (output,)
    return tuple(tensor for part in output for tensor in _flat(part))


def _copy(value: Tensor) -> Tensor:
    return value.detach().clone()


def _same(value: Tensor, copy: Tensor) -> bool:
    return value.shape == copy.shape and value.dtype is copy.dtype and torch.equal(value, copy)


def _lies_alike(value: Tensor, copy: Tensor) -> bool:
    return value.stride() == copy.stride() and (value.data_ptr() - copy.data_ptr()) % ALIGNED == 0


def plain_call(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> PlainCall | None:
    """The call that is about to be made, where it is a plain one; None where it is not."""
    kind = type(module)
    if kind not in RECURRENT or not args or len(args) > 2 or "forward" in module.__dict__:
        return None
    if not _without_modes():  # first: a mode sees each look at a tensor
        return None
    x = args[0]
    hx = args[1] if len(args) == 2 else kwargs.get("hx")
    if len(kwargs) > (len(args) == 1 and "hx" in kwargs):
        return None
    states = () if hx is None else (hx,) if type(hx) is Tensor else hx
    if type(states) not in (tuple, list) or not _ordinary(x) or not all(map(_ordinary, states)):
        return None
    known = _known(module)
    if known is None or x.dtype is not next(iter(module._parameters.values())).dtype:  # type: ignore[union-attr]
        return None
    return PlainCall(module, known, x, tuple(states))


def _ordinary(value: Any) -> bool:
    return (
        type(value) is Tensor
        and value.is_cpu
        and value.dtype in _FLOATS
        and not value.is_nested
        and value.layout is torch.strided
        and value.numel() > 0
    )


def _without_modes() -> bool:
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and not torch.is_autocast_enabled("cpu")
        and _FUNCTORCH.peek_interpreter_stack() is None
    )


def _known(module: nn.Module) -> HeldModule | None:
    """What is known of a module; None where its weights are not plain parameters, or dropout is
    at work."""
    options = module.__dict__
    single_step = "num_layers" not in options
    key = tuple(options.get(name) for name in _KEYS[single_step])
    known = _modules.get(module)
    if known is None or known.key != key:
        adopted = adopt(module, inner=True)
        known = _modules[module] = HeldModule(key, adopted)
    adopted = known.adopted
    if adopted.training and adopted.dropout > 0 and adopted.num_layers > 1:
        return None
    parameters = module._parameters
    if single_step:
        plain = all(name in parameters for name in _CELL_WEIGHTS)
    else:
        plain = len(parameters) == len(module._flat_weights)  # type: ignore[arg-type]
    return known if plain and all(_is_plain(p) for p in parameters.values()) else None


def _is_plain(parameter: Any) -> bool:
    return parameter is None or (type(parameter) in (nn.Parameter, Tensor) and parameter.is_cpu)


def weights_now(taken: Captured) -> Captured:
    """A capture whose layers below the top run again with the module's own weights, where these
    still hold the numbers that the call used, else with the copies."""
    live: Any = taken.live
    if live is taken.snapshot.weights and taken.adopted.num_layers > 1:
        live = taken.adopted.weights()
    same = live is taken.snapshot.weights or taken.snapshot.equals(live)
    return replace(taken, live=live if same else taken.snapshot.weights)
