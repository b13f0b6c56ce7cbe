"""Files of ``torch.save``: .pt, .pth, .ckpt, .bin; pickles are checked before torch reads them."""

from __future__ import annotations

import io
import pickle
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from zipfile import ZIP_STORED

import torch
from torch import Tensor, nn

from rnnscope._files.cell_marks import marks_of_state
from rnnscope._files.content import FileContent
from rnnscope._files.disk import ARRAY, Allowance, Archive, LazyArray, begins, first_sentence
from rnnscope._files.pytorch.inert import inert
from rnnscope._files.pytorch.pickles import PickleFacts, pickle_facts, refusal
from rnnscope.errors import FileError

__all__ = ["read_torch"]

_FOLDER = 16  # the attribute in a .zip of what has no bytes; torch then reads none


def read_torch(path: Path) -> FileContent:
    """A file of ``torch.save``: tensors in dicts, however deep. Nothing in it is run: objects of
    classes beside the tensors, such as hyperparameters, are left out, and told in ``unread``.

    Raises ``FileError`` where it is damaged, holds no tensors but in objects of classes, or takes
    more memory than its size allows.
    """
    zipped = begins(path, b"PK\x03\x04")
    storages = _Storages.zipped(path) if zipped else _Storages.old(path)
    allowance = storages.allowance
    arrays = {}
    unread: tuple[str, ...] = ()
    reason = ""
    try:
        loaded = _loaded(path, storages, mapped=zipped and storages.source is path)
    except _ClassesError as error:
        if not zipped:
            raise
        without, unread = _without_classes(path)
        if without is None:
            raise
        reason = str(error)
        storages.source = without
        loaded = _loaded(path, storages, mapped=False)
    for name, tensor in _tensors(loaded, allowance):
        allowance.take(ARRAY, "the names of its tensors")
        if _plain(tensor) and not tensor.is_meta:
            storages.check(name, tensor)
            arrays[name] = LazyArray.of(tensor)
        else:
            arrays[name] = LazyArray(None, False, partial(_no_numbers, path, name))
    cells: dict[str, str] = {}
    for before, state in _states(loaded, allowance):
        cells |= marks_of_state(state, before)
    return FileContent(path, "torch", allowance, arrays, cells=cells, unread=unread, refusal=reason)


class _ClassesError(FileError):
    """A pickle holds objects of classes."""


def _without_classes(path: Path) -> tuple[io.BytesIO | None, tuple[str, ...]]:
    """An archive of ``torch.save`` without its objects of classes, and what these were; None where
    no tensor is left."""
    archive = Archive(path, sums=False)
    name = next(n for n in archive.names if n.endswith("data.pkl"))
    read = inert(archive.read(name), path)
    if read is None or not read.tensors:
        return None, ()
    return archive.again({name: read.pickle}), read.unread


class _Storages:
    """What a file of ``torch.save`` holds beside its pickle.

    ``source`` is what torch reads: the file, which it maps, or its records in memory. ``sizes``
    are those of the records, None in the old format. ``facts`` are of its pickle.
    """

    def __init__(
        self,
        allowance: Allowance,
        source: Path | io.BytesIO,
        sizes: set[int] | None,
        facts: PickleFacts,
    ) -> None:
        self.path, self.allowance = allowance.path, allowance
        self.source, self.sizes, self.facts = source, sizes, facts

    @classmethod
    def zipped(cls, path: Path) -> _Storages:
        """Those of a .zip: each a record of its own.

        Where torch would read numbers in place that do not lie there as they are needed, and
        where it would take what it can unpack of a damaged record for the whole, it is given the
        records in memory, unpacked and checked.
        """
        archive = Archive(path, sums=False)  # torch.save may leave the checksums out
        plain = True
        facts = PickleFacts(None, False)
        _refuse_programs(path, archive.names)
        for name in archive.names:
            if name.endswith("/byteorder"):
                plain &= archive.read(name) == sys.byteorder.encode()
            if name.endswith(".pkl"):
                facts = pickle_facts(io.BytesIO(archive.read(name)), 1, archive.allowance)
        for entry in archive.entries:
            plain &= entry.compress_type == ZIP_STORED and not entry.external_attr & _FOLDER
            if plain and "/data/" not in entry.filename:
                archive.allowance.take(entry.file_size, entry.filename)
        sizes = {entry.file_size for entry in archive.entries}
        return cls(archive.allowance, path if plain else archive.again(), sizes, facts)

    @classmethod
    def old(cls, path: Path) -> _Storages:
        """Those of the format before PyTorch 1.6: one behind the other, after several pickles."""
        allowance = Allowance.of(path)
        allowance.take(allowance.size, "its tensors")
        with path.open("rb") as file:
            # a number, a version, the machine, the tensors, the names of their storages
            facts = pickle_facts(file, 5, allowance)
        return cls(allowance, path, None, facts)

    def check(self, name: str, tensor: Tensor) -> None:
        """A storage must be a whole record, or, in the old format, have room in the file; what a
        tensor spans must lie in it, and fit in the file even when copied."""
        if 0 in tensor.shape:
            return
        storage_size = tensor.untyped_storage().nbytes()
        if (
            storage_size > self.allowance.size
            if self.sizes is None
            else storage_size not in self.sizes
        ):
            raise FileError(
                f"{self.path}: damaged: {name} lies in {storage_size} bytes; "
                f"no record has this size"
            )
        spans = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        needed = (tensor.storage_offset() + spans) * tensor.element_size()
        if needed > storage_size or tensor.nbytes > max(self.allowance.size, storage_size):
            raise FileError(
                f"{self.path}: {name} of shape {tuple(tensor.shape)} takes "
                f"{max(needed, tensor.nbytes)} bytes; the file holds {storage_size} for it"
            )


def _refuse_programs(path: Path, names: list[str]) -> None:
    """Raise ``FileError`` for an archive that holds code beside its tensors."""
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        kind, code = "a TorchScript archive", f"torch.jit.load({path.name!r}).state_dict()"
    elif "archive_format" in ends and "model.json" in ends:
        kind, code = "an archive of torch.export", f"torch.export.load({path.name!r}).state_dict"
    else:
        return
    raise FileError(
        f"{path}: {kind}, which holds code beside its tensors, and is not opened here. In a "
        f"program of yours that trusts it, torch.save({code}, 'weights.pt'), and load that"
    )


def _plain(tensor: Tensor) -> bool:
    ours = type(tensor) in (Tensor, nn.Parameter)
    return ours and not tensor.is_nested and tensor.layout == torch.strided


def _loaded(path: Path, storages: _Storages, *, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how the file should have been written
            return torch.load(storages.source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if not storages.facts.is_torch and begins(path, b"\x80"):  # not of torch.save
            name = storages.facts.class_name
            raise FileError(refusal(path, name, storages.facts)) from error
        match = re.search(r"GLOBAL ([\w.]+)|(?:class|type) '?([\w.]+)", str(error))
        if match is None:
            raise _ClassesError(
                f"{path}: damaged, or it holds more than tensors, which could run code when "
                f"read; expected a state dict, torch.save(model.state_dict(), ...)"
            ) from error
        raise _ClassesError(refusal(path, match[1] or match[2], storages.facts)) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise FileError(
            f"{path}: damaged, or no file of torch.save: {first_sentence(error)}"
        ) from error


def _no_numbers(path: Path, name: str) -> NoReturn:
    raise FileError(f"{path}: {name} is sparse or holds no numbers; expected a plain tensor")


def _tensors(loaded: Any, allowance: Allowance) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts, under its names joined by dots."""
    for before, state in _states(loaded, allowance):
        for key, value in state.items():
            if isinstance(value, Tensor):
                allowance.take(len(before) + len(key), "the names of its tensors")
                yield before + key, value


def _states(loaded: Any, allowance: Allowance) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict in nested dicts and lists, with the names before its own; in the order of the
    file. Of lists, and of whole numbers as keys, the numbers are names.

    A dict that lies under several names comes once for each.
    """
    waiting: list[tuple[str | None, Any]] = [("", loaded)]
    around: set[int] = set()
    while waiting:
        before, value_at_prefix = waiting.pop()
        if before is None:
            around.discard(id(value_at_prefix))
        elif id(value_at_prefix) not in around:  # a dict may hold itself
            allowance.take(512 + len(before), "the names of its dicts")
            members = _members(value_at_prefix)
            yield before, members
            around.add(id(value_at_prefix))
            waiting.append((None, value_at_prefix))
            inside = [(key, value) for key, value in members.items() if _is_state(value)]
            waiting += [(f"{before}{key}.", value) for key, value in reversed(inside)]


def _is_state(value: Any) -> bool:
    """Whether tensors may lie in it, by names or in a row."""
    return isinstance(value, Mapping) or (
        isinstance(value, list | tuple) and any(isinstance(x, Mapping | Tensor) for x in value)
    )


def _members(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        return {str(k): member for k, member in enumerate(value)} if _is_state(value) else {}
    if all(isinstance(key, str) for key in value):
        return value  # with the metadata of a state dict
    return {str(key): member for key, member in value.items() if isinstance(key, str | int)}
