"""Batches in forms that end nowhere, or that are others when a recording goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import batches, check_store, encoder, run, texts
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

import rnnscope as rs


class Stream(IterableDataset[Any]):
    """Items one after another, of which nobody says how many there are."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class CountedStream(Stream):
    def __len__(self) -> int:
        return len(self.items)


@pytest.mark.parametrize("kind", [Stream, pytest.param(CountedStream, marks=pytest.mark.slow)])
def test_a_loader_of_a_stream_ends_with_the_stream(tmp_path: Path, kind: type[Stream]) -> None:
    model, parts = encoder(), batches(10)
    source = kind([word for part in parts for word in part])
    loader = DataLoader(source, batch_size=4, collate_fn=list)
    rs.record(model, loader, tmp_path / "gates", call=run, labels=texts)
    check_store(tmp_path / "gates", model, parts)
    rs.record(model, kind(parts), tmp_path / "batches", call=run, labels=texts)
    check_store(tmp_path / "batches", model, parts)


class Endless(Sampler[list[int]]):
    """Tells no length, as a sampler that never ends; this one ends all the same."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1], [2, 3]])


def test_a_sampler_of_unknown_length_is_not_asked_for_all_batches_at_once(tmp_path: Path) -> None:
    drawn = []

    class Words(Dataset[Any]):
        def __getitem__(self, number: int) -> torch.Tensor:
            drawn.append(number)
            return batches(4)[0][number]

    def first_seen(state: Any) -> None:
        assert len(drawn) <= 2 * state.batches + 2  # and those of the batch that runs meanwhile

    loader = DataLoader(Words(), batch_sampler=Endless(), collate_fn=list)
    rs.record(encoder(), loader, tmp_path / "gates", call=run, progress=first_seen)
    check_store(tmp_path / "gates", encoder(), batches(4, size=2))


def test_a_stream_serves_no_cluster(tmp_path: Path) -> None:
    loader = DataLoader(Stream([1]), batch_size=4)
    with pytest.raises(rs.RefusedError, match="needs a Dataset with numbered items"):
        rs.record(encoder(), loader, tmp_path / "gates", client=object())  # type: ignore[arg-type]


class Batches(Dataset[Any]):
    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Any:
        return self.parts[number]


FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "generator": iter,
    "functions": lambda parts: [lambda part=part: part for part in parts],
    "dataset": Batches,
}


def forms(*quick: str) -> list[Any]:
    return [pytest.param(form, marks=[pytest.mark.slow] * (form not in quick)) for form in FORMS]


@pytest.mark.parametrize("form", forms("list", "functions"))
def test_batches_in_another_order_are_refused(tmp_path: Path, form: str) -> None:
    """The first and the last recorded one are the same."""
    path, model, parts = tmp_path / "gates", encoder(), batches(16)
    rs.record(model, FORMS[form](parts[:3]), path, call=run)
    others = [parts[0], parts[3], parts[2], parts[1]]
    with pytest.raises(rs.FileError, match="batch 1 holds other numbers than the one that was"):
        rs.record(model, FORMS[form](others), path, call=run)
    rs.record(model, FORMS[form](parts), path, call=run)
    check_store(path, model, parts)


@pytest.mark.parametrize("form", forms("list", "generator"))
def test_fewer_batches_are_refused(tmp_path: Path, form: str) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(12)
    rs.record(model, FORMS[form](parts), path, call=run)
    with pytest.raises(rs.FileError, match="holds batch 2, and batches= end with batch 1"):
        rs.record(model, FORMS[form](parts[:2]), path, call=run)
    with pytest.raises(rs.FileError, match="holds batch 2, and batches= end with none"):
        rs.record(model, FORMS[form]([]), path, call=run)
    check_store(path, model, parts)


def test_of_many_batches_that_are_loaded_some_are_loaded_again(tmp_path: Path) -> None:
    path, model, parts = tmp_path / "gates", encoder(), batches(30, size=1)
    rs.record(model, parts, path, call=run)
    loaded = []
    source = [lambda k=k: (loaded.append(k), parts[k])[1] for k in range(30)]
    rs.record(model, source, path, call=run)
    assert loaded == [0, 4, 8, 12, 17, 21, 25, 29]


def test_with_a_cluster_nothing_is_loaded_here(tmp_path: Path) -> None:
    """Its files may be on the workers alone; batches in a list are compared all the same."""
    path, model, parts = tmp_path / "gates", encoder(), batches(8)
    rs.record(model, parts, path, call=run)

    class Client:
        def submit(self, *args: Any, **options: Any) -> Any:
            raise AssertionError("nothing is left to do before this")

    def load() -> Any:
        raise AssertionError("loaded here")

    client: Any = Client()
    with pytest.raises(AssertionError, match="nothing is left"):
        rs.record(model, [load, load], path, call=run, client=client)
    with pytest.raises(rs.FileError, match="batch 1 holds other numbers"):
        rs.record(model, [parts[0], parts[0]], path, call=run, client=client)
    with pytest.raises(rs.FileError, match="holds batch 1, and batches= end with batch 0"):
        rs.record(model, [load], path, call=run, client=client)
