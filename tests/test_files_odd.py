"""Files that are valid and unusual: read as the format's own reader reads them, or refused in one
sentence; and files that would take far more memory or time than their size is worth.

The judges are torch.load, numpy.load and h5py. Time is not measured but counted: how often a file
is opened.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import rnnscope as rs
from rnnscope._cli.commands import app
from rnnscope._cli.inputs import read_sequence
from rnnscope._files import summary
from rnnscope._files.arrays import read_hdf5, read_npz
from rnnscope._files.arrays import safetensors as safetensors_reader
from rnnscope._files.disk import Window
from rnnscope._files.onnx.protobuf import encode_field
from rnnscope._files.summary import summarize

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits and measures a process's memory")


def state_of(layers: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    return {f"{name}.{k}": v for name, m in layers.items() for k, v in m.state_dict().items()}


def some_layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"enc": nn.LSTM(3, 4, num_layers=2, bidirectional=True), "dec": nn.GRU(8, 5).double()}


def assert_loaded_as(path: Path, expected: dict[str, torch.Tensor], **options: Any) -> None:
    """The layers of a file have these numbers, exactly."""
    found = state_of(dict(rs.load(path, **options)))
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name].dtype is value.dtype, name
        assert torch.equal(found[name], value), name


# .pt ----------------------------------------------------------------------------------------


def rewritten(
    path: Path,
    *,
    packing: int = zipfile.ZIP_STORED,
    change: Callable[[str, bytes], bytes | None] = lambda name, data: data,
    zip64: bool = False,
) -> None:
    """The same archive written by another program; ``change`` gives None for what is left out."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in entries.items():
            changed = change(name, data)
            if changed is not None:
                entry = zipfile.ZipInfo(name)
                entry.compress_type = packing
                with archive.open(entry, "w", force_zip64=zip64) as file:
                    file.write(changed)


def packed(path: Path) -> None:
    rewritten(path, packing=zipfile.ZIP_DEFLATED)


def big_endian(path: Path) -> None:
    """As PyTorch on a machine of the other byte order writes it: float32 alone."""

    def change(name: str, data: bytes) -> bytes:
        if name.endswith("/byteorder"):
            return b"big"
        return np.frombuffer(data, "<f4").astype(">f4").tobytes() if "/data/" in name else data

    rewritten(path, change=change)


FORMS: dict[str, Callable[[Path], None]] = {
    "as written": lambda path: None,
    "stored again": lambda path: rewritten(path),
    "stored at odd places": lambda path: rewritten(
        path, change=lambda name, data: data + b"\n" if name.endswith("version") else data
    ),
    "without checksums": lambda path: without_checksums(path),
    "zip64": lambda path: rewritten(path, zip64=True),
    "deflated": lambda path: packed(path),
    "one record deflated": lambda path: append_deflated(path),
    "big-endian": big_endian,
    "big-endian and deflated": lambda path: (big_endian(path), packed(path))[0],
    "without byte order": lambda path: rewritten(
        path, change=lambda name, data: None if name.endswith("/byteorder") else data
    ),
}


def without_checksums(path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(torch.load(path, weights_only=True), path)
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None


def append_deflated(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    last = [name for name in entries if "/data/" in name][-1]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            kind = zipfile.ZIP_DEFLATED if name == last else zipfile.ZIP_STORED
            archive.writestr(name, data, kind)


@pytest.mark.parametrize("form", FORMS)
def test_a_pt_is_read_as_torch_reads_it(tmp_path: Path, form: str) -> None:
    path = tmp_path / "m.pt"
    torch.save(state_of({"enc": some_layers()["enc"], "dec": nn.GRU(8, 5)}), path)
    FORMS[form](path)
    expected = torch.load(path, weights_only=True)
    assert float(expected["enc.weight_ih_l0"].abs().sum()) > 1  # the judge reads numbers
    assert_loaded_as(path, expected)


def old_format(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def state_dicts() -> dict[str, Callable[[], Any]]:
    """State dicts whose tensors are no rows of numbers of their own."""
    gru = nn.GRU(3, 4)
    sizes = {name: value.shape for name, value in gru.state_dict().items()}
    flat = torch.randn(sum(shape.numel() for shape in sizes.values()))
    parts = flat.split([shape.numel() for shape in sizes.values()])
    wide = {name: torch.randn(*shape[::-1], 2).double() for name, shape in sizes.items()}
    return {
        "parameters": lambda: dict(gru.named_parameters()),
        "views of one buffer": lambda: {
            name: part.view(shape) for (name, shape), part in zip(sizes.items(), parts, strict=True)
        },
        "transposed steps": lambda: {
            name: v[..., 1].permute(*range(v.dim() - 1)[::-1]) for name, v in wide.items()
        },
        "expanded": lambda: {n: torch.tensor(0.25).expand(shape) for n, shape in sizes.items()},
        "half": lambda: gru.half().state_dict(),
        "with an empty tensor": lambda: {**gru.float().state_dict(), "other": torch.zeros(0, 3)},
        "with others": lambda: {
            **gru.float().state_dict(),
            "mask": torch.ones(3, 3, dtype=torch.bool),
            "z": torch.zeros(3, dtype=torch.complex64),
            "epoch": 3,
            "names": ["a", {"b": 2.5}],
            "sparse": torch.eye(3).to_sparse(),
            "meta": torch.zeros(3, device="meta"),
        },
    }


@pytest.mark.parametrize("write", [torch.save, old_format])
@pytest.mark.parametrize("content", state_dicts())
def test_tensors_that_share_or_step_over_numbers(
    tmp_path: Path, content: str, write: Callable[[Any, Path], None]
) -> None:
    torch.manual_seed(1)
    path = tmp_path / "m.pt"
    if content == "with others" and write is old_format:
        pytest.skip("the old format writes no tensor of the meta device")
    write(state_dicts()[content](), path)
    expected = torch.load(path, weights_only=True)
    names = nn.GRU(3, 4).state_dict()
    assert_loaded_as(path, {f".{name}": expected[name].detach() for name in names})


@pytest.mark.parametrize("form", ["deflated", "big-endian"])
def test_numbers_of_any_size_are_turned(tmp_path: Path, form: str) -> None:
    """Byte order counts by the size of a number: a record of 2, 4 and 8 bytes each."""
    path = tmp_path / "m.pt"
    gru = nn.GRU(3, 4)
    state = {
        f"{k}.{n}": v.to(dtype)
        for k, dtype in enumerate((torch.float16, torch.float32, torch.float64))
        for n, v in gru.state_dict().items()
    }
    torch.save(state, path)
    if form == "deflated":
        packed(path)
    else:
        widths = iter([2] * 4 + [4] * 4 + [8] * 4)

        def change(name: str, data: bytes) -> bytes:
            if name.endswith("/byteorder"):
                return b"big"
            if "/data/" not in name:
                return data
            width = next(widths)
            return np.frombuffer(data, f"<u{width}").astype(f">u{width}").tobytes()

        rewritten(path, change=change)
    judged = torch.load(path, weights_only=True)
    assert all(torch.equal(judged[name], value) for name, value in state.items())
    assert_loaded_as(path, judged)


@pytest.mark.parametrize("write", [torch.save, old_format])
def test_names_that_share_one_array(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    state = nn.GRU(3, 4).state_dict()
    write({"model": {f"l{k}": state for k in range(300)}, "best": state}, tmp_path / "m.pt")
    layers: Any = rs.load(tmp_path / "m.pt")
    assert len(layers) == 301
    assert list(layers)[:2] == ["model.l0", "model.l1"]
    for layer in layers.values():
        assert all(torch.equal(layer.state_dict()[name], value) for name, value in state.items())
    pointers = {layer.weight_ih_l0.data_ptr() for layer in layers.values()}
    assert len(pointers) == 1  # copied once, as the file holds it once


def test_a_storage_that_reaches_into_the_next_record(tmp_path: Path) -> None:
    """The pickle says more numbers than the record has: what is behind it is not taken for them."""
    path = tmp_path / "m.pt"
    torch.save({f"a{k}": torch.full((8,), float(k)) for k in range(6)}, path)
    rewritten(
        path,
        change=lambda name, data: (
            data.replace(b"K\x08", b"K\x18") if name.endswith("data.pkl") else data
        ),
    )
    with pytest.raises(RuntimeError, match="does not match"):
        torch.load(path, weights_only=True)
    with pytest.raises(rs.FileError, match=r"m\.pt: damaged: a0 lies in 96 bytes; no record"):
        rs.load(path)


def test_a_packed_record_that_is_damaged(tmp_path: Path) -> None:
    """torch.load gives what it could unpack of it, and whatever lay in memory behind that."""
    path = tmp_path / "m.pt"
    torch.save(nn.GRU(30, 40).state_dict(), path)
    packed(path)
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("m/data/0").header_offset
    data = bytearray(path.read_bytes())
    data[place + 1000] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(rs.FileError, match=r"m\.pt, m/data/0: damaged: "):
        rs.load(path)


def test_two_directories_in_one_archive_are_refused(tmp_path: Path) -> None:
    """Two readers would find different entries: the sizes of one are checked, the other is read."""
    path = tmp_path / "m.pt"
    torch.save(nn.GRU(3, 4).state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"more" + data[4:])
    with pytest.raises(rs.FileError, match=r"m\.pt: damaged: the directory of the archive"):
        rs.load(path)


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(nn.GRU(2, 3)).save(str(path))


# .npz ---------------------------------------------------------------------------------------

ODD: dict[str, Any] = {
    "bool": np.array([True, False]),
    "int8": np.arange(-3, 3, dtype="i1"),
    "uint8": np.arange(3, dtype="u1"),
    "uint64": np.array([2**64 - 1], "u8"),
    "big-endian float": np.linspace(0, 1, 7).astype(">f4"),
    "big-endian double": np.linspace(0, 1, 7).astype(">f8"),
    "big-endian half": np.linspace(0, 1, 7).astype(">f2"),
    "big-endian int": np.arange(7, dtype=">i4"),
    "complex": np.array([1 + 2j], "c8"),
    "big-endian complex": np.array([1 + 2j], ">c16"),
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "Fortran order, three dims": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "steps": np.arange(24.0).reshape(4, 6)[::2, ::-3],
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3), "f4"),
    "empty and wide": np.zeros((3, 0, 10**12), "f4"),
}
REFUSED: dict[str, Any] = {
    "text": np.array(["a", "bc"]),
    "bytes": np.array([b"a", b"bc"]),
    "void": np.zeros(3, "V7"),
    "long double": np.linspace(0, 1, 3, dtype=np.longdouble),
    "long complex": np.zeros(2, np.clongdouble),
    "record": np.zeros(3, [("a", "<f4"), ("b", "<i2", (2,))]),
    "record with a name in UTF-8": np.zeros(3, [("ä", "<f4")]),
    "record of many fields": np.zeros(1, [(f"field_{k}", "<f4") for k in range(800)]),
    "date": np.array(["2024-01-01"], "datetime64[D]"),
    "span": np.array([3], "timedelta64[s]"),
    "object": np.array([None, {}], object),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_npz_is_read_as_numpy_reads_it(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "m.npz"
    save(path, **ODD)
    found = read_npz(path).arrays
    with np.load(path) as judge:
        assert list(found) == judge.files
        for name, held in found.items():
            np.testing.assert_array_equal(held.read().numpy(), judge[name], err_msg=name)
            assert held.shape == judge[name].shape
            assert held.floating == (judge[name].dtype.kind == "f")


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_what_torch_has_no_number_for_is_refused(tmp_path: Path, kind: str, save: Any) -> None:
    """In the place of a weight, by one sentence; beside the weights it is passed over."""
    path = tmp_path / "m.npz"
    state = {name: value.numpy() for name, value in nn.GRU(2, 3).state_dict().items()}
    save(path, other=REFUSED[kind], **state)
    assert list(rs.load(path)) == [""]
    sized = np.resize(REFUSED[kind], (9, 2)) if kind != "object" else np.full((9, 2), None)
    for name, array in (("weight_ih_l0", sized), ("bias_hh_l0", REFUSED[kind])):
        save(path, **(state | {name: array}))
        with pytest.raises(rs.FileError) as caught:
            rs.load(path)
        assert str(path) in str(caught.value)
        assert name in str(caught.value)
        assert_said_on_the_command_line(path)


@pytest.mark.parametrize("kind", ["bool", "int8", "uint64", "big-endian int", "complex", "scalar"])
def test_numbers_that_are_no_weights_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.npz"
    state = {name: value.numpy() for name, value in nn.GRU(2, 3).state_dict().items()}
    for names in (state, {"kernel": 0, "recurrent_kernel": 0, "bias": 0}):
        np.savez(path, **{name: np.resize(ODD[kind], (9, 2)) for name in names})
        assert_said_on_the_command_line(path)


@pytest.mark.parametrize("kind", ["big-endian float", "big-endian double", "big-endian half"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_weights_in_the_other_byte_order(tmp_path: Path, kind: str, order: Any) -> None:
    path, dtype = tmp_path / "m.npz", ODD[kind].dtype
    state = nn.GRU(2, 3).to(getattr(torch, f"float{8 * dtype.itemsize}")).state_dict()
    np.savez(path, **{n: v.numpy().astype(dtype, order=order) for n, v in state.items()})
    assert_loaded_as(path, {f".{name}": value for name, value in state.items()})


def assert_said_on_the_command_line(path: Path) -> None:
    """An error of one line that names the file, exit code 2, and no traceback."""
    for words in (["show", path], ["convert", path, path.with_name("out.npz")]):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("rnnscope: "), done.stderr
        assert str(path) in done.stderr
        assert done.stderr.count("\n") == 1


# HDF5 ---------------------------------------------------------------------------------------


def hdf5_file(path: Path) -> None:
    """Arrays of every kind that is read."""
    h5py = pytest.importorskip("h5py", reason="h5py writes the file, and judges")
    rng = np.random.default_rng(0)
    with h5py.File(path, "w", userblock_size=512) as file:
        for dtype in ("f2", "f4", "f8", ">f2", ">f4", ">f8", "i1", ">i2", "u4", ">u8", "i8"):
            data = (100 * rng.normal(size=(13, 7))).astype(dtype)
            file[f"types/{dtype}"] = data
            file.create_dataset(f"filled/{dtype}", (13, 7), dtype, fillvalue=3)
            part = file.create_dataset(
                f"part/{dtype}",
                (13, 7),
                dtype,
                chunks=(4, 3),
                fillvalue=-7 if dtype[-2] != "u" else 7,
            )
            part[4:6, 3:5] = data[4:6, 3:5]
        many: list[dict[str, Any]] = [
            {},
            {"compression": "gzip"},
            {"shuffle": True},
            {"fletcher32": True},
            {"compression": "gzip", "shuffle": True},
            {"compression": "gzip", "fletcher32": True},
            {"compression": "gzip", "compression_opts": 9, "shuffle": True, "fletcher32": True},
        ]
        for k, options in enumerate(many):
            for shape, chunks in (
                ((13, 7), (4, 3)),
                ((5,), (5,)),
                ((3, 4, 5), (2, 4, 1)),
                ((9,), (4,)),
            ):
                for dtype in ("u1", "f4", ">f8"):
                    data = (100 * rng.normal(size=shape)).astype("f8").astype(dtype)
                    name = f"packed/{k}/{len(shape)}{chunks[0]}{dtype}"
                    file.create_dataset(name, data=data, chunks=chunks, **options)
        noise = rng.integers(0, 256, (64, 64), np.uint8)  # deflate makes it no smaller
        file.create_dataset("noise", data=noise, chunks=(32, 32), compression="gzip")
        grown = file.create_dataset("grown", (4, 3), "f4", maxshape=(None, 3), chunks=(3, 3))
        grown[...] = 5
        grown.resize((10, 3))
        shrunk = file.create_dataset("shrunk", data=np.arange(40.0), maxshape=(None,), chunks=(4,))
        shrunk.resize((6,))
        file.create_dataset("nan", (3, 3), "f4", chunks=(2, 2), fillvalue=np.nan)
        file.create_dataset("never", (3, 3), "f4")
        file.create_dataset("never in chunks", (3, 3), "f4", chunks=(2, 2))
        file.create_dataset("empty", (0, 3), "f4")
        file.create_dataset("empty in chunks", (0, 3), "f4", maxshape=(None, 3), chunks=(2, 3))
        file["scalar"] = np.float32(2.5)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((5,))
        inside = h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, compact)
        inside.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype="f4"))
        file["hard"] = file["types/f4"]
        file["hard group"] = file["types"]
        file["soft"] = h5py.SoftLink("/types/f8")
        file["types/soft"] = h5py.SoftLink("f8")
        file["soft group"] = h5py.SoftLink("/types")
        file["soft of soft"] = h5py.SoftLink("/soft")
        file["nowhere"] = h5py.SoftLink("/types/none")
        file["types/root"] = file["/"]  # a group that holds itself


def test_hdf5_is_read_as_h5py_reads_it(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py judges")
    hdf5_file(tmp_path / "a.h5")
    found = read_hdf5(Window.of(tmp_path / "a.h5")).arrays
    with h5py.File(tmp_path / "a.h5") as file:
        for name, held in found.items():
            expected = file[name][()]
            assert held.shape == expected.shape, name
            np.testing.assert_array_equal(held.read().numpy(), expected, err_msg=name)
        expected_names = set()

        def visit(group: Any, before: str, around: tuple[Any, ...]) -> None:
            for key in group:
                value = group.get(key)
                if isinstance(value, h5py.Dataset):
                    expected_names.add(before + key)
                elif value is not None and value.id not in around:
                    visit(value, f"{before}{key}/", (*around, value.id))

        visit(file, "", (file["/"].id,))
    assert set(found) == expected_names


def odd_hdf5(path: Path) -> dict[str, str]:
    """Arrays that are refused, and what is said of each."""
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    with h5py.File(path.with_name("beside.h5"), "w") as file:
        file["a"] = np.ones(3, "f4")
    np.arange(3, dtype="f4").tofile(path.with_name("raw.bin"))
    with h5py.File(path, "w") as file:
        file["text"] = "abc"
        file["texts"] = np.array([b"abc", b"d"])
        file["record"] = np.zeros(3, [("a", "f4")])
        file["complex"] = np.zeros(3, "c8")
        file["truth"] = np.ones(3, bool)
        file["nothing"] = h5py.Empty("f4")
        file["array"] = np.zeros(3, np.dtype(("f4", (2,))))
        file["links/out"] = h5py.ExternalLink("beside.h5", "/a")
        outside = [(str(path.with_name("raw.bin")), 0, 12)]
        file.create_dataset("outside", (3,), "f4", external=outside)
        file.create_dataset("lzf", data=np.ones(50, "f4"), chunks=(50,), compression="lzf")
        file.create_dataset("scaled", data=np.ones(50, "i4"), chunks=(50,), scaleoffset=3)
        file["type"] = np.dtype("f4")
        file.create_dataset("typed", data=np.ones(3, "f4"), dtype=file["type"])
        odd = h5py.h5t.IEEE_F32LE.copy()
        odd.set_ebias(100)
        h5py.h5d.create(file.id, b"biased", odd, h5py.h5s.create_simple((3,)))
    return {
        "text": "text",
        "texts": "text",
        "record": "no plain number",
        "complex": "no plain number",
        "truth": "no plain number",
        "nothing": "empty",
        "links/out": "another file",
        "outside": "another file",
        "lzf": "HDF5's filter 32000",
        "scaled": "HDF5's filter 6",
        "typed": "a type with a name",
        "biased": "no plain number",
    }


def test_what_is_not_read_of_hdf5_is_refused_by_name(tmp_path: Path) -> None:
    said = odd_hdf5(tmp_path / "a.h5")
    found = read_hdf5(Window.of(tmp_path / "a.h5")).arrays
    assert set(found) - {"array"} == set(said)
    for name, reason in said.items():
        with pytest.raises(rs.FileError, match=reason) as caught:
            found[name].read()
        assert name in str(caught.value) or "byte" in str(caught.value)


def test_a_layer_with_odd_arrays_beside_it(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    path = tmp_path / "a.h5"
    odd_hdf5(path)
    state = nn.GRU(2, 3).state_dict()
    with h5py.File(path, "a") as file:
        for name, value in state.items():
            file[f"enc/{name}"] = value.numpy()
    assert_loaded_as(path, {f"enc.{name}": value for name, value in state.items()})
    with h5py.File(path, "a") as file:
        del file["enc/bias_hh_l0"]
        file["enc/bias_hh_l0"] = h5py.ExternalLink("beside.h5", "/a")
    assert_said_on_the_command_line(path)


def test_a_layer_of_fill_values(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    path = tmp_path / "m.h5"
    state = nn.GRU(2, 3).state_dict()
    with h5py.File(path, "w") as file:
        for k, (name, value) in enumerate(state.items()):
            file.create_dataset(f"a/{name}", value.shape, "f4", chunks=True, fillvalue=0.5 + k)
    expected = {f"a.{n}": torch.full_like(v, 0.5 + k) for k, (n, v) in enumerate(state.items())}
    assert_loaded_as(path, expected)


def test_a_wrong_checksum_is_seen(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes the file, and judges")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        data = np.arange(64, dtype="f4")
        file.create_dataset("a", data=data, chunks=(64,), fletcher32=True)
    whole = path.read_bytes()
    at = whole.index(data.tobytes()) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with h5py.File(path) as file, pytest.raises(OSError, match=r"checksum|filter"):
        file["a"][()]
    with pytest.raises(rs.FileError, match="a checksum does not fit"):
        read_hdf5(Window.of(path)).arrays["a"].read()


def test_chunks_upon_each_other_are_refused(tmp_path: Path) -> None:
    """Else a small file can have the same chunk unpacked any number of times."""
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(64.0), chunks=(8,), compression="gzip")
    whole = bytearray(path.read_bytes())
    tree = whole.rindex(b"TREE\x01")
    # a key: size, mask, where the chunk begins, and 0 for the bytes of a number
    first, size = tree + 24, 8 + 16 + 8
    assert struct.unpack_from("<Q", whole, first + size + 8) == (8,)
    struct.pack_into("<Q", whole, first + size + 8, 0)
    path.write_bytes(bytes(whole))
    with pytest.raises(rs.FileError, match="a chunk of a lies upon another"):
        read_hdf5(Window.of(path)).arrays["a"].read()


def test_the_newest_form_of_hdf5_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for name, value in nn.GRU(2, 3).state_dict().items():
            file.create_dataset(name, data=value.numpy(), chunks=True)
    with pytest.raises(rs.FileError, match='libver="earliest"'):
        rs.load(path)


# the sum over all arrays ---------------------------------------------------------------------

SIZES = {"weight_ih_l0": (3000, 1000), "weight_hh_l0": (3000, 1000)}
SIZES |= {"bias_ih_l0": (3000,), "bias_hh_l0": (3000,)}
COUNT = 60  # layers of 24 MB: 1.4 GB


def zeros_pt(path: Path) -> None:
    one = {name: torch.zeros(size) for name, size in SIZES.items()}
    torch.save({f"l0.{name}": value for name, value in one.items()}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        for k in range(COUNT):  # records that no tensor names are unpacked by nobody
            archive.writestr(f"m/data/{100 + k}", bytes(2**23))


def zeros_npz(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in SIZES.items():
            buffer = io.BytesIO()
            np.save(buffer, np.zeros(size, "f4"))
            for k in range(COUNT if "bias" in name else COUNT // 4):
                archive.writestr(f"l{k}.{name}.npy", buffer.getvalue())


def zeros_h5(path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    with h5py.File(path, "w") as file:
        for k in range(COUNT):
            for name, size in SIZES.items():
                file.create_dataset(f"l{k}/{name}", size, "f4", chunks=size)


def zeros_keras(path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for k in range(COUNT):
            for part, size in enumerate(((1000, 3000), (1000, 3000), (2, 3000))):
                name = f"layers/gru_{k}/cell/vars/{part}"
                file.create_dataset(name, size, "f4", chunks=size)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", buffer.getvalue())


def json_keras(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "[" + '{"a":1},' * 2_000_000 + "1]")
        archive.writestr("model.weights.h5", b"")


def with_pickle(path: Path, pickled: bytes, packing: int = zipfile.ZIP_DEFLATED) -> None:
    torch.save(nn.GRU(2, 3).state_dict(), path)
    rewritten(
        path,
        packing=packing,
        change=lambda name, data: pickled if name.endswith("data.pkl") else data,
    )


def padded_pt(path: Path) -> None:
    with_pickle(path, pickle.dumps({}, 2) + bytes(2**28))


def lists_pt(path: Path) -> None:
    with_pickle(path, b"\x80\x02" + b"]" * 5_000_000 + b".", zipfile.ZIP_STORED)


def bytearray_pt(path: Path) -> None:
    size = struct.pack("<i", 2**31 - 1)
    with_pickle(path, b"\x80\x02cbuiltins\nbytearray\nJ" + size + b"\x85R.")


def old_lists_pt(path: Path) -> None:
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    path.write_bytes(b"".join(head) + b"\x80\x02" + b"]" * 5_000_000 + b".")


def dicts_pt(path: Path) -> None:
    """2**60 names for one tensor."""
    state: dict[str, Any] = {"w": torch.zeros(3)}
    for _ in range(60):
        state = {"a": state, "b": state}
    torch.save(state, path)


def views_pt(path: Path) -> None:
    numbers = torch.zeros(500_000)
    views = {
        f"l{k}.{name}": numbers[k : k + np.prod(size)].view(size)
        for k in range(300)
        for name, size in (
            ("weight_ih_l0", (1200, 400)),
            ("weight_hh_l0", (1200, 400)),
            ("bias_ih_l0", (1200,)),
            ("bias_hh_l0", (1200,)),
        )
    }
    torch.save(views, path)


def concat_onnx(path: Path) -> None:
    """W is what 40 times 40 copies of it make."""
    w = (
        encode_field(1, 1)
        + encode_field(1, 300)
        + encode_field(1, 100)
        + encode_field(2, 1)
        + encode_field(8, "W")
    )
    graph = encode_field(5, w + encode_field(9, bytes(120_000)))
    axis = encode_field(5, encode_field(1, "axis") + encode_field(3, 0) + encode_field(20, 2))
    for before, name in (("W", "a"), ("a", "b"), ("b", "c")):
        node = (
            encode_field(1, before) * 40 + encode_field(2, name) + encode_field(4, "Concat") + axis
        )
        graph += encode_field(1, node)
    inputs = b"".join(encode_field(1, name) for name in "XcW")
    path.write_bytes(
        encode_field(
            7, graph + encode_field(1, inputs + encode_field(2, "Y") + encode_field(4, "GRU"))
        )
    )


def parts_onnx(path: Path) -> None:
    path.write_bytes(encode_field(7, encode_field(5, b"") * 1_000_000))


def same_names_onnx(path: Path) -> None:
    node = (
        b"".join(encode_field(1, name) for name in "XWR")
        + encode_field(3, "n")
        + encode_field(4, "RNN")
    )
    weights = (
        b"".join(encode_field(1, 1) for _ in range(3))
        + encode_field(2, 1)
        + encode_field(9, bytes(4))
    )
    arrays = b"".join(encode_field(5, weights + encode_field(8, name)) for name in "WR")
    path.write_bytes(encode_field(7, arrays + encode_field(1, node) * 20_000))


def entries_npz(path: Path) -> None:
    """A directory of a million names, and nothing else."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, *[0] * 8, 1, *[0] * 6) + b"a"
    size = 1_000_000 * len(entry)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, size, 4, 0)
    path.write_bytes(b"PK\3\4" + entry * 1_000_000 + end)


def headers_npz(path: Path) -> None:
    fields = ",".join(f"('f{k}','<f4')" for k in range(600))
    text = f"{{'descr': [{fields}], 'fortran_order': False, 'shape': (0,), }}".encode()
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(300):
            archive.writestr(f"a{k}.npy", data)


def layers_safetensors(path: Path) -> None:
    state = {name: torch.zeros(value.shape) for name, value in nn.RNN(1, 1).state_dict().items()}
    save_file({f"l{k}.{n}": v.clone() for k in range(6000) for n, v in state.items()}, path)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    make.__name__: (make, reason)
    for make, reason in (
        (zeros_pt, "far more than the"),
        (zeros_npz, "far more than the"),
        (zeros_h5, "far more than the"),
        (zeros_keras, "far more than the"),
        (json_keras, "far more than the"),
        (padded_pt, "far more than the"),
        (lists_pt, "far more than the"),
        (bytearray_pt, "far more than the"),
        (old_lists_pt, "far more than the"),
        (dicts_pt, "far more than the"),
        (views_pt, "far more than the"),
        (concat_onnx, "far more than the"),
        (parts_onnx, "far more than the"),
        (same_names_onnx, "holds 20000 recurrent layers"),
        (entries_npz, "far more than the"),
        (headers_npz, "far more than the"),
        (layers_safetensors, "holds 6000 recurrent layers"),
    )
}
MEASURED = textwrap.dedent("""
    import json, os, sys, time
    from pathlib import Path
    import rnnscope as rs

    def peak():
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

    paths, whole = json.loads(sys.argv[1])
    for path in whole:
        rs.load(path)  # imports, first calls
    for path in paths:
        if os.fork() == 0:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before, start = peak(), time.process_time()
            try:
                said = f"loaded {len(rs.load(path))}"
            except rs.FileError as error:
                said = str(error)
            print(json.dumps([peak() - before, time.process_time() - start, said]), flush=True)
            os._exit(0)
        os.wait()
""")


def measured(*paths: Path) -> list[tuple[int, float, str]]:
    """(bytes, seconds, what was said) of loading each file, in a process of its own."""
    whole = []
    for ending in (".pt", ".npz", ".safetensors", ".onnx"):
        whole.append(str(paths[0].with_name(f"whole{ending}")))
        rs.save(nn.GRU(2, 3), whole[-1])
    words = json.dumps([[str(path) for path in paths], whole])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, words], capture_output=True, text=True, check=True
    )
    results = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(results) == len(paths), done.stderr
    for path, (taken, seconds, said) in zip(paths, results, strict=True):
        size = path.stat().st_size / 1e6
        print(f"{path.name}: {size:.1f} MB, {taken / 1e6:.0f} MB taken, {seconds:.1f} s: {said}")
    return results


LONG = ("zeros_pt", "zeros_npz", "padded_pt", "lists_pt", "old_lists_pt", "dicts_pt")
LONG += ("headers_npz", "layers_safetensors")
SHORT = tuple(name for name in HOSTILE if name not in LONG)


@LINUX
@pytest.mark.parametrize("names", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_what_takes_far_more_than_its_size_is_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    pytest.importorskip("h5py", reason="h5py writes some of the files")
    paths = []
    for name in names:
        paths.append(tmp_path / f"{name}.{name.rpartition('_')[2]}")
        HOSTILE[name][0](paths[-1])
    for path, (taken, _, said) in zip(paths, measured(*paths), strict=True):
        assert HOSTILE[path.stem][1] in said
        assert str(path) in said
        assert taken < 10 * path.stat().st_size + 256e6, path.stem


@LINUX
def test_weights_that_are_packed_well_are_loaded(tmp_path: Path) -> None:
    """What is as small as most models is read however small it was packed."""
    layer = nn.GRU(500, 500)
    state = {name: torch.zeros_like(value).numpy() for name, value in layer.state_dict().items()}
    np.savez_compressed(tmp_path / "m.npz", **state)
    assert (tmp_path / "m.npz").stat().st_size < 10_000
    ((taken, _, said),) = measured(tmp_path / "m.npz")
    assert said == "loaded 1"
    assert taken < 64e6


# thousands of layers -------------------------------------------------------------------------


class Counted:
    """A callable that counts its calls."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return self.inner(*args, **options)


def many(count: int) -> dict[str, torch.Tensor]:
    return {
        f"l{k}.{name}": torch.full(value.shape, float(k))
        for k in range(count)
        for name, value in nn.RNN(1, 1).state_dict().items()
    }


def write_h5(state: dict[str, torch.Tensor], path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py writes the file")
    with h5py.File(path, "w") as file:
        for name, value in state.items():
            file[name.replace(".", "/")] = value.numpy()


WRITERS: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {
    ".pt": torch.save,
    ".pth": old_format,
    ".safetensors": save_file,
    ".npz": lambda state, path: np.savez(path, **{n: v.numpy() for n, v in state.items()}),
    ".h5": write_h5,
}


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_is_opened_as_often_for_many_layers_as_for_one(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for count in (1, 100):
        path = tmp_path / f"m{count}{ending}"
        state = many(count)
        WRITERS[ending](state, path)
        with monkeypatch.context() as patch:
            opened = [
                ("pathlib.Path.open", Path.open),
                ("zipfile.ZipFile.__init__", zipfile.ZipFile.__init__),
                ("rnnscope._files.arrays.safetensors.safe_open", safetensors_reader.safe_open),
                ("torch.load", torch.load),
            ]
            counts = []
            for place, inner in opened:
                counted = Counted(inner)
                counts.append(counted)
                patch.setattr(place, lambda *a, _c=counted, **o: _c(*a, **o))
            layers: Any = rs.load(path)
        assert len(layers) == count
        for k in range(count):
            assert layers[f"l{k}"].weight_hh_l0.item() == k
        calls.append([counted.calls for counted in counts])
    assert calls[0] == calls[1]
    assert sum(calls[0]) <= 6


@pytest.mark.slow
@LINUX
def test_two_thousand_layers(tmp_path: Path) -> None:
    paths = []
    for ending, write in WRITERS.items():
        paths.append(tmp_path / f"m{ending}")
        write(many(2000), paths[-1])
    for path, (taken, _, said) in zip(paths, measured(*paths), strict=True):
        assert said == "loaded 2000"
        assert taken < 10 * path.stat().st_size + 256e6


def test_as_many_nodes_of_one_name_get_names_of_their_own(tmp_path: Path) -> None:
    node = (
        b"".join(encode_field(1, name) for name in "XWR")
        + encode_field(3, "n")
        + encode_field(4, "RNN")
    )
    weights = (
        b"".join(encode_field(1, 1) for _ in range(3))
        + encode_field(2, 1)
        + encode_field(9, bytes(4))
    )
    arrays = b"".join(encode_field(5, weights + encode_field(8, name)) for name in "WR")
    (tmp_path / "m.onnx").write_bytes(encode_field(7, arrays + encode_field(1, node) * 5))
    assert list(rs.load(tmp_path / "m.onnx")) == ["n", "n_", "n__", "n___", "n____"]


def test_eigenvalues_are_computed_once_for_a_shared_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = nn.GRU(3, 4).state_dict()
    torch.save({f"l{k}": state for k in range(100)}, tmp_path / "m.pt")
    counted = Counted(torch.linalg.eigvals)
    monkeypatch.setattr(torch.linalg, "eigvals", counted)
    layers = summarize(tmp_path / "m.pt").layers
    assert counted.calls == 3  # of r, z and n
    expected = {
        gate: float(np.abs(np.linalg.eigvals(part.double().numpy())).max())
        for gate, part in zip("rzn", state["weight_hh_l0"].split(4), strict=True)
    }
    for layer in layers:
        assert layer["spectral_radius"]["l0 forward"] == pytest.approx(expected, abs=1e-12)


def test_eigenvalues_are_computed_as_far_as_the_file_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "_WORK", 5 * 4**3)
    torch.save(state_of({"a": nn.GRU(3, 4), "b": nn.LSTM(3, 4)}), tmp_path / "m.pt")
    first, second = (
        each["spectral_radius"]["l0 forward"] for each in summarize(tmp_path / "m.pt").layers
    )
    assert [gate for gate, radius in (first | second).items() if radius is None] == ["g", "o"]
    assert "not computed" in str(summarize(tmp_path / "m.pt"))


# the command line ----------------------------------------------------------------------------


def files_for_the_command_line(folder: Path) -> list[Path]:
    """Some of every kind that cannot be read."""
    scripted(folder / "scripted.pt")
    bytearray_pt(folder / "bytearray.pt")
    padded_pt(folder / "padded.pt")
    (folder / "cut.npz").write_bytes(b"PK\3\4")
    with zipfile.ZipFile(folder / "bz2.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("weight_ih_l0.npy", b"a")
    with zipfile.ZipFile(folder / "no.npz", "w") as archive:
        archive.writestr("weight_ih_l0.npy", b"\x93NUMPY\x09\x00")
    for k, text in enumerate(
        ("'descr': 3", "'descr': ('<f4', (-1,))", "-" * 5000, "'descr': '<f99'")
    ):
        head = f"{{{text}, 'fortran_order': False, 'shape': (3,), }}".encode()
        with zipfile.ZipFile(folder / f"header{k}.npz", "w") as archive:
            data = b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + bytes(12)
            archive.writestr("weight_ih_l0.npy", data)
    for k, shape in enumerate(("(-3,)", "(10000000000000, 10000000000000)", "(3.5,)", "3")):
        head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        with zipfile.ZipFile(folder / f"shape{k}.npz", "w") as archive:
            data = b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + bytes(12)
            archive.writestr("weight_ih_l0.npy", data)
    (folder / "json.keras").write_bytes(b"PK\3\4")
    return sorted(path for path in folder.iterdir())


def test_every_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    for path in files_for_the_command_line(tmp_path):
        assert_said_on_the_command_line(path)


def test_too_little_memory_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rs.save(nn.GRU(2, 3), tmp_path / "m.npz")

    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", full)
    assert_said_on_the_command_line(tmp_path / "m.npz")


@pytest.mark.parametrize(
    "text", ["{'descr': '<f4', 'fortran_order': False, 'shape': (3,), (", "-" * 5000]
)
def test_a_header_that_is_no_python(tmp_path: Path, text: str) -> None:
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + bytes(12)
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(rs.FileError, match=r"x\.npy: not a whole \.npy file"):
        read_sequence(tmp_path / "x.npy")
    with pytest.raises(rs.FileError, match=r"x\.npy: not a whole \.npy file"):
        rs.compare(tmp_path / "x.npy", nn.GRU(2, 3), torch.zeros(4, 1, 2))
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("weight_ih_l0.npy", data)
    assert_said_on_the_command_line(tmp_path / "m.npz")


@pytest.mark.parametrize("write", [torch.save, save_file])
def test_floats_without_operations_are_no_weights(
    tmp_path: Path, write: Callable[[Any, Path], None]
) -> None:
    path = tmp_path / ("m.pt" if write is torch.save else "m.safetensors")
    write({n: v.to(torch.float8_e4m3fn) for n, v in nn.GRU(2, 3).state_dict().items()}, path)
    with pytest.raises(rs.FileError, match=r"weight_ih_l0 is torch\.float8_e4m3fn; expected"):
        rs.load(path)


def test_a_csv_takes_little_more_than_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("1," * 2**20 + "1\n")
    with pytest.raises(rs.FileError, match="line 1: more than 1048576 features"):
        read_sequence(path)


def test_layers_do_not_lie_in_their_file(tmp_path: Path) -> None:
    """Weights of a file may be changed, and the file stays as it is."""
    for ending in (".pt", ".npz", ".safetensors", ".onnx"):
        path = tmp_path / f"m{ending}"
        rs.save(nn.GRU(2, 3), path)
        before = path.read_bytes()
        (layer,) = rs.load(path).values()
        with torch.no_grad():
            for value in layer.parameters():
                value.fill_(7)
        assert path.read_bytes() == before
