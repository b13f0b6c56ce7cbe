"""Somebody's implementation, called whatever its form, without side effects."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rnnscope._compare.candidate.arguments import (
    Arrays,
    arguments_of,
    described,
    each_alone,
    passed,
    same,
    without_batch,
)
from rnnscope._compare.candidate.origin import callers_traceback, origin
from rnnscope._compare.candidate.returned import Answer, answered, joined
from rnnscope._compare.candidate.sandbox import Kept, Random, detached, undisturbed
from rnnscope._compare.candidate.signature import Signature, layer_parameter
from rnnscope._compare.candidate.tensors import (
    ON_GPU,
    kind_of,
    on_gpu,
    short,
)
from rnnscope._compare.candidate.timeout import limited
from rnnscope._compare.model.model import Inputs
from rnnscope._layers.adopt import adopt
from rnnscope._layers.structure import Structure
from rnnscope.errors import (
    CandidateError,
    DtypeError,
    NotRecurrentError,
    RnnscopeError,
    ShapeError,
)

__all__ = ["Answer", "Arrays", "Candidate"]

Result = TypeVar("Result")


class Candidate:
    """A module, a function or a builder, as data can be given to it.

    A module is called as the reference is, on a copy of it; a function as ``f(x)``,
    ``f(x, initial)``, ``f(x, initial, weights)`` or ``f(x, h_0, c_0)``, by the names and places
    of its parameters, with tensors or NumPy arrays; a builder takes a layer and returns one of
    these. Make one with ``Candidate.of``.

    Random numbers that it draws are its own: the caller's random state is left as it was, and so
    are the settings of torch and NumPy.
    """

    def __init__(
        self,
        function: Any,
        structure: Structure,
        *,
        is_builder: bool = False,
        signature: Signature | None = None,
    ) -> None:
        """With a ``signature``, a function whose parameters are given what that says."""
        self.structure = structure
        self.is_builder = is_builder
        self.is_copy = True
        """Whether what is called is no object of the caller's own."""
        self.name = _name(function)
        self.random: Random | None = None
        """Where its random numbers stand: set again, it draws the same ones again."""
        self._notes: tuple[str, ...] = ()
        self._order = _order(function)
        self._grad = False
        self._padded = False
        self.by_sequence = False
        """Whether it is given one sequence at a time, x (time, feature)."""
        self._signature = signature
        self._function = function
        if is_builder or signature is not None:
            return
        self._function = self._copied(function)
        self._signature = Signature.of(self._function, structure.cell.states, self.name)
        if not self.signature.roles:
            raise NotRecurrentError(
                f"{self.name} takes no argument; expected f(x), f(x, initial) or "
                f"f(x, initial, weights)"
            )

    @classmethod
    def of(cls, candidate: Any, structure: Structure, *, builder: bool | None = None) -> Candidate:
        """Whatever can be called, told apart by its form; ``builder`` says what it is.

        Raises ``NotRecurrentError`` for what is no such thing.
        """
        if not callable(candidate) and callable(getattr(candidate, "call", None)):
            candidate = candidate.call
        if not callable(candidate):
            raise NotRecurrentError(
                f"expected a module, a function f(x), f(x, initial) or f(x, initial, weights), "
                f"or one that takes a layer; got {kind_of(candidate)}"
            )
        if builder is None:
            builder = not isinstance(candidate, nn.Module) and layer_parameter(candidate)
        if isinstance(candidate, type) and not builder:
            raise NotRecurrentError(
                f"{candidate.__name__} is a class; expected a module or a function. Make an "
                f"instance of it, as in {candidate.__name__}(...), or, if it takes the "
                f"reference's layer, say builder=True"
            )
        return cls(candidate, structure, is_builder=builder)

    # what it takes ----------------------------------------------------------------------

    @property
    def signature(self) -> Signature:
        """What its parameters are given."""
        assert self._signature is not None, "a builder is built before it is called"
        return self._signature

    def forget_guess(self) -> None:
        """Give no initial states by place."""
        self._signature = self.signature.without_guess

    @property
    def takes_weights(self) -> bool:
        """Whether it is given a state dict."""
        return self.signature.takes("weights")

    @property
    def takes_lengths(self) -> bool:
        """Whether it is given the length of each sequence, beside padded x."""
        return self.signature.takes("lengths")

    @property
    def module(self) -> nn.Module | None:
        """The module that is called, a copy of the caller's; None for anything else."""
        return self._function if isinstance(self._function, nn.Module) else None

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
                text = f"{self.name}, called with {type(layer).__name__}, raised {_placed(error)}"
                raise CandidateError(text) from callers_traceback(error)
        if not callable(built) and not callable(getattr(built, "call", None)):
            raise NotRecurrentError(
                f"{self.name}, given a layer, returned {kind_of(built)}; expected a module or a "
                f"function f(x) or f(x, initial)"
            )
        made = Candidate.of(built, adopt(layer).structure, builder=False)
        made.name = self.name
        return made

    def call(
        self,
        inputs: Inputs,
        weights: Mapping[str, Tensor] | None = None,
        packed: bool = False,
    ) -> Answer:
        """What it returns for these inputs, in one form.

        ``weights`` is the state dict given to a function that takes one. With lengths in the
        inputs, and no parameter for them, ``packed`` gives a PackedSequence, else padded x; a
        function that makes no output of the first is given the second, with a note.

        Raises ``CandidateError`` where the candidate raises, ``ShapeError`` and ``DtypeError``
        for what is no output.
        """
        if self.by_sequence:
            answers = [self._answer(one, weights, False) for one in each_alone(inputs)]
            return joined(answers)
        packed = packed and inputs.lengths is not None and not self.takes_lengths
        if not packed or self.module is not None:
            return self._answer(inputs, weights, packed)
        if self._padded:
            return self._without_lengths(inputs, weights)
        order = self._order
        try:
            return self._answer(inputs, weights, packed=True)
        except (CandidateError, ShapeError, DtypeError) as error:
            self._order = order
            try:
                answer = self._without_lengths(inputs, weights)
            except (CandidateError, ShapeError, DtypeError) as second:
                # what is not written for a PackedSequence mostly fails by type
                clearer = second if isinstance(error.__cause__, _FOREIGN) else error
                raise clearer from clearer.__cause__
            self._padded = True
            return answer

    def differentiated(self, values: Mapping[str, Any], then: Callable[[Any], Result]) -> Result:
        """What ``then`` makes of what it returns for these very values, with a graph; whatever runs
        inside is limited and put back as a call is.

        Raises ``CandidateError`` where either raises.
        """
        args, named = self.signature.arguments(values)
        try:
            with self._undisturbed(), torch.inference_mode(False), torch.enable_grad():
                return then(self._function(*args, **named))
        except RnnscopeError:
            raise
        except (Exception, SystemExit) as error:
            raised = CandidateError(f"{self.name}, called with gradients, raised {_placed(error)}")
            raise raised from callers_traceback(error)

    def _without_lengths(self, inputs: Inputs, weights: Mapping[str, Tensor] | None) -> Answer:
        answer = self._answer(inputs, weights, packed=False)
        note = (
            f"{self.name} was given padded x, and no lengths: it has no parameter for them, such "
            f"as lengths"
        )
        return replace(answer, notes=(note, *answer.notes))

    def _answer(self, inputs: Inputs, weights: Mapping[str, Tensor] | None, packed: bool) -> Answer:
        asked, notes = self.suited(inputs)
        values = arguments_of(self.signature, self.structure, asked, weights, packed)
        if self.by_sequence:
            values = without_batch(values, self.structure.batch_first)
        returned, mutated = self.given(values)
        if mutated:
            notes.append(f"{self.name} changes {' and '.join(mutated)} in place")
        answer = answered(returned, self.structure, asked, self.name)
        is_on_gpu = answer.on_gpu or on_gpu(asked.x)
        notes += [ON_GPU] * is_on_gpu
        return replace(answer, notes=(*self._notes, *notes, *answer.notes), on_gpu=is_on_gpu)

    def suited(self, inputs: Inputs) -> tuple[Inputs, list[str]]:
        """The inputs in the candidate's own type of number, on its device; with a note where they
        were not."""
        module = self.module
        if module is None:
            return inputs, []
        held = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
        kinds = {t.dtype for t in held}
        notes: list[str] = []
        if len(kinds) == 1 and inputs.x.dtype not in kinds:
            dtype = kinds.pop()
            own, other = short(dtype), short(inputs.x.dtype)
            notes.append(f"{self.name} has parameters in {own}: x was given in {own}, not {other}")
            inputs = inputs.to(dtype)
        devices = {t.device for t in held}
        if len(devices) == 1 and inputs.x.device not in devices:
            device = devices.pop()
            initial = {name: value.to(device) for name, value in inputs.initial.items()}
            inputs = replace(inputs, x=inputs.x.to(device), initial=initial)
        return inputs, notes

    def given(self, values: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """What it returns for values by role, as tensors or arrays, whichever it takes; and the
        names of those that it changed in place. Raises ``CandidateError`` where it raises."""
        errors: list[tuple[Arrays, BaseException]] = []
        for arrays in self._order:
            # the candidate gets copies; a second copy tells whether it changed them
            given = {role: passed(value, arrays) for role, value in values.items()}
            before = {role: passed(value, arrays) for role, value in values.items()}
            try:
                returned = self._attempt(given)
                changed = [r for r in given if not same(given[r], before[r])]
            except (Exception, SystemExit) as error:  # the last ends a program, not a comparison
                errors.append((arrays, error))
            else:
                self._order = (arrays,)
                return returned, [_ROLE.get(role, role) for role in changed]
        raise self._raised(values, errors)

    def _raised(
        self, values: Mapping[str, Any], errors: list[tuple[Arrays, BaseException]]
    ) -> CandidateError:
        # a function that is given the wrong kind of array mostly fails by type; the error that
        # is its own is the other one
        telling = [pair for pair in errors if not isinstance(pair[1], _FOREIGN)]
        arrays, error = telling[0] if len(telling) == 1 else errors[0]
        roles = [role for role in self.signature.required if role in values]
        words = ", ".join(described(role, values[role]) for role in roles)
        kind = f"{_KIND[arrays]}: " if len(errors) > 1 else ""
        text = f"{self.name}, called with {kind}{words}, raised {_placed(error)}"
        for kind_of_array, second in errors:
            if second is not error and _said(second) != _said(error):
                text += f". With {_KIND[kind_of_array]} it raised {_said(second)}"
        raised = CandidateError(text)
        raised.__cause__ = callers_traceback(error)
        return raised

    def _attempt(self, values: Mapping[str, Any]) -> Any:
        try:
            return self._run(self.signature, values)
        except TypeError as error:
            hidden = self.signature.open and "initial" in values
            if not (hidden and "positional argument" in str(error)):
                raise
            # *args hid that it takes x alone
            x, *_ = self.signature.parameters
            alone = Signature((x,), {x.name: "x"})
            returned = self._run(alone, values)
            self._signature = alone
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
        try:
            with undisturbed(), limited(self.name):  # a copy that is built anew draws its weights
                return copy.deepcopy(function, detached(function))
        except Exception as error:  # whatever its own __deepcopy__ and __reduce__ raise
            self._notes += (
                f"{self.name} cannot be copied ({type(error).__name__}), so it was run itself"
                + (" and put back as it was" if isinstance(function, nn.Module) else ""),
            )
            self.is_copy = False
            return function

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """All that a call may leave behind is put back, where no copy was made the module too."""
        module = None if self.is_copy else self.module
        kept = None if module is None else Kept(module)
        try:
            with undisturbed():
                if self.random is not None:
                    self.random.restore()  # its own stream goes on: dropout differs by call
                try:
                    with limited(self.name):
                        yield
                finally:
                    self.random = Random.now()
        finally:
            if kept is not None:
                kept.restore()


def _order(function: Any) -> tuple[Arrays, ...]:
    """What a function is given first, and then."""
    if isinstance(function, nn.Module):
        return ("torch",)
    return ("numpy", "torch") if _of_numpy(function) else ("torch", "numpy")


_FOREIGN = (TypeError, AttributeError)
"""What a function mostly raises that is given another kind of value than it is written for."""

MOST = 64
"""Functions that are looked into for what they name."""

_KIND = {"torch": "tensors", "numpy": "NumPy arrays"}


_ROLE = {"x": "its input", "initial": "its initial states", "flat": "its initial states"} | {
    "weights": "its weights",
    "lengths": "its lengths",
}


def _of_numpy(function: Any) -> bool:
    """Whether a function names numpy and not torch, or, where it names neither, the functions that
    it calls do: some of what NumPy's arrays do, tensors do otherwise (std, repeat), without an
    error."""
    called, visited = [function], set[int]()
    while called and len(visited) < MOST:
        named = [value for callee in called for value in _named(callee)]
        modules = {v.__name__.split(".")[0] for v in named if isinstance(v, types.ModuleType)}
        if modules & {"numpy", "torch"}:
            return "torch" not in modules
        visited |= set(map(id, called))
        kinds = (types.FunctionType, types.MethodType)
        called = [value for value in named if isinstance(value, kinds) and id(value) not in visited]
    return False


def _named(function: Any) -> list[Any]:
    """What a function's code names: globals, what encloses it, methods of its own object, and what
    stands in modules that it names."""
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, types.FunctionType | types.MethodType):
        function = getattr(function, "__call__", None)  # noqa: B004
    code = getattr(function, "__code__", None)
    if not isinstance(code, types.CodeType):
        return []
    codes = [code]
    for inner in codes:  # it grows by what is defined inside
        codes += [const for const in inner.co_consts if isinstance(const, types.CodeType)]
    names = dict.fromkeys(name for inner in codes for name in inner.co_names)
    named = [function.__globals__.get(name) for name in names]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is not set yet
            named.append(cell.cell_contents)
    owners = type(getattr(function, "__self__", None)).__mro__
    modules = [value for value in named if isinstance(value, types.ModuleType)]
    places: list[Mapping[str, Any]] = [vars(place) for place in (*modules, *owners)]
    return named + [place[name] for place in places for name in names if name in place]


def _said(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "").strip()
    kind = type(error).__name__
    return f"{kind}: {first[:300]}" if first else kind


def _placed(error: BaseException) -> str:
    """With the line of the caller's code that raised it."""
    place = origin(error)
    return f"{_said(error)}, at {place}" if place else _said(error)


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
