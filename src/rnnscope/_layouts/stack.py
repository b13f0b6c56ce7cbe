"""A stack of recurrent layers apart from any layout, read from arrays and written to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rnnscope._layouts.layout import (
    BIASES,
    DIRECTIONS,
    KINDS,
    Array,
    Layout,
    Position,
    Stored,
    positions,
)
from rnnscope._layouts.views import Piece, Sizes, measure, shape_of, views
from rnnscope.errors import FileError, RefusedError, ShapeError

__all__ = ["Stack", "extent", "read_stack", "write_stack"]


@dataclass(frozen=True)
class Stack:
    """Every parameter of every gate, as PyTorch means it, by layer and direction.

    A missing ``b_hh`` is zero. Without ``bias`` there is neither.
    """

    kind: str
    sizes: tuple[Sizes, ...]
    bidirectional: bool
    bias: bool
    projected: bool
    dtype: torch.dtype
    pieces: Mapping[tuple[int, str], Mapping[Piece, Tensor]]

    @property
    def directions(self) -> tuple[str, ...]:
        """Forward, and reverse where there are two."""
        return DIRECTIONS[: 1 + self.bidirectional]


@dataclass(frozen=True)
class _Slot:
    """An array, or one gate's, with its name and the place among directions that it holds."""

    array: Array
    name: str
    gates: str
    layer: int
    direction: str

    def of(self, layout: Layout, tensor: Tensor) -> Tensor:
        return tensor[DIRECTIONS.index(self.direction)] if layout.direction_axis else tensor


def _slots(layout: Layout, kind: str, num_layers: int, two: bool) -> Iterator[_Slot]:
    for position in positions(num_layers, two):
        for array in layout.stored(kind).arrays:
            for name, gates in layout.array_names(kind, array, position):
                yield _Slot(array, name, gates, position.layer, position.direction)


def extent(layout: Layout, kind: str, arrays: Mapping[str, Tensor]) -> tuple[int, bool]:
    """How many layers the arrays hold, and whether in two directions, judged by their names.

    Raises ``FileError`` where a name is missing, or belongs to no parameter of the layer.
    """
    stored = layout.stored(kind)

    def needed(position: Position) -> list[str]:
        return [
            name
            for array in stored.arrays
            if not array.is_bias and array.parts != ("W_hr",)
            for name, _ in layout.array_names(kind, array, position)
        ]

    def is_complete(position: Position) -> bool:
        return all(name in arrays for name in needed(position))

    size: tuple[int, bool] | None = None
    for two in (False,) if layout.direction_axis else (True, False):
        count = 0
        while is_complete(Position(count, DIRECTIONS[two], max(2, count + 1), two)):
            count += 1
        for num_layers in {1, count} - {0}:
            everywhere = all(map(is_complete, positions(num_layers, two)))
            if everywhere and (size is None or num_layers > size[0]):
                size = num_layers, two
    if size is None:
        names = layout.names(kind)
        single = Position(0, "forward", 1, False)
        missing = [name for name in needed(single) if name not in arrays]
        raise FileError(
            f"layout {layout.name} stores {kind} as {', '.join(names)}; "
            f"missing {', '.join(missing) or 'those of a layer or direction'}; "
            f"got {_some(arrays)}"
        )
    num_layers, two = size
    if layout.direction_axis:
        name = needed(Position(0, "forward", num_layers, False))[0]
        first = arrays[name]
        if first.dim() < 2 or first.shape[0] not in (1, 2):
            raise ShapeError(
                f"{name} must have a first axis of 1 or 2 directions; got {tuple(first.shape)}"
            )
        two = first.shape[0] == 2
    surplus = set(arrays) - set(layout.names(kind, num_layers, two))
    if surplus:
        raise FileError(
            f"layout {layout.name} has no place for {_some(sorted(surplus))} in {kind} with "
            f"{num_layers} layers{', two directions' if two else ''}; "
            f"leave out what is no parameter of the layer"
        )
    return num_layers, two


def read_stack(layout: Layout, kind: str, arrays: Mapping[str, Tensor]) -> Stack:
    """The parameters in a layout's arrays. Raises ``FileError`` and ``ShapeError``."""
    stored = layout.stored(kind)
    num_layers, two = extent(layout, kind, arrays)
    slots = list(_slots(layout, kind, num_layers, two))
    bias = _with_bias(layout, stored, slots, arrays)
    projected = any(slot.array.part == "W_hr" and slot.name in arrays for slot in slots)
    slots = [
        slot
        for slot in slots
        if (bias or not slot.array.is_bias) and (projected or slot.array.part != "W_hr")
    ]
    for slot in slots:
        if slot.name not in arrays:
            raise FileError(f"layout {layout.name}: {slot.name} is missing; got {_some(arrays)}")
        if layout.direction_axis and (
            arrays[slot.name].dim() < 1 or arrays[slot.name].shape[0] != 1 + two
        ):
            raise ShapeError(
                f"{slot.name} must have a first axis of {1 + two} directions; "
                f"got {tuple(arrays[slot.name].shape)}"
            )
    sizes: list[Sizes] = []
    pieces: dict[tuple[int, str], dict[Piece, Tensor]] = {}
    for layer in range(num_layers):
        for direction in DIRECTIONS[: 1 + two]:
            direction_slots = [s for s in slots if (s.layer, s.direction) == (layer, direction)]
            direction_sizes = measure(
                stored,
                {s.array: (s.name, s.gates, s.of(layout, arrays[s.name])) for s in direction_slots},
            )
            if direction == "forward":
                sizes.append(direction_sizes)
            expected = _expected(sizes, layer, two)
            pieces[layer, direction] = _read(layout, stored, direction_slots, arrays, expected)
    for parameters in pieces.values():
        _mean_as_pytorch(stored, parameters, sizes[0].hidden, arrays)
    dtype = next(iter(arrays.values())).dtype
    has_bias = bias or stored.forget_bias != 0
    return Stack(kind, tuple(sizes), two, has_bias, projected, dtype, pieces)


def _with_bias(
    layout: Layout, stored: Stored, slots: list[_Slot], arrays: Mapping[str, Tensor]
) -> bool:
    names = [slot.name for slot in slots if slot.array.is_bias]
    missing = [name for name in names if name not in arrays]
    if missing and (stored.biased or len(missing) < len(names)):
        raise FileError(
            f"layout {layout.name}: the bias {_some(missing)} is missing; got {_some(arrays)}"
        )
    return bool(names) and not missing


def _expected(sizes: list[Sizes], layer: int, two: bool) -> Sizes:
    """What a layer's sizes must be: those of the first, fed with the h of the layer below."""
    first = sizes[0]
    feature = first.feature if layer == 0 else first.output * (1 + two)
    return Sizes(feature, first.hidden, first.output)


def _read(
    layout: Layout,
    stored: Stored,
    slots: list[_Slot],
    arrays: Mapping[str, Tensor],
    sizes: Sizes,
) -> dict[Piece, Tensor]:
    pieces: dict[Piece, Tensor] = {}
    for slot in slots:
        tensor = slot.of(layout, arrays[slot.name])
        shape = shape_of(stored, slot.array, slot.gates, sizes)
        if tuple(tensor.shape) != shape:
            got = tuple(tensor.shape)
            hint = ""
            if len(shape) == 2 and got == shape[::-1]:
                hint = "; it is transposed"
            raise ShapeError(
                f"{slot.name} must be {shape} in layout {layout.name}, with input "
                f"{sizes.feature} and hidden {sizes.hidden}; got {got}{hint}"
            )
        for piece, view, own_shape in views(stored, slot.array, slot.gates, tensor, sizes):
            pieces[piece] = view.reshape(own_shape).clone()
    return pieces


def _mean_as_pytorch(
    stored: Stored, pieces: dict[Piece, Tensor], hidden: int, arrays: Mapping[str, Tensor]
) -> None:
    """Biases that the framework adds by itself are stored; z keeps the old state."""
    if stored.forget_bias:
        for gate in stored.gates:
            like = next(iter(arrays.values()))
            pieces.setdefault(("b_ih", gate), like.new_zeros(hidden))
        pieces["b_ih", "f"] += stored.forget_bias
    _exchange_update(stored, pieces)


def _exchange_update(stored: Stored, pieces: dict[Piece, Tensor]) -> None:
    """1 - σ(a) is σ(-a): the same in both directions."""
    if stored.update == "takes":
        for part in ("W_ih", "W_hh", *BIASES):
            if (part, "z") in pieces:
                pieces[part, "z"] = -pieces[part, "z"]


def write_stack(layout: Layout, stack: Stack) -> dict[str, Tensor]:
    """The arrays of a layout that hold a stack. Raises ``RefusedError`` with the reason."""
    if stack.kind not in layout.cells:
        raise RefusedError(_why_no_kind(layout, stack.kind))
    stored = layout.stored(stack.kind)
    if stack.projected and not any(array.part == "W_hr" for array in stored.arrays):
        raise RefusedError(
            f"layout {layout.name} has no projection: it cannot hold an LSTM with proj_size="
            f"{stack.sizes[0].output}"
        )
    bias = stack.bias or stored.biased or stored.forget_bias != 0
    two = stack.bidirectional
    tensors: dict[str, Tensor] = {}
    parameters = {place: _as_stored(layout, stored, stack, place) for place in stack.pieces}
    for slot in _slots(layout, stack.kind, len(stack.sizes), two):
        if (slot.array.is_bias and not bias) or (slot.array.part == "W_hr" and not stack.projected):
            continue
        sizes = stack.sizes[slot.layer]
        shape = shape_of(stored, slot.array, slot.gates, sizes)
        if slot.name not in tensors:
            full_shape = (1 + two, *shape) if layout.direction_axis else shape
            tensors[slot.name] = torch.zeros(full_shape, dtype=stack.dtype, device="cpu")
        target = slot.of(layout, tensors[slot.name])
        pieces = parameters[slot.layer, slot.direction]
        for piece, view, _ in views(stored, slot.array, slot.gates, target, sizes):
            view.copy_(pieces[piece].reshape(view.shape))
    return tensors


def _as_stored(
    layout: Layout, stored: Stored, stack: Stack, place: tuple[int, str]
) -> dict[Piece, Tensor]:
    """The parameters as the layout means them: biases merged, z exchanged."""
    pieces = dict(stack.pieces[place])
    zero = torch.zeros(stack.sizes[0].hidden, dtype=stack.dtype, device="cpu")
    merged, apart = stored.holders("b_ih"), stored.holders("b_hh")
    for gate in KINDS[stack.kind]:
        b_ih, b_hh = (pieces.get((part, gate), zero) for part in BIASES)
        if gate not in apart and bool(b_hh.count_nonzero()):
            if stack.kind == "gru" and gate == "n":
                raise RefusedError(
                    f"layout {layout.name} has one bias for the new gate n of a GRU, but here r "
                    f"multiplies W_hn h + b_hn: b_hn cannot be added to b_in unless it is zero"
                )
            b_ih, b_hh = b_ih + b_hh, zero
        if not merged and bool(b_ih.count_nonzero()):
            raise RefusedError(
                f"layout {layout.name} has no biases; the layer's are not zero (gate {gate}, "
                f"layer {place[0]}, {place[1]})"
            )
        pieces["b_ih", gate], pieces["b_hh", gate] = b_ih, b_hh
    if stored.forget_bias:
        pieces["b_ih", "f"] = pieces["b_ih", "f"] - stored.forget_bias
    _exchange_update(stored, pieces)
    return pieces


def _why_no_kind(layout: Layout, kind: str) -> str:
    reasons = {
        "gru": "its GRU resets before the product with W_hn, this one after it",
        "gru_reset_before": "its GRU resets after the product with W_hn, this one before it",
        "lstm_peephole": "it has no place for peepholes",
        "lstm_coupled": "its LSTM has a forget gate of its own, here f is 1 - i",
        "lstm_coupled_peephole": "it has no place for peepholes with f = 1 - i",
    }
    counterpart = {"gru": "gru_reset_before", "gru_reset_before": "gru"}
    reason = reasons.get(kind, "it has no such cell")
    if counterpart.get(kind, "lstm") not in layout.cells:
        reason = "it has no such cell"
    return f"layout {layout.name} cannot hold {kind}: {reason}; it stores {', '.join(layout.cells)}"


def _some(names: Mapping[str, Tensor] | list[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return (", ".join(shown[:8]) or "nothing") + more
