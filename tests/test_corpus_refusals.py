"""What cannot be recorded or read is told with its place, and leaves what there is as it was."""

from __future__ import annotations

import builtins
import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import batches, check_store, encoder, run, texts
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import rnnscope as rs


@pytest.fixture
def gru() -> nn.GRU:
    return nn.GRU(3, 4)


X = torch.linspace(-1, 1, 30, device="cpu", dtype=torch.float32).reshape(5, 2, 3)


# places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "folder", "group", "json"])
def test_a_path_that_is_no_store_is_refused_and_left_alone(
    gru: nn.GRU, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "gates"
    if what == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        content = {"folder": None, "group": '{"zarr_format": 3, "attributes": {}}', "json": "{"}
        (path / ("mine" if what == "folder" else "zarr.json")).write_text(content[what] or "mine")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for verb in (
        lambda: rs.record(gru, [X], path),
        lambda: rs.open_record(path),
    ):
        with pytest.raises(rs.FileError, match=r"exists and is no store of rs\.record"):
            verb()
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_an_empty_folder_serves(gru: nn.GRU, tmp_path: Path) -> None:
    (tmp_path / "gates").mkdir()
    rs.record(gru, [X], tmp_path / "gates")
    assert rs.open_record(tmp_path / "gates")[""].sizes["step"] == 10


def test_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(rs.FileError, match=r"there is no store of rs\.record here"):
        rs.open_record(tmp_path / "gates")
    assert not (tmp_path / "gates").exists()


def test_a_store_of_a_newer_version_is_told(gru: nn.GRU, tmp_path: Path) -> None:
    rs.record(gru, [X], tmp_path)
    description = json.loads((tmp_path / "zarr.json").read_text())
    description["attributes"]["rnnscope_record"] |= {"format": 2, "version": "9.0"}
    (tmp_path / "zarr.json").write_text(json.dumps(description))
    for verb in (lambda: rs.open_record(tmp_path), lambda: rs.record(gru, [X], tmp_path)):
        with pytest.raises(rs.FileError, match=r"newer rnnscope \(9\.0, form 2\).*reads form 1"):
            verb()


def test_a_store_is_recorded_into_by_one_process(gru: nn.GRU, tmp_path: Path) -> None:
    import fcntl

    rs.record(gru, [X], tmp_path)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(rs.FileError, match="another process or thread is recording"):
            rs.record(gru, [X, X], tmp_path)
    rs.record(gru, [X, X], tmp_path)


@pytest.mark.parametrize("place", ["file/gates", "/proc/gates"])
def test_what_the_system_answers_is_told_with_the_place(
    gru: nn.GRU, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(rs.FileError, match=rf"cannot write {tmp_path / place}: No"):
        rs.record(gru, [X], tmp_path / place)


def test_places_that_are_closed(
    gru: nn.GRU, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's answers are given by hand, since root is never refused."""
    rs.record(gru, [X], tmp_path)

    def closed(*args: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    original = Path.open
    with monkeypatch.context() as patched:
        patched.setattr(
            Path, "open", lambda p, *a, **o: (closed if p.name == ".lock" else original)(p, *a, **o)
        )
        with pytest.raises(rs.FileError, match=f"cannot write {tmp_path}: Permission denied"):
            rs.record(gru, [X], tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", closed)
        with pytest.raises(rs.FileError, match=f"cannot read {tmp_path}: Permission denied"):
            rs.open_record(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("os.listdir", closed)
        with pytest.raises(rs.FileError, match=f"cannot read {tmp_path}: Permission denied"):
            rs.open_record(tmp_path)


def test_the_home_is_meant_by_its_sign(
    gru: nn.GRU, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rs.record(gru, [X], "~/gates")
    assert rs.open_record(tmp_path / "gates")[""].sizes["step"] == 10
    with rs.watch(gru) as seen:
        gru(X)
    seen.save("~/calls")
    assert (tmp_path / "calls" / "0.trace").exists()


@pytest.mark.parametrize("place", [".", "/"])
def test_a_place_without_a_name_is_no_file(gru: nn.GRU, place: str) -> None:
    tr = rs.trace(gru, X)
    for save in (tr.save, tr.memory().save):
        with pytest.raises(rs.FileError, match="it is a folder; name a file"):
            save(place)


# a full disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_bytes", [pytest.param(1, marks=pytest.mark.slow), 2**26])
def test_a_full_disk_loses_nothing_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    """The system's answer is given by hand here; the test below asks a small disk."""
    from rnnscope._corpus import writer

    path, model, parts = tmp_path / "gates", encoder(), batches(24)
    original = {name: getattr(writer, name) for name in ("write_shard", "write_journal")}
    calls = []

    def full(name: str) -> Any:
        def write(*args: Any) -> Any:
            calls.append(name)
            if len(calls) > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original[name](*args)

        return write

    with monkeypatch.context() as patched:
        for name in original:
            patched.setattr(writer, name, full(name))
        with pytest.raises(rs.FileError, match=r"No space left on device, at batch 4\."):
            rs.record(model, parts, path, call=run, labels=texts, shard_bytes=shard_bytes)
    recorded = []
    rs.record(
        model,
        parts,
        path,
        call=lambda model, batch: (recorded.append(batch), run(model, batch)),
        labels=texts,
    )
    assert len(recorded) == 2
    check_store(path, model, parts)


@pytest.mark.slow
def test_a_small_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode()}")
    try:
        model, parts = encoder(), batches(200)
        with pytest.raises(rs.FileError, match="No space left on device, at batch"):
            rs.record(model, parts, disk / "gates", call=run, labels=texts, shard_bytes=50_000)
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        rs.record(model, parts, disk / "gates", call=run, labels=texts, shard_bytes=50_000)
        check_store(disk / "gates", model, parts)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# models and batches ----------------------------------------------------------------------------


def test_a_model_without_recurrent_layers(tmp_path: Path) -> None:
    with pytest.raises(rs.NotRecurrentError, match="Linear holds no recurrent layer"):
        rs.record(nn.Linear(3, 4), [X], tmp_path / "gates")
    with pytest.raises(rs.NotRecurrentError, match=r"record takes an nn\.Module; got function"):
        rs.record(run, [X], tmp_path / "gates")  # type: ignore[arg-type]
    assert not (tmp_path / "gates").exists()


def test_names_that_are_not_there(gru: nn.GRU, tmp_path: Path) -> None:
    with pytest.raises(rs.AddressError, match=r'names must be "gates", "all" or names of GRU'):
        rs.record(gru, [X], tmp_path / "gates", names="f")
    with pytest.raises(rs.AddressError, match="modules: no recurrent layer 'encoder'"):
        rs.record(nn.Sequential(gru), [X], tmp_path / "gates", modules="encoder")
    assert not (tmp_path / "gates").exists()


def test_a_layer_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    class Loop(nn.LSTM):
        def forward(self, x: Any) -> Any:  # type: ignore[override]
            return x @ self.weight_ih_l0.T

    model = nn.ModuleDict({"gru": nn.GRU(3, 4), "loop": Loop(3, 4)})
    call: Any = lambda model, x: (model["gru"](x), model["loop"](x))  # noqa: E731
    with pytest.raises(rs.RefusedError, match=r"loop: .*modules=\[\.\.\.\] names those"):
        rs.record(model, [X], tmp_path / "gates", call=call)
    rs.record(model, [X], tmp_path / "gates2", call=call, modules=["gru"])


def test_an_empty_batch_is_told(gru: nn.GRU, tmp_path: Path) -> None:
    says = r"batch 1: not recorded: .*at least one step\. modules=.*on_error='skip' goes on behind"
    with pytest.raises(rs.RefusedError, match=says):
        rs.record(gru, [X, X[:, :0]], tmp_path / "gates")


def test_a_batch_that_reaches_no_layer(gru: nn.GRU, tmp_path: Path) -> None:
    with pytest.raises(rs.RefusedError, match="batch 0: the model called no recurrent layer"):
        rs.record(gru, [X], tmp_path / "gates", call=lambda model, batch: None)


def test_a_batch_that_the_model_refuses_is_told_with_its_number(
    gru: nn.GRU, tmp_path: Path
) -> None:
    wrong = torch.randn(5, 2, 7)
    with pytest.raises(rs.BatchError, match=r"batch 1: RuntimeError: .*on_error='skip'") as info:
        rs.record(gru, [X, wrong, X], tmp_path / "gates")
    assert isinstance(info.value.__cause__, RuntimeError)
    store = rs.record(gru, [X, wrong, X], tmp_path / "gates", on_error="skip")
    assert list(store.skipped) == [1]
    assert store.skipped[1].startswith("RuntimeError: ")
    assert "skipped: batch 1: RuntimeError" in str(store)
    ds = rs.open_record(tmp_path / "gates")[""]
    assert ds["sequence"].values.tolist() == [k for k in range(4) for _ in range(5)]
    again = rs.record(gru, [X, X, X], tmp_path / "gates")  # it is tried once more
    assert again.skipped == {}
    assert rs.open_record(tmp_path / "gates")[""].sizes["step"] == 30


def test_how_the_model_takes_a_batch_is_told(gru: nn.GRU, tmp_path: Path) -> None:
    with pytest.raises(rs.BatchError, match=r"call=lambda model, batch: model\(batch\[0\]\)"):
        rs.record(gru, [(X, X, X)], tmp_path / "gates")
    with pytest.raises(rs.BatchError, match=r"call=lambda model, batch: model\(batch\['input'\]\)"):
        rs.record(gru, [{"input": X, "targets": X}], tmp_path / "gates")


def test_a_batch_that_cannot_be_loaded(gru: nn.GRU, tmp_path: Path) -> None:
    def load() -> Any:
        raise OSError("no such file: words.txt")

    with pytest.raises(rs.BatchError, match="batch 1 cannot be loaded: no such file"):
        rs.record(gru, [X, load], tmp_path / "gates")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (lambda batch: "abcd", "batch 0: labels must be 5, one a step; got 4"),
        (lambda batch: [list("abcde")], "batch 0: labels hold 1 lists, and the batch 2 sequences"),
        (lambda batch: 3, "batch 0: labels must be a list of texts"),
    ],
)
def test_labels_of_another_length(gru: nn.GRU, tmp_path: Path, labels: Any, words: str) -> None:
    with pytest.raises(rs.ShapeError, match=words):
        rs.record(gru, [X], tmp_path / "gates", labels=labels)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(2, 4), r"batch 0: steps= must give a mask \(batch, time\) of \(2, 5\); got"),
        ("all of them", "batch 0: steps= must give a mask .* got str"),
    ],
)
def test_a_mask_of_another_shape(gru: nn.GRU, tmp_path: Path, mask: Any, words: str) -> None:
    with pytest.raises(rs.ShapeError, match=words):
        rs.record(gru, [X], tmp_path / "gates", steps=lambda batch: mask)


def test_a_layer_that_changes_between_batches(tmp_path: Path) -> None:
    model = nn.GRU(3, 4)

    def call(model: nn.GRU, batch: torch.Tensor) -> None:
        model.batch_first = len(batch) == 3
        model(batch)

    with pytest.raises(rs.ShapeError, match=r"batch_first=True.*and was nn\.GRU"):
        rs.record(model, [X, X[:3]], tmp_path / "gates", call=call)


def test_a_deviation_beyond_rounding_is_told_with_the_batch(
    gru: nn.GRU, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = nn.GRU.forward

    def patched(self: Any, x: Any, hx: Any = None) -> Any:
        output, h = original(self, x, hx)
        return output + 0.1, h

    monkeypatch.setattr(nn.GRU, "forward", patched)
    with pytest.raises(rs.VerificationError, match="batch 0: "):
        rs.record(gru, [X], tmp_path / "gates")


def wrong_from(gru: nn.GRU, monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """The calls of a layer that returns another output than its own in one of them."""
    original, calls = nn.GRU.forward, []

    def patched(self: Any, x: Any, hx: Any = None) -> Any:
        output, h = original(self, x, hx)
        calls.append(len(calls))
        return output + 0.1 * (len(calls) - 1 == number), h

    monkeypatch.setattr(nn.GRU, "forward", patched)
    return calls


def recorded_before(gru: nn.GRU, parts: list[torch.Tensor], path: Path) -> int:
    """How many batches a recording that goes on finds."""
    states: list[Any] = []
    assert rs.record(gru, parts, path, progress=states.append).batches == len(parts)
    return int(states[0].recorded)


def test_what_comes_first_is_raised_first(
    gru: nn.GRU, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_from(gru, monkeypatch, 1)
    told: list[int] = []
    with pytest.raises(rs.VerificationError, match="batch 1: "):  # and 2 cannot even run
        rs.record(
            gru, [X, X, X[..., :2]], tmp_path / "gates", progress=lambda p: told.append(p.batches)
        )
    assert told == [1]
    monkeypatch.undo()
    assert recorded_before(gru, [X, X], tmp_path / "gates") == 1


def test_batches_of_which_the_proof_fails_are_skipped_in_their_order(
    gru: nn.GRU, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_from(gru, monkeypatch, 1)
    store = rs.record(gru, [X, X, X[..., :2], X], tmp_path / "gates", on_error="skip")
    assert list(store.skipped) == [1, 2]
    assert store.batches == 2


def test_a_source_that_fails_leaves_the_batches_before_it(gru: nn.GRU, tmp_path: Path) -> None:
    def source() -> Any:
        yield X
        yield 2 * X
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        rs.record(gru, source(), tmp_path / "gates")
    assert recorded_before(gru, [X, 2 * X, 3 * X], tmp_path / "gates") == 2


def test_a_progress_that_raises_leaves_the_batches_before_it(gru: nn.GRU, tmp_path: Path) -> None:
    def stop(state: Any) -> None:
        if state.batches == 2:
            raise RuntimeError("enough")

    parts = [X, 2 * X, 3 * X, 4 * X]
    with pytest.raises(RuntimeError, match="enough"):
        rs.record(gru, parts, tmp_path / "gates", progress=stop)
    assert recorded_before(gru, parts, tmp_path / "gates") == 2


@pytest.mark.parametrize("kind", ["tensor", "array", "dict"])
def test_a_mask_that_is_written_again_for_the_next_batch_is_that_of_its_own(
    gru: nn.GRU, tmp_path: Path, kind: str
) -> None:
    mask = torch.zeros(2, 5, dtype=torch.bool, device="cpu")
    number = 0

    def steps(x: torch.Tensor) -> Any:
        nonlocal number
        mask.zero_()
        mask[:, number] = True
        number += 1
        return {"tensor": mask, "array": mask.numpy(), "dict": {"": mask}}[kind]

    rs.record(gru, [X, X, X, X], tmp_path / "gates", steps=steps)
    assert rs.open_record(tmp_path / "gates")[""]["time"].values.tolist() == [
        time for time in range(4) for _ in range(2)
    ]


@pytest.mark.parametrize("kind", ["lists", "list of lists", "dict"])
def test_labels_that_are_written_again_for_the_next_batch_are_those_of_their_own(
    gru: nn.GRU, tmp_path: Path, kind: str
) -> None:
    words, number = ["", "", "", "", ""], 0
    both = [words, words]
    named: dict[str, Any] = {}

    def labels(x: torch.Tensor) -> Any:
        nonlocal number
        words[:] = [f"{number}.{k}" for k in range(5)]
        number += 1
        named[""] = both
        return {"lists": [words] * 2, "list of lists": both, "dict": named}[kind]

    rs.record(gru, [X, X, X, X], tmp_path / "gates", labels=labels)
    written = rs.open_record(tmp_path / "gates")[""]["label"].values.tolist()
    assert written == [f"{n}.{k}" for n in range(4) for _ in range(2) for k in range(5)]


@pytest.mark.parametrize("how", ["in place", "state dict", "data"])
def test_weights_that_change_between_batches_are_told(
    gru: nn.GRU, tmp_path: Path, how: str
) -> None:
    def change(state: Any) -> None:
        if state.batches == 2 and how == "in place":
            with torch.no_grad():
                gru.weight_hh_l0.mul_(2)
        elif state.batches == 2 and how == "state dict":
            gru.load_state_dict({name: 2 * value for name, value in gru.state_dict().items()})
        elif state.batches == 2:
            gru.weight_hh_l0.data.mul_(2)

    words = r"changed while batches were recorded \(.*weight_hh_l0.*\).*: remove .*gates"
    for on_error in ("raise", "skip"):
        with pytest.raises(rs.RefusedError, match=words):
            rs.record(
                gru, [X] * 5, tmp_path / on_error / "gates", progress=change, on_error=on_error
            )


def test_batches_are_compared_as_they_came(gru: nn.GRU, tmp_path: Path) -> None:
    def call(model: nn.Module, x: torch.Tensor) -> None:
        model(x)
        x.zero_()

    for _ in range(2):
        rs.record(gru, [X.clone(), 2 * X], tmp_path / "gates", call=call)


def test_a_loader_with_an_iteration_of_its_own_is_iterated(gru: nn.GRU, tmp_path: Path) -> None:
    class Scaled(DataLoader[Any]):
        def __iter__(self) -> Any:
            return (2 * x for x in super().__iter__())

    loader = Scaled([X[:, 0], X[:, 1]], batch_size=2)
    rs.record(gru, loader, tmp_path / "gates", names="h")
    recorded = rs.open_record(tmp_path / "gates")[""]["h"].values
    with torch.no_grad():
        output, _ = gru(next(iter(loader)))  # (time, batch, unit)
    assert torch.equal(torch.from_numpy(recorded).reshape(5, 2, 4), output.transpose(0, 1))


def test_another_autocast_is_another_setting(gru: nn.GRU, tmp_path: Path) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rs.record(gru, [X], tmp_path / "gates")
    with pytest.raises(rs.FileError, match="autocast is None, and was 'cpu bfloat16'"):
        rs.record(gru, [X], tmp_path / "gates")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rs.record(gru, [X], tmp_path / "gates")
        with pytest.raises(rs.RefusedError, match=r"torch\.autocast: leave it"):
            rs.record(gru, [X], tmp_path / "other", client=object())


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([X[:, 0], X[:, 1]])


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        (X, TypeError, r"got Tensor\. One batch alone is \[batch\]; a tensor is cut"),
        (3, TypeError, "batches must be batches one after another"),
        ({"x": X}, TypeError, "got dict"),
        (DataLoader([X], shuffle=True), rs.RefusedError, "shuffle=True gives other batches"),
    ],
)
def test_batches_that_are_none(
    gru: nn.GRU, tmp_path: Path, source: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        rs.record(gru, source, tmp_path / "gates")
    assert not (tmp_path / "gates").exists()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"steps": "first"}, ValueError, 'steps must be "all", "last" or a function'),
        ({"dtype": torch.int8}, rs.DtypeError, "dtype must be one of"),
        ({"names": None}, TypeError, "names must be a name or a list of names; got None"),
        ({"names": 3}, TypeError, "names must be a name or a list of names; got 3"),
        ({"modules": [3]}, TypeError, r"modules must be a name or a list of names; got \[3\]"),
        ({"call": 3}, TypeError, "call must be a function; got int"),
        ({"labels": ["a"]}, TypeError, "labels must be a function; got list"),
        ({"check": "all"}, ValueError, "check must be"),
        ({"on_error": "ignore"}, ValueError, 'on_error must be "raise" or "skip"'),
        ({"shard_bytes": 0}, ValueError, "shard_bytes must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit(
    gru: nn.GRU, tmp_path: Path, options: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        rs.record(gru, [X], tmp_path / "gates", **options)
    assert not (tmp_path / "gates").exists()


# damage ----------------------------------------------------------------------------------------


def chunks(path: Path, name: str) -> list[Path]:
    return sorted(p for p in (path / name).glob("c.*"))


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("removed", "description", "no description")
        ),
    ],
)
def test_a_damaged_shard_is_named_and_the_rest_stays_readable(tmp_path: Path, damage: str) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(16)
    rs.record(model, parts, path, call=run, shard_bytes=1)
    shard = path / "batches-00000001-00000001"
    chunk = chunks(shard, "rnn/f")[0]
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-1])
    elif damage == "removed":
        chunk.unlink()
    elif damage == "description":
        (shard / "zarr.json").write_text('{"attributes": {"rnnscope_record": 3}}')
    else:
        (shard / "zarr.json").unlink()
    with pytest.raises(rs.FileError, match=r"shard batches-00000001-00000001 is damaged.*partial"):
        rs.open_record(path)
    ds = rs.open_record(path, partial=True)["rnn"]
    assert ds.sizes["step"] == sum(len(w) for k in (0, 2, 3) for w in parts[k])
    with pytest.raises(rs.FileError, match="batches-00000001-00000001 is damaged"):
        rs.record(model, parts, path, call=run)
    for file in sorted(shard.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    shard.rmdir()
    with pytest.raises(rs.FileError, match="lacks batch 1: the recording is not finished"):
        rs.open_record(path)
    rs.record(model, parts, path, call=run)  # its batches are recorded once more
    check_store(path, model, parts)


def test_the_last_shard_of_a_complete_store_is_missed(tmp_path: Path) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(12)
    rs.record(model, parts, path, call=run, shard_bytes=1)
    shutil.rmtree(path / "batches-00000002-00000002")
    with pytest.raises(rs.FileError, match=r"lacks batch 2: .*partial=True"):
        rs.open_record(path)
    assert set(rs.open_record(path, partial=True)["rnn"]["batch"].values.tolist()) == {0, 1}
    rs.record(model, parts, path, call=run)
    check_store(path, model, parts)


def test_a_changed_bit_is_told_where_it_is_read(tmp_path: Path) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(16)
    rs.record(model, parts, path, call=run, shard_bytes=1, compress=False)
    chunk = chunks(path / "batches-00000002-00000002", "rnn/f")[0]
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    ds = rs.open_record(path)["rnn"]
    with pytest.raises(rs.FileError, match="shard batches-00000002-00000002 is damaged: rnn's f"):
        ds["f"].values  # noqa: B018
    rs.sequence(ds, 0)
    assert ds["h"].values.any()


# extras ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["zarr", "dask", "xarray"])
def test_without_the_extra(
    gru: nn.GRU, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ImportError(name)
        return original(name, *args)

    for name in [n for n in sys.modules if n.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(rs.MissingExtraError, match=rf"needs {missing}.*'rnnscope\[record\]'"):
        rs.record(gru, [X], tmp_path / "gates")
    assert not (tmp_path / "gates").exists()


def test_a_url_of_no_known_kind(gru: nn.GRU) -> None:
    with pytest.raises(rs.FileError, match=r"nowhere://gates"):
        rs.record(gru, [X], "nowhere://gates")


def test_a_copy_of_a_shard_does_not_count_twice(tmp_path: Path) -> None:
    store = tmp_path / "gates"
    model, x = nn.GRU(3, 2, batch_first=True), torch.randn(4, 5, 3)
    rs.record(model, x.split(2), store, progress=False)
    (shard,) = store.glob("batches-*")
    shutil.copytree(shard, store / f"{shard.name}.bak")
    with pytest.raises(rs.FileError, match=rf"{shard.name}\.bak holds what {shard.name} holds"):
        rs.open_record(store)
    assert rs.open_record(store, partial=True)[""].sizes["step"] == 20


@pytest.mark.parametrize(
    ("batch", "line"),
    [(["one", "two"], "model(batch) says"), ([torch.zeros(2, 3)] * 2, "[0]) says")],
)
def test_a_list_that_the_model_does_not_take(batch: list[Any], line: str, tmp_path: Path) -> None:
    model = Taking()
    with pytest.raises(rs.errors.BatchError, match=re.escape(line)):
        rs.record(model, [batch], tmp_path / "gates", progress=False)


class Taking(nn.Module):
    """A model of one argument."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 2)

    def forward(self, batch: object) -> object:
        raise AssertionError("it is called with two arguments")
