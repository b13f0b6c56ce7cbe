"""Objects of classes in a file of torch.save: nothing of them is run, whatever their pickle says.

The judge of what runs is a class whose every way of being made leaves a file behind; that it does
under pickle itself is checked first.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rnnscope as rs
from rnnscope._files.pytorch.inert import inert

MARKER: list[str] = []


def made(*arguments: Any) -> Any:
    MARKER.append("called")
    return Made()


class Made:
    """Leaves a mark by every method that unpickling may call."""

    def __new__(cls, *_: Any) -> Made:
        MARKER.append("new")
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        MARKER.append("setstate")

    def __hash__(self) -> int:
        MARKER.append("hash")
        return 1

    def __eq__(self, _: object) -> bool:
        MARKER.append("eq")
        return True

    def append(self, _: Any) -> None:
        MARKER.append("append")

    def extend(self, _: Any) -> None:
        MARKER.append("extend")

    def __setitem__(self, *_: Any) -> None:
        MARKER.append("setitem")


class ByReduce:
    """What unpickling makes by a call, with a state, members of a list and of a dict."""

    def __reduce__(self) -> Any:
        return made, (1, 2), {"a": 1}, iter([1, 2]), iter([("k", 3)])


class ByNew(Made):
    """What unpickling makes by its class, with a state."""

    def __init__(self) -> None:
        self.a = 1


def checkpoint(extra: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    return {"state_dict": nn.GRU(3, 5).state_dict(), "hyper_parameters": extra}


@pytest.mark.parametrize("extra", [ByReduce(), ByNew(), {"k": [ByReduce()]}, {Made: ByNew}])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_runs(tmp_path: Path, extra: Any, protocol: int) -> None:
    path, value = tmp_path / "m.ckpt", checkpoint(extra)
    torch.save(value, path, pickle_protocol=protocol)
    MARKER.clear()
    (layer,) = rs.load(path).values()
    assert MARKER == []
    for name, tensor in value["state_dict"].items():
        assert torch.equal(layer.state_dict()[name], tensor)


def test_the_judge_sees_what_pickle_runs() -> None:
    data = pickle.dumps(ByReduce())
    MARKER.clear()
    pickle.loads(data)
    assert {"called", "new", "setstate", "extend", "setitem"} <= set(MARKER)


class Harm:
    def __init__(self, called: Any, *arguments: Any) -> None:
        self.parts = called, arguments

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("name", ["eval", "exec", "system"])
def test_what_could_do_harm_is_refused(tmp_path: Path, name: str) -> None:
    called = {"eval": eval, "exec": exec, "system": os.system}[name]
    path = tmp_path / "m.ckpt"
    torch.save(checkpoint(Harm(called, "1 + 1")), path)
    with pytest.raises(rs.FileError, match="which no model needs"):
        rs.load(path)


def with_pickle(path: Path, change: Any) -> Path:
    """The file with other operations in its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, change(data) if name.endswith("data.pkl") else data)
    path.write_bytes(buffer.getvalue())
    return path


OPERATIONS = {
    "extension codes": b"\x80\x02\x82\x01.",
    "buffers": b"\x80\x05\x97.",
    "no end": b"\x80\x02}",
    "no mark": b"\x80\x02}u.",
    "an empty stack": b"\x80\x02R.",
    "a memo that was never put": b"\x80\x02h\x05.",
    "a storage of no kind": b"\x80\x02}U\x01aU\x01bQs.",
    "a call with no tuple": b"\x80\x02ca\nb\nN}R.",
    "a tensor of nothing": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a dict that holds itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "deep nesting": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_odd_pickles_raise_one_error(tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.ckpt"
    torch.save(checkpoint(ByReduce()), path)
    with pytest.raises(rs.FileError):
        rs.load(with_pickle(path, lambda _: OPERATIONS[what]))


def test_mutations_run_nothing_and_raise_one_error(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    torch.save(checkpoint({"a": ByReduce(), "b": ByNew()}), path)
    with zipfile.ZipFile(path) as archive:
        (data,) = (archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))
    generator = random.Random(3)
    MARKER.clear()
    for _ in range(1500):
        mutated = bytearray(data)
        for _ in range(generator.randrange(1, 4)):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        try:
            read = inert(bytes(mutated), path)
        except rs.FileError:
            continue
        if read is not None:
            assert len(read.pickle) < 20 * len(data)
    assert MARKER == []


def test_numbers_that_repeat_take_no_more_room(tmp_path: Path) -> None:
    large = b"\x8b" + (100_000).to_bytes(4, "little") + b"\x01" * 100_000
    data = b"\x80\x02]" + large + b"q\x00a" + b"h\x00a" * 1000 + b"."
    read = inert(data, tmp_path)
    assert read is not None
    assert len(read.pickle) < len(data)


def test_a_layer_inside_an_object_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    torch.save({"model": nn.LSTM(3, 4), "step": torch.ones(2)}, path)
    with pytest.raises(rs.FileError, match=r"torch\.save"):
        rs.load(path)
