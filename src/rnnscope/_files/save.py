"""save: recurrent layers to a file, in the layout of any framework that can hold them."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rnnscope._files.cell_marks import KEY, mark_of, short_mark_of
from rnnscope._files.disk import replacing
from rnnscope._files.json import JSON_ENDINGS, JsonLayer, json_of, refuse_directions, refuse_layout
from rnnscope._files.layers import Layers
from rnnscope._files.onnx import model_of
from rnnscope._files.stored_layer import kind_name, layer_name
from rnnscope._layers.adopt import Adopted, adopt
from rnnscope._layers.recurrent import CELL_KEY
from rnnscope._layers.tensors import require_numbers
from rnnscope._layouts import Layout, from_torch, layout_named
from rnnscope._layouts.kinds import kind_of
from rnnscope._layouts.records import PYTORCH, RNNSCOPE
from rnnscope.cells import DECLARED, Cell, as_declared
from rnnscope.errors import (
    AddressError,
    DtypeError,
    FileError,
    MissingExtraError,
    RefusedError,
)

__all__ = ["save"]

_KERAS = ("keras", "keras_cudnn")


def save(
    layers: nn.Module | Mapping[str, nn.Module],
    path: str | os.PathLike[str],
    *,
    layout: Layout | str | None = None,
    beside: Mapping[str, Mapping[str, Tensor | float]] | None = None,
) -> None:
    """Write recurrent layers to a .pt, .pth, .safetensors, .npz, .h5, .hdf5, .onnx, .nam or .json
    file.

    ``layers`` is one module, or modules by name; in ONNX and in Keras's files, where a layer must
    have a name, one module is called ``layer``. Beside the arrays the file says which cells they
    are, which ``load`` reads and others pass over. Arrays are named and stacked as the ``layout``
    says: ``"pytorch"`` unless given, ``"onnx"`` for .onnx, ``"nam"`` for .nam; ``"keras"`` in .h5
    makes a file that Keras loads with ``load_weights``. The file is written beside its place and
    renamed: an existing one is replaced whole, or not at all.

    A .nam and a .json (``"rtneural"``, ``"guitarml"``) are whole models: ``beside`` holds, for each
    layer by its name, the head and the initial states of its model, under the names that ``load``
    has in its result's ``beside``; left out, they are those of the result of ``load``. A head that
    a format needs and does not get is of zeros. The file says so, and what of ``beside`` it cannot
    hold; ``load`` has that in ``assumed``. Metadata and layers of other kinds are not kept.

    >>> import os, tempfile, torch, rnnscope as rs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "gru.onnx")
    ...     rs.save({"gru": torch.nn.GRU(3, 5)}, path)
    ...     rs.load(path)["gru"]
    GRU(3, 5)

    Raises ``RefusedError`` where file or layout cannot hold a layer, with the reason,
    ``AddressError`` where ``beside`` names no layer, and ``FileError`` where the place cannot be
    written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    chosen = _chosen_layout(path, ending, layout)
    modules = {"": layers} if isinstance(layers, nn.Module) else dict(layers)
    if not modules:
        raise RefusedError(f"{path}: there are no layers to write")
    for name in () if isinstance(layers, nn.Module) else modules:
        if (why := _why_no_name(name, ending, chosen)) is not None:
            raise RefusedError(f"{path}: a layer cannot be called {name!r}: {why}; rename it")
    if beside is not None:
        _check_beside(path, ending, modules, beside)
    elif isinstance(layers, Layers):
        beside = layers.beside
    layer_arrays = [_layer_arrays(name, module, chosen, ending) for name, module in modules.items()]
    if ending in JSON_ENDINGS:
        data = json_of(path, chosen, _json_layers(layer_arrays, beside or {}))
    with replacing(path) as temporary:
        if ending in JSON_ENDINGS:
            temporary.write_bytes(data)
        elif ending == ".onnx":
            data = model_of(
                [(layer.name, layer.adopted, stack) for layer, stack in _stack_names(layer_arrays)]
            )
            temporary.write_bytes(data)
        else:
            _WRITERS[ending](temporary, layer_arrays, chosen)


def _chosen_layout(path: Path, ending: str, layout: Layout | str | None) -> Layout:
    """The layout of a file of this kind. Raises where there is none, or the file holds another."""
    if ending == ".keras":
        raise RefusedError(
            f"{path}: a .keras file holds a whole model with its configuration; write .h5 with "
            f"layout='keras', and model.load_weights(path) in Keras"
        )
    whole_models = (".onnx", *JSON_ENDINGS)
    if ending not in (*_WRITERS, *whole_models):
        endings = ", ".join((*_WRITERS, *whole_models))
        raise FileError(f"{path}: expected a file ending in {endings}; got {ending or 'none'}")
    if layout is None:
        layout = {".onnx": "onnx", ".nam": "nam"}.get(ending, "pytorch")
    chosen = layout_named(layout) if isinstance(layout, str) else layout
    if (ending == ".onnx") != (chosen.name == "onnx"):
        raise RefusedError(
            f"{path}: layout {chosen.name} in a {ending} file: "
            + (
                "an .onnx file holds nodes, layout='onnx'"
                if ending == ".onnx"
                else "its arrays belong to nodes, write a .onnx file"
            )
        )
    refuse_layout(path, ending, chosen)
    return chosen


def _check_beside(
    path: Path, ending: str, modules: Mapping[str, nn.Module], beside: Mapping[str, Any]
) -> None:
    """Numbers that the caller gives must have a place in the file, and a layer."""
    if ending not in JSON_ENDINGS:
        raise RefusedError(
            f"{path}: a {ending} file holds layers alone, and no numbers of the model around them; "
            f"leave out beside, or write {' or '.join(JSON_ENDINGS)}"
        )
    for name in beside:
        if name not in modules:
            names = ", ".join(map(repr, modules))
            raise AddressError(f"{path}: beside must name layers, {names}; got {name!r}")


def _as_tensor(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value
    dtype = torch.int64 if isinstance(value, int) else torch.float64
    return torch.tensor(value, dtype=dtype, device="cpu")


def _json_layers(
    layers: list[_LayerArrays], beside: Mapping[str, Mapping[str, Tensor | float]]
) -> list[JsonLayer]:
    """Each layer with the numbers of its model."""
    return [
        JsonLayer(
            layer.name,
            layer.adopted,
            layer.arrays,
            {key: _as_tensor(value) for key, value in beside.get(layer.name, {}).items()},
        )
        for layer in layers
    ]


@dataclass(frozen=True)
class _LayerArrays:
    """A layer as it will be written: the layout's arrays, for each stacked layer where the
    layout knows no stack."""

    name: str
    adopted: Adopted
    arrays: tuple[Mapping[str, Tensor], ...]

    def stacked(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """What stands before the arrays of each of its layers, with them."""
        for k, arrays in enumerate(self.arrays):
            between = "/" if any("/" in name for name in arrays) else "."
            numbers = [str(k)] if len(self.arrays) > 1 else []
            yield "".join(f"{part}{between}" for part in (self.name, *numbers) if part), arrays

    def named(self) -> dict[str, Tensor]:
        """The arrays under their whole names."""
        return {
            before + name: value
            for before, arrays in self.stacked()
            for name, value in arrays.items()
        }

    def cells(self, layout: Layout) -> dict[str, str]:
        """The cell of each of its layers, under the names by which they are found again."""
        kind, depth = kind_of(self.adopted.cell), self.adopted.num_layers
        places = [before for before, _ in self.stacked()]
        inside = any("{layer}" in array.name for array in layout.stored(kind).arrays)
        if len(self.arrays) == 1 and depth > 1 and not inside:
            places = [places[0] + layout.layer.format(number=k) for k in range(depth)]
        return {layer_name(place): kind_name(self.adopted.cell) for place in places}


def _why_no_name(name: object, ending: str, layout: Layout) -> str | None:
    """Why a file would not give a layer's name back as it is."""
    if not isinstance(name, str):
        return "names are texts"
    named_only = ending == ".onnx" or (ending in (".h5", ".hdf5") and layout.name in _KERAS)
    if not name and named_only:
        return "there a layer must have a name"
    if "\0" in name or name.encode(errors="ignore").decode() != name:
        return "it holds what no name in a file can"
    if layer_name(f"{name}.") != name:
        return "dots, slashes and colons at its ends are not kept"
    if ending in (".h5", ".hdf5") and "/" in name:
        if layout.name in _KERAS:
            return "Keras's names hold no slash"
        if {"", "."} & set(name.split("/")):
            return "HDF5 has no folders '' and '.'"
    return None


_OF_NUMPY = (torch.float64, torch.float32, torch.float16)


def _refuse_numbers(place: str, module: nn.Module, layout: Layout, ending: str) -> None:
    tensors = list(module.parameters())
    if any(tensor.is_meta for tensor in tensors):
        raise RefusedError(
            f"{place}its parameters are on the meta device, which holds no numbers; give it some: "
            f"load_state_dict(..., assign=True)"
        )
    for name, tensor in module.named_parameters():
        require_numbers(f"{place}{name}", tensor)
    kept = ending in (".pt", ".pth", ".safetensors") and layout.name in ("pytorch", "rnnscope")
    refused_types = {
        str(t.dtype).removeprefix("torch.") for t in tensors if t.dtype not in _OF_NUMPY
    }
    if not kept and refused_types:
        raise RefusedError(
            f"{place}{' and '.join(sorted(refused_types))} is kept in .pt and .safetensors, in "
            f"layout 'pytorch' or 'rnnscope', and NumPy has none; convert with layer.float()"
        )


def _layer_arrays(name: str, module: nn.Module, layout: Layout, ending: str) -> _LayerArrays:
    adopted = adopt(module)
    adopted = replace(adopted, cell=as_declared(adopted.cell))
    place = f"layer {name}: " if name else ""
    _refuse_undeclared(place, adopted.cell)
    _refuse_numbers(place, module, layout, ending)
    if layout.name != "onnx":
        if adopted.cell not in DECLARED.values():
            raise RefusedError(
                f"{place}layout {layout.name} holds no activations; the layer is "
                f"{kind_name(adopted.cell)}. Layout 'onnx' holds them."
            )
        if adopted.reverse:
            raise RefusedError(
                f"{place}layout {layout.name} holds no layer that runs from the end only; "
                f"layout 'onnx' does"
            )
    refuse_directions(place, layout, adopted)
    weights = adopted.weights(fresh=True)
    split = layout.name in ("onnx", "rtneural", *_KERAS)  # frameworks without stacks
    rows = [[row] for row in weights] if split else [list(weights)]
    arrays: list[Mapping[str, Tensor]] = []
    for stack in rows:
        state: dict[str, Tensor] = {}
        for k, directions in enumerate(stack):
            for d, parameters in enumerate(directions):
                end = f"_l{k}{'_reverse' * (d > 0)}"
                pairs = parameters.named()
                state |= {
                    key.removesuffix(parameters.suffix) + end: value.detach()
                    .cpu()
                    .contiguous()
                    .clone()
                    for key, value in pairs.items()
                }
        arrays.append(_in_layout(place, adopted, layout, state))
    return _LayerArrays(name, adopted, tuple(arrays))


def _refuse_undeclared(place: str, cell: Cell) -> None:
    try:
        kind_of(cell)
    except RefusedError as error:
        raise RefusedError(
            f"{place}no layout stores {cell.name}, a cell of your own: its equations are those of "
            f"no other cell. Keep its parameters by torch.save(layer.state_dict(), path); "
            f"rnnscope.Recurrent(cell, ...).load_state_dict(torch.load(path)) has them back"
        ) from error


def _in_layout(
    place: str, adopted: Adopted, layout: Layout, state: dict[str, Tensor]
) -> Mapping[str, Tensor]:
    if layout in (PYTORCH, RNNSCOPE) and kind_of(adopted.cell) in layout.cells:
        return state  # in any type of number
    try:
        arrays = from_torch(layout, adopted.cell, state)
    except (RefusedError, DtypeError) as error:
        declared_only = (
            kind_of(adopted.cell) not in layout.cells and adopted.cell in DECLARED.values()
        )
        hint = "; layout='rnnscope' holds it, a .onnx file too" if declared_only else ""
        raise type(error)(f"{place}{error}{hint}") from error
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def _all_arrays(layers: list[_LayerArrays]) -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = {}
    for layer in layers:
        for name, value in layer.named().items():
            if name in arrays:
                raise RefusedError(
                    f"two layers would write {name}, one of them {layer.name!r}; rename it"
                )
            arrays[name] = value
    return arrays


def _stack_names(
    layers: list[_LayerArrays],
) -> Iterator[tuple[_LayerArrays, list[tuple[str, Mapping[str, Tensor]]]]]:
    """Each stacked layer under a name of its own, where the framework knows no stack."""
    taken: set[str] = set()
    for layer in layers:
        stack = []
        for k, arrays in enumerate(layer.arrays):
            name = (layer.name or "layer") + (f"_l{k}" if len(layer.arrays) > 1 else "")
            if name in taken:
                raise RefusedError(f"two layers would be called {name!r}; rename one of them")
            taken.add(name)
            stack.append((name, arrays))
        yield layer, stack


def _cells(layers: list[_LayerArrays], layout: Layout) -> dict[str, str]:
    return {name: cell for layer in layers for name, cell in layer.cells(layout).items()}


def _write_torch(path: Path, layers: list[_LayerArrays], layout: Layout) -> None:
    state = OrderedDict(_all_arrays(layers))
    versions = {
        name: {"version": 1, CELL_KEY: cell} for name, cell in _cells(layers, layout).items()
    }
    state._metadata = OrderedDict(versions)  # type: ignore[attr-defined]  # as state_dict() has it
    torch.save(state, path)


def _write_safetensors(path: Path, layers: list[_LayerArrays], layout: Layout) -> None:
    arrays = {name: value.contiguous() for name, value in _all_arrays(layers).items()}
    save_file(arrays, path, {KEY: mark_of(_cells(layers, layout))})


def _write_npz(path: Path, layers: list[_LayerArrays], layout: Layout) -> None:
    mark = short_mark_of(".npz", _cells(layers, layout))
    with path.open("wb") as file:
        np.savez(file, **{name: value.numpy() for name, value in _all_arrays(layers).items()})  # type: ignore[arg-type]
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = (KEY + mark).encode()


def _write_hdf5(path: Path, layers: list[_LayerArrays], layout: Layout) -> None:
    try:
        h5py: Any = import_module("h5py")
    except ImportError as error:
        raise MissingExtraError("writing .h5 needs h5py: pip install 'rnnscope[files]'") from error
    with h5py.File(path, "w") as file:
        if layout.name not in _KERAS:
            file.attrs[KEY] = short_mark_of(".h5", _cells(layers, layout))
            for name, value in _all_arrays(layers).items():
                file[name] = value.numpy()
            return
        cells: dict[str, str] = {}
        for layer, stack in _stack_names(layers):
            for name, arrays in stack:
                cells[name] = kind_name(layer.adopted.cell)
                group = file.create_group(name)
                group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in arrays]
                for key, value in arrays.items():
                    group[f"{name}/{key}:0"] = value.numpy()
        file.attrs[KEY] = short_mark_of(".h5", cells)
        file.attrs["layer_names"] = [name.encode() for name in cells]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.15.0"


_WRITERS: Mapping[str, Callable[[Path, list[_LayerArrays], Layout], None]] = {
    ".pt": _write_torch,
    ".pth": _write_torch,
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    ".h5": _write_hdf5,
    ".hdf5": _write_hdf5,
}
