"""Recurrent layers in a file, by the names and shapes of its arrays.

Names are matched with every known layout, wherever a model has put them: what stands before a
layout's own name is the layer's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from rnnscope._files.cell_marks import with_file_cell
from rnnscope._files.companions import Surroundings, companions
from rnnscope._files.content import FileContent
from rnnscope._files.declared import declared_layers
from rnnscope._files.disk import LargeError, LazyArray
from rnnscope._files.json import layers_of_json
from rnnscope._files.keras import layers_of_keras
from rnnscope._files.onnx import layers_of_nodes
from rnnscope._files.proposal import proposals
from rnnscope._files.pytorch import assemble, refuse_reparametrization, with_raw_weights
from rnnscope._files.stored_layer import (
    CELL_KINDS,
    AmbiguousError,
    LoadRequest,
    NoLayerError,
    StoredLayer,
    convert_layer,
    kind_name,
    layer_name,
)
from rnnscope._layouts import LAYOUTS, Converted, Layout, layout_named
from rnnscope._layouts.kinds import cell_of, kind_of, nonlinearity_of
from rnnscope._layouts.records import PYTORCH, RNNSCOPE
from rnnscope.cells import GRU, Cell
from rnnscope.errors import (
    DeclarationError,
    DtypeError,
    FileError,
    RefusedError,
    ShapeError,
)

__all__ = ["find"]

# those that have PyTorch's names, but not in PyTorch
_DECLARED_ONLY = tuple(kind for kind in RNNSCOPE.cells if kind not in PYTORCH.cells)
# not tried unless asked for: their names say nothing, or only repeat another's
_ON_REQUEST = ("rnnscope", "onnx", "nam", "rtneural", "guitarml")
_PYTORCH = ("pytorch", "pytorch_cell")
_AS_KERAS = {
    "keras": "layout keras: gates in Keras's order, sigmoid and tanh",
    "keras1": "layout keras1: sigmoid and tanh; the gates of Keras 1 were hard_sigmoid by default",
}
_GRU_SAID = "cell='gru', which resets after the product, as nn.GRU does"
_GRU_BY_BLOCKS = (
    f"{_GRU_SAID}: three blocks of rows, which cells of other equations have too; nothing else in "
    "the file says it"
)
_ALIASES = {
    "weight_ih": "[wW]_?ih",
    "weight_hh": "[wW]_?hh",
    "bias_ih": "b_?ih",
    "bias_hh": "b_?hh",
}


def find(
    content: FileContent,
    request: LoadRequest,
    layout: Layout | str | None,
    names: Mapping[str, str] | None,
) -> list[StoredLayer]:
    """Every recurrent layer of a file, in the file's order, those of declared cells first.

    Raises ``FileError`` where there is none, where one is damaged, and where several readings fit.
    """
    if request.cell is not None and request.cell not in CELL_KINDS:
        raise DeclarationError(f"unknown cell {request.cell!r}; expected {', '.join(CELL_KINDS)}")
    content, notes = with_raw_weights(content) if names is None else (content, {})
    if not request.cells:
        try:
            return _noted(_recognized(content, request, layout, names), notes)
        except (AmbiguousError, LargeError):
            raise
        except FileError as error:
            line = _line_to_write(content) if layout is None and names is None else ""
            if not line:
                raise
            raise FileError(f"{error}. {line}") from error
    declared, remaining = declared_layers(content, request.cells, names)
    if request.batch_first is None:
        declared = [replace(x, assumed=("batch_first=False", *x.assumed)) for x in declared]
    with suppress(NoLayerError):
        declared += _recognized(remaining, request, layout, None)
    return _noted(declared, notes)


def _noted(layers: list[StoredLayer], notes: Mapping[str, str]) -> list[StoredLayer]:
    """The layers, each with the notes on arrays that lie directly under its name."""
    return [
        replace(
            layer,
            assumed=(
                *layer.assumed,
                *(note for name, note in notes.items() if layer_name(_folder(name)) == layer.name),
            ),
        )
        for layer in layers
    ]


def _folder(name: str) -> str:
    return name[: name.rfind(".") + 1]


def _line_to_write(content: FileContent) -> str:
    """The call of ``load`` that reads the file, where names and shapes let it be guessed."""
    if content.nodes or content.kind == "json" or "strangers" in content.metadata:
        return ""
    shapes = {}
    for name, array in islice(content.arrays.items(), 400):
        with suppress(FileError, DtypeError):
            shapes[name] = array.shape
    for proposal in proposals(shapes)[:40]:
        with suppress(FileError, ShapeError, DtypeError, RefusedError, DeclarationError):
            _match_layouts(content, proposal.layout, LoadRequest())
            return (
                f"{proposal.guess[0].upper()}{proposal.guess[1:]}: {proposal.line()} "
                f"(import rnnscope as rs)"
            )
    return ""


def _recognized(
    content: FileContent,
    request: LoadRequest,
    layout: Layout | str | None,
    names: Mapping[str, str] | None,
) -> list[StoredLayer]:
    chosen = layout_named(layout) if isinstance(layout, str) else layout
    if names is not None:
        layers = [_from_names(content, names, chosen or layout_named("pytorch"), request)]
    elif content.kind == "json":
        layers = layers_of_json(content, chosen, request)
    elif chosen is None and content.nodes:
        layers = layers_of_nodes(content)
    elif chosen is None and content.kind == "keras":
        layers = layers_of_keras(content, request)
    else:
        if chosen is None or chosen.name in (*_PYTORCH, "rnnscope"):
            refuse_reparametrization(content.path, content.arrays)
        layers = _match_layouts(content, chosen, request)
    if not layers:
        raise NoLayerError(_no_layers(content, chosen))
    from_description = (
        chosen is None and names is None and (bool(content.nodes) or content.kind == "keras")
    )
    records = LAYOUTS if chosen is None else {**LAYOUTS, chosen.name: chosen}
    for stored_layer in layers if content.nodes else ():
        if request.cell is not None and kind_of(stored_layer.cell) not in CELL_KINDS[request.cell]:
            stored_kind = kind_name(stored_layer.cell)
            raise FileError(
                f"{stored_layer.place}: these are weights of {stored_kind}, not {request.cell}"
            )
    return [
        _complete(
            stored_layer,
            with_file_cell(content, stored_layer.name, stored_layer.place, request),
            None if from_description else records[stored_layer.layout],
        )
        for stored_layer in layers
    ]


def _no_layers(content: FileContent, layout: Layout | None) -> str:
    first_names = ", ".join(list(content.arrays)[:6]) + (", ..." if len(content.arrays) > 6 else "")
    inventory = (
        f"it holds {len(content.arrays)} arrays: {first_names}"
        if content.arrays
        else "it holds no arrays"
    )
    if content.kind == "onnx" and (not content.arrays or "strangers" in content.metadata):
        inventory = "no node LSTM, GRU or RNN"
        if "strangers" in content.metadata:
            inventory += (
                f", but {content.metadata['strangers']}: load the model as it was before it was "
                f"quantised"
            )
    in_layout = f" in layout {layout.name}" if layout else ""
    hint = (
        "; say which are which with rnnscope.load(path, names={'weight_ih_l0': ..., ...})"
        if content.arrays
        else ""
    )
    if layout is None and {"W", "R"} <= {re.split("[./]", name)[-1] for name in content.arrays}:
        hint += "; W and R are names of ONNX: layout='onnx' reads them in ONNX's order of gates"
    return (
        f"{content.path}: no weights of a recurrent layer{in_layout} (weight_ih_l0, kernel, ...): "
        f"{inventory}{hint}"
    )


def _complete(layer: StoredLayer, request: LoadRequest, record: Layout | None) -> StoredLayer:
    """What no array tells: which nonlinearity an rnn has, and the order of dims.

    ``record`` is the layout; None where the file has more than arrays: nodes, or a model of Keras.
    """
    assumed = list(layer.assumed)
    cell = layer.cell
    nonlinearity = request.requested_nonlinearity
    file_nonlinearity = nonlinearity_of(cell)
    if file_nonlinearity is not None and record is not None:
        cell, rnn_assumptions = _rnn(record, nonlinearity)
        assumed += rnn_assumptions
    elif file_nonlinearity is not None and nonlinearity not in (None, file_nonlinearity):
        raise FileError(
            f"{layer.place}: the file says {file_nonlinearity}; got nonlinearity={nonlinearity!r}"
        )
    if layer.layout in _PYTORCH and cell is GRU and request.cell is None:
        assumed.append(_GRU_SAID if "gru" in layer.name.lower() else _GRU_BY_BLOCKS)
    if layer.layout in _PYTORCH and request.cell is None:
        assumed += _doubts(layer)
    assumed += _copies(layer.name)
    if layer.batch_first is None and request.batch_first is None:
        assumed.append("batch_first=False")
    if layer.layout in _PYTORCH and layer.options["num_layers"] != 1:
        assumed += [] if request.dropout else ["dropout=0.0"]
    return replace(layer, cell=cell, assumed=tuple(assumed))


def _doubts(layer: StoredLayer) -> list[str]:
    """What is said where a layer's name names another cell than its blocks of rows do."""
    kind = kind_of(layer.cell)
    last = layer.name.rpartition(".")[2].lower()
    named = next((word for word in ("lstm", "gru") if word in last), kind)
    if kind == named or (kind == "lstm" and named == "gru"):
        return []
    if layer.layout == "pytorch" and (kind, named) == ("gru", "lstm"):
        raise AmbiguousError(
            f"{layer.place}: three blocks of rows are a GRU, or an LSTM of coupled gates (f is "
            f"1 - i), as its name says",
            [{"cell": "gru", "layout": "pytorch"}, {"cell": "lstm_coupled", "layout": "rnnscope"}],
        )
    blocks = {"rnn": "one block of rows is nn.RNN", "gru": "three blocks of rows are nn.GRU"}
    return [f"{blocks[kind]}, though its name says {named}"]


_MOMENTS = re.compile(r"exp_avg\w*|max_exp_avg\w*|momentum\w*|grads?|gradients?")
_AVERAGES = re.compile(r"\w*ema\w*|shadow\w*|averaged?\w*|swa\w*")


def _copies(name: str) -> list[str]:
    """What is said of a layer whose place in the file is not that of a model's weights."""
    for word in re.split(r"[./]", name.lower()):
        if _MOMENTS.fullmatch(word):
            return [f"its place, {word}, is that of an optimiser's numbers: they are no weights"]
        if _AVERAGES.fullmatch(word):
            return [f"its place, {word}, is that of an average of weights over the training"]
    return []


def _rnn(record: Layout, requested: str | None) -> tuple[Cell, list[str]]:
    """The cell of an rnn in a layout, and what was assumed of its nonlinearity."""
    stored = record.stored("rnn")
    if stored.nonlinearity_fixed and requested not in (None, stored.nonlinearity):
        raise DeclarationError(
            f"an rnn of layout {record.name} has {stored.nonlinearity} alone; "
            f"got nonlinearity={requested!r}"
        )
    cell = cell_of("rnn", nonlinearity=requested or stored.nonlinearity)
    if requested or stored.nonlinearity_fixed:
        return cell, []
    whose = "" if record.name in _PYTORCH else f", the default of {record.name}"
    return cell, [f"nonlinearity={stored.nonlinearity!r}{whose}"]


# names that the caller gives ----------------------------------------------------------------


def _from_names(
    content: FileContent, names: Mapping[str, str], layout: Layout, request: LoadRequest
) -> StoredLayer:
    for parameter, file_name in names.items():
        if file_name not in content.arrays:
            raise FileError(
                f"{content.path}: no array {file_name!r}, named for {parameter}; "
                f"it holds {', '.join(list(content.arrays)[:12])}"
            )
    group = _Group(
        "",
        {
            parameter: (file_name, content.arrays[file_name])
            for parameter, file_name in names.items()
        },
    )
    return _only_reading(
        content, group, _fits(content, group, layout, request, strict=True), request
    )


# names that layouts give --------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Arrays that belong to one layer: by the layout's name, the file's name and the array."""

    prefix: str
    arrays: Mapping[str, tuple[str, LazyArray]]

    @property
    def used(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.arrays.values())


@dataclass(frozen=True)
class _Fit:
    layout: Layout
    kind: str
    group: _Group
    converted: Converted


def _match_layouts(
    content: FileContent, layout: Layout | None, request: LoadRequest
) -> list[StoredLayer]:
    declared_only = any("peephole_" in name for name in content.arrays) or any(
        kind in _DECLARED_ONLY for kind in (request.cell, *content.cells.values())
    )
    extra_layouts = ("rnnscope",) if declared_only else ()
    layouts = (
        [layout]
        if layout
        else [
            candidate
            for candidate in LAYOUTS.values()
            if candidate.name not in _ON_REQUEST or candidate.name in extra_layouts
        ]
    )
    fits: dict[frozenset[str], list[_Fit]] = {}
    reasons: list[str] = []
    for candidate in layouts:
        groups = list(_groups(content, candidate))
        content.allowance.check_layers(len(groups))
        for group in groups:
            layer_request = with_file_cell(
                content, layer_name(group.prefix), _place(content.path, group), request
            )
            # rnnscope's own names are PyTorch's, but for the peepholes
            repeated = candidate.name == "rnnscope" and layer_request.cell not in _DECLARED_ONLY
            if layout is None and repeated and not any("peephole_" in name for name in group.used):
                continue
            try:
                readings = _fits(
                    content, group, candidate, layer_request, strict=layout is not None
                )
            except FileError as error:
                if candidate.name in _PYTORCH or isinstance(error, LargeError):
                    raise
                reasons.append(str(error))
                continue
            for fit in readings:
                fits.setdefault(fit.group.used, []).append(fit)
    # a layout that explains more of the names is the better one, and then more of the arrays
    for used, readings_of_group in fits.items():
        least = min(len(fit.group.prefix) for fit in readings_of_group)
        fits[used] = [fit for fit in readings_of_group if len(fit.group.prefix) == least]
    around: dict[str, list[frozenset[str]]] = {}  # the groups that a name lies in
    for used in fits:
        for name in used:
            around.setdefault(name, []).append(used)
    largest = [
        used for used in fits if not any(used < larger for larger in around[next(iter(used))])
    ]
    order = {name: k for k, name in enumerate(content.arrays)}
    largest.sort(key=lambda used: min(order[name] for name in used))
    if not largest and reasons:
        raise FileError(reasons[0])
    layers = []
    for used in largest:
        group = fits[used][0].group
        layer_request = with_file_cell(
            content, layer_name(group.prefix), _place(content.path, group), request
        )
        layers.append(_only_reading(content, group, fits[used], layer_request))
    return _with_companions(content, layers, [fits[used][0].group for used in largest])


def _with_companions(
    content: FileContent, layers: list[StoredLayer], groups: list[_Group]
) -> list[StoredLayer]:
    """The layers, each with what is said of the arrays beside its own. Raises ``FileError``."""
    surroundings = [
        Surroundings(
            layer.place,
            group.prefix,
            dict(group.arrays.values()),
            int(layer.options["hidden_size"]),
            int(layer.options["hidden_size"]) * len(layer.cell.gates),
        )
        for layer, group in zip(layers, groups, strict=True)
    ]
    sentences = companions(content.arrays, surroundings)
    return [
        replace(layer, ignored=sentences[group.prefix])
        for layer, group in zip(layers, groups, strict=True)
    ]


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


def _groups(content: FileContent, layout: Layout) -> Iterator[_Group]:
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
        if is_recurrent or layout.name in _PYTORCH:
            recurrent.add(prefix)
    for prefix, arrays in groups.items():
        if prefix in recurrent:
            yield from _join_directions(layout, prefix, groups, arrays)


def _join_directions(
    layout: Layout,
    prefix: str,
    groups: Mapping[str, dict[str, tuple[str, LazyArray]]],
    arrays: dict[str, tuple[str, LazyArray]],
) -> Iterator[_Group]:
    """One layer; where a layout puts its two directions in front of the names, both of them."""
    forward, reverse = layout.directions
    named_inside = any("{direction}" in a.name for s in layout.cells.values() for a in s.arrays)
    if named_inside or not forward:
        yield _Group(prefix, arrays)
    elif prefix.endswith(reverse) and prefix.removesuffix(reverse) + forward in groups:
        return  # it came with the other
    elif (
        prefix.endswith(forward)
        and (reverse_prefix := prefix.removesuffix(forward) + reverse) in groups
    ):
        merged = {forward + name: value for name, value in arrays.items()}
        merged |= {reverse + name: value for name, value in groups[reverse_prefix].items()}
        yield _Group(prefix.removesuffix(forward), merged)
    else:
        yield _Group(prefix, arrays)


def _fits(
    content: FileContent, group: _Group, layout: Layout, request: LoadRequest, *, strict: bool
) -> list[_Fit]:
    """The kinds of cell that a layout reads in a group; raises the reason where it reads none."""
    place = _place(content.path, group)
    kinds = [k for k in layout.cells if request.cell is None or k in CELL_KINDS[request.cell]]
    if layout.name in _PYTORCH:
        parameters = {_pytorch_name(k): array for k, (_, array) in group.arrays.items()}
        kind, layer = assemble(place, parameters)
        if kind not in kinds:
            if not strict and request.cell in _DECLARED_ONLY:
                return []
            raise FileError(
                f"{place}: these are weights of nn.{kind.upper()}, not {request.cell}; layout "
                f"{layout.name} stores {', '.join(layout.cells)}"
            )
        return [_Fit(layout, kind, group, layer)]
    fits: list[_Fit] = []
    reasons: list[str] = []
    for kind in kinds:
        texts = _layout_names(layout, kind, group)
        tensors: dict[str, Tensor] = {}
        for name, (_, array) in group.arrays.items():
            if name in texts and array.floating:
                tensors[name] = array.read()
        if not tensors:
            continue
        try:
            layer = convert_layer(content, layout, tensors, kind)
        except LargeError:
            raise
        except (FileError, ShapeError, DtypeError, RefusedError) as error:
            reasons.append(f"{kind}: {error}")
            continue
        used = _Group(group.prefix, {k: group.arrays[k] for k in tensors})
        fits.append(_Fit(layout, kind, used, layer))
    if not fits:
        why = reasons[0] if reasons else f"layout {layout.name} stores no {request.cell}"
        raise FileError(f"{place}: {why}")
    most = max(len(fit.group.arrays) for fit in fits)
    return [fit for fit in fits if len(fit.group.arrays) == most]


def _pytorch_name(name: str) -> str:
    """A cell's name as a layer's: ``reverse.weight_ih`` is ``weight_ih_l0_reverse``."""
    parameter = name.rpartition(".")[2]
    if "_l" in parameter:
        return parameter
    return f"{parameter}_l0{'_reverse' * name.startswith('reverse.')}"


def _layout_names(layout: Layout, kind: str, group: _Group) -> frozenset[str]:
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


def _place(path: Path, group: _Group) -> str:
    name = layer_name(group.prefix)
    return f"{path}, {name}" if name else f"{path}"


def _only_reading(
    content: FileContent, group: _Group, fits: list[_Fit], request: LoadRequest
) -> StoredLayer:
    """The one reading of a group; where several differ, the caller must say which."""
    path = content.path
    first = fits[0]
    different = [fit for fit in fits[1:] if not _same(fit.converted, first.converted)]
    if (different and request.cell is None) or any(
        fit.layout is not first.layout for fit in different
    ):
        choices = [{"cell": fit.kind, "layout": fit.layout.name} for fit in [first, *different]]
        raise AmbiguousError(
            f"{_place(path, group)}: names and shapes fit several readings", choices
        )
    stored = first.layout.stored(first.kind)
    assumed = []
    options = dict(first.converted.options)
    reverse = bool(options.pop("reverse", False))
    if reverse:
        assumed.append("the reverse direction alone is there: reverse=True")
    if first.layout.name == "pytorch_cell" and not any(
        name.rsplit(".", 1)[-1].startswith(("weight_", "bias_")) for name in group.used
    ):
        assumed.append(f"layout {first.layout.name}: the gates lie in PyTorch's order")
    if first.layout.name in ("keras", "keras1") and not content.cells.get(layer_name(group.prefix)):
        assumed.append(_AS_KERAS[first.layout.name])
    if stored.forget_bias:
        assumed.append(f"forget_bias={stored.forget_bias}, added to the forget gate's bias")
    return StoredLayer(
        name=layer_name(group.prefix),
        place=_place(path, group),
        layout=first.layout.name,
        gates=stored.gates,
        cell=first.converted.cell,
        state=first.converted.state_dict,
        options=options,
        reverse=reverse,
        assumed=tuple(assumed),
        forget_bias=stored.forget_bias,
    )


def _same(first: Converted, second: Converted) -> bool:
    def equal(cell: Cell) -> str:
        return kind_name(cell)

    return equal(first.cell) == equal(second.cell) and all(
        name in second.state_dict and torch.equal(value, second.state_dict[name])
        for name, value in first.state_dict.items()
    )
