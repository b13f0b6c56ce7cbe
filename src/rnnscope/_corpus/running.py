"""One batch through the model: watched, opened, proven; and what is said where that fails."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._corpus.capturing import captured_batch
from rnnscope._corpus.digests import digest_of_batch, versions_of_weights
from rnnscope._corpus.layer_labels import LabelledCalls
from rnnscope._corpus.rows import CapturedBatch
from rnnscope._corpus.settings import Selected, default_call
from rnnscope._kernels.engine import bulk
from rnnscope._opening.part import usual_bounds
from rnnscope._watch.watch import watch
from rnnscope.errors import BatchError, RefusedError, RnnscopeError

__all__ = ["captured_part"]

FINER_EVERY = 64
"""Of so many batches one has bounds for each unit, which cost several times the forward; the others
are proven within the usual bounds."""


def captured_part(
    model: nn.Module, part: Any, number: int, settings: Selected, is_partition: bool = False
) -> CapturedBatch:
    """The rows of a batch, or of all batches of a partition.

    Raises ``BatchError`` where the model or a function of the user's raises, and the error of
    rnnscope where it is one, with the number of the batch.
    """
    try:
        batches = list(part) if is_partition else [part]
        labelled = LabelledCalls(())
        captured = []
        for batch in batches:
            captured.append(_captured(model, batch, number, settings))
            labelled.add(number, captured[-1].labelled)
        return reduce(CapturedBatch.joined, captured)
    except RnnscopeError as error:
        raise type(error)(f"batch {number}: {error}") from error
    except Exception as error:
        line = "on_error='skip' notes such a batch in the store and goes on"
        if isinstance(error, TypeError) and settings.call is default_call:
            line = f"call=lambda model, batch: {_example(part)} says how the model takes a batch"
        raise BatchError(f"batch {number}: {type(error).__name__}: {error}. {line}") from error


def _example(batch: Any) -> str:
    """A call of the model that may be what is wanted."""
    if isinstance(batch, Mapping):
        return f"model(batch[{next(iter(batch), 'x')!r}])"
    several = isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor)
    return "model(batch[0])" if several else "model(batch)"  # of texts, all of them


@bulk()
def _captured(model: nn.Module, batch: Any, number: int, settings: Selected) -> CapturedBatch:
    before = versions_of_weights(model)
    finer = number % FINER_EVERY == 0 or settings.check == "thorough"
    with (
        torch.no_grad(),
        nullcontext() if finer else usual_bounds(),
        watch(
            model,
            names=settings.modules,
            record=settings.names,
            check=settings.check,
            cells=settings.cells,
        ) as seen,
    ):
        settings.call(model, batch)
    if versions_of_weights(model) != before:
        raise RefusedError(
            "the weights or buffers of the model changed while it ran, so that the numbers of a "
            "store would not be of one model: call model.eval(), and let call= not train"
        )
    return captured_batch(seen, number, batch, digest_of_batch(batch), settings)
