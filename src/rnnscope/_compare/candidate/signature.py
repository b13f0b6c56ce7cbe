"""What the parameters of somebody's function mean: told by their names and places."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from rnnscope.errors import NotRecurrentError

__all__ = ["Signature", "layer_parameter", "parameters_of"]

_X = {"x", "xs", "input", "inputs", "seq", "sequence", "sequences", "data"}
_INITIAL = {
    *("initial", "initialstate", "initialstates", "init", "initstate", "initstates", "hx"),
    *("state", "states", "state0", "states0", "s0", "hidden", "hiddenstate", "hiddenstates"),
    *("hc", "hc0", "h0c0", "carry", "prevstate", "prevstates", "previousstate"),
}
_LENGTHS = {
    *("lengths", "seqlens", "lens", "seqlengths", "sequencelengths", "sequencelength"),
    *("xlengths", "inputlengths"),
}
_WEIGHTS = {"weights", "weight", "w", "params", "parameters", "statedict", "sd", "theta"}
_OTHER = {
    *("training", "train", "y", "target", "targets", "label", "labels", "memory", "context"),
    *("generator", "rng", "seed", "config", "device", "dtype", "out", "output", "encoder"),
}
_OTHER_PARTS = ("mask", "dropout", "return", "length", "embed", "noise", "time")
"""What a parameter behind x may be called that takes no initial states."""
_LAYER = re.compile(
    r"(\w+_)?(layer|module|lstm|gru|rnn|net|network|model|reference|ref|cell)", re.IGNORECASE
)
_FLAT = ("initialstate", "initialstates")
"""Parameters that Keras gives a flat list of states (batch, unit), one a direction."""


@dataclass(frozen=True)
class Signature:
    """The parameters of a function, in order, and the role of those that are given something.

    A role is ``x``, ``initial`` (the states in the form the reference takes them), ``flat`` (a
    list of them, as Keras takes it), ``state:h`` (one of them), ``weights`` or ``lengths``.
    ``open`` is True for ``*args``, of which nothing is known: it is called as the reference is.
    ``guessed`` is the parameter whose place alone tells that it takes the initial states.
    """

    parameters: tuple[inspect.Parameter, ...]
    roles: Mapping[str, str]
    open: bool = False
    guessed: str = ""

    @classmethod
    def of(cls, function: Any, states: Sequence[str], name: str) -> Signature:
        """Of a function, a method, a partial, a module or anything that can be called.

        Raises ``NotRecurrentError`` for a parameter whose meaning cannot be told.
        """
        parameters, keras = _parameters(function)
        named = tuple(parameter for parameter in parameters if parameter.kind not in _VARIABLE)
        roles = _roles(named, tuple(states), keras, name)
        if len(named) < len(parameters) and not roles:
            return cls((_X_ALONE, _INITIAL_OR_NONE), {"x": "x", "hx": "initial"}, open=True)
        guessed = _by_place(named, roles)
        if guessed:
            roles[guessed] = "initial"
        variable = any(parameter.kind is _Parameter.VAR_POSITIONAL for parameter in parameters)
        if variable and len(named) == 1:
            return cls((*named, _INITIAL_OR_NONE), {**roles, "hx": "initial"}, open=True)
        return cls(named, roles, guessed=guessed)

    @property
    def required(self) -> dict[str, bool]:
        """Every role that is taken, in order, and whether it must be given."""
        return {
            self.roles[parameter.name]: _is_required(parameter)
            for parameter in self.parameters
            if parameter.name in self.roles
        }

    @property
    def spare(self) -> tuple[str, ...]:
        """Parameters that are None unless given, and are given nothing."""
        names = (parameter.name for parameter in self.parameters if parameter.default is None)
        return tuple(name for name in names if name not in self.roles)

    @property
    def without_guess(self) -> Signature:
        """The same, but for the parameter that only its place tells."""
        roles = {name: role for name, role in self.roles.items() if name != self.guessed}
        return replace(self, roles=roles, guessed="")

    def takes(self, role: str) -> bool:
        """Whether a parameter has this role, ``state`` for one that takes a single state."""
        return any(name.partition(":")[0] == role for name in self.roles.values())

    @property
    def takes_initial(self) -> bool:
        """Whether initial states can be given."""
        return self.takes("initial") or self.takes("flat") or self.takes("state")

    def arguments(self, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The values by role as positional and named arguments; a role without is left out."""
        args: list[Any] = []
        named: dict[str, Any] = {}
        skipped = False  # what stands behind one that is not given is reached by its name only
        for parameter in self.parameters:
            role = self.roles.get(parameter.name, "")
            if role not in values:
                skipped = True
            elif skipped or parameter.kind is _Parameter.KEYWORD_ONLY:
                named[parameter.name] = values[role]
            else:
                args.append(values[role])
        return args, named


_Parameter = inspect.Parameter
_VARIABLE = (_Parameter.VAR_POSITIONAL, _Parameter.VAR_KEYWORD)
_X_ALONE = _Parameter("x", _Parameter.POSITIONAL_OR_KEYWORD)
_INITIAL_OR_NONE = _Parameter("hx", _Parameter.POSITIONAL_OR_KEYWORD, default=None)
_ANYTHING = _Parameter("args", _Parameter.VAR_POSITIONAL)


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is _Parameter.empty


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _parameters(function: Any) -> tuple[list[inspect.Parameter], bool]:
    """The parameters, and whether they are of a ``call`` as Keras has it."""
    inner: Any = function
    if isinstance(function, nn.Module):
        function = getattr(function, "_orig_mod", function)
        inner = getattr(function, "forward", None)  # what is scripted may have none
    scripted = _schema(inner)
    if scripted is not None:
        return scripted, False
    parameters, inside = parameters_of(inner), getattr(function, "call", None)
    if all(parameter.kind in _VARIABLE for parameter in parameters) and callable(inside):
        return parameters_of(inside), True
    return _unbound(function, parameters), False


def parameters_of(function: Any) -> list[inspect.Parameter]:
    """The parameters that Python tells of; any where it tells nothing."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [_ANYTHING]


def _schema(function: Any) -> list[inspect.Parameter] | None:
    """The parameters of what torch.jit compiled."""
    try:
        arguments = [(a.name, a.has_default_value()) for a in function.schema.arguments]
    except (AttributeError, RuntimeError, TypeError):
        return None
    kind = _Parameter.POSITIONAL_OR_KEYWORD
    return [
        _Parameter(name, kind, default=None if default else _Parameter.empty)
        for name, default in arguments
        if name != "self"
    ]


def _unbound(function: Any, parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Without those that functools.partial has bound by name: they are the caller's choice."""
    bound: set[str] = set()
    while isinstance(function, functools.partial):
        bound |= set(function.keywords)
        function = function.func
    return [parameter for parameter in parameters if parameter.name not in bound]


def _roles(
    parameters: Sequence[inspect.Parameter], states: tuple[str, ...], keras: bool, name: str
) -> dict[str, str]:
    if not parameters:
        return {}
    by_name = [parameter for parameter in parameters if _plain(parameter.name) in _X]
    x = [*by_name, *_places(parameters), None][0]
    if x is None:
        raise NotRecurrentError(
            f"{name} has no parameter that could be x; expected f(x), f(x, initial) or "
            f"f(x, initial, weights)"
        )
    roles = {x.name: "x"}
    candidates = [parameter for parameter in parameters if parameter is not x]
    alone = _single_states(candidates, states)
    unknown: list[str] = []
    for parameter in candidates:
        if not _is_required(parameter) and parameter.default is not None:
            continue  # its default is the caller's choice
        role = _named_role(parameter.name, alone, states, keras)
        if role and role not in roles.values():
            roles[parameter.name] = role
        elif _is_required(parameter):
            unknown.append(parameter.name)
    # what no name tells, the place does
    states_are_taken = bool(alone) or not {"initial", "flat"}.isdisjoint(roles.values())
    free = [] if states_are_taken else ["initial"]
    free += [] if "weights" in roles.values() else ["weights"]
    if len(unknown) > len(free):
        raise NotRecurrentError(
            f"{name}: what its parameter {unknown[len(free)]!r} should be given is not known; "
            f"expected f(x), f(x, initial), f(x, initial, weights) or f(x, h_0, c_0). "
            f"Wrap it in a function of these"
        )
    return roles | dict(zip(unknown, free, strict=False))


def _places(parameters: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
    """Those that can be given by place."""
    return [p for p in parameters if p.kind is not _Parameter.KEYWORD_ONLY]


def _by_place(parameters: Sequence[inspect.Parameter], roles: Mapping[str, str]) -> str:
    """The parameter behind x that is None unless given, where no other takes initial states."""
    first, second = [*_places(parameters), None, None][:2]
    taken = any(r in ("initial", "flat") or r.startswith("state:") for r in roles.values())
    if taken or first is None or second is None:
        return ""
    if roles.get(first.name) != "x" or second.name in roles or second.default is not None:
        return ""
    word = _plain(second.name)
    other_purpose = word in _OTHER or any(part in word for part in _OTHER_PARTS)
    return "" if other_purpose else second.name


def _named_role(name: str, alone: Mapping[str, str], states: tuple[str, ...], keras: bool) -> str:
    word = _plain(name)
    if name in alone:
        return f"state:{alone[name]}"
    if word in _LENGTHS:
        return "lengths"
    if word in _WEIGHTS:
        return "weights"
    if word in _INITIAL or word in _state_names(states[0]):
        return "flat" if keras and word in _FLAT else "initial"
    return ""


def _state_names(state: str) -> set[str]:
    s = state.lower()
    names = {s, s + "0", s + "x", s + "init", "init" + s, "initial" + s, s + "initial"}
    return names | {s + "prev", "prev" + s, s + "state"}


def _single_states(
    parameters: Sequence[inspect.Parameter], states: tuple[str, ...]
) -> dict[str, str]:
    """The parameters that take one state each: name → state; none where one takes them all."""
    if len(states) < 2:
        return {}
    state_of: dict[str, str] = {}
    for state in states[1:]:
        more = {"cell", "cellstate", "initialcell", "cell0"} if state == "c" else set()
        for parameter in parameters:
            if _plain(parameter.name) in _state_names(state) | more:
                state_of[parameter.name] = state
                break
    if not state_of:
        return {}
    for parameter in parameters:
        word = _plain(parameter.name)
        if parameter.name in state_of or word in _WEIGHTS | _LENGTHS:
            continue
        if word in _state_names(states[0]) | _INITIAL or _is_required(parameter):
            return {parameter.name: states[0], **state_of}
    return state_of


def layer_parameter(function: Callable[..., Any]) -> bool:
    """Whether a function takes a layer, and so builds a candidate instead of being one.

    >>> layer_parameter(lambda lstm: None), layer_parameter(lambda x: None)
    (True, False)
    """
    parameters, _ = _parameters(function)
    required = [p for p in parameters if _is_required(p) and p.kind not in _VARIABLE]
    if len(required) != 1 or required[0].kind is _Parameter.KEYWORD_ONLY:
        return False
    [only] = required
    if _annotated_as_layer(function, only):
        return True
    if only.annotation is not _Parameter.empty and not isinstance(function, type):
        return False
    return _LAYER.fullmatch(only.name) is not None


def _annotated_as_layer(function: Any, parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        target = vars(function).get("__init__") if isinstance(function, type) else function
        try:
            annotation = typing.get_type_hints(target).get(parameter.name, annotation)
        except (NameError, TypeError, AttributeError):
            # names that are known elsewhere: judged as they are written
            return re.search(r"\b(Module|LSTM|GRU|RNN|RNNBase|Recurrent)\b", annotation) is not None
    kinds = typing.get_args(annotation) or (annotation,)
    return any(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds)
