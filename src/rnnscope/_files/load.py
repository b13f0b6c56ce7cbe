"""load: the recurrent layers of a file, as modules."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from rnnscope._files.containers import READERS, advice_on_others, reader_by_content, refuse_tar
from rnnscope._files.content import FileContent
from rnnscope._files.disk import no_file
from rnnscope._files.layers import Layers
from rnnscope._files.recognition import find
from rnnscope._files.shards import INDEX, read_index, refuse_shard
from rnnscope._files.stored_layer import (
    Copies,
    LoadRequest,
    NoLayerError,
    StoredLayer,
    kind_name,
    module_of,
)
from rnnscope._layouts import Layout
from rnnscope._layouts.kinds import nonlinearity_of
from rnnscope.cells import Cell
from rnnscope.errors import (
    AddressError,
    DeclarationError,
    DtypeError,
    FileError,
    RefusedError,
    ShapeError,
)

__all__ = ["build_layers", "load", "read_content"]


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
    cells: Mapping[str, Cell] | None = None,
    ignore: str | Iterable[str] = (),
) -> Layers:
    """The recurrent layers in a .pt, .pth, .ckpt, .bin, .tar, .safetensors, .npz, .h5, .hdf5,
    .keras, .onnx, .nam or .json file; a file of another ending is known by its first bytes, and
    the .index.json of a checkpoint in several files reads them all.

    They are found by the names and shapes of arrays, in any known layout. A layer becomes
    ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` where one can hold it, else ``rnnscope.Recurrent``; in
    evaluation mode. ``layer`` chooses one by its name. Where a file fits several readings,
    ``cell`` (``"gru"``, ``"gru_reset_before"``, ``"lstm"``, ...) and ``layout`` choose;
    ``names`` maps the layout's names (PyTorch's, if none is given) to the file's. ``cells`` maps
    names of layers to the cells that you declare for them, ``{"encoder.rnn": my_cell}``: their
    arrays are named as those of ``Recurrent``.

    Objects of classes that a checkpoint holds beside its tensors, such as hyperparameters, are
    left out, and named in the result's ``ignored``. Every array under a layer's name is used, or
    named there with what it may be; where one shows that the cell computes something else (a
    normalisation, peepholes, a second bias), the file is refused, unless ``ignore`` has its name,
    or a pattern such as ``"*.gamma"``.

    What a state dict does not hold is an argument: ``nonlinearity`` of an ``nn.RNN`` (left out, it
    is the one that the layout's framework takes), ``batch_first``, ``dropout``. What was assumed is
    in the result's ``assumed``; a printed result shows it. A file that says it is followed: Keras
    is ``batch_first``, activations are the file's own, cells those that ``save`` was given. A model
    in JSON is Neural Amp Modeler's or RTNeural's, both ``batch_first``, or GuitarML's; what it has
    beside its layers, a head and trained initial states, is in the result's ``beside``.

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
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    request = LoadRequest(cell, nonlinearity, batch_first, dropout, patterns, cells or {})
    return Layers(build_layers(Path(path), request, layout, names, layer))


def read_content(path: Path) -> FileContent:
    """A file by the kind that its ending says, or, where the ending says none, its first bytes.
    Raises ``FileError``."""
    if path.name.endswith(INDEX) and path.is_file():
        return read_index(path, _read)
    refuse_shard(path)
    return _read(path)


def _read(path: Path) -> FileContent:
    reader = READERS.get(path.suffix.lower()) or reader_by_content(path)
    if reader is None:
        raise FileError(
            f"{path}: expected a file ending in {', '.join(READERS)}; got {path.suffix or 'none'}"
            f"{advice_on_others(path)}"
        )
    if not path.is_file():
        raise FileError(f"{path}: {no_file(path)}")
    try:
        refuse_tar(path)
        content = reader(path)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if "rnnscope" in content.metadata and "x" in content.arrays:
        raise FileError(f"{path}: this is a saved trace; open it with rnnscope.load_trace(path)")
    return content


def _without(content: FileContent, patterns: Iterable[str]) -> FileContent:
    """The file without the arrays that the caller leaves out. Raises ``FileError`` for a pattern
    that fits none."""
    arrays = dict(content.arrays)
    for pattern in patterns:
        names = [name for name in content.arrays if fnmatchcase(name, pattern)]
        if not names:
            raise FileError(
                f"{content.path}: no array {pattern!r} to ignore; it holds "
                f"{', '.join(list(content.arrays)[:8]) or 'no arrays by name'}"
            )
        for name in names:
            arrays.pop(name, None)
    return replace(content, arrays=arrays)


def build_layers(
    path: Path,
    request: LoadRequest,
    layout: Layout | str | None = None,
    names: Mapping[str, str] | None = None,
    layer: str | None = None,
) -> list[tuple[StoredLayer, nn.Module]]:
    """The layers of a file: as they were found, and as modules."""
    try:
        content = _without(read_content(path), request.ignore)
        stored_layers = _stored_layers(content, request, layout, names, layer)
        copies = Copies(content.allowance)
        return [
            (stored_layer, module_of(stored_layer, request, copies))
            for stored_layer in stored_layers
        ]
    except MemoryError as error:
        raise FileError(
            f"{path}: this machine has too little memory for it; choose a layer with layer=..."
        ) from error


def _stored_layers(
    content: FileContent,
    request: LoadRequest,
    layout: Layout | str | None,
    names: Mapping[str, str] | None,
    layer: str | None,
) -> list[StoredLayer]:
    path = content.path
    if request.nonlinearity not in (None, "tanh", "relu"):
        raise DeclarationError(f"nonlinearity must be tanh or relu; got {request.nonlinearity!r}")
    try:
        layers = find(content, request, layout, names)
        layers = [replace(entry, ignored=(*entry.ignored, *content.unread)) for entry in layers]
    except NoLayerError as error:
        raise FileError(content.refusal) if content.refusal else error from None
    except (FileError, DeclarationError) as error:
        if content.unread and type(error) is FileError:
            raise FileError(f"{error}. Beside it the file holds {content.unread[0]}") from error
        raise
    except RefusedError as error:
        raise error if str(path) in str(error) else RefusedError(f"{path}: {error}") from error
    except (ShapeError, DtypeError) as error:
        raise FileError(f"{path}: {error}") from error
    chosen = [stored_layer for stored_layer in layers if layer in (None, stored_layer.name)]
    if not chosen:
        inventory = ", ".join(repr(stored_layer.name) for stored_layer in layers[:8]) + (
            ", ..." * (len(layers) > 8)
        )
        raise AddressError(f"{path}: no recurrent layer {layer!r}; it holds {inventory}")
    if request.nonlinearity and all(
        nonlinearity_of(stored_layer.cell) is None for stored_layer in chosen
    ):
        inventory = ", ".join(
            dict.fromkeys(kind_name(stored_layer.cell) for stored_layer in chosen)
        )
        raise DeclarationError(
            f"nonlinearity is of nn.RNN; {path} holds {inventory}: leave out "
            f"nonlinearity={request.nonlinearity!r}"
        )
    return chosen
