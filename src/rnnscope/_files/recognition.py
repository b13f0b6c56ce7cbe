"""Recurrent layers in a file, by the names and shapes of its arrays.

Names are matched with every known layout, wherever a model has put them: what stands before a
layout's own name is the layer's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from rnnscope._files.assumptions import completed
from rnnscope._files.cell_marks import with_file_cell
from rnnscope._files.companions import Surroundings, companions
from rnnscope._files.content import FileContent
from rnnscope._files.declared import declared_layers
from rnnscope._files.disk import LargeError, LazyArray
from rnnscope._files.grouping import (
    PYTORCH_LAYOUTS,
    Group,
    groups_of,
    layout_names,
    place_of,
    pytorch_name,
)
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
from rnnscope._layouts.kinds import kind_of
from rnnscope._layouts.records import PYTORCH, RNNSCOPE
from rnnscope.cells import Cell
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
_LONGEST = 200  # characters of a name from which a guess is made
_AS_KERAS = {
    "keras": "layout keras: gates in Keras's order, sigmoid and tanh",
    "keras1": "layout keras1: sigmoid and tanh; the gates of Keras 1 were hard_sigmoid by default",
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
    by_layer: dict[str, list[str]] = {}
    for name, note in notes.items():
        by_layer.setdefault(layer_name(_folder(name)), []).append(note)
    return [
        replace(layer, assumed=(*layer.assumed, *by_layer.get(layer.name, ()))) for layer in layers
    ]


def _folder(name: str) -> str:
    return name[: name.rfind(".") + 1]


def _line_to_write(content: FileContent) -> str:
    """The call of ``load`` that reads the file, where names and shapes let it be guessed."""
    if content.nodes or content.kind == "json" or "strangers" in content.metadata:
        return ""
    shapes = {}
    for name, array in islice(content.arrays.items(), 400):
        if len(name) <= _LONGEST and array.floating:
            with suppress(FileError, DtypeError):
                shapes[name] = array.shape
    alike = replace(content, arrays=_in_float64(content.arrays), conversions={})
    for proposal in proposals(shapes)[:40]:
        guess = f"{proposal.guess[0].upper()}{proposal.guess[1:]}"
        with suppress(FileError, ShapeError, DtypeError, RefusedError, DeclarationError):
            _match_layouts(alike, proposal.layout, LoadRequest())
            try:
                _match_layouts(content, proposal.layout, LoadRequest())
            except (FileError, DtypeError):  # their types of number alone do not fit together
                line = proposal.line(repr(f"weights{content.path.suffix}"))
                return f"{guess}, in numbers of several types: {_in_one_type(content)}; {line}"
            return f"{guess}: {proposal.line()} (import rnnscope as rs)"
    return ""


def _in_float64(arrays: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
    """The same arrays, whatever their types of number."""
    return {
        name: LazyArray(array.shape, True, partial(_doubled, array)) if array.floating else array
        for name, array in arrays.items()
    }


def _doubled(array: LazyArray) -> Tensor:
    return array.read().double()


def _in_one_type(content: FileContent) -> str:
    """What writes the arrays of a file once more, all in float32."""
    path = repr(content.path.name)
    lines = {
        "torch": f"torch.save({{k: v.float() for k, v in torch.load({path}).items() "
        f"if isinstance(v, torch.Tensor)}}, "
        f"'weights{content.path.suffix}')",
        "npz": f"numpy.savez('weights.npz', **{{k: v.astype('float32') for k, v in "
        f"numpy.load({path}).items() if v.dtype.kind == 'f'}})",
        "safetensors": f"safetensors.torch.save_file({{k: v.float() for k, v in "
        f"safetensors.torch.load_file({path}).items()}}, 'weights.safetensors')",
    }
    return lines.get(content.kind, "Write them once more, all in float32")


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
        if chosen is None or chosen.name in (*PYTORCH_LAYOUTS, "rnnscope"):
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
        completed(
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
    group = Group(
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
class _Fit:
    layout: Layout
    kind: str
    group: Group
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
        groups = list(groups_of(content, candidate))
        content.allowance.check_layers(len(groups))
        for group in groups:
            layer_request = with_file_cell(
                content, layer_name(group.prefix), place_of(content.path, group), request
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
                if candidate.name in PYTORCH_LAYOUTS or isinstance(error, LargeError):
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
            content, layer_name(group.prefix), place_of(content.path, group), request
        )
        layers.append(_only_reading(content, group, fits[used], layer_request))
    return _with_companions(content, layers, [fits[used][0].group for used in largest])


def _with_companions(
    content: FileContent, layers: list[StoredLayer], groups: list[Group]
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


def _fits(
    content: FileContent, group: Group, layout: Layout, request: LoadRequest, *, strict: bool
) -> list[_Fit]:
    """The kinds of cell that a layout reads in a group; raises the reason where it reads none."""
    place = place_of(content.path, group)
    kinds = [k for k in layout.cells if request.cell is None or k in CELL_KINDS[request.cell]]
    if layout.name in PYTORCH_LAYOUTS:
        parameters = {pytorch_name(k): array for k, (_, array) in group.arrays.items()}
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
        texts = layout_names(layout, kind, group)
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
        used = Group(group.prefix, {k: group.arrays[k] for k in tensors})
        fits.append(_Fit(layout, kind, used, layer))
    if not fits:
        why = reasons[0] if reasons else f"layout {layout.name} stores no {request.cell}"
        raise FileError(f"{place}: {why}")
    most = max(len(fit.group.arrays) for fit in fits)
    return [fit for fit in fits if len(fit.group.arrays) == most]


def _only_reading(
    content: FileContent, group: Group, fits: list[_Fit], request: LoadRequest
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
            f"{place_of(path, group)}: names and shapes fit several readings", choices
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
        place=place_of(path, group),
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
