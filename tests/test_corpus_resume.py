"""A recording that ends in any way goes on where it was, and holds every batch exactly once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from corpora import batches, check_store, encoder, run, texts

import rnnscope as rs

HERE = Path(__file__).parent


def killed(path: Path, sizes: tuple[int, int, int], events: list[int]) -> list[list[int]]:
    """Record ``sizes`` (sequences, of a batch, bytes of a shard) with kills in between."""
    process = subprocess.run(
        [sys.executable, str(HERE / "killed.py"), str(path), *map(str, (*sizes, *events))],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": f"{Path(rs.__file__).parents[1]}:{HERE}",
            "OMP_NUM_THREADS": "1",
        },
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def check_killed(results: list[list[int]]) -> None:
    """Of what a child had reported, at most the batch that was being written was lost."""
    for was_killed, _, reported, safe in results[:-1]:
        assert was_killed
        assert safe >= reported - 1
    assert results[-1][:2] == [False, True]


def test_a_recording_killed_again_and_again_is_whole_in_the_end(tmp_path: Path) -> None:
    drawn = random.Random(3)
    events = [drawn.randrange(1, 80) for _ in range(4)]
    check_killed(killed(tmp_path / "gates", (40, 4, 100_000), [*events, -1]))
    check_store(tmp_path / "gates", encoder(), batches(40, 4))
    left = [p.name for p in (tmp_path / "gates").iterdir() if p.name.startswith(".writing")]
    assert not left
    assert not list((tmp_path / "gates" / "journal").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("shard_bytes", [30_000, 300_000, 64 * 2**20])
def test_two_thousand_sequences_killed_at_three_moments(tmp_path: Path, shard_bytes: int) -> None:
    drawn = random.Random(shard_bytes)
    events = [drawn.randrange(200, 2000) for _ in range(3)]
    check_killed(killed(tmp_path / "gates", (2000, 8, shard_bytes), [*events, -1]))
    check_store(tmp_path / "gates", encoder(), batches(2000, 8))


def test_it_goes_on_behind_the_batches_that_are_there(tmp_path: Path) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(20)
    calls = []

    def counted(model: torch.nn.Module, batch: object) -> object:
        calls.append(batch)
        return run(model, batch)

    rs.record(model, parts[:3], path, call=counted)
    store = rs.record(model, parts, path, call=counted)
    assert len(calls) == len(parts) == store.batches
    rs.record(model, iter(parts), path, call=counted)  # nothing is left to do
    assert len(calls) == len(parts)
    check_store(path, model, parts)


def test_an_exception_in_between_loses_nothing(tmp_path: Path) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(20)

    class Stop(BaseException):
        """Stands for KeyboardInterrupt, which pytest takes for its own."""

    def stopping(model: torch.nn.Module, batch: list[torch.Tensor]) -> object:
        if batch is parts[3]:
            raise Stop
        return run(model, batch)

    with pytest.raises(Stop):
        rs.record(model, parts, path, call=stopping, labels=texts)
    assert len(list((path / "journal").iterdir())) == 3
    rs.record(model, parts, path, call=run, labels=texts)
    check_store(path, model, parts)


def test_other_weights_and_settings_are_refused_by_name(tmp_path: Path) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(12)
    rs.record(model, parts[:2], path, call=run)
    changed = encoder()
    with torch.no_grad():
        changed.rnn.bias_hh_l1[0] += 1
    with pytest.raises(rs.FileError, match=r"other weights: rnn\.bias_hh_l1\. Record into another"):
        rs.record(changed, parts, path, call=run)
    for options, words in (
        ({"names": ("f",)}, r"names is \['f'\], and was 'gates'"),
        ({"modules": ["rnn"]}, r"modules is \['rnn'\], and was None"),
        ({"dtype": torch.float16}, "dtype is 'float16', and was None"),
        ({"steps": "last"}, "steps is 'last', and was 'all'"),
        ({"labels": texts}, "labels is True, and was False"),
        ({"check": "thorough"}, "check is 'thorough', and was True"),
    ):
        with pytest.raises(rs.FileError, match=words):
            rs.record(model, parts, path, call=run, **options)
    with pytest.raises(rs.FileError, match="in train mode, and was in eval mode"):
        rs.record(encoder().train(), parts, path, call=run)
    with pytest.raises(rs.FileError, match="resume=True goes on with it"):
        rs.record(model, parts, path, call=run, resume=False)
    rs.record(model, parts, path, call=run)
    check_store(path, model, parts)


def test_a_store_that_holds_nothing_yet_takes_other_settings(tmp_path: Path) -> None:
    path, parts = tmp_path / "gates", batches(8)
    with pytest.raises(rs.ShapeError, match="batch 0: 'rnn': labels must be"):
        rs.record(encoder(), parts, path, call=run, names="f", labels=lambda batch: "abc")
    rs.record(encoder(7), parts, path, call=run, labels=texts)
    check_store(path, encoder(7), parts)


@pytest.mark.parametrize("form", ["list", pytest.param("generator", marks=pytest.mark.slow)])
def test_other_batches_are_refused(tmp_path: Path, form: str) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(12)
    rs.record(model, parts[:2], path, call=run)
    others = [parts[1], parts[0], parts[2]]
    with pytest.raises(rs.FileError, match="batch 0 holds other numbers than the one that was"):
        rs.record(model, others if form == "list" else iter(others), path, call=run)


def test_weights_that_change_while_the_model_runs_are_refused(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.GRU(3, 4))
    with pytest.raises(rs.RefusedError, match=r"the weights or buffers .* model\.eval\(\)"):
        rs.record(model, [torch.randn(5, 3)], tmp_path / "gates")
    rs.record(model.eval(), [torch.randn(5, 3)], tmp_path / "gates2")


@pytest.mark.parametrize("place", [0, 16_383, 16_384, 40_000, 65_535])
def test_one_number_of_a_large_batch_is_another(tmp_path: Path, place: int) -> None:
    """Large batches are known by the checksums of their blocks: of any block, in their order."""
    x = torch.randn(8, 1024, 8)
    model = torch.nn.RNN(8, 2, batch_first=True)
    path = tmp_path / "gates"
    rs.record(model, [x], path, progress=False)
    rs.record(model, [x.clone()], path, progress=False)  # the same numbers elsewhere in memory
    other = x.clone()
    other.view(-1).view(torch.int32)[place] ^= 1
    with pytest.raises(rs.errors.FileError, match="batch 0 holds other"):
        rs.record(model, [other], path, progress=False)
    with pytest.raises(rs.errors.FileError, match="batch 0 holds other"):
        rs.record(model, [torch.cat([x[4:], x[:4]])], path, progress=False)
