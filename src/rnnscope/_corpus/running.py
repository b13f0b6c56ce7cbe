"""One batch through the model, and then its proof; and what is said where either fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnscope._corpus.capturing import WatchedBatch, captured_batch, refuse_skipped
from rnnscope._corpus.digests import changed_weights, digest_of_batch, versions_of_weights
from rnnscope._corpus.layer_labels import LabelledCalls
from rnnscope._corpus.rows import CapturedBatch
from rnnscope._corpus.settings import Selected, default_call
from rnnscope._kernels.engine import bulk
from rnnscope._opening.part import usual_bounds
from rnnscope._watch.watch import watch
from rnnscope.errors import BatchError, RefusedError, RnnscopeError

__all__ = ["WatchedPart", "run_part"]

FINER_EVERY = 64
"""Of so many batches one has bounds for each unit, which cost several times the forward; the others
are proven within the usual bounds."""


@dataclass(frozen=True)
class WatchedPart:
    """A batch, or all batches of a partition, after the model ran and before the proof."""

    number: int
    settings: Selected
    batches: list[WatchedBatch]

    def captured(self) -> CapturedBatch:
        """Its rows, proven; the model and the user's functions have no part in it, so it may be
        done in another thread.

        Raises the errors of rnnscope, with the number of the batch.
        """
        finer = self.number % FINER_EVERY == 0 or self.settings.check == "thorough"
        labelled = LabelledCalls(())
        rows = []
        with _numbered(self.number), bulk(), nullcontext() if finer else usual_bounds():
            for batch in self.batches:
                batch.seen.prove()
                rows.append(captured_batch(batch, self.number, self.settings))
                labelled.add(self.number, rows[-1].labelled)
            return reduce(CapturedBatch.joined, rows)


def run_part(
    model: nn.Module, part: Any, number: int, settings: Selected, is_partition: bool = False
) -> WatchedPart:
    """Run a batch, or all batches of a partition, through the model.

    Raises ``BatchError`` where the model or a function of the user's raises, and the error of
    rnnscope where it is one, with the number of the batch.
    """
    try:
        with _numbered(number):
            batches = list(part) if is_partition else [part]
            watched = [_watched(model, batch, settings) for batch in batches]
            return WatchedPart(number, settings, watched)
    except RnnscopeError:
        raise
    except Exception as error:
        line = "on_error='skip' notes such a batch in the store and goes on"
        if isinstance(error, TypeError) and settings.call is default_call:
            line = f"call=lambda model, batch: {_example(part)} says how the model takes a batch"
        raise BatchError(f"batch {number}: {type(error).__name__}: {error}. {line}") from error


@contextmanager
def _numbered(number: int) -> Iterator[None]:
    """Errors of rnnscope get the number of the batch."""
    try:
        yield
    except RnnscopeError as error:
        raise type(error)(f"batch {number}: {error}") from error


def _example(batch: Any) -> str:
    """A call of the model that may be what is wanted."""
    if isinstance(batch, Mapping):
        return f"model(batch[{next(iter(batch), 'x')!r}])"
    several = isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor)
    return "model(batch[0])" if several else "model(batch)"  # of texts, all of them


@bulk()
def _watched(model: nn.Module, batch: Any, settings: Selected) -> WatchedBatch:
    before, digest = versions_of_weights(model), digest_of_batch(batch)
    seen = watch(
        model,
        names=settings.modules,
        record=settings.names,
        check=settings.check,
        cells=settings.cells,
    )
    with torch.no_grad(), seen:
        settings.call(model, batch)
        seen.leave()  # what it saw is proven later
    changed = changed_weights(before, versions_of_weights(model))
    if changed:
        raise RefusedError(
            f"the weights or buffers of the model changed while it ran ({changed}), so that the "
            f"numbers of a store would not be of one model: call model.eval(), and let call= not "
            f"train, and put back a state that a buffer carries from batch to batch"
        )
    refuse_skipped(seen)
    labels = None if settings.labels is None else settings.labels(batch)
    mask = settings.steps(batch) if callable(settings.steps) else None
    return WatchedBatch(seen, digest, _kept(labels), _kept(mask))


def _kept(value: Any) -> Any:
    """What a function of the user's gave, which may write into the same memory for the next."""
    if isinstance(value, Mapping):
        return {key: _kept(member) for key, member in value.items()}
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return [member if isinstance(member, str) else _kept(member) for member in value]
    return value.copy() if isinstance(value, np.ndarray) else value
