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
from torch.nn.modules import module as modules_of_torch

from rnnscope._layers.adopt import ALIGNED, RECURRENT, Adopted, adopt
from rnnscope._layers.attention import Attention
from rnnscope._layers.call import Call
from rnnscope._layers.structure import Structure
from rnnscope._opening.capture import (
    Captured,
    Snapshot,
    attention_to,
    lower_states,
    snapshot_of,
    stacked,
)
from rnnscope._opening.memory import same_numbers

__all__ = ["SMALL", "Held", "HeldModule", "PlainCall", "plain_call", "weights_now"]

SMALL = 1 << 12
"""Numbers of an input up to which a call is short."""

_FLOATS = (torch.float32, torch.float64)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_GLOBAL_HOOKS = (
    *("_global_forward_pre_hooks", "_global_forward_hooks"),
    *("_global_backward_pre_hooks", "_global_backward_hooks"),
)
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
    """What is known of a module from its latest plain call, as long as its options are the same;
    nothing of it leads back to the module.

    ``used`` are the tensors that it used then, whose copies are those of the ``snapshot``.
    """

    key: tuple[Any, ...]
    structure: Structure
    used: list[Tensor] = field(default_factory=list)
    snapshot: ReferenceType[Snapshot] | None = None
    latest: ReferenceType[Adopted] | None = None

    def adopted(self, module: nn.Module) -> Adopted:
        """The module with its structure: the same as long as somebody holds it."""
        adopted = None if self.latest is None else self.latest()
        if adopted is None:
            adopted = Adopted(**vars(self.structure), module=module)
            vars(adopted)["structure"] = self.structure  # the very one
            self.latest = ref(adopted)
        return adopted

    def snapshot_now(self, adopted: Adopted) -> Snapshot:
        """The weights of the call that has just been made; shared while their numbers are the
        same, of which versions would not tell where somebody writes past them (``p.data``)."""
        snapshot = None if self.snapshot is None else self.snapshot()
        if snapshot is not None and self._used_still(adopted):
            for tensor, copy in zip(self.used, snapshot.tensors, strict=True):
                if not same_numbers(copy, tensor):
                    break
            else:
                return snapshot
        snapshot = snapshot_of(adopted.module, adopted.weights())
        self.snapshot = ref(snapshot)
        return snapshot

    def _used_still(self, adopted: Adopted) -> bool:
        """Whether the forward found the same tensors: a layer looks for others that came in the
        place of its own."""
        if adopted.single_step:
            return True
        flat = adopted.module.__dict__["_flat_weights"]
        return len(flat) == len(self.used) and all(map(is_, self.used, flat))

    def take(self, module: nn.Module) -> bool:
        """Take note of the tensors that the next call uses; False where they are no plain
        parameters on a CPU."""
        options: Any = module.__dict__
        parameters = options["_parameters"]
        if self.structure.single_step:
            names = _CELL_WEIGHTS if self.structure.bias else _CELL_WEIGHTS[:2]
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

    adopted: Adopted
    facts: HeldModule
    x: Tensor
    states: tuple[Tensor, ...]

    @property
    def attention(self) -> Attention | None:
        """What is to see the states of the layers below the top; None where nothing can, or they
        are few."""
        adopted = self.adopted
        if self.x.numel() <= SMALL or not stacked(adopted):
            return None
        return attention_to(adopted)

    def lower(self, attention: Attention) -> tuple[Tensor, ...]:
        """The states of the layers below the top, which ``attention`` saw."""
        return lower_states(self.adopted, attention, self.adopted.weights())

    @property
    def alone(self) -> bool:
        """Whether a call of the module runs its forward and nothing else, and that is one layer on
        a whole batch from zero states: so that what went in and came out is all there is."""
        adopted, x = self.adopted, self.x
        return (
            not (self.states or adopted.single_step or adopted.num_layers > 1)
            and x.dim() == 3
            and x.shape[2] == adopted.input_size
            and not _hooked(adopted.module)
        )

    @property
    def call(self) -> Call:
        """What goes into a call that is ``alone``, copied."""
        return self.adopted.plain_call(self.x)

    def made(self) -> Captured:
        """Make the call, which is ``alone``, and capture it in full."""
        adopted, grad_mode = self.adopted, torch.is_grad_enabled()
        call = self.call
        output = adopted.module(self.x)
        snapshot = self.facts.snapshot_now(adopted)
        return Captured(
            adopted,
            call,
            snapshot,
            snapshot.weights,
            output,
            self.x.dtype,
            None,
            grad_mode=grad_mode,
            final_states=adopted.cell.states,
        )

    def held(self, output: Any) -> Held:
        """What is kept of the call, which returned this."""
        facts, adopted = self.facts, self.adopted
        tensors = (self.x, *self.states, *_flat(output, adopted.single_step))
        lead = tensors[0].shape[:-1]
        together = all(tensor.shape[:-1] == lead for tensor in tensors)
        grad_mode = torch.is_grad_enabled()
        try:
            torch._C._set_grad_enabled(False)
            if torch.is_inference_mode_enabled():
                with torch._C._InferenceMode(False):  # the copies are ordinary tensors
                    snapshot, parts = facts.snapshot_now(adopted), _copies(tensors, together)
            else:
                snapshot, parts = facts.snapshot_now(adopted), _copies(tensors, together)
        finally:
            torch._C._set_grad_enabled(grad_mode)
        widths = tuple([tensor.shape[-1] for tensor in tensors]) if together else ()
        alike = adopted.num_layers == 1 or (not together and _lies_alike(self.x, parts[0]))
        return Held(adopted, snapshot, parts, widths, len(self.states), grad_mode, alike)


def _hooked(module: nn.Module) -> bool:
    """Whether a call of a module does more than run its forward."""
    hooks = any(getattr(module, name) for name in _HOOKS)
    return (
        hooks
        or module._compiled_call_impl is not None
        or any(getattr(modules_of_torch, name) for name in _GLOBAL_HOOKS)
    )


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
    return PlainCall(facts.adopted(module), facts, x, states)


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
        facts = _modules[module] = HeldModule(key, adopt(module, inner=True).structure)
    structure = facts.structure
    if structure.dropout > 0 and structure.training and structure.num_layers > 1:
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
