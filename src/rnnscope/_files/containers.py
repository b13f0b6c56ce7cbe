"""The kinds of files that are read: by their ending, or by their first bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rnnscope._files.arrays import read_npz, read_safetensors
from rnnscope._files.content import FileContent
from rnnscope._files.json import read_json
from rnnscope._files.keras import read_hdf5_file, read_keras
from rnnscope._files.onnx import read_onnx
from rnnscope._files.pytorch import read_torch
from rnnscope.errors import FileError

__all__ = ["READERS", "advice_on_others", "reader_by_content", "refuse_tar"]

Reader = Callable[[Path], FileContent]

READERS: Mapping[str, Reader] = {
    ".pt": read_torch,
    ".pth": read_torch,
    ".ckpt": read_torch,
    ".bin": read_torch,
    ".tar": read_torch,
    ".safetensors": read_safetensors,
    ".npz": read_npz,
    ".h5": read_hdf5_file,
    ".hdf5": read_hdf5_file,
    ".keras": read_keras,
    ".onnx": read_onnx,
    ".nam": read_json,
    ".json": read_json,
}

_TENSORFLOW = (
    "names = [name for name, _ in tf.train.list_variables({0!r})]; numpy.savez('weights.npz', "
    "**{{name: tf.train.load_variable({0!r}, name) for name in names}})"
)


def reader_by_content(path: Path) -> Reader | None:
    """The reader of a file whose ending says nothing, such as .jit, .ptl, .pkl or none."""
    if not path.is_file():
        return None
    with suppress(OSError), path.open("rb") as file:
        start = file.read(16)
        if _is_tar(path):
            return read_torch  # which is refused
        if start.startswith(b"PK\3\4"):
            return _reader_of_archive(path)
        if start.startswith(b"\x89HDF\r\n\x1a\n"):
            return read_hdf5_file
        if start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5":
            return read_torch
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
            return read_safetensors
    return None


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(257)
        return file.read(5) == b"ustar"


def refuse_tar(path: Path) -> None:
    """Raise ``FileError`` for an archive of tar, such as a .nemo."""
    if path.is_file() and _is_tar(path):
        raise FileError(
            f"{path}: an archive of tar: unpack it (tar xf {path.name}), and load the file of "
            f"weights that is in it"
        )


def _reader_of_archive(path: Path) -> Reader | None:
    with suppress(zipfile.BadZipFile, OSError, ValueError), zipfile.ZipFile(path) as archive:
        ends = {name.rpartition("/")[2] for name in archive.namelist()}
        if not {"data.pkl", "constants.pkl", "archive_format"}.isdisjoint(ends):
            return read_torch
        if "model.weights.h5" in ends:
            return read_keras
        if any(name.endswith(".npy") for name in ends):
            return read_npz
    return None


def advice_on_others(path: Path) -> str:
    """What to do with a file of a kind that is not read, where that is known."""
    name = path.name
    if path.suffix.lower() == ".trace":
        return ". A .trace holds a trace, which rnnscope.load_trace(path) opens"
    part = next((end for end in (".index", ".meta", ".data-") if end in name), None)
    if part is not None and ".ckpt" in name:
        name = name[: name.index(part)]
        return f". It is of a checkpoint of TensorFlow; there, {_TENSORFLOW.format(name)}"
    if path.suffix == ".pb" or (path / "saved_model.pb").is_file():
        return (
            ". Of a SavedModel, in Keras: model = keras.models.load_model(path); "
            "model.save('model.h5')"
        )
    return ""
