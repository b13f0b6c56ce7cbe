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

__all__ = ["Signature", "layer_parameter"]

_X = {"x", "xs", "input", "inputs", "seq", "sequence", "sequences", "data"}
_INITIAL = {
    *("initial", "initialstate", "initialstates", "init", "initstate", "initstates", "hx"),
    *("state", "states", "state0", "states0", "s0", "hidden", "hiddenstate", "hiddenstates"),
    *("hc", "hc0", "h0c0", "carry", "prevstate", "prevstates", "previousstate"),
}
_LENGTHS = {"lengths", "seqlens", "lens", "seqlengths", "sequencelengths", "sequencelength"} | {
    "xlengths",
    "inputlengths",
}
_WEIGHTS = {"weights", "weight", "w", "params", "parameters", "statedict", "sd", "theta"}
_OTHER = {"training", "train", "y", "target", "targets", "label", "labels", "memory", "context"} | {
    "generator",
    "rng",
    "seed",
    "config",
    "device",
    "dtype",
    "out",
    "output",
    "encoder",
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
    """The parameters that are given something: (name, role, whether required), in order.

    A role is ``x``, ``initial`` (the states in the form the reference takes them), ``flat`` (a
    list of them, as Keras takes it), ``state:h`` (one of them), ``weights`` or ``lengths``.
    ``by_name`` holds the names that must be given by name; ``open`` is True for ``*args``, of
    which nothing is known: it is called as the reference is. ``guessed`` is the parameter whose
    place alone tells that it takes the initial states; ``spare`` holds those that are None unless
    given, and are given nothing.
    """

    roles: tuple[tuple[str, str, bool], ...]
    by_name: frozenset[str] = frozenset()
    open: bool = False
    guessed: str = ""
    spare: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Any, states: Sequence[str], name: str) -> Signature:
        """Of a function, a method, a partial, a module or anything that can be called.

        Raises ``NotRecurrentError`` for a parameter whose meaning cannot be told.
        """
        reading = _parameters(function)
        if reading is None:
            return cls((("x", "x", True), ("hx", "initial", False)), open=True)
        parameters, keras = reading
        kinds = {parameter.name: parameter.kind for parameter in parameters}
        several = any(kind is inspect.Parameter.VAR_POSITIONAL for kind in kinds.values())
        named = [parameter for parameter in parameters if parameter.kind not in _VARIABLE]
        roles = _roles(named, tuple(states), keras, name)
        guessed = _by_place(named, roles)
        if guessed:
            roles = (*roles, (guessed, "initial", False))
        if several and not any(role == "x" for _, role, _ in roles):
            return cls((("x", "x", True), ("hx", "initial", False)), open=True)
        if several and len(roles) == 1 and len(named) == 1:
            return cls((*roles, ("hx", "initial", False)), open=True)
        by_name = {n for n, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY}
        # a positional parameter behind one that is not given can be reached by its name only
        role_names = [n for n, _, _ in roles]
        places = [
            parameter.name
            for parameter in named
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        ]
        for place, parameter_name in enumerate(places):
            if parameter_name not in role_names:
                by_name |= set(places[place:])
                break
        order = {parameter_name: place for place, parameter_name in enumerate(places)}
        ordered = sorted(roles, key=lambda role: order.get(role[0], len(order)))
        spare = tuple(n.name for n in named if n.default is None and n.name not in role_names)
        return cls(tuple(ordered), frozenset(by_name), guessed=guessed, spare=spare)

    @property
    def without_guess(self) -> Signature:
        """The same, but for the parameter that only its place tells."""
        roles = tuple(role for role in self.roles if role[0] != self.guessed)
        # what stands behind it is reached by its name
        place = [n for n, _, _ in self.roles].index(self.guessed)
        behind = {n for n, _, _ in self.roles[place + 1 :]}
        return replace(
            self,
            roles=roles,
            by_name=self.by_name | behind,
            guessed="",
            spare=(self.guessed, *self.spare),
        )

    def takes(self, role: str) -> bool:
        """Whether a parameter has this role, ``state`` for one that takes a single state."""
        return any(
            parameter_role == role or parameter_role.startswith(role + ":")
            for _, parameter_role, _ in self.roles
        )

    def arguments(self, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The values by role as positional and named arguments; a role without is left out."""
        args: list[Any] = []
        named: dict[str, Any] = {}
        skipped = False
        for name, role, _ in self.roles:
            if role not in values:
                skipped = True
            elif skipped or name in self.by_name:
                named[name] = values[role]
            else:
                args.append(values[role])
        return args, named


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _parameters(function: Any) -> tuple[list[inspect.Parameter], bool] | None:
    """The parameters, and whether they are of a ``call`` as Keras has it; None if unknown."""
    inner: Any = function
    if isinstance(function, nn.Module):
        function = getattr(function, "_orig_mod", function)
        inner = getattr(function, "forward", None)  # what is scripted may have none
    scripted = _schema(inner)
    if scripted is not None:
        return scripted, False
    try:
        parameters = list(inspect.signature(inner).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if parameters and not all(parameter.kind in _VARIABLE for parameter in parameters):
        return _unbound(function, parameters), False
    inside = getattr(function, "call", None)
    if callable(inside):
        try:
            return list(inspect.signature(inside).parameters.values()), True
        except (TypeError, ValueError):
            return None
    if not parameters and _has_signature(inner):
        return [], False
    return None


def _has_signature(function: Any) -> bool:
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return False
    return True


def _schema(function: Any) -> list[inspect.Parameter] | None:
    """The parameters of what torch.jit compiled."""
    try:
        schema = function.schema
        arguments = [(argument.name, argument.has_default_value()) for argument in schema.arguments]
    except (AttributeError, RuntimeError, TypeError):
        return None
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [
        inspect.Parameter(name, kind, default=None if default else inspect.Parameter.empty)
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
) -> tuple[tuple[str, str, bool], ...]:
    if not parameters:
        return ()
    by_name = [parameter for parameter in parameters if _plain(parameter.name) in _X]
    places = [
        parameter
        for parameter in parameters
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    x = by_name[0] if by_name else places[0] if places else None
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
        required = parameter.default is inspect.Parameter.empty
        if not required and parameter.default is not None:
            continue  # its default is the caller's choice
        role = _named_role(parameter.name, alone, states, keras)
        if role and role not in roles.values():
            roles[parameter.name] = role
        elif required:
            unknown.append(parameter.name)
    # what no name tells, the place does
    free = [role for role in ("initial", "weights") if role not in roles.values()]
    free = [
        role for role in free if not (role == "initial" and (alone or "flat" in roles.values()))
    ]
    if len(unknown) > len(free):
        raise NotRecurrentError(
            f"{name}: what its parameter {unknown[len(free)]!r} should be given is not known; "
            f"expected f(x), f(x, initial), f(x, initial, weights) or f(x, h_0, c_0). "
            f"Wrap it in a function of these"
        )
    roles |= dict(zip(unknown, free, strict=False))
    return tuple(
        (parameter.name, roles[parameter.name], parameter.default is inspect.Parameter.empty)
        for parameter in parameters
        if parameter.name in roles
    )


def _by_place(
    parameters: Sequence[inspect.Parameter], roles: Sequence[tuple[str, str, bool]]
) -> str:
    """The parameter behind x that is None unless given, where no other takes initial states."""
    role_of = {name: role for name, role, _ in roles}
    if any(role in ("initial", "flat") or role.startswith("state:") for role in role_of.values()):
        return ""
    places = [
        parameter
        for parameter in parameters
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    first, second = [*places, None, None][:2]
    if first is None or second is None or role_of.get(first.name) != "x" or second.name in role_of:
        return ""
    word = _plain(second.name)
    other_purpose = word in _OTHER or any(part in word for part in _OTHER_PARTS)
    return "" if second.default is not None or other_purpose else second.name


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
        if (
            word in _state_names(states[0]) | _INITIAL
            or parameter.default is inspect.Parameter.empty
        ):
            return {parameter.name: states[0], **state_of}
    return state_of


def layer_parameter(function: Callable[..., Any]) -> bool:
    """Whether a function takes a layer, and so builds a candidate instead of being one.

    >>> layer_parameter(lambda lstm: None), layer_parameter(lambda x: None)
    (True, False)
    """
    reading = _parameters(function)
    if reading is None:
        return False
    required = [
        parameter
        for parameter in reading[0]
        if parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIABLE
    ]
    if len(required) != 1 or required[0].kind is inspect.Parameter.KEYWORD_ONLY:
        return False
    only = required[0]
    if _annotated_as_layer(function, only):
        return True
    if only.annotation is not inspect.Parameter.empty and not isinstance(function, type):
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
