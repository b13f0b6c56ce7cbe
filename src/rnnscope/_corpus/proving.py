"""Batches are proven in a thread beside the model's, one after another, in their order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from rnnscope._corpus.rows import CapturedBatch
from rnnscope._corpus.running import WatchedPart
from rnnscope._layers.tensors import reused_memory

__all__ = ["PartOutcome", "proven"]

PartOutcome = tuple[int, WatchedPart | Exception]
"""A batch's number, and what the model left of it, or why it left nothing."""


def proven(parts: Iterator[PartOutcome]) -> Generator[tuple[int, CapturedBatch | Exception]]:
    """The rows of each batch, or why there are none, in order: while one is proven, the next goes
    through the model.

    What ``parts`` raises itself comes behind the batches before it.
    """
    with reused_memory():
        context = copy_context()  # of the thread that proves, and of no other
    with ThreadPoolExecutor(1, thread_name_prefix="rnnscope-proof") as thread:
        pending: Callable[[], tuple[int, CapturedBatch | Exception]] | None = None
        try:
            for part in parts:
                if pending is not None:
                    yield pending()
                # not before: memory holds the rows of this batch and of the one that is written
                pending = thread.submit(context.run, _outcome, part).result
        except GeneratorExit:
            raise
        except BaseException:  # an interrupt too
            if pending is not None:
                yield pending()
            raise
        if pending is not None:
            yield pending()


def _outcome(part: PartOutcome) -> tuple[int, CapturedBatch | Exception]:
    number, watched = part
    if isinstance(watched, Exception):
        return number, watched
    try:
        return number, watched.captured()
    except Exception as error:
        return number, error
