"""load: the recurrent layers of a file, as modules."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from rnnscope.errors import (
    AddressError,
    DeclarationError,
    DtypeError,
    FileError,
    RefusedError,
    ShapeError,
)
from rnnscope.files.arrays import read_npz, read_safetensors, read_torch
from rnnscope.files.finding import find
from rnnscope.files.found import Copies, Found, Wanted, kind_name, module_of
from rnnscope.files.kerasfile import read_hdf5_file, read_keras
from rnnscope.files.onnxfile import read_onnx
from rnnscope.files.raw import Raw
from rnnscope.layouts import Layout
from rnnscope.layouts.kinds import nonlinearity_of
from rnnscope.writing import no_file

__all__ = ["Layers", "READERS", "built_of", "load", "read_raw"]

READERS: Mapping[str, Callable[[Path], Raw]] = {
    ".pt": read_torch,
    ".pth": read_torch,
    ".safetensors": read_safetensors,
    ".npz": read_npz,
    ".h5": read_hdf5_file,
    ".hdf5": read_hdf5_file,
    ".keras": read_keras,
    ".onnx": read_onnx,
}


class Layers(dict[str, nn.Module]):
    """Recurrent layers by name. ``assumed`` holds, for each, what no file of its kind tells and
    was taken for granted, and what the model around it does that the layer does not."""

    def __init__(self, modules: Mapping[str, nn.Module], assumed: Mapping[str, tuple[str, ...]]):
        super().__init__(modules)
        self.assumed = dict(assumed)


def load(
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    cell: str | None = None,
    layout: Layout | str | None = None,
    names: Mapping[str, str] | None = None,
    nonlinearity: str | None = None,
    batch_first: bool | None = None,
    dropout: float = 0.0,
) -> Layers:
    """The recurrent layers in a .pt, .pth, .safetensors, .npz, .h5, .hdf5, .keras or .onnx file.

    They are found by the names and shapes of arrays, in any known layout. A layer becomes
    ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` where one can hold it, else ``rnnscope.Recurrent``; in
    evaluation mode. ``layer`` chooses one by its name. Where a file fits several readings,
    ``cell`` (``"gru"``, ``"gru_reset_before"``, ``"lstm"``, ...) and ``layout`` choose;
    ``names`` maps the layout's names (PyTorch's, if none is given) to the file's.

    What a state dict does not hold is an argument: ``nonlinearity`` of an ``nn.RNN`` (left out, it
    is the one that the layout's framework takes), ``batch_first``, ``dropout``. What was assumed is
    in the result's ``assumed``. A file that says it is followed: Keras is ``batch_first``,
    activations are the file's own, cells those that ``save`` was given.

    >>> import os, tempfile, torch, rnnscope as rs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.pt")
    ...     torch.save({"encoder": torch.nn.LSTM(3, 5).state_dict()}, path)
    ...     layers = rs.load(path)
    >>> layers["encoder"], layers.assumed["encoder"]
    (LSTM(3, 5), ('batch_first=False',))

    An array that a file holds under several names is one here, too. A file takes no more memory
    than ten times its size and 256 MB, whatever it declares.

    Raises ``FileError`` where the file is missing, damaged, of another kind than its ending says,
    takes more memory than that, or holds no recurrent layer; ``RefusedError`` where no module can
    hold a layer; ``AddressError`` where there is no ``layer`` of that name. Nothing in a file
    is run.
    """
    wanted = Wanted(cell, nonlinearity, batch_first, dropout)
    built = built_of(Path(path), wanted, layout, names, layer)
    modules = {found.name: module for found, module in built}
    return Layers(modules, {found.name: found.assumed for found, _ in built})


def read_raw(path: Path) -> Raw:
    """A file by the kind that its ending says. Raises ``FileError``."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise FileError(
            f"{path}: expected a file ending in {', '.join(READERS)}; got {path.suffix or 'none'}"
        )
    if not path.is_file():
        raise FileError(f"{path}: {no_file(path)}")
    try:
        raw = reader(path)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if "rnnscope" in raw.metadata and "x" in raw.arrays:
        raise FileError(f"{path}: this is a saved trace; open it with rnnscope.load_trace(path)")
    return raw


def built_of(
    path: Path,
    wanted: Wanted,
    layout: Layout | str | None = None,
    names: Mapping[str, str] | None = None,
    layer: str | None = None,
) -> list[tuple[Found, nn.Module]]:
    """The layers of a file: as they were found, and as modules."""
    try:
        raw = read_raw(path)
        found = _found_in(raw, wanted, layout, names, layer)
        copies = Copies(raw.allowance)
        return [(each, module_of(each, wanted, copies)) for each in found]
    except MemoryError as error:
        raise FileError(
            f"{path}: this machine has too little memory for it; choose a layer with layer=..."
        ) from error


def _found_in(
    raw: Raw,
    wanted: Wanted,
    layout: Layout | str | None,
    names: Mapping[str, str] | None,
    layer: str | None,
) -> list[Found]:
    path = raw.path
    if wanted.nonlinearity not in (None, "tanh", "relu"):
        raise DeclarationError(f"nonlinearity must be tanh or relu; got {wanted.nonlinearity!r}")
    try:
        found = find(raw, wanted, layout, names)
    except (FileError, DeclarationError):
        raise
    except RefusedError as error:
        raise error if str(path) in str(error) else RefusedError(f"{path}: {error}") from error
    except (ShapeError, DtypeError) as error:
        raise FileError(f"{path}: {error}") from error
    chosen = [each for each in found if layer in (None, each.name)]
    if not chosen:
        held = ", ".join(repr(each.name) for each in found[:8]) + (", ..." * (len(found) > 8))
        raise AddressError(f"{path}: no recurrent layer {layer!r}; it holds {held}")
    if wanted.nonlinearity and all(nonlinearity_of(each.cell) is None for each in chosen):
        held = ", ".join(dict.fromkeys(kind_name(each.cell) for each in chosen))
        raise DeclarationError(
            f"nonlinearity is of nn.RNN; {path} holds {held}: leave out "
            f"nonlinearity={wanted.nonlinearity!r}"
        )
    return chosen
