"""The writer: rows of batches go to disk in a thread beside the model's.

A batch is safe once its file is in the journal; when the journal holds enough, its files become a
shard. A batch that is large alone becomes a shard at once.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from rnnscope._corpus.disk.folder import Folder
from rnnscope._corpus.disk.journal import BatchRows, JournalFile, write_journal
from rnnscope._corpus.disk.shard import write_shard
from rnnscope._corpus.disk.store import Store
from rnnscope._corpus.rows import CapturedBatch
from rnnscope.errors import FileError

__all__ = ["Writer", "disk_error", "merge_journal"]

LARGE = 4
"""A batch of a shard's bytes divided by this is a shard by itself."""


class Writer:
    """Writes batches one at a time; ``put`` returns when the one before is on disk.

    ``journal`` are the batches that are in the journal already.
    """

    def __init__(
        self, store: Store, journal: list[JournalFile], shard_bytes: int, compress: bool
    ) -> None:
        self._store, self._shard_bytes, self._compress = store, shard_bytes, compress
        self._journal = journal
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rnnscope-writer")
        self._pending: Future[None] | None = None

    def put(self, rows: CapturedBatch) -> None:
        """Hand over a batch; raises what the batch before met."""
        self.wait()
        self._pending = self._thread.submit(self._write, rows)

    def wait(self) -> None:
        """Until all that was handed over is on disk; raises what it met."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def finish(self) -> None:
        """Make a shard of what is in the journal."""
        self.wait()
        if self._journal:
            self._thread.submit(self._consolidate).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True)

    # in the thread -------------------------------------------------------------------------

    def _write(self, rows: CapturedBatch) -> None:
        try:
            if rows.nbytes * LARGE >= self._shard_bytes and not self._journal:
                write_shard(self._store.place, [rows], self._compress)
            else:
                self._to_journal(rows)
            self._store.accept(rows.number)
        except OSError as error:
            raise disk_error(self._store.place, rows.number, error) from error
        if sum(entry.nbytes for entry in self._journal) >= self._shard_bytes:
            self._consolidate()

    def _to_journal(self, rows: CapturedBatch) -> None:
        place, name = self._store.place, self._store.journal_name(rows.number)
        with place.scratch_file() as scratch:
            write_journal(scratch, rows)
            place.publish(scratch, name)
        self._journal.append(JournalFile(place.fetch(name)))

    def _consolidate(self) -> None:
        entries: list[BatchRows] = sorted(self._journal, key=lambda entry: entry.facts.number)
        number = entries[-1].facts.number
        try:
            write_shard(self._store.place, entries, self._compress)
        except OSError as error:
            raise disk_error(self._store.place, number, error) from error
        for entry in self._journal:
            self._store.place.release(entry.path)
            self._store.place.remove(self._store.journal_name(entry.facts.number))
        self._journal = []


def merge_journal(store: Store, compress: bool) -> None:
    """Make a shard of what an earlier recording left in the journal."""
    journal = store.journal(batch.number for batch in store.batches)
    with Writer(store, journal, 1, compress) as writer:
        writer.finish()


def disk_error(place: Folder, number: int, error: OSError) -> FileError:
    """What is said where a batch cannot be written."""
    return FileError(
        f"cannot write {place.text}: {error.strerror or error}, at batch {number}. The "
        f"batches before it are whole: make room, and run rs.record again to go on"
    )
