"""Recurrent layers in a file, by the names and shapes of its arrays.

Names are matched with every known layout, wherever a model has put them: what stands before a
layout's own name is the layer's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from rnnscope.cells import GRU, Cell
from rnnscope.errors import (
    DeclarationError,
    DtypeError,
    FileError,
    RefusedError,
    ShapeError,
)
from rnnscope.files.allowance import LargeError
from rnnscope.files.found import (
    CELL_KINDS,
    AmbiguousError,
    Found,
    Wanted,
    converted,
    kind_name,
    layer_name,
)
from rnnscope.files.keraslayers import layers_of_keras
from rnnscope.files.marking import as_marked
from rnnscope.files.onnxlayers import layers_of_nodes
from rnnscope.files.pytorchlayers import assembled
from rnnscope.files.raw import Raw
from rnnscope.files.remade import refuse_remade
from rnnscope.files.window import Held
from rnnscope.layouts import LAYOUTS, Converted, Layout, layout_named
from rnnscope.layouts.kinds import cell_of, kind_of, nonlinearity_of
from rnnscope.layouts.records import PYTORCH, RNNSCOPE

__all__ = ["find"]

# those that have PyTorch's names, but not in PyTorch
_DECLARED_ONLY = tuple(kind for kind in RNNSCOPE.cells if kind not in PYTORCH.cells)
# not tried unless asked for: their names say nothing, or only repeat another's
_ASKED = ("rnnscope", "onnx")
_PYTORCH = ("pytorch", "pytorch_cell")
_ALIASES = {
    "weight_ih": "[wW]_?ih",
    "weight_hh": "[wW]_?hh",
    "bias_ih": "b_?ih",
    "bias_hh": "b_?hh",
}


def find(
    raw: Raw, wanted: Wanted, layout: Layout | str | None, names: Mapping[str, str] | None
) -> list[Found]:
    """Every recurrent layer of a file, in the file's order.

    Raises ``FileError`` where there is none, where one is damaged, and where several readings fit.
    """
    if wanted.cell is not None and wanted.cell not in CELL_KINDS:
        raise DeclarationError(f"unknown cell {wanted.cell!r}; expected {', '.join(CELL_KINDS)}")
    chosen = layout_named(layout) if isinstance(layout, str) else layout
    if names is not None:
        found = [_named(raw, names, chosen or layout_named("pytorch"), wanted)]
    elif chosen is None and raw.nodes:
        found = layers_of_nodes(raw)
    elif chosen is None and raw.kind == "keras":
        found = layers_of_keras(raw, wanted)
    else:
        if chosen is None or chosen.name in (*_PYTORCH, "rnnscope"):
            refuse_remade(raw.path, raw.arrays)
        found = _matched(raw, chosen, wanted)
    if not found:
        raise FileError(_nothing(raw, chosen))
    told = chosen is None and names is None and (bool(raw.nodes) or raw.kind == "keras")
    records = LAYOUTS if chosen is None else {**LAYOUTS, chosen.name: chosen}
    for each in found if raw.nodes else ():
        if wanted.cell is not None and kind_of(each.cell) not in CELL_KINDS[wanted.cell]:
            held = kind_name(each.cell)
            raise FileError(f"{each.place}: these are weights of {held}, not {wanted.cell}")
    return [
        _completed(
            each,
            as_marked(raw, each.name, each.place, wanted),
            None if told else records[each.layout],
        )
        for each in found
    ]


def _nothing(raw: Raw, layout: Layout | None) -> str:
    some = ", ".join(list(raw.arrays)[:6]) + (", ..." if len(raw.arrays) > 6 else "")
    held = f"it holds {len(raw.arrays)} arrays: {some}" if raw.arrays else "it holds no arrays"
    if raw.kind == "onnx" and not raw.arrays:
        held = "no node LSTM, GRU or RNN"
    which = f" in layout {layout.name}" if layout else ""
    hint = (
        "; say which are which with rnnscope.load(path, names={'weight_ih_l0': ..., ...})"
        if raw.arrays
        else ""
    )
    if layout is None and {"W", "R"} <= {re.split("[./]", name)[-1] for name in raw.arrays}:
        hint += "; W and R are names of ONNX: layout='onnx' reads them in ONNX's order of gates"
    return (
        f"{raw.path}: no weights of a recurrent layer{which} (weight_ih_l0, kernel, ...): "
        f"{held}{hint}"
    )


def _completed(found: Found, wanted: Wanted, record: Layout | None) -> Found:
    """What no array tells: which nonlinearity an rnn has, and the order of dims.

    ``record`` is the layout; None where the file has more than arrays: nodes, or a model of Keras.
    """
    assumed = list(found.assumed)
    cell = found.cell
    given = wanted.told_nonlinearity
    own = nonlinearity_of(cell)
    if own is not None and record is not None:
        cell, said = _rnn(record, given)
        assumed += said
    elif own is not None and given not in (None, own):
        raise FileError(f"{found.place}: the file says {own}; got nonlinearity={given!r}")
    if found.layout in _PYTORCH and cell is GRU and wanted.cell is None:
        assumed.append("cell='gru', which resets after the product, as nn.GRU does")
    if found.batch_first is None and wanted.batch_first is None:
        assumed.append("batch_first=False")
    if found.layout in _PYTORCH and found.options["num_layers"] != 1:
        assumed += [] if wanted.dropout else ["dropout=0.0"]
    return replace(found, cell=cell, assumed=tuple(assumed))


def _rnn(record: Layout, given: str | None) -> tuple[Cell, list[str]]:
    """The cell of an rnn in a layout, and what was assumed of its nonlinearity."""
    stored = record.stored("rnn")
    if stored.nonlinearity_fixed and given not in (None, stored.nonlinearity):
        raise DeclarationError(
            f"an rnn of layout {record.name} has {stored.nonlinearity} alone; "
            f"got nonlinearity={given!r}"
        )
    cell = cell_of("rnn", nonlinearity=given or stored.nonlinearity)
    if given or stored.nonlinearity_fixed:
        return cell, []
    whose = "" if record.name in _PYTORCH else f", the default of {record.name}"
    return cell, [f"nonlinearity={stored.nonlinearity!r}{whose}"]


# names that the caller gives ----------------------------------------------------------------


def _named(raw: Raw, names: Mapping[str, str], layout: Layout, wanted: Wanted) -> Found:
    for ours, theirs in names.items():
        if theirs not in raw.arrays:
            raise FileError(
                f"{raw.path}: no array {theirs!r}, named for {ours}; "
                f"it holds {', '.join(list(raw.arrays)[:12])}"
            )
    group = _Group("", {ours: (theirs, raw.arrays[theirs]) for ours, theirs in names.items()})
    return _only(raw.path, group, _fits(raw, group, layout, wanted, strict=True), wanted)


# names that layouts give --------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Arrays that belong to one layer: by the layout's name, the file's name and the array."""

    prefix: str
    arrays: Mapping[str, tuple[str, Held]]

    @property
    def used(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.arrays.values())


@dataclass(frozen=True)
class _Fit:
    layout: Layout
    kind: str
    group: _Group
    converted: Converted


def _matched(raw: Raw, layout: Layout | None, wanted: Wanted) -> list[Found]:
    own = any("peephole_" in name for name in raw.arrays) or any(
        kind in _DECLARED_ONLY for kind in (wanted.cell, *raw.cells.values())
    )
    asked = ("rnnscope",) if own else ()
    layouts = (
        [layout]
        if layout
        else [each for each in LAYOUTS.values() if each.name not in _ASKED or each.name in asked]
    )
    fits: dict[frozenset[str], list[_Fit]] = {}
    reasons: list[str] = []
    for each in layouts:
        groups = list(_groups(raw, each))
        raw.allowance.check_layers(len(groups))
        for group in groups:
            here = as_marked(raw, layer_name(group.prefix), _place(raw.path, group), wanted)
            # rnnscope's own names are PyTorch's, but for the peepholes
            repeated = each.name == "rnnscope" and here.cell not in _DECLARED_ONLY
            if layout is None and repeated and not any("peephole_" in name for name in group.used):
                continue
            try:
                found = _fits(raw, group, each, here, strict=layout is not None)
            except FileError as error:
                if each.name in _PYTORCH or isinstance(error, LargeError):
                    raise
                reasons.append(str(error))
                continue
            for fit in found:
                fits.setdefault(fit.group.used, []).append(fit)
    # a layout that explains more of the names is the better one, and then more of the arrays
    for used, several in fits.items():
        least = min(len(fit.group.prefix) for fit in several)
        fits[used] = [fit for fit in several if len(fit.group.prefix) == least]
    around: dict[str, list[frozenset[str]]] = {}  # the groups that a name lies in
    for used in fits:
        for name in used:
            around.setdefault(name, []).append(used)
    largest = [used for used in fits if not any(used < other for other in around[next(iter(used))])]
    order = {name: k for k, name in enumerate(raw.arrays)}
    largest.sort(key=lambda used: min(order[name] for name in used))
    if not largest and reasons:
        raise FileError(reasons[0])
    layers = []
    for used in largest:
        group = fits[used][0].group
        here = as_marked(raw, layer_name(group.prefix), _place(raw.path, group), wanted)
        layers.append(_only(raw.path, group, fits[used], here))
    if layout is None:
        _refuse_unread(raw, [fits[used][0].group for used in largest])
    return layers


_SIBLING = re.compile(r"(bias|peephole|weight|[wbp]_)[^./]*", re.IGNORECASE)


def _refuse_unread(raw: Raw, groups: list[_Group]) -> None:
    """Numbers of a layer that no layout reads must not be lost without a word."""
    used = frozenset[str]().union(*(group.used for group in groups))
    prefixes = {group.prefix for group in groups}
    lengths = {len(prefix) for prefix in prefixes}
    unread: dict[str, str] = {}
    for name, held in raw.arrays.items():
        if name in used or not held.floating:
            continue
        for length in lengths:
            if name[:length] in prefixes and _SIBLING.fullmatch(name, length):
                unread.setdefault(name[:length], name)
    for group in groups:
        if group.prefix in unread:
            name = unread[group.prefix]
            raise FileError(
                f"{_place(raw.path, group)}: {name} lies beside {', '.join(sorted(group.used))}, "
                f"and no reading of these takes it in; say which layout it is (layout=...), or "
                f"which arrays are which (names={{'weight_ih_l0': ..., ...}})"
            )


def _pattern(layout: Layout, name: str, gates: str) -> re.Pattern[str]:
    """A layout's name of an array wherever it stands, with its layer, direction and gate."""
    number = re.escape(layout.layer).replace(re.escape("{number}"), r"\d{1,3}")
    holes = {
        "layer": f"(?P<layer>{number})",
        "direction": f"(?P<direction>{'|'.join(map(re.escape, layout.directions[::-1]))})",
        "gate": f"(?P<gate>{'|'.join(re.escape(gate) for gate in gates.split('|'))})",
    }
    written = _ALIASES.get(name) if layout.name == "pytorch_cell" else None
    pieces = [] if written else re.split(r"\{(\w+)\}", name)
    text = f"(?:{re.escape(name)}|{written})" if written else ""
    for k, piece in enumerate(pieces):
        text += holes[piece] if k % 2 else re.escape(piece).replace("/", "[/.]")
    return re.compile(rf"(?P<prefix>(?:.*[./:_\-])?){text}(?::0)?", re.DOTALL)


def _groups(raw: Raw, layout: Layout) -> Iterator[_Group]:
    """The arrays whose names end as a layout's do, by what stands before."""
    patterns: dict[re.Pattern[str], tuple[str, bool]] = {}
    for stored in layout.cells.values():
        for array in stored.arrays:
            gates = stored.gates_of(array)
            named = "|".join(stored.gate_names.get(gate, gate) for gate in gates)
            patterns[_pattern(layout, array.name, named)] = array.name, "W_hh" in array.parts
    found: dict[str, dict[str, tuple[str, Held]]] = {}
    recurrent: set[str] = set()
    for name, held in raw.arrays.items():
        matches = [(m, *about) for p, about in patterns.items() if (m := p.fullmatch(name))]
        if not matches:
            continue
        # of kernel and recurrent_kernel, the one that leaves less before it
        match, own, is_recurrent = min(matches, key=lambda each: len(each[0]["prefix"]))
        parts = match.groupdict()
        prefix = parts.pop("prefix")
        canonical = own.format(**{key: value or "" for key, value in parts.items()})
        found.setdefault(prefix, {})[canonical] = name, held
        if is_recurrent or layout.name in _PYTORCH:
            recurrent.add(prefix)
    for prefix, arrays in found.items():
        if prefix in recurrent:
            yield from _joined(layout, prefix, found, arrays)


def _joined(
    layout: Layout,
    prefix: str,
    found: Mapping[str, dict[str, tuple[str, Held]]],
    arrays: dict[str, tuple[str, Held]],
) -> Iterator[_Group]:
    """One layer; where a layout puts its two directions in front of the names, both of them."""
    forward, reverse = layout.directions
    named_inside = any("{direction}" in a.name for s in layout.cells.values() for a in s.arrays)
    if named_inside or not forward:
        yield _Group(prefix, arrays)
    elif prefix.endswith(reverse) and prefix.removesuffix(reverse) + forward in found:
        return  # it came with the other
    elif prefix.endswith(forward) and (other := prefix.removesuffix(forward) + reverse) in found:
        both = {forward + name: value for name, value in arrays.items()}
        both |= {reverse + name: value for name, value in found[other].items()}
        yield _Group(prefix.removesuffix(forward), both)
    else:
        yield _Group(prefix, arrays)


def _fits(raw: Raw, group: _Group, layout: Layout, wanted: Wanted, *, strict: bool) -> list[_Fit]:
    """The kinds of cell that a layout reads in a group; raises the reason where it reads none."""
    place = _place(raw.path, group)
    kinds = [k for k in layout.cells if wanted.cell is None or k in CELL_KINDS[wanted.cell]]
    if layout.name in _PYTORCH:
        kind, layer = assembled(
            place, {_in_pytorch(k): held for k, (_, held) in group.arrays.items()}
        )
        if kind not in kinds:
            if not strict and wanted.cell in _DECLARED_ONLY:
                return []
            raise FileError(
                f"{place}: these are weights of nn.{kind.upper()}, not {wanted.cell}; layout "
                f"{layout.name} stores {', '.join(layout.cells)}"
            )
        return [_Fit(layout, kind, group, layer)]
    found: list[_Fit] = []
    reasons: list[str] = []
    for kind in kinds:
        texts = _own_names(layout, kind, group)
        tensors: dict[str, Tensor] = {}
        for name, (_, held) in group.arrays.items():
            if name in texts and held.floating:
                tensors[name] = held.read()
        if not tensors:
            continue
        try:
            layer = converted(raw, layout, tensors, kind)
        except LargeError:
            raise
        except (FileError, ShapeError, DtypeError, RefusedError) as error:
            reasons.append(f"{kind}: {error}")
            continue
        used = _Group(group.prefix, {k: group.arrays[k] for k in tensors})
        found.append(_Fit(layout, kind, used, layer))
    if not found:
        why = reasons[0] if reasons else f"layout {layout.name} stores no {wanted.cell}"
        raise FileError(f"{place}: {why}")
    most = max(len(fit.group.arrays) for fit in found)
    return [fit for fit in found if len(fit.group.arrays) == most]


def _in_pytorch(name: str) -> str:
    """A cell's name as a layer's: ``reverse.weight_ih`` is ``weight_ih_l0_reverse``."""
    own = name.rpartition(".")[2]
    if "_l" in own:
        return own
    return f"{own}_l0{'_reverse' * name.startswith('reverse.')}"


def _own_names(layout: Layout, kind: str, group: _Group) -> frozenset[str]:
    """A layout's names of the arrays of a stack with as many layers as the group's numbers say."""
    several = max(
        (int(n) + 1 for name in group.arrays for n in re.findall(r"\d{1,3}", name)), default=1
    )
    stacks = (1, several) if several <= len(group.arrays) else (1,)  # every layer has an array
    if LAYOUTS.get(layout.name) is layout:
        return frozenset[str]().union(*(_known_names(layout.name, kind, n) for n in stacks))
    return frozenset[str]().union(*(_names(layout, kind, n) for n in stacks))


@cache
def _known_names(layout: str, kind: str, num_layers: int) -> frozenset[str]:
    return _names(LAYOUTS[layout], kind, num_layers)


def _names(layout: Layout, kind: str, num_layers: int) -> frozenset[str]:
    return frozenset(name for two in (False, True) for name in layout.names(kind, num_layers, two))


def _place(path: Path, group: _Group) -> str:
    name = layer_name(group.prefix)
    return f"{path}, {name}" if name else f"{path}"


def _only(path: Path, group: _Group, fits: list[_Fit], wanted: Wanted) -> Found:
    """The one reading of a group; where several differ, the caller must say which."""
    first = fits[0]
    others = [fit for fit in fits[1:] if not _same(fit.converted, first.converted)]
    if (others and wanted.cell is None) or any(fit.layout is not first.layout for fit in others):
        choices = [{"cell": fit.kind, "layout": fit.layout.name} for fit in [first, *others]]
        raise AmbiguousError(
            f"{_place(path, group)}: names and shapes fit several readings", choices
        )
    stored = first.layout.stored(first.kind)
    assumed = []
    if first.layout.name == "pytorch_cell" and not any(
        name.rsplit(".", 1)[-1].startswith(("weight_", "bias_")) for name in group.used
    ):
        assumed.append(f"layout {first.layout.name}: the gates lie in PyTorch's order")
    if stored.forget_bias:
        assumed.append(f"forget_bias={stored.forget_bias}, added to the forget gate's bias")
    return Found(
        name=layer_name(group.prefix),
        place=_place(path, group),
        layout=first.layout.name,
        gates=stored.gates,
        cell=first.converted.cell,
        state=first.converted.state_dict,
        options=first.converted.options,
        assumed=tuple(assumed),
    )


def _same(one: Converted, other: Converted) -> bool:
    def equal(cell: Cell) -> str:
        return kind_name(cell)

    return equal(one.cell) == equal(other.cell) and all(
        name in other.state_dict and torch.equal(value, other.state_dict[name])
        for name, value in one.state_dict.items()
    )
