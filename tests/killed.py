"""Records in child processes that are killed, each at another step of its work on the disk.

    python killed.py PATH SEQUENCES BATCH SHARD_BYTES EVENT [EVENT ...]

A child of each EVENT goes on where the one before was killed, and ends itself with SIGKILL at that
many of Python's audit events (a file that is opened, renamed, removed, a folder made). Prints how
many batches each child had reported, and how many are safe after its end; -1 events never come.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from corpora import batches, encoder, run, texts

import rnnscope as rs
from rnnscope._corpus.disk.folder import place_of
from rnnscope._corpus.disk.store import Store

ON_DISK = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def kill_at(events: int, path: str) -> None:
    """End this process, as by kill -9, at one of its steps in a folder."""
    remaining = events

    def count(event: str, details: tuple[object, ...]) -> None:
        nonlocal remaining
        if event in ON_DISK and any(path in str(part) for part in details):
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def safe(path: str) -> int:
    store = Store.find(place_of(path))
    if store is None:
        return 0
    recorded = {batch.number for batch in store.look().batches}
    assert not store.damaged
    return len(recorded) + len(store.journal(recorded))


def tell(pipe: int, state: object) -> None:
    """One more batch was handed over."""
    os.write(pipe, b".")


def main() -> None:
    path, count, size, shard_bytes, *events = sys.argv[1:]
    torch.set_num_threads(1)
    model, parts = encoder(), batches(int(count), int(size))
    # what is imported at the first use is there before the children come
    rs.record(model, parts[:1], f"{path}-first", call=run)
    results = []
    for event in map(int, events):
        before = safe(path) if Path(path).exists() else 0
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            # the batch that is told of is handed over, those before it are on disk
            kill_at(event, path)
            rs.record(
                model,
                parts,
                path,
                call=run,
                labels=texts,
                shard_bytes=int(shard_bytes),
                progress=partial(tell, write_end),
            )
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as reports:
            reported = len(reports.read())
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        results.append([killed, status == 0, before + reported, safe(path)])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
