"""A call held as it was made, to be opened later: what went in, the weights used, what came out.

Most calls are plain: a module of torch's own, ordinary tensors on a CPU, no mode of anybody's. Of
these a few copies are all that is taken, so that a loop of single steps runs at its own pace; all
other calls are captured in full (``capture.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from rnnscope._layers.adopt import ALIGNED, RECURRENT, Adopted, adopt
from rnnscope._layers.attention import Attention
from rnnscope._layers.call import Call
from rnnscope._opening.capture import (
    Captured,
    Snapshot,
    attention_to,
    lower_states,
    snapshot_of,
    stacked,
)

__all__ = ["SMALL", "Held", "HeldModule", "PlainCall", "plain_call", "weights_now"]

SMALL = 1 << 12
"""Numbers of an input up to which a call is short."""

_FLOATS = (torch.float32, torch.float64)
_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
RECURRENT_KINDS = frozenset(RECURRENT)
_functions: Callable[[], int] = torch._C._len_torch_function_stack
_dispatch: Callable[[], int] = torch._C._len_torch_dispatch_stack
_transforms: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack


@dataclass(eq=False, slots=True)
class Held:
    """One plain call: a copy of its input, of its ``state_count`` initial states (none where
    none were passed), and of what was returned, all in the form in which the module has them.

    ``parts`` holds one after the other; where they differ in their last dim alone, they lie side by
    side in one tensor, in these ``widths``. ``alike``: the copies lie in memory as the caller's
    tensors did. ``lower`` is that of a capture, for calls that are not short. ``captured`` makes
    the same of it that a capture in full does.
    """

    adopted: Adopted
    snapshot: Snapshot
    parts: tuple[Tensor, ...]
    widths: tuple[int, ...]
    state_count: int
    grad_mode: bool
    alike: bool
    lower: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, like: Held, tensors: tuple[Tensor, ...]) -> Held:
        """A call with other tensors, the others as they are."""
        return cls(
            like.adopted, like.snapshot, tensors, (), like.state_count, like.grad_mode, False
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The input, the initial states, what was returned."""
        return torch.split(self.parts[0], list(self.widths), -1) if self.widths else self.parts

    @property
    def count(self) -> int:
        """Numbers of the largest part."""
        return max([part.numel() for part in self.parts])

    @property
    def places(self) -> int:
        """Steps of sequences."""
        return math.prod(self.parts[0].shape[:-1])

    @property
    def x(self) -> Tensor:
        """The input."""
        return self.tensors[0]

    @property
    def states(self) -> tuple[Tensor, ...]:
        """The initial states."""
        return self.tensors[1 : 1 + self.state_count]

    @property
    def returned(self) -> tuple[Tensor, ...]:
        """What the module returned, flat."""
        return self.tensors[1 + self.state_count :]

    @property
    def call(self) -> Call:
        """What went in, in one form. Raises what ``Adopted.call`` raises."""
        states = self.states
        hx = None if not states else states[0] if len(states) == 1 else states
        call = self.adopted.call((self.x, hx), {}, made=True)
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
            self.parts[0].dtype,
            None,
            grad_mode=self.grad_mode,
            final_states=self.adopted.cell.states,
            lower=self.lower,
        )


@dataclass(eq=False)
class HeldModule:
    """What is known of a module from its latest plain call, as long as its options are the same.

    ``used`` are the tensors that it used then, ``copies`` those of the ``snapshot``.
    """

    key: tuple[Any, ...]
    adopted: Adopted
    used: list[Tensor] = field(default_factory=list)
    copies: list[Tensor] = field(default_factory=list)
    snapshot: ReferenceType[Snapshot] | None = None

    def snapshot_now(self, module: nn.Module) -> Snapshot:
        """The weights of the call that has just been made; shared while their numbers are the
        same, of which versions would not tell where somebody writes past them (``p.data``)."""
        snapshot = None if self.snapshot is None else self.snapshot()
        if snapshot is not None:
            for tensor, copy in zip(self.used, self.copies, strict=True):
                # equal does not look at the type: float32 is equal to the float64 made of it
                if tensor.dtype is not copy.dtype or not torch.equal(tensor, copy):
                    break
            else:
                return snapshot
        snapshot = snapshot_of(module, self.adopted.weights())
        self.snapshot = ref(snapshot)
        rows = [part for row in snapshot.weights for part in row]
        self.copies = [copy for part in rows for copy in part.named().values()]
        return snapshot

    def take(self, module: nn.Module) -> bool:
        """Take note of the tensors that the next call uses; False where they are no plain
        parameters on a CPU."""
        options: Any = module.__dict__
        parameters = options["_parameters"]
        if self.adopted.single_step:
            names = _CELL_WEIGHTS if self.adopted.bias else _CELL_WEIGHTS[:2]
            used = [parameters.get(name) for name in names]
        else:
            used = options["_flat_weights"]
            if len(used) != len(parameters):
                return False
        before = self.used
        if len(before) == len(used) and all(map(is_, before, used)):
            return True
        if not all(type(p) in (nn.Parameter, Tensor) and p.is_cpu for p in used):
            return False
        if any(p.dtype is not used[0].dtype for p in used):
            return False
        self.used, self.snapshot = list(used), None
        return True


_modules: WeakKeyDictionary[nn.Module, HeldModule] = WeakKeyDictionary()


@dataclass(eq=False, slots=True)
class PlainCall:
    """A plain call that is about to be made."""

    module: nn.Module
    facts: HeldModule
    x: Tensor
    states: tuple[Tensor, ...]

    @property
    def attention(self) -> Attention | None:
        """What is to see the states of the layers below the top; None where nothing can, or they
        are few."""
        adopted = self.facts.adopted
        if self.x.numel() <= SMALL or not stacked(adopted):
            return None
        return attention_to(adopted)

    def lower(self, attention: Attention) -> tuple[Tensor, ...]:
        """The states of the layers below the top, which ``attention`` saw."""
        adopted = self.facts.adopted
        return lower_states(adopted, attention, adopted.weights())

    def held(self, output: Any) -> Held:
        """What is kept of the call, which returned this."""
        facts = self.facts
        adopted = facts.adopted
        tensors = (self.x, *self.states, *_flat(output, adopted.single_step))
        lead = tensors[0].shape[:-1]
        together = all(tensor.shape[:-1] == lead for tensor in tensors)
        grad_mode = torch.is_grad_enabled()
        try:
            torch._C._set_grad_enabled(False)
            if torch.is_inference_mode_enabled():
                with torch._C._InferenceMode(False):  # the copies are ordinary tensors
                    snapshot, parts = facts.snapshot_now(self.module), _copies(tensors, together)
            else:
                snapshot, parts = facts.snapshot_now(self.module), _copies(tensors, together)
        finally:
            torch._C._set_grad_enabled(grad_mode)
        widths = tuple([tensor.shape[-1] for tensor in tensors]) if together else ()
        alike = adopted.num_layers == 1 or (not together and _lies_alike(self.x, parts[0]))
        return Held(adopted, snapshot, parts, widths, len(self.states), grad_mode, alike)


def _flat(output: Any, single_step: bool) -> tuple[Tensor, ...]:
    if not single_step:
        h, states = output
        return (h, states) if type(states) is not tuple else (h, *states)
    return output if type(output) is tuple else (output,)


def _copies(tensors: tuple[Tensor, ...], together: bool) -> tuple[Tensor, ...]:
    if together:
        return (torch.cat(tensors, -1).detach(),)
    return tuple([tensor.detach().clone() for tensor in tensors])


def _lies_alike(value: Tensor, copy: Tensor) -> bool:
    return value.stride() == copy.stride() and (value.data_ptr() - copy.data_ptr()) % ALIGNED == 0


def plain_call(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> PlainCall | None:
    """The call that is about to be made, where it is a plain one; None where it is not."""
    if type(module) not in RECURRENT_KINDS or not 1 <= len(args) <= 2:
        return None
    if not _without_modes():  # first: a mode sees each look at a tensor
        return None
    x = args[0]
    states = args[1] if len(args) == 2 else kwargs.get("hx")
    if kwargs and (len(args) == 2 or len(kwargs) > 1 or "hx" not in kwargs):
        return None
    if states is None:
        states = ()
    elif type(states) is Tensor:
        states = (states,)
    elif type(states) is not tuple:
        return None
    for value in (x, *states):
        if not (
            type(value) is Tensor
            and value.is_cpu
            and value.dtype in _FLOATS
            and not value.is_nested
            and value.layout is torch.strided
            and value.numel()
        ):
            return None
    facts = _facts_of(module)
    if facts is None or x.dtype is not facts.used[0].dtype:
        return None
    return PlainCall(module, facts, x, states)


def _without_modes() -> bool:
    return (
        not _functions()
        and not _dispatch()
        and not torch.is_autocast_enabled("cpu")
        and _transforms() is None
    )


def _facts_of(module: nn.Module) -> HeldModule | None:
    """What is known of a module; None where its weights are not plain parameters, or dropout is
    at work."""
    options: Any = module.__dict__
    if "forward" in options:
        return None
    get = options.get
    key = (
        *(get("training"), get("input_size"), get("hidden_size"), get("bias"), get("num_layers")),
        *(get("nonlinearity"), get("mode"), get("batch_first"), get("dropout")),
        *(get("bidirectional"), get("proj_size")),
    )
    facts = _modules.get(module)
    if facts is None or facts.key != key:
        facts = _modules[module] = HeldModule(key, adopt(module, inner=True))
    adopted = facts.adopted
    if adopted.dropout > 0 and adopted.training and adopted.num_layers > 1:
        return None
    return facts if facts.take(module) else None


def weights_now(taken: Captured) -> Captured:
    """A capture whose layers below the top run again with the module's own weights, where these
    still hold the numbers that the call used, else with the copies."""
    live: Any = taken.live
    if live is taken.snapshot.weights and taken.adopted.num_layers > 1:
        live = taken.adopted.weights()
    same = live is taken.snapshot.weights or taken.snapshot.equals(live)
    return replace(taken, live=live if same else taken.snapshot.weights)
