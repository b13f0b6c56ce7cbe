"""Batches, whatever form they have: numbered, and taken one by one or by their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from rnnscope.errors import RefusedError

__all__ = ["BatchSource", "source_of"]


@dataclass(frozen=True)
class BatchSource:
    """Batches in order: ``parts`` are functions that load each, where they can be had by number;
    else ``stream`` is all there is. ``bag`` is the Dask bag that the parts are partitions of."""

    parts: tuple[Callable[[], Any], ...] | None
    stream: Iterable[Any] = ()
    bag: Any = None

    @property
    def total(self) -> int | None:
        """How many there are; None where that shows at the end only."""
        if self.parts is not None:
            return len(self.parts)
        length = getattr(self.stream, "__len__", None)
        return None if length is None else int(length())

    def batches(self, recorded: frozenset[int]) -> Iterator[tuple[int, Callable[[], Any]]]:
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
    if hasattr(batches, "__getitem__") and hasattr(batches, "__len__"):
        return BatchSource(tuple(partial(_item, batches, k) for k in range(len(batches))))
    if by_number:
        raise RefusedError(
            f"with client= each batch must be had by its number: a list of functions that load "
            f"one, a Dataset whose items are batches, a DataLoader of a Dataset, a Dask bag; got "
            f"{type(batches).__name__}"
        )
    return BatchSource(None, batches)


def _of_loader(loader: DataLoader[Any], resume: bool, by_number: bool) -> BatchSource:
    if resume and isinstance(loader.sampler, RandomSampler):
        raise RefusedError(
            "a DataLoader with shuffle=True gives other batches each time, so a recording that "
            "goes on could not tell which are there: shuffle=False, or resume=False"
        )
    dataset: Any = loader.dataset
    indexed = loader.batch_sampler is not None and hasattr(dataset, "__getitem__")
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
            "with client= a DataLoader needs a Dataset with numbered items and a batch_size"
        )
    return BatchSource(None, loader)


def _collated(dataset: Any, collate: Callable[[list[Any]], Any], indices: Any) -> Any:
    return collate([dataset[index] for index in indices])


def _item(batches: Any, number: int) -> Any:
    return _loaded(batches[number])


def _loaded(batch: Any) -> Any:
    """A batch; a function that makes one is called."""
    if callable(batch) and not isinstance(batch, nn.Module | Mapping | Tensor):
        return batch()
    return batch


def _computed(part: Any) -> Any:
    """A partition of a Dask bag, computed here: the batches in it."""
    return list(part.compute(scheduler="synchronous"))
