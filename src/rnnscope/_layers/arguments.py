"""What a module of somebody's own is called with: its input, its states, and what is neither.

The input comes first. The state is the argument that the adapter names; else the one that is named
as states are; else the second, where it has the form of a state. All others are passed on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope._layers.adapter import Adapter, class_name
from rnnscope._layers.unknown import STATES
from rnnscope.errors import NotRecurrentError, ShapeError

__all__ = ["SAY_WHICH", "Arguments", "arguments_of"]

SAY_WHICH = (
    'rs.Adapter(cell, ..., state="NAME") says which argument is the state, state=() that none is'
)


@dataclass(frozen=True)
class Arguments:
    """The input ``x`` and the initial ``state`` as they were passed, None where none was;
    ``others`` are the names of tensors that are neither."""

    x: Any
    state: Any
    others: tuple[str, ...]


def arguments_of(
    module: nn.Module,
    adapter: Adapter,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    like_state: Callable[[Any], bool],
) -> Arguments:
    """Which argument of a call is what; ``like_state`` tells whether a value may be a state.

    Raises ``ShapeError`` for a call without input and where more than one argument may be the
    state, ``NotRecurrentError`` where forward has none of the name that the adapter gives.
    """
    kind = class_name(module)
    names, open_ended = _parameters(module)
    names += [f"argument {k}" for k in range(len(names), len(args))]
    by_name = dict(zip(names, args, strict=False)) | dict(kwargs)
    if not names or names[0] not in by_name:
        raise ShapeError(f"{kind} is called with its input first; got none")
    names += [name for name in kwargs if name not in names]
    behind = names[1:]
    count = len(adapter.cell.states)
    passed = [name for name in behind if by_name.get(name) is not None]
    if adapter.state is not None:
        wanted = [adapter.state] if isinstance(adapter.state, str) else list(adapter.state)
        absent = [name for name in wanted if name not in behind]
        if absent and not open_ended:
            raise NotRecurrentError(
                f"rs.Adapter(..., state={adapter.state!r}): forward of {kind} takes no "
                f"{absent[0]} behind its input; it takes {', '.join(behind) or 'nothing'}"
            )
        states = [name for name in wanted if name in passed]
    else:
        states = _by_words(kind, count, behind, by_name, like_state)
    if len(states) not in (0, 1, count):
        raise ShapeError(f"{kind}: which of {', '.join(states)} is its initial state? {SAY_WHICH}")
    for name in states:
        if not isinstance(by_name[name], Tensor | tuple | list):
            raise ShapeError(
                f"{kind}: its initial state {name} must be a tensor, or a tuple or list of "
                f"tensors; got {type(by_name[name]).__name__}"
            )
    values = tuple(by_name[name] for name in states)
    others = (name for name in passed if name not in states)
    return Arguments(
        by_name[names[0]],
        None if not values else values[0] if len(values) == 1 else values,
        tuple(name for name in others if _holds_tensors(by_name[name])),
    )


def _parameters(module: nn.Module) -> tuple[list[str], bool]:
    """The names that forward has for what it takes; and whether it takes any name."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    gathered = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    by_position = {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }
    names = [p.name for p in parameters if p.kind in by_position]
    if not any(p.kind in gathered for p in parameters):
        names += [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        return names, False
    return names, True


def _by_words(
    kind: str,
    count: int,
    behind: list[str],
    by_name: Mapping[str, Any],
    like_state: Callable[[Any], bool],
) -> list[str]:
    """The arguments that hold ``count`` states, by their names and form; all that may where they
    are too many."""
    named = [name for name in behind if name in STATES]
    states = [name for name in named if by_name.get(name) is not None]
    if not named:
        states = [name for name in behind if like_state(by_name.get(name))][:1]
        if states and states[0] != behind[0]:
            raise ShapeError(
                f"{kind}: {states[0]} may be its initial state, and its name does not say so. "
                f"{SAY_WHICH}"
            )
    if len(states) == 1 and count > 1 and isinstance(by_name[states[0]], Tensor):
        # h and c apart, one behind the other
        start = behind.index(states[0])
        together = behind[start : start + count]
        if len(together) == count and all(isinstance(by_name.get(n), Tensor) for n in together):
            return together
    return states


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor | PackedSequence)
