"""Recording batch after batch in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from rnnscope._corpus.digests import (
    changed_weights,
    digest_of_batch,
    digests_of_weights,
    versions_of_weights,
)
from rnnscope._corpus.disk.store import Store
from rnnscope._corpus.layer_labels import LabelledCalls
from rnnscope._corpus.progress import Progress, Report
from rnnscope._corpus.proving import PartOutcome, proven
from rnnscope._corpus.rows import changed_layer
from rnnscope._corpus.running import WatchedPart, run_part
from rnnscope._corpus.settings import Selected
from rnnscope._corpus.sources import BatchSource
from rnnscope._corpus.writer import Writer
from rnnscope.errors import BatchError, FileError, RefusedError, RnnscopeError

__all__ = [
    "OnError",
    "Options",
    "Recording",
    "check_recorded",
    "finish",
    "reason_of",
    "record_here",
]

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Options:
    """How a recording goes on: what to do with errors, who is told, who works."""

    on_error: OnError
    report: Report
    client: Any


@dataclass(frozen=True)
class Recording:
    """All that a recording needs."""

    model: nn.Module
    source: BatchSource
    store: Store
    settings: Selected
    options: Options


def record_here(recording: Recording, shard_bytes: int, compress: bool) -> None:
    """Batch after batch in this process."""
    store, source, options = recording.store, recording.source, recording.options
    digests = {batch.number: batch.digest for batch in store.batches}
    journal = store.journal(digests)
    digests |= {entry.facts.number: entry.facts.digest for entry in journal}
    forms = dict(store.forms)
    for entry in journal:
        forms |= entry.forms
    labelled = LabelledCalls([*store.batches, *(entry.facts for entry in journal)])
    state = Progress(total=source.total, recorded=len(digests))
    check_recorded(recording, digests)
    count = 0

    weights = versions_of_weights(recording.model)

    def parts() -> Iterator[PartOutcome]:
        nonlocal count
        for number, load in source.batches():
            count = number + 1
            _check_weights(recording, weights, versions_of_weights(recording.model))
            if number not in digests:
                yield number, _run(recording, number, load)
            elif source.parts is None:
                _check_digest(recording, number, load(), digests[number])

    with Writer(store, journal, shard_bytes, compress) as writer, closing(proven(parts())) as taken:
        for number, rows in taken:
            if isinstance(rows, Exception):
                if options.on_error == "raise":
                    raise rows
                store.skip(number, reason_of(rows))
                continue
            for name, form in rows.forms.items():
                if forms.setdefault(name, form) != form:
                    raise changed_layer(name, forms[name], form)
            labelled.add(number, rows.labelled)
            writer.put(rows)
            state = state.after(rows.facts, rows.nbytes)
            options.report(state)
        writer.finish()
    _check_count(store, count, digests)
    _check_weights(recording, store.origin.weights, digests_of_weights(recording.model))
    finish(store, count)


def _check_weights(recording: Recording, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise where batches were, or would be, recorded of other weights than those before."""
    changed = changed_weights(before, now)
    if changed:
        raise RefusedError(
            f"the weights or buffers of the model changed while batches were recorded ({changed}), "
            f"and the rows of a store are of one model: remove {recording.store.place.text}, keep "
            f"the weights as they are, and record again"
        )


def _run(recording: Recording, number: int, load: Callable[[], Any]) -> WatchedPart | Exception:
    """A batch after the model ran, or why it did not."""
    is_partition = recording.source.bag is not None
    try:
        part = _loaded(number, load)
        return run_part(recording.model, part, number, recording.settings, is_partition)
    except Exception as error:
        return error


def check_recorded(recording: Recording, digests: Mapping[int, str]) -> None:
    """Raise ``FileError`` where batches that are had by number are fewer, or others, than those
    that were recorded."""
    source = recording.source
    if source.parts is None:
        return
    _check_count(recording.store, len(source.parts), digests)
    if recording.options.client is not None and not source.at_hand:
        return  # what workers can load, this process may not
    for number in sorted(source.looked_at_again(digests)):
        _check_digest(recording, number, _loaded(number, source.parts[number]), digests[number])


def _check_count(store: Store, count: int, recorded: Iterable[int]) -> None:
    last = max(recorded, default=-1)
    if count <= last:
        raise FileError(
            f"{store.place.text} cannot be gone on with: it holds batch {last}, and batches= end "
            f"with {f'batch {count - 1}' if count else 'none'}. Give the same batches in the same "
            f"order, or record into another path"
        )


def reason_of(error: BaseException) -> str:
    """Why a batch is skipped, without its number."""
    cause = error.__cause__ or error
    return str(cause) if isinstance(cause, RnnscopeError) else f"{type(cause).__name__}: {cause}"


def _loaded(number: int, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        raise BatchError(f"batch {number} cannot be loaded: {error}") from error


def _check_digest(recording: Recording, number: int, batch: Any, digest: str) -> None:
    parts = batch if recording.source.bag is not None else [batch]
    if "".join(map(digest_of_batch, parts)) != digest:
        raise FileError(
            f"{recording.store.place.text} cannot be gone on with: batch {number} holds other "
            f"numbers than the one that was recorded. Give the same batches in the same order, or "
            f"record into another path"
        )


def finish(store: Store, count: int) -> None:
    """Note how many batches there are, unless the store holds more."""
    store.look()
    last = max((batch.number for batch in store.batches), default=-1)
    store.complete(max(count, last + 1))
