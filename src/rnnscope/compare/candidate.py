"""Somebody's implementation, called whatever its form, without side effects."""

from __future__ import annotations

import copy
import functools
import random
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from rnnscope.adopt import Structure, adopt
from rnnscope.compare.answer import Answer, answered
from rnnscope.compare.model import Inputs
from rnnscope.compare.signature import Signature, layer_parameter
from rnnscope.errors import CandidateError, NotRecurrentError

__all__ = ["Answer", "Arrays", "Candidate"]

Arrays = Literal["torch", "numpy"]


class Candidate:
    """A module, a function or a builder, as data can be given to it.

    A module is called as the reference is, on a copy of it; a function as ``f(x)``,
    ``f(x, initial)``, ``f(x, initial, weights)`` or ``f(x, h_0, c_0)``, by the names and places
    of its parameters, with tensors or NumPy arrays; a builder takes a layer and returns one of
    these. Make one with ``Candidate.of``.

    Random numbers that it draws are its own: the caller's random state is left as it was.
    """

    def __init__(
        self,
        function: Any,
        structure: Structure,
        *,
        is_builder: bool = False,
        arrays: Arrays | None = None,
    ) -> None:
        self.structure = structure
        self.is_builder = is_builder
        self.name = _name(function)
        self._notes: tuple[str, ...] = ()
        self._arrays: Arrays | None = None
        self._order: tuple[Arrays, ...] = ("torch",)
        self._grad = False
        self._random: _Random | None = None
        self._borrowed = False
        self.signature: Signature | None = None
        if is_builder:
            self._function = function
            return
        self._order = _order(function, arrays)
        self._function = self._copied(function)
        self.signature = Signature.of(self._function, structure.cell.states, self.name)
        if not self.signature.roles:
            raise NotRecurrentError(
                f"{self.name} takes no argument; expected f(x), f(x, initial) or "
                f"f(x, initial, weights)"
            )

    @classmethod
    def of(
        cls,
        candidate: Any,
        structure: Structure,
        *,
        builder: bool | None = None,
        arrays: Arrays | None = None,
    ) -> Candidate:
        """Whatever can be called, told apart by its form; ``builder`` says what it is.

        ``arrays`` is what a function is given first. Raises ``NotRecurrentError`` for what is no
        such thing.
        """
        if not callable(candidate) and callable(getattr(candidate, "call", None)):
            candidate = candidate.call
        if not callable(candidate):
            kind = "None" if candidate is None else type(candidate).__name__
            raise NotRecurrentError(
                f"expected a module, a function f(x), f(x, initial) or f(x, initial, weights), "
                f"or one that takes a layer; got {kind}"
            )
        if builder is None:
            builder = not isinstance(candidate, nn.Module) and layer_parameter(candidate)
        if isinstance(candidate, type) and not builder:
            raise NotRecurrentError(
                f"{candidate.__name__} is a class; expected a module or a function. Make an "
                f"instance of it, as in {candidate.__name__}(...), or, if it takes the "
                f"reference's layer, say builder=True"
            )
        return cls(candidate, structure, is_builder=builder, arrays=arrays)

    # what it takes ----------------------------------------------------------------------

    @property
    def takes_initial(self) -> bool:
        """Whether initial states can be given."""
        signature = self._known
        return any(signature.takes(role) for role in ("initial", "flat", "state"))

    @property
    def guessed(self) -> str:
        """The parameter that is given initial states because of its place alone; else empty."""
        return self._known.guessed

    @property
    def spare(self) -> tuple[str, ...]:
        """Parameters that are None unless given, and are given nothing."""
        return self._known.spare

    def forget_guess(self) -> None:
        """Give no initial states by place."""
        self.signature = self._known.without_guess

    @property
    def takes_weights(self) -> bool:
        """Whether it is given a state dict."""
        return self._known.takes("weights")

    @property
    def takes_lengths(self) -> bool:
        """Whether it is given the length of each sequence, beside padded x."""
        return self._known.takes("lengths")

    @property
    def module(self) -> nn.Module | None:
        """The module that is called, a copy of the caller's; None for anything else."""
        return self._function if isinstance(self._function, nn.Module) else None

    @property
    def stream(self) -> object:
        """Where its random numbers stand: set again, it draws the same ones again."""
        return _Random.now() if self._random is None else self._random

    @stream.setter
    def stream(self, stream: object) -> None:
        assert isinstance(stream, _Random)
        self._random = stream

    @property
    def _known(self) -> Signature:
        assert self.signature is not None, "a builder is built before it is called"
        return self.signature

    # calls ------------------------------------------------------------------------------

    def build(self, layer: nn.Module) -> Candidate:
        """What a builder makes of a layer, of which it gets a copy.

        Raises ``CandidateError`` where it raises.
        """
        assert self.is_builder
        with self._undisturbed():
            try:
                built = self._function(copy.deepcopy(layer))
            except (Exception, SystemExit) as error:
                text = f"{self.name}, called with {type(layer).__name__}, raised {_said(error)}"
                raise CandidateError(text) from error
        if not callable(built) and not callable(getattr(built, "call", None)):
            raise NotRecurrentError(
                f"{self.name}, given a layer, returned "
                f"{'None' if built is None else type(built).__name__}; expected a module or a "
                f"function f(x) or f(x, initial)"
            )
        found = Candidate.of(built, adopt(layer).structure, builder=False)
        found.name = self.name
        return found

    def call(
        self,
        inputs: Inputs,
        weights: Mapping[str, Tensor] | None = None,
        packed: bool = False,
    ) -> Answer:
        """What it returns for these inputs, in one form.

        ``weights`` is the state dict given to a function that takes one. With lengths in the
        inputs, and no parameter for them, ``packed`` gives a PackedSequence, else padded x.

        Raises ``CandidateError`` where the candidate raises, ``ShapeError`` and ``DtypeError``
        for what is no output.
        """
        asked, notes = self._suited(inputs)
        given = _given(self._known, self.structure, asked, weights, packed, self.name)
        returned, mutated = self._tried(given)
        if mutated:
            notes.append(f"{self.name} changes {' and '.join(mutated)} in place")
        answer = answered(returned, self.structure, asked, self.name)
        return replace(answer, notes=(*self._notes, *notes, *answer.notes))

    def _suited(self, inputs: Inputs) -> tuple[Inputs, list[str]]:
        """The inputs in the candidate's own type of number, on its device."""
        module = self.module
        if module is None:
            return inputs, []
        held = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
        kinds = {t.dtype for t in held}
        notes: list[str] = []
        if len(kinds) == 1 and inputs.x.dtype not in kinds:
            dtype = kinds.pop()
            own, other = _short(dtype), _short(inputs.x.dtype)
            notes.append(f"{self.name} has parameters in {own}: x was given in {own}, not {other}")
            inputs = inputs.to(dtype)
        devices = {t.device for t in held}
        if len(devices) == 1 and inputs.x.device not in devices:
            device = devices.pop()
            initial = {name: value.to(device) for name, value in inputs.initial.items()}
            inputs = replace(inputs, x=inputs.x.to(device), initial=initial)
        return inputs, notes

    def _tried(self, given: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """What it returns, with tensors or with arrays, whichever it takes."""
        order = self._order if self._arrays is None else (self._arrays,)
        errors: list[tuple[Arrays, BaseException]] = []
        for arrays in order:
            try:
                found = self._called(given, arrays)
            except (Exception, SystemExit) as error:  # the last ends a program, not a comparison
                errors.append((arrays, error))
            else:
                self._arrays = arrays
                return found
        raise self._raised(given, errors)

    def _raised(
        self, given: Mapping[str, Any], errors: list[tuple[Arrays, BaseException]]
    ) -> CandidateError:
        # a function that is given the wrong kind of array mostly fails by type; the error that
        # is its own is the other one
        foreign = (TypeError, AttributeError)
        own = [each for each in errors if not isinstance(each[1], foreign)]
        arrays, error = own[0] if len(own) == 1 else errors[0]
        roles = [role for _, role, _ in self._known.roles if role in given]
        words = ", ".join(_described(role, given[role]) for role in roles)
        text = f"{self.name}, called with {words}, raised {_said(error)}"
        for kind, other in errors:
            if other is not error and _said(other) != _said(error):
                text += f". With {_KIND[kind]} it raised {_said(other)}"
        if len(errors) > 1:
            text = text.replace(", called with ", f", called with {_KIND[arrays]}: ", 1)
        raised = CandidateError(text)
        raised.__cause__ = error
        return raised

    def _called(self, given: Mapping[str, Any], arrays: Arrays) -> tuple[Any, list[str]]:
        # the candidate gets copies; a second copy tells whether it changed them
        values = {role: _passed(value, arrays) for role, value in given.items()}
        before = {role: _passed(value, arrays) for role, value in given.items()}
        returned = self._attempt(values)
        changed = [
            _ROLE.get(role, role) for role in values if not _same(values[role], before[role])
        ]
        return returned, changed

    def _attempt(self, values: Mapping[str, Any]) -> Any:
        signature = self._known
        try:
            return self._run(signature, values)
        except TypeError as error:
            if not (signature.open and "initial" in values and "positional argument" in str(error)):
                raise
            # *args hid that it takes x alone
            alone = replace(signature, roles=signature.roles[:1], open=False)
            returned = self._run(alone, values)
            self.signature = alone
            self._notes += (f"{self.name} takes no initial states",)
            return returned

    def _run(self, signature: Signature, values: Mapping[str, Any]) -> Any:
        args, named = signature.arguments(values)
        with self._undisturbed():
            if not self._grad:
                try:
                    with torch.no_grad():
                        return self._function(*args, **named)
                except RuntimeError as error:
                    if "does not require grad" not in str(error):
                        raise
                    self._grad = True  # it uses gradients itself
            with torch.enable_grad():
                return self._function(*args, **named)

    # leaving things as they were ---------------------------------------------------------

    def _copied(self, function: Any) -> Any:
        if isinstance(function, type | types.FunctionType | types.BuiltinFunctionType):
            return function
        callers = _Random.now()
        try:
            return copy.deepcopy(function, _detached(function))
        except Exception as error:  # whatever its own __deepcopy__ and __reduce__ raise
            self._notes += (
                f"{self.name} cannot be copied ({type(error).__name__}), so it was run itself"
                + (" and put back as it was" if isinstance(function, nn.Module) else ""),
            )
            self._borrowed = True
            return function
        finally:
            callers.restore()  # a copy that is built anew draws its first weights

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """The caller's random state and, where no copy was made, the module are put back."""
        callers = _Random.now()
        kept = _Kept(self._function) if self._borrowed and self.module is not None else None
        if self._random is not None:
            self._random.restore()  # its own stream goes on: dropout differs from call to call
        try:
            yield
        finally:
            self._random = _Random.now()
            callers.restore()
            if kept is not None:
                kept.restore()


def _order(function: Any, arrays: Arrays | None) -> tuple[Arrays, ...]:
    if isinstance(function, nn.Module):
        return ("torch",)
    first = arrays or ("numpy" if _of_numpy(function) else "torch")
    return ("numpy", "torch") if first == "numpy" else ("torch", "numpy")


_KIND = {"torch": "tensors", "numpy": "NumPy arrays"}
_ROLE = {"x": "its input", "initial": "its initial states", "flat": "its initial states"} | {
    "weights": "its weights",
    "lengths": "its lengths",
}


def _of_numpy(function: Any) -> bool:
    """Whether a function's own code names numpy and not torch: some of what NumPy's arrays do,
    tensors do otherwise (std, repeat), without an error."""
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, types.FunctionType | types.MethodType):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    known = getattr(function, "__globals__", {})
    found = [known.get(name) for name in code.co_names]
    modules = {each.__name__.split(".")[0] for each in found if isinstance(each, types.ModuleType)}
    return "numpy" in modules and "torch" not in modules


def _detached(function: Any) -> dict[int, Any]:
    """What deepcopy is told beforehand: tensors that are part of a graph, which it refuses."""
    memo: dict[int, Any] = {}
    owner = getattr(function, "__self__", function)
    for module in owner.modules() if isinstance(owner, nn.Module) else [owner]:
        waiting = list(getattr(module, "__dict__", {}).values())
        while waiting:
            held = waiting.pop()
            if isinstance(held, Tensor) and not held.is_leaf:
                memo[id(held)] = held.detach().clone()
            elif isinstance(held, list | tuple):
                waiting.extend(held)
            elif isinstance(held, dict):
                waiting.extend(held.values())
    return memo


# what is given -------------------------------------------------------------------------------


def _given(
    signature: Signature,
    structure: Structure,
    inputs: Inputs,
    weights: Mapping[str, Tensor] | None,
    packed: bool,
    who: str,
) -> dict[str, Any]:
    """The value of every role that is given one."""
    wanted = {role: required for _, role, required in signature.roles}
    x = inputs.x.transpose(0, 1) if structure.batch_first else inputs.x
    if structure.single_step:
        x = inputs.x[0]
    given: dict[str, Any] = {"x": x.contiguous()}
    if inputs.lengths is not None and "lengths" not in wanted and packed:
        given["x"] = pack_padded_sequence(
            given["x"], inputs.lengths.cpu(), structure.batch_first, enforce_sorted=False
        )
    states = {
        name: value.reshape(structure.state_shape(name, inputs.batch))
        for name, value in inputs.initial.items()
    }
    together = tuple(states.values()) if len(states) > 1 else next(iter(states.values()), None)
    for role, required in wanted.items():
        # without states a required parameter gets the zeros that they stand for
        if role == "initial" and (inputs.given or required):
            given[role] = together
        elif role.startswith("state:") and (inputs.given or required):
            given[role] = states[role.removeprefix("state:")]
        elif role == "flat" and (inputs.given or required):
            given[role] = _flat(inputs)
        elif role == "weights" and (weights is not None or required):
            if weights is None:
                raise CandidateError(f"{who} takes weights, and none were given")
            given[role] = dict(weights)
        elif role == "lengths" and (inputs.lengths is not None or required):
            full = torch.full((inputs.batch,), inputs.steps)
            given[role] = full if inputs.lengths is None else inputs.lengths
    return given


def _flat(inputs: Inputs) -> list[Tensor]:
    """[h, c] of the first direction, [h, c] of the next: (batch, unit) each."""
    values = [value.flatten(0, 1) for value in inputs.initial.values()]
    return [value[k] for k in range(values[0].shape[0]) for value in values]


def _passed(value: Any, arrays: Arrays) -> Any:
    """A copy, as tensors or as arrays."""
    if isinstance(value, Mapping):
        return {name: _passed(each, arrays) for name, each in value.items()}
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return value._replace(data=value.data.clone())
    if isinstance(value, list | tuple):
        return type(value)(_passed(each, arrays) for each in value)
    copied = value.detach().clone(memory_format=torch.contiguous_format)
    if arrays == "torch":
        return copied
    if copied.dtype == torch.bfloat16:  # which NumPy does not have
        copied = copied.float()
    return copied.cpu().numpy()


def _same(value: Any, before: Any) -> bool:
    """Bit for bit; NaN is itself."""
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return _same(value.data, before.data)
    if isinstance(value, Mapping):
        return value.keys() == before.keys() and all(_same(value[k], before[k]) for k in before)
    if isinstance(value, list | tuple):
        return len(value) == len(before) and all(map(_same, value, before))
    if isinstance(value, Tensor):
        return value.shape == before.shape and _equal(value.detach(), before)
    return value is before or np.array_equal(value, before, equal_nan=value.dtype.kind == "f")


def _equal(value: Tensor, before: Tensor) -> bool:
    return torch.allclose(value, before, rtol=0, atol=0, equal_nan=True)


def _described(role: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{role} of {len(value)} names"
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return f"{role} packed {tuple(value.data.shape)} {_short(value.data.dtype)}"
    if isinstance(value, list | tuple):
        return f"{role} ({', '.join(str(tuple(each.shape)) for each in value)})"
    return f"{role.removeprefix('state:')} {tuple(value.shape)} {_short(value.dtype)}"


# words ---------------------------------------------------------------------------------------


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _said(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "").strip()
    kind = type(error).__name__
    return f"{kind}: {first[:300]}" if first else kind


def _name(function: Any) -> str:
    """As a text would call it."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "original_name", None) or getattr(function, "__qualname__", None)
    if name is None:
        name = getattr(function, "name", None) if hasattr(function, "schema") else None
    if not isinstance(name, str):
        name = type(function).__name__
    last = name.rsplit("<locals>.", 1)[-1]
    return "the function" if last == "<lambda>" else last


# side effects --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Random:
    """The states of the random numbers of torch, NumPy and Python."""

    torch_state: Tensor
    cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> _Random:
        initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if initialized else []
        return cls(torch.get_rng_state(), tuple(cuda), np.random.get_state(), random.getstate())

    def restore(self) -> None:
        torch.set_rng_state(self.torch_state)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))
        np.random.set_state(self.numpy)
        random.setstate(self.python)


class _Kept:
    """A module as it is, to be put back: attributes, numbers and gradients."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = [
            (each, dict(each.__dict__), dict(each._buffers)) for each in module.modules()
        ]
        held = (*module.parameters(), *module.buffers())
        self._numbers = [(each, each.detach().clone()) for each in held]
        self._gradients = [
            (each, each.grad, None if each.grad is None else each.grad.clone())
            for each in module.parameters()
        ]

    def restore(self) -> None:
        for module, attributes, buffers in self._attributes:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, numbers in self._numbers:
                if not _equal(tensor, numbers):
                    tensor.copy_(numbers)
            for parameter, gradient, numbers_of in self._gradients:
                parameter.grad = gradient
                if gradient is not None and numbers_of is not None:
                    gradient.copy_(numbers_of)
