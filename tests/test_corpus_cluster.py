"""rs.record on a cluster of Dask on this machine: the same store, each batch exactly once."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import batches, check_store, encoder, run, texts
from torch import nn
from torch.utils.data import DataLoader

import rnnscope as rs

HERE = str(Path(__file__).parent)


@contextmanager
def cluster(processes: bool, workers: int = 2) -> Iterator[Any]:
    """A client with workers of one thread each; these are children of this process."""
    import dask
    import distributed

    variables = {
        "PYTHONPATH": f"{Path(rs.__file__).parents[1]}:{HERE}",
        "OMP_NUM_THREADS": "1",
    }
    settings = {
        "distributed.nanny.pre-spawn-environ": variables,
        # a machine that is busy with other work answers late
        "distributed.comm.timeouts.connect": "300s",
        "distributed.comm.timeouts.tcp": "300s",
        "distributed.scheduler.worker-ttl": None,
    }
    with warnings.catch_warnings(), dask.config.set(settings):
        warnings.simplefilter("ignore")  # of Dask and tornado, of ports and sockets that they close
        with (
            distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=processes,
                dashboard_address=None,
                silence_logs=50,
            ) as local,
            distributed.Client(local) as client,
        ):
            yield client


@pytest.mark.slow
def test_workers_write_the_same_store(tmp_path: Path) -> None:
    """Threads of this process stand for workers."""
    model, parts = encoder(), batches(14)
    with cluster(processes=False) as client:
        states: list[Any] = []
        options: dict[str, Any] = {"call": run, "labels": texts, "client": client}
        store = rs.record(model, parts, tmp_path / "list", progress=states.append, **options)
        assert [state.batches for state in states] == [1, 2, 3, 4]
        assert states[-1].sequences == 14
        assert store.data()["complete"]
        loader = DataLoader(
            [word for part in parts for word in part], batch_size=4, collate_fn=list
        )
        rs.record(model, loader, f"file://{tmp_path}/loader", **options)
        from dask import bag

        source = bag.from_sequence(parts, npartitions=2)
        rs.record(model, source, tmp_path / "bag", **options)
        # what one process began, workers finish, and the other way round
        rs.record(model, parts[:2], tmp_path / "begun", call=run, labels=texts)
        rs.record(model, parts, tmp_path / "begun", **options)
        with pytest.raises(rs.BatchError, match="batch 1: "):
            rs.record(nn.GRU(3, 4), [X, X[..., :2], X], tmp_path / "wrong", client=client)
        wrong = rs.record(
            nn.GRU(3, 4), [X, X[..., :2]], tmp_path / "skip", client=client, on_error="skip"
        )
        assert list(wrong.skipped) == [1]
        with pytest.raises(rs.RefusedError, match="with client= each batch must be had by its"):
            rs.record(model, iter(parts), tmp_path / "iter", **options)
        found = rs.statistics(rs.open_record(tmp_path / "list")["rnn"], "h")
        values = rs.open_record(tmp_path / "list")["rnn"]["h"].values.astype(np.float64)
        np.testing.assert_allclose(found["h_mean"], values.mean(0), rtol=1e-12)
    for name in ("list", "loader", "bag", "begun"):
        check_store(tmp_path / name, model, parts)


X = torch.linspace(-1, 1, 30, device="cpu", dtype=torch.float32).reshape(5, 2, 3)


class KillsItsWorker:
    """A function that loads a batch; the first time, it ends the process that calls it."""

    def __init__(self, batch: Any, mark: Path) -> None:
        self.batch, self.mark = batch, mark

    def __call__(self) -> Any:
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return self.batch
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process goes no further")


@pytest.mark.slow
def test_a_killed_worker_s_batches_are_done_again_exactly_once(tmp_path: Path) -> None:
    """2,000 sequences on two worker processes, one of which is killed: as kill -9, in its work."""
    model, parts = encoder(), batches(2000, size=40)
    source: list[Any] = [lambda part=part: part for part in parts]
    source[20] = KillsItsWorker(parts[20], tmp_path / "killed")
    with cluster(processes=True) as client:
        before = set(client.run(os.getpid).values())
        rs.record(model, source, tmp_path / "gates", call=run, labels=texts, client=client)
        after = set(client.run(os.getpid).values())
    assert (tmp_path / "killed").exists()
    assert before != after
    assert len(list((tmp_path / "gates").glob("batches-*"))) == len(parts)
    check_store(tmp_path / "gates", model, parts)


def test_what_workers_are_sent_is_one_piece_of_bytes(tmp_path: Path, caplog: Any) -> None:
    """Else distributed logs an error for the weak references inside a recurrent layer."""
    from distributed.protocol import deserialize, serialize

    from rnnscope._corpus.cluster import Assignment, recorded_batch
    from rnnscope._corpus.disk.folder import place_of
    from rnnscope._corpus.settings import selected

    model, parts = encoder(), batches(4)
    settings = selected(
        "gates", None, (lambda model, batch: model(batch), None), "all", (None, True, None)
    )
    rs.record(model, [], tmp_path / "gates", call=run)
    work = Assignment(model, settings, place_of(tmp_path / "gates"), True, False)
    sent = deserialize(*serialize(work, on_error="raise"))
    assert caplog.records == []
    assert recorded_batch(sent, 0, lambda: parts[0]).facts is not None
    check_store(tmp_path / "gates", model, parts)


def test_two_that_do_the_same_batch_leave_one_shard(tmp_path: Path) -> None:
    from rnnscope._corpus.cluster import Assignment, recorded_batch
    from rnnscope._corpus.disk.folder import place_of
    from rnnscope._corpus.settings import selected

    model, parts = encoder(), batches(4)
    rs.record(model, [], tmp_path / "gates", call=run)
    settings = selected("gates", None, (run, None), "all", (None, True, None))
    work = Assignment(model, settings, place_of(tmp_path / "gates"), True, False)
    for _ in range(2):
        assert recorded_batch(work, 0, lambda: parts[0]).facts is not None
    assert len(list((tmp_path / "gates").glob("batches-*"))) == 1
    assert not list((tmp_path / "gates").glob(".writing*"))
    check_store(tmp_path / "gates", model, parts)


def test_without_the_extra_for_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(rs.MissingExtraError, match=r"'rnnscope\[distributed\]'"):
        rs.record(nn.GRU(3, 4), [X], tmp_path / "gates", client=object())
