"""A layer as data that can be changed: what a mistake is a change of.

A ``Model`` holds each part (one layer in one direction) with its equations and weights, and the
changes that are made to inputs, between layers, and to what is returned. A mistake maps a model
to another; ``simulate`` runs many of them at once. Every change carries a token, so that what two
models have in common is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from rnnscope._layers.adopt import Adopted
from rnnscope._layers.structure import Structure, Weights
from rnnscope.cells import Cell

__all__ = ["Change", "Inputs", "Model", "Outcome", "Part", "PartIndex", "Token", "with_fields"]

Token = tuple[Any, ...]
Instance = TypeVar("Instance")

PartIndex = tuple[int, int]
"""A layer and a direction."""


def with_fields(instance: Instance, **changes: Any) -> Instance:
    """``dataclasses.replace`` of what checks nothing when it is made: that takes a fifth of the
    time, and a search makes models by the ten thousand."""
    copied = object.__new__(type(instance))
    kind: Any = type(instance)
    before = instance.__dict__
    copied.__dict__.update({name: before[name] for name in _names(kind)})
    copied.__dict__.update(changes)
    return copied


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(kind))


@dataclass(frozen=True)
class Inputs:
    """What a call was given: ``x`` (time, batch, feature), ``initial`` states (layer, direction,
    batch, unit), ``given`` whether the caller gave them, ``lengths`` (batch) or None; ``single``:
    one sequence that came without an axis for the batch."""

    x: Tensor
    initial: Mapping[str, Tensor]
    given: bool
    lengths: Tensor | None = None
    single: bool = False

    @property
    def steps(self) -> int:
        """Steps of the longest sequence."""
        return self.x.shape[0]

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.x.shape[1]

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same in another type of number."""
        initial = {name: value.to(dtype) for name, value in self.initial.items()}
        return replace(self, x=self.x.to(dtype), initial=initial)


@dataclass(frozen=True)
class Outcome:
    """What a call gives: ``output`` (time, batch, direction × unit); ``final`` maps each state
    to (layer, direction, batch, unit); ``layers`` holds each layer's own output, and ``before``
    what the last layer's output was at the step before, in each direction's own order; ``steps``
    maps quantities that were asked for to (layer, direction, time, batch, unit)."""

    output: Tensor
    final: Mapping[str, Tensor]
    layers: tuple[Tensor, ...] = ()
    before: Tensor | None = None
    steps: Mapping[str, Tensor] = field(default_factory=dict)

    def laid(self, change: Callable[[Tensor], Tensor], **others: Any) -> Outcome:
        """The same with all that lies in time, (time, batch, unit), laid otherwise."""
        steps = {
            name: torch.stack([torch.stack([change(part) for part in row]) for row in value])
            for name, value in self.steps.items()
        }
        return replace(self, output=change(self.output), steps=steps, **others)


@dataclass(frozen=True)
class Change:
    """A function with the token that tells it from others; ``undo`` turns what is returned back,
    given what the change was given."""

    token: Token
    function: Callable[..., Any]
    undo: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """The function's value."""
        return self.function(*args)


@dataclass(frozen=True)
class Part:
    """One layer in one direction.

    ``token`` tells its weights and equations from those of other parts and models.
    ``first_b_hh`` stands in for b_hh at each row's first step. ``feeds`` is the quantity that is
    fed back as h (its first units, as many as h has), ``emits`` the one handed on, ``ends`` the
    one returned as the final h; ``unapplied``: gates of which the argument of their function is
    recorded in their place. ``restarts``: states that every step takes from the initial ones.
    ``backward``: runs from the end; ``aligned`` False: its outputs stay in the order of computing.
    ``unmasked``: runs over the padding as over all else.
    ``after_forward``: starts from the final state of the layer's first direction, ``after_below``
    from that of the layer below. ``flipped``: the axes ("time", "batch", "feature") along which
    what it reads and what it hands on are reversed, by mistake. ``in_place``: its units are
    computed one after the other, each from the states that those before have overwritten.
    ``pending`` maps parameters to the order in which the rows of
    those ``stored`` are to be taken. ``only``: the units to which it was restricted, if it was.
    """

    cell: Cell
    stored: Weights
    token: Token
    backward: bool
    first_b_hh: Tensor | None = None
    feeds: str = "h"
    emits: str = "h"
    ends: str = "h"
    unapplied: frozenset[str] = frozenset()
    restarts: frozenset[str] = frozenset()
    aligned: bool = True
    unmasked: bool = False
    after_forward: bool = False
    after_below: bool = False
    flipped: tuple[str, str] = ("", "")
    in_place: bool = False
    pending: Mapping[str, Tensor] = field(default_factory=dict)
    only: Tensor | None = None

    @property
    def cell_state(self) -> str | None:
        """The state that is not h, where there is one."""
        return next((state for state in self.cell.states if state != "h"), None)

    @cached_property
    def weights(self) -> Weights:
        """The weights, in the order of rows that they have by now."""
        if not self.pending:
            return self.stored
        ordered: dict[str, Any] = {
            name: getattr(self.stored, name)[rows] for name, rows in self.pending.items()
        }
        return replace(self.stored, **ordered)

    def parameter(self, name: str) -> Tensor | None:
        """One of the weights in the order of rows that it has by now, without the others."""
        value: Tensor | None = getattr(self.stored, name)
        return value[self.pending[name]] if value is not None and name in self.pending else value

    def reordered(self, rows: Tensor, names: Iterable[str], *token: Any) -> Part:
        """The same with the rows of some parameters in another order; they are moved when they are
        needed."""
        pending = dict(self.pending)
        for name in names:
            pending[name] = pending[name][rows] if name in pending else rows
        return self.marked(*token, pending=pending)

    def marked(self, *token: Any, **changes: Any) -> Part:
        """The same with some facts changed, told apart by ``token``."""
        return with_fields(self, token=(*self.token, token), **changes)

    def weighted(self, *token: Any, **tensors: Tensor | None) -> Part:
        """The same with other weights."""
        pending = {name: rows for name, rows in self.pending.items() if name not in tensors}
        changed: dict[str, Any] = dict(tensors)
        return self.marked(*token, stored=with_fields(self.stored, **changed), pending=pending)

    def with_weights(self, weights: Weights, **changes: Any) -> Part:
        """The same with these weights in place of its own."""
        return with_fields(self, stored=weights, pending={}, **changes)


Changes = tuple[Change, ...]


@dataclass(frozen=True)
class Model:
    """A whole layer, run as data.

    ``enter`` change the inputs, ``inner`` what comes out before these changes are undone,
    ``reads`` what each layer reads, ``joins`` how each layer's directions are put together,
    ``writes`` what each layer hands on, ``leave`` what is returned.
    ``rows`` is "own" (each row by itself) or "chained" (a row starts where the row before ended).
    ``shared_state``: at every step each layer starts from the state of the layer below, the first
    from that of the last, in one direction.
    """

    structure: Structure
    parts: tuple[tuple[Part, ...], ...]
    enter: Changes = ()
    inner: Changes = ()
    leave: Changes = ()
    reads: tuple[Changes, ...] = ()
    joins: tuple[Changes, ...] = ()
    writes: tuple[Changes, ...] = ()
    skipped: frozenset[int] = field(default_factory=frozenset)
    rows: str = "own"
    shared_state: bool = False

    @classmethod
    def of(cls, adopted: Adopted, dtype: torch.dtype) -> Model:
        """The layer as it is, its weights copied to the CPU in a type of number."""

        def copied(weights: Weights) -> Weights:
            return weights.map(lambda t: t.detach().to("cpu", dtype, copy=True))

        parts = tuple(
            tuple(
                Part(adopted.cell, copied(one), (layer, d), direction == "reverse")
                for d, (one, direction) in enumerate(zip(row, adopted.directions, strict=True))
            )
            for layer, row in enumerate(adopted.weights(fresh=True))
        )
        none: tuple[Changes, ...] = ((),) * adopted.num_layers
        return cls(adopted.structure, parts, reads=none, joins=none, writes=none)

    @cached_property
    def shaken(self) -> dict[Token, Any]:
        """The parts with weights that roundings have moved, as far as they are kept."""
        return {}

    @property
    def num_layers(self) -> int:
        """Layers."""
        return len(self.parts)

    @property
    def num_directions(self) -> int:
        """Directions."""
        return len(self.parts[0])

    @property
    def first(self) -> Part:
        """The part from which choices and words of mistakes are read."""
        return self.parts[0][0]

    def places(
        self, layer: int | None = None, direction: str | None = None
    ) -> Iterator[tuple[PartIndex, Part]]:
        """Every part with its layer and direction, or those of one layer, of one direction."""
        for k, row in enumerate(self.parts):
            for d, part in enumerate(row):
                if layer in (None, k) and direction in (None, self.structure.directions[d]):
                    yield (k, d), part

    def with_parts(self, parts: Mapping[tuple[int, int], Part]) -> Model:
        """The same with some parts replaced."""
        rows = tuple(
            tuple(parts.get((layer, d), part) for d, part in enumerate(row))
            for layer, row in enumerate(self.parts)
        )
        return with_fields(self, parts=rows)

    def with_each_part(self, change: Callable[[Part], Part]) -> Model:
        """The same with every part changed."""
        return with_fields(self, parts=tuple(tuple(map(change, row)) for row in self.parts))

    def adding(self, where: str, change: Change, layer: int | None = None) -> Model:
        """The same with one more change, at one layer where ``where`` has one list a layer."""
        lists: Any = getattr(self, where)
        after: Any = (*lists, change)
        if layer is not None:
            after = tuple((*one, change) if k == layer else one for k, one in enumerate(lists))
        changed: dict[str, Any] = {where: after}
        return with_fields(self, **changed)
