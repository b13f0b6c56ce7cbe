"""Arrays whose names end as a layout's do, gathered by what stands before: a layer each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rnnscope._files.content import FileContent
from rnnscope._files.disk import LazyArray
from rnnscope._files.stored_layer import layer_name
from rnnscope._layouts import LAYOUTS, Layout

__all__ = ["PYTORCH_LAYOUTS", "Group", "groups_of", "layout_names", "place_of", "pytorch_name"]

PYTORCH_LAYOUTS = ("pytorch", "pytorch_cell")
_ALIASES = {
    "weight_ih": "[wW]_?ih",
    "weight_hh": "[wW]_?hh",
    "bias_ih": "b_?ih",
    "bias_hh": "b_?hh",
}


@dataclass(frozen=True)
class Group:
    """Arrays that belong to one layer: by the layout's name, the file's name and the array."""

    prefix: str
    arrays: Mapping[str, tuple[str, LazyArray]]

    @property
    def used(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.arrays.values())


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


def groups_of(content: FileContent, layout: Layout) -> Iterator[Group]:
    """The arrays whose names end as a layout's do, by what stands before."""
    patterns: dict[re.Pattern[str], tuple[str, bool]] = {}
    for stored in layout.cells.values():
        for array in stored.arrays:
            gates = stored.gates_of(array)
            named = "|".join(stored.gate_names.get(gate, gate) for gate in gates)
            patterns[_pattern(layout, array.name, named)] = array.name, "W_hh" in array.parts
    groups: dict[str, dict[str, tuple[str, LazyArray]]] = {}
    recurrent: set[str] = set()
    for name, lazy_array in content.arrays.items():
        matches = [(m, *about) for p, about in patterns.items() if (m := p.fullmatch(name))]
        if not matches:
            continue
        # of kernel and recurrent_kernel, the one that leaves less before it
        match, layout_name, is_recurrent = min(
            matches, key=lambda candidate: len(candidate[0]["prefix"])
        )
        parts = match.groupdict()
        prefix = parts.pop("prefix")
        canonical = layout_name.format(**{key: value or "" for key, value in parts.items()})
        groups.setdefault(prefix, {})[canonical] = name, lazy_array
        if is_recurrent or layout.name in PYTORCH_LAYOUTS:
            recurrent.add(prefix)
    for prefix, arrays in groups.items():
        if prefix in recurrent:
            yield from _join_directions(layout, prefix, groups, arrays)


def _join_directions(
    layout: Layout,
    prefix: str,
    groups: Mapping[str, dict[str, tuple[str, LazyArray]]],
    arrays: dict[str, tuple[str, LazyArray]],
) -> Iterator[Group]:
    """One layer; where a layout puts its two directions in front of the names, both of them."""
    forward, reverse = layout.directions
    named_inside = any("{direction}" in a.name for s in layout.cells.values() for a in s.arrays)
    if named_inside or not forward:
        yield Group(prefix, arrays)
    elif prefix.endswith(reverse) and prefix.removesuffix(reverse) + forward in groups:
        return  # it came with the other
    elif (
        prefix.endswith(forward)
        and (reverse_prefix := prefix.removesuffix(forward) + reverse) in groups
    ):
        merged = {forward + name: value for name, value in arrays.items()}
        merged |= {reverse + name: value for name, value in groups[reverse_prefix].items()}
        yield Group(prefix.removesuffix(forward), merged)
    else:
        yield Group(prefix, arrays)


def pytorch_name(name: str) -> str:
    """A cell's name as a layer's: ``reverse.weight_ih`` is ``weight_ih_l0_reverse``."""
    parameter = name.rpartition(".")[2]
    if "_l" in parameter:
        return parameter
    return f"{parameter}_l0{'_reverse' * name.startswith('reverse.')}"


def layout_names(layout: Layout, kind: str, group: Group) -> frozenset[str]:
    """A layout's names of the arrays of a stack with as many layers as the group's numbers say."""
    most = max(
        (int(n) + 1 for name in group.arrays for n in re.findall(r"\d{1,3}", name)), default=1
    )
    stacks = (1, most) if most <= len(group.arrays) else (1,)  # every layer has an array
    if LAYOUTS.get(layout.name) is layout:
        return frozenset[str]().union(*(_builtin_names(layout.name, kind, n) for n in stacks))
    return frozenset[str]().union(*(_stack_names(layout, kind, n) for n in stacks))


@cache
def _builtin_names(layout: str, kind: str, num_layers: int) -> frozenset[str]:
    return _stack_names(LAYOUTS[layout], kind, num_layers)


def _stack_names(layout: Layout, kind: str, num_layers: int) -> frozenset[str]:
    return frozenset(name for two in (False, True) for name in layout.names(kind, num_layers, two))


def place_of(path: Path, group: Group) -> str:
    name = layer_name(group.prefix)
    return f"{path}, {name}" if name else f"{path}"
