"""Recording on many workers of Dask: each batch is a task that writes a shard of its own.

Dask gives a lost worker's tasks to another. A shard's name is that of its batch and it appears
whole, so where two workers did the same batch the first one counts.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from rnnscope._corpus.disk.description import BatchFacts
from rnnscope._corpus.disk.folder import Folder
from rnnscope._corpus.disk.shard import write_shard
from rnnscope._corpus.disk.store import Store
from rnnscope._corpus.layer_labels import LabelledCalls
from rnnscope._corpus.progress import Progress
from rnnscope._corpus.recording import Recording, check_recorded, finish, reason_of
from rnnscope._corpus.rows import changed_layer
from rnnscope._corpus.running import run_part
from rnnscope._corpus.settings import Selected
from rnnscope._corpus.writer import disk_error, merge_journal
from rnnscope._record.extras import package_of_extra
from rnnscope.errors import BatchError, FileError, RnnscopeError

__all__ = ["record_with"]


@dataclass(frozen=True)
class Assignment:
    """What every task needs: the model, how it is recorded, and where to."""

    model: nn.Module
    settings: Selected
    place: Folder
    compress: bool
    is_partition: bool

    def __reduce__(self) -> tuple[Any, ...]:
        """As bytes: distributed would take the model apart by its own rules, and log that it cannot
        send the weak references of a recurrent layer, which the layer itself leaves out."""
        facts = tuple(getattr(self, entry.name) for entry in fields(self))
        return unpacked, (package_of_extra("cloudpickle", "distributed").dumps(facts),)


def unpacked(content: bytes) -> Assignment:
    """What a worker was sent."""
    return Assignment(*pickle.loads(content))


@dataclass(frozen=True)
class Done:
    """What a task says: the facts of its batch, or why the batch cannot be recorded."""

    number: int
    facts: BatchFacts | None
    nbytes: int = 0
    reason: str = ""
    error: Exception | None = None
    labelled: Mapping[tuple[str, int], bool] = field(default_factory=dict)


def record_with(recording: Recording, compress: bool) -> None:
    """Record by the workers of a client; batches that are there are left out.

    Raises the error of the first batch that has one, unless they are skipped, and ``FileError``
    where workers wrote what this process does not find.
    """
    distributed = package_of_extra("distributed", "distributed")
    store, source, options = recording.store, recording.source, recording.options
    assert source.parts is not None, "they can be had by number"
    merge_journal(store, compress)
    recorded = {batch.number: batch.digest for batch in store.look().batches}
    check_recorded(recording, recorded)
    is_partition = source.bag is not None
    work = Assignment(recording.model, recording.settings, store.place, compress, is_partition)
    client = options.client
    # a task, not scattered data: where its worker is lost, Dask makes it again
    shared = client.submit(identity, work, pure=False)
    parts = dict(enumerate(source.bag.to_delayed() if is_partition else source.parts))
    todo = {number: part for number, part in parts.items() if number not in recorded}
    futures = submitted(client, shared, todo, is_partition)
    labelled = LabelledCalls(store.batches)
    state = Progress(total=len(parts), recorded=len(recorded))
    try:
        for future in distributed.as_completed(futures):
            done: Done = future.result()
            if done.facts is None:
                if options.on_error == "raise":
                    assert done.error is not None, "a batch without rows has an error"
                    raise done.error
                store.skip(done.number, done.reason)
                continue
            store.accept(done.number)
            labelled.add(done.number, done.labelled)
            state = state.after(done.facts, done.nbytes)
            options.report(state)
            future.release()
    finally:
        client.cancel([*futures, shared])
    finish(store, len(parts))
    check_shards(store, set(parts))


def submitted(
    client: Any, shared: Any, todo: dict[int, Callable[[], Any]], is_partition: bool
) -> list[Any]:
    """A task for each batch, or for each partition of a bag."""
    if is_partition:
        delayed = package_of_extra("dask", "record").delayed
        tasks = [
            delayed(recorded_partition, pure=False)(shared, number, part)
            for number, part in todo.items()
        ]
        computed: list[Any] = client.compute(tasks, optimize_graph=False)
        return computed
    return [
        client.submit(recorded_batch, shared, number, part, pure=False)
        for number, part in todo.items()
    ]


def check_shards(store: Store, numbers: set[int]) -> None:
    """Raise where shards that workers wrote are not in the place that this process sees, and where
    the layers of batches do not fit together."""
    missing = numbers - {batch.number for batch in store.batches} - set(store.skipped)
    if missing:
        raise FileError(
            f"{store.place.text}: the workers recorded batch {min(missing)}, and it is not here: "
            f"name a path that all machines share, or a URL that fsspec knows"
        )
    forms = store.forms
    for shard in store.shards:
        for name, form in shard.forms.items():
            if forms[name] != form:
                raise changed_layer(name, forms[name], form)


# in a worker ---------------------------------------------------------------------------------

_model_lock = threading.Lock()
"""Threads of a worker share the model, whose calls would be taken for each other's; they prove
and write side by side."""


def identity(work: Assignment) -> Assignment:
    """The same."""
    return work


def recorded_batch(work: Assignment, number: int, load: Callable[[], Any]) -> Done:
    """Load a batch and write its shard."""
    try:
        part = load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Done(number, None, reason=reason, error=failed_to_load(number, error))
    return recorded_partition(work, number, part)


def failed_to_load(number: int, error: Exception) -> Exception:
    """What is raised of a batch that cannot be loaded."""
    failure = BatchError(f"batch {number} cannot be loaded: {error}")
    failure.__cause__ = error
    return failure


def recorded_partition(work: Assignment, number: int, part: Any) -> Done:
    """Run a batch and write its shard, unless it is there."""
    try:
        with _model_lock:
            watched = run_part(work.model, part, number, work.settings, work.is_partition)
        rows = watched.captured()
        facts = rows.facts
        write_shard(work.place, [rows], work.compress)
    except RnnscopeError as error:
        return Done(number, None, reason=reason_of(error), error=error)
    except OSError as error:
        return Done(number, None, reason=str(error), error=disk_error(work.place, number, error))
    return Done(number, facts, rows.nbytes, labelled=rows.labelled)
