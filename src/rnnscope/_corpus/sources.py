"""Batches, whatever form they have: numbered, and taken one by one or by their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from rnnscope.errors import RefusedError

__all__ = ["BatchSource", "source_of"]

LOADED_AGAIN = 8
"""So many of the recorded batches are loaded once more when a recording goes on."""


@dataclass(frozen=True)
class BatchSource:
    """Batches in order: ``parts`` are functions that load each, where they can be had by number;
    else ``stream`` is all there is. ``bag`` is the Dask bag that the parts are partitions of;
    ``at_hand``: the batches lie in a list, so that looking at one again costs nothing."""

    parts: tuple[Callable[[], Any], ...] | None
    stream: Iterable[Any] = ()
    bag: Any = None
    at_hand: bool = False

    @property
    def total(self) -> int | None:
        """How many there are; None where that shows at the end only."""
        return len(self.parts) if self.parts is not None else _length(self.stream)

    def looked_at_again(self, recorded: Iterable[int]) -> frozenset[int]:
        """The recorded batches of which it is seen whether they are the same when a recording
        goes on: all that pass by or lie in a list; of those that are loaded by number
        ``LOADED_AGAIN``, evenly spread, the first and the last among them."""
        numbers = sorted(recorded)
        if self.parts is None or self.at_hand or len(numbers) <= LOADED_AGAIN:
            return frozenset(numbers)
        last = len(numbers) - 1
        places = {round(k * last / (LOADED_AGAIN - 1)) for k in range(LOADED_AGAIN)}
        return frozenset(numbers[place] for place in places)

    def batches(self) -> Iterator[tuple[int, Callable[[], Any]]]:
        """The number of each batch, and what loads it."""
        if self.parts is not None:
            yield from enumerate(self.parts)
            return
        for number, batch in enumerate(self.stream):
            yield number, partial(_loaded, batch)


def source_of(batches: Any, *, resume: bool, by_number: bool) -> BatchSource:
    """Batches as ``record`` takes them; ``by_number``: each must be had alone, for a cluster.

    Raises ``TypeError`` for what is none, ``RefusedError`` for batches that come in another order
    each time, where they are to be resumed, or that come one after another only.
    """
    if isinstance(batches, Tensor | str | bytes | Mapping | nn.Module) or not (
        hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    ):
        raise TypeError(
            f"batches must be batches one after another: a list, a DataLoader, a generator; got "
            f"{type(batches).__name__}. One batch alone is [batch]; a tensor is cut by x.split(32)"
        )
    if type(batches).__module__.startswith("dask.bag"):
        delayed = batches.to_delayed()
        parts = tuple(partial(_computed, part) for part in delayed)
        return BatchSource(parts, bag=batches)
    if isinstance(batches, DataLoader):
        return _of_loader(batches, resume, by_number)
    if _is_numbered(batches):
        at_hand = isinstance(batches, list | tuple) and not any(map(_is_function, batches))
        parts = tuple(partial(_item, batches, k) for k in range(len(batches)))
        return BatchSource(parts, at_hand=at_hand)
    if by_number:
        raise RefusedError(
            f"with client= each batch must be had by its number: a list of functions that load "
            f"one, a Dataset whose items are batches, a DataLoader of a Dataset, a Dask bag; got "
            f"{type(batches).__name__}"
        )
    return BatchSource(None, batches)


def _length(batches: Any) -> int | None:
    """How many there are; None of what has no end, or does not tell."""
    try:
        return len(batches)
    except (TypeError, NotImplementedError):
        return None


def _is_numbered(batches: Any) -> bool:
    """Whether each batch can be had by its number, and how many there are is known."""
    if isinstance(batches, IterableDataset):
        return False
    return hasattr(batches, "__getitem__") and _length(batches) is not None


def _of_loader(loader: DataLoader[Any], resume: bool, by_number: bool) -> BatchSource:
    random = RandomSampler | SubsetRandomSampler | WeightedRandomSampler
    if resume and isinstance(loader.sampler, random):
        raise RefusedError(
            "a DataLoader with shuffle=True gives other batches each time, as does a sampler that "
            "draws, so a recording that goes on could not tell which are there: shuffle=False, or "
            "resume=False"
        )
    dataset: Any = loader.dataset
    # of an IterableDataset the class has __getitem__, and the sampler never ends
    numbered = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    plain = type(loader).__iter__ is DataLoader.__iter__  # else its batches are its own
    indexed = plain and numbered and _length(loader.batch_sampler) is not None
    if indexed and (by_number or loader.num_workers == 0):
        assert loader.batch_sampler is not None, "it is indexed"
        return BatchSource(
            tuple(
                partial(_collated, dataset, loader.collate_fn, indices)
                for indices in loader.batch_sampler
            )
        )
    if by_number:
        raise RefusedError(
            "with client= a DataLoader needs a Dataset with numbered items, a batch_size, and no "
            "__iter__ of its own"
        )
    return BatchSource(None, loader)


def _collated(dataset: Any, collate: Callable[[list[Any]], Any], indices: Any) -> Any:
    return collate([dataset[index] for index in indices])


def _item(batches: Any, number: int) -> Any:
    return _loaded(batches[number])


def _loaded(batch: Any) -> Any:
    """A batch; a function that makes one is called."""
    return batch() if _is_function(batch) else batch


def _is_function(batch: Any) -> bool:
    return callable(batch) and not isinstance(batch, nn.Module | Mapping | Tensor)


def _computed(part: Any) -> Any:
    """A partition of a Dask bag, computed here: the batches in it."""
    return list(part.compute(scheduler="synchronous"))
