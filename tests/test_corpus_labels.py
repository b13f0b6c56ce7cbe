"""Labels and masks end up at the steps that are meant, or are refused with what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import batches, encoder, run
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import rnnscope as rs
from rnnscope._record.labels import step_labels

WORDS = ("das", "ist", "ein", "altes", "haus")


class Letters(nn.Module):
    """A tagger of words, letter by letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(26, 3), nn.GRU(3, 4)

    def forward(self, words: list[str]) -> Any:
        letters = [self.embed(torch.tensor([ord(c) - 97 for c in word])) for word in words]
        return self.rnn(pack_sequence(letters, enforce_sorted=False))


def recorded(tmp_path: Path, model: nn.Module, parts: Any, **options: Any) -> dict[str, Any]:
    rs.record(model, parts, tmp_path / "gates", call=lambda model, batch: model(batch), **options)
    return rs.open_record(tmp_path / "gates")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cat", "dog", "sun"], r"3 sequences of letters, or 3 steps: .* \[list\(word\) for word"),
        (["a", "to", "cat"], r"where each word is one, \[words\] \* 3"),
        (["cat", "dog"], r"a list for each sequence; got 2 texts for 2 sequences.*list\(word\)"),
    ],
)
def test_words_are_not_taken_for_steps(tmp_path: Path, words: list[str], says: str) -> None:
    with pytest.raises(rs.ShapeError, match=rf"batch 0: 'rnn': labels .*{says}"):
        recorded(tmp_path, Letters(), [words], labels=lambda batch: batch)
    letters = recorded(tmp_path, Letters(), [words], labels=lambda batch: [list(w) for w in batch])
    assert "".join(letters["rnn"]["label"].values) == "".join(words)


def test_texts_of_which_it_is_clear_what_they_name() -> None:
    assert step_labels(["the", "cat", "sat"], [3, 2, 1])[1] == ("the", "cat")
    assert step_labels(list("abc"), [3, 3, 3])[2] == ("a", "b", "c")
    assert step_labels("abc", [3, 3, 3])[2] == ("a", "b", "c")
    assert step_labels(["cat"], [1]) == (("cat",),)
    assert step_labels([None, b"x\xc3\xa9", 1.5], [3]) == (("", "xé", "1.5"),)
    with pytest.raises(rs.ShapeError, match=r"got both: that of sequence 1 is str.*list\(word\)"):
        step_labels([["a", "b"], "cd"], [2, 2])


# several layers ----------------------------------------------------------------------------------


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.GRU(3, 4, batch_first=True), nn.GRUCell(3, 4)

    def forward(self, batch: tuple[Tensor, int]) -> None:
        x, steps = batch
        h = self.enc(x)[1][0]
        for _ in range(steps):
            h = self.dec(h[:, :3], h)


def source(steps: int) -> tuple[Tensor, int]:
    return torch.randn(1, 5, 3), steps


@pytest.mark.parametrize("steps", [(5, 6), (6, 5)])
def test_labels_that_fit_a_layer_by_chance_are_refused(
    tmp_path: Path, steps: tuple[int, int]
) -> None:
    parts = [source(count) for count in steps]
    says = rf"labels fit dec in batch {steps.index(5)} and not in batch {steps.index(6)}"
    with pytest.raises(rs.ShapeError, match=says):
        recorded(tmp_path, Translator(), parts, labels=lambda batch: [list(WORDS)])
    if steps[0] == 5:  # those that are there are known when the recording goes on
        model = Translator()
        rs.record(model, parts[:1], tmp_path / "b", call=run, labels=lambda batch: [list(WORDS)])
        with pytest.raises(rs.ShapeError, match=says):
            rs.record(model, parts, tmp_path / "b", call=run, labels=lambda batch: [list(WORDS)])


def test_labels_that_fit_by_chance_within_a_partition(tmp_path: Path) -> None:
    from dask import bag

    parts = bag.from_sequence([source(5), source(6)], npartitions=1)
    with pytest.raises(rs.ShapeError, match="batch 0: labels fit dec in batch 0 and not in"):
        recorded(tmp_path, Translator(), parts, labels=lambda batch: [list(WORDS)])


def test_labels_of_the_layer_that_they_always_fit(tmp_path: Path) -> None:
    parts = [source(6), source(3)]
    opened = recorded(tmp_path, Translator(), parts, labels=lambda batch: [list(WORDS)])
    assert opened["enc"]["label"].values.tolist() == [*WORDS, *WORDS]
    assert "label" not in opened["dec"].coords


def test_a_dict_says_whose_labels_and_masks_are(tmp_path: Path) -> None:
    parts = [source(5), source(6)]

    def labels(batch: Any) -> dict[str, Any]:
        return {"dec": [f"s{k}" for k in range(batch[1])]}

    def steps(batch: Any) -> dict[str, Any]:
        return {"enc": torch.arange(5)[None] > 2}

    opened = recorded(tmp_path, Translator(), parts, labels=labels, steps=steps)
    assert "label" not in opened["enc"].coords
    assert opened["enc"]["time"].values.tolist() == [3, 4] * 2
    assert opened["dec"]["label"].values.tolist() == [f"s{k}" for n in (5, 6) for k in range(n)]


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        (
            {"labels": lambda batch: {"dec": list(WORDS)}},
            rs.ShapeError,
            "batch 0: 'dec': labels must be 6, one a step; got 5",
        ),
        (
            {"labels": lambda batch: {"decoder": list(WORDS)}},
            rs.AddressError,
            "labels= gave a dict, whose keys must be layers, 'enc', 'dec', .*; got 'decoder'",
        ),
        (
            {"steps": lambda batch: {"decoder": list(WORDS)}},
            rs.AddressError,
            "steps= gave a dict, .*; got 'decoder'",
        ),
        (
            {"steps": lambda batch: torch.ones(1, 5)},
            rs.ShapeError,
            r"batch 0: 'dec': steps= must give a mask .* got \(1, 5\)\. A dict {layer: mask}",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_the_layer(
    tmp_path: Path, options: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        recorded(tmp_path, Translator(), [source(6)], **options)


# what a model does to its sequences --------------------------------------------------------------


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Any:
        x, lengths = batch
        lengths, order = lengths.sort(descending=True, stable=True)
        return self.rnn(pack_padded_sequence(x[order], lengths, batch_first=True))


def test_a_model_that_sorts_its_batch_is_named_as_the_cause(tmp_path: Path) -> None:
    batch = torch.randn(3, 4, 3), torch.tensor([3, 4, 4])
    labels = [list("abc"), list("defg"), list("hijk")]
    with pytest.raises(rs.ShapeError, match="in another order, as where a model sorts its batch"):
        recorded(tmp_path, Sorting(), [batch], labels=lambda batch: labels)


class Normed(nn.Module):
    """Its state is not handed on as it was returned."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm = nn.GRUCell(3, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> None:
        h = torch.zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.norm(self.cell(x[:, t], h))


def test_a_state_that_is_not_handed_on_is_named_as_the_cause(tmp_path: Path) -> None:
    x = torch.randn(2, 5, 3)
    says = r"'cell': .*The layer's 5 calls with this batch are no one sequence, because h_0 holds"
    with pytest.raises(rs.ShapeError, match=says):
        recorded(tmp_path, Normed(), [x], labels=lambda batch: "abcde")
    by_call = {("cell", k): [letter] for k, letter in enumerate("abcde")}
    model = Normed()
    opened = recorded(tmp_path, model, [x], labels=lambda batch: by_call)
    assert opened["cell"]["label"].values.tolist() == [c for c in "abcde" for _ in range(2)]
    store = rs.record(model, [x], tmp_path / "gates", labels=lambda batch: by_call)
    assert "2 sequences, 10 steps, 0.6 kB, several calls with a batch (call=)\n" in str(store)


# what is printed ---------------------------------------------------------------------------------


def test_a_skipped_batch_is_told_with_its_number_once(tmp_path: Path) -> None:
    parts = batches(8)
    store = rs.record(
        encoder(),
        parts,
        tmp_path / "gates",
        call=run,
        labels=lambda batch: 3 if batch is parts[1] else None,
        on_error="skip",
    )
    assert "skipped: batch 1: 'rnn': labels must be a list of texts" in str(store)


def test_layers_that_hold_nothing_are_told(tmp_path: Path) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.lstm, self.unused = nn.GRU(3, 4), nn.LSTM(3, 4), nn.GRU(3, 4)

        def forward(self, x: Tensor) -> None:
            self.gru(x)
            self.lstm(x)

    store = rs.record(Several(), [torch.randn(5, 2, 3)], tmp_path / "gates", names="z")
    assert "lstm  nn.LSTM(3, 4)\n      none of the names that were chosen: " in str(store)
    assert "\nno recorded batch reached 'unused'\n" in str(store)


def test_numbers_too_large_for_the_type_on_disk_are_told_as_that(tmp_path: Path) -> None:
    layer = nn.RNN(3, 4, nonlinearity="relu")
    nn.init.constant_(layer.bias_ih_l0, 1e5)
    store = rs.record(layer, [torch.randn(5, 2, 3)], tmp_path / "gates", dtype=torch.float16)
    assert "in h (as float16, whose largest number is 65504)" in str(store)
