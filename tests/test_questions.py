"""The page of questions: each answer prints what it shows, and holds for other layers too."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from pages import Block, Page, agrees, command, run_python
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs

FOLDER = Path(__file__).parents[1] / "docs"
PAGE = Page(FOLDER / "questions.md")
TITLES = [section.title for section in PAGE.sections]


@pytest.mark.parametrize("title", TITLES)
def test_an_answer_prints_what_it_shows(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = PAGE.section(title)
    if torch.cuda.is_available() and any("cuda" in block.text for block in section.code):
        pytest.skip("the page shows what is printed without a GPU")
    PAGE.assert_prints_what_it_shows(section)


def test_there_are_thirty_questions() -> None:
    assert len(TITLES) == len(set(TITLES)) == 30
    assert all(title.endswith("?") for title in TITLES)


@pytest.mark.parametrize("title", TITLES)
def test_an_answer_is_short(title: str) -> None:
    """Commands, or three lines of Python; a few lines of words above them."""
    section = PAGE.section(title)
    assert section.code
    for block in section.code:
        lines = block.text.splitlines()
        assert len(lines) <= (3 if block.language == "python" else 2)
        assert max(map(len, lines)) <= 100


# layers of the reader's own ------------------------------------------------------------------


class Layers:
    """Names as the page sets them up, with other layers: sizes, options, type of number."""

    def __init__(self, lstm: nn.LSTM, gru: nn.GRU, batch: int, steps: int) -> None:
        self.lstm, self.gru = lstm, gru
        dtype = lstm.weight_ih_l0.dtype
        self.x = torch.randn(batch, steps, lstm.input_size, dtype=dtype)
        self.lengths = torch.arange(batch) % steps + 1
        self.packed = pack_padded_sequence(
            self.x, self.lengths, batch_first=True, enforce_sorted=False
        )


OWN: dict[str, Callable[[], Layers]] = {
    "small": lambda: Layers(nn.LSTM(2, 3, batch_first=True), nn.GRU(2, 4, batch_first=True), 2, 4),
    "deep": lambda: Layers(
        nn.LSTM(7, 16, 3, batch_first=True, bidirectional=True, proj_size=5),
        nn.GRU(7, 9, batch_first=True),
        5,
        11,
    ),
    "double": lambda: Layers(
        nn.LSTM(1, 4, 2, batch_first=True, bidirectional=True, bias=True).double(),
        nn.GRU(1, 1, batch_first=True).double(),
        1,
        4,
    ),
}
TWO_DIRECTIONS = "Which part of output is the last state of a bidirectional layer?"
WITHOUT_PROJECTION = "Should I use nn.LSTM or nn.LSTMCell?"


def marks(title: str) -> list[pytest.MarkDecorator]:
    """A search for causes takes long; the page's own is among the quick tests."""
    searches = any("rs.compare(" in block.text for block in PAGE.section(title).code)
    return [pytest.mark.slow] * searches


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("title", [pytest.param(t, marks=marks(t), id=t) for t in TITLES])
def test_an_answer_runs_on_a_layer_of_the_readers_own(title: str, own: str) -> None:
    layers = OWN[own]()
    section = PAGE.section(title)
    if title == TWO_DIRECTIONS and not layers.lstm.bidirectional:
        return
    if title == WITHOUT_PROJECTION and layers.lstm.proj_size:  # nn.LSTMCell has none
        return
    if layers.x.dtype == torch.float64 and any("torch.nn." in b.text for b in section.code):
        return  # a layer that the page builds is of float32
    shown = "".join(block.text for block in section.blocks if block.language == "text")
    error = suppress(RuntimeError) if "\nRuntimeError: " in f"\n{shown}" else nullcontext()
    with torch.random.fork_rng(devices=[]), error:
        run_python(section, PAGE.names() | vars(layers))


# the page ------------------------------------------------------------------------------------


def anchor(title: str) -> str:
    """The anchor of a heading, as code hosts and generators of sites make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_index_leads_to_every_question() -> None:
    index = re.findall(r"\]\(#([^)]+)\)", PAGE.text)
    assert index == [anchor(title) for title in TITLES]
    groups = re.findall(r"^## (.+)$", PAGE.text, re.MULTILINE)
    assert re.findall(r"^\*\*(.+)\*\*$", PAGE.text, re.MULTILINE) == groups


def test_pages_that_are_named_are_there() -> None:
    named = re.findall(r"\]\(([\w./-]+\.md)\)", PAGE.text)
    assert named
    assert all((FOLDER / name).is_file() for name in named)


def test_commands_that_are_named_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those within sentences, with the files that they name."""
    monkeypatch.chdir(tmp_path)
    torch.save(nn.GRU(4, 5).state_dict(), "gru.pt")
    prose = re.sub(r"^```.*?^```$", "", PAGE.text, flags=re.DOTALL | re.MULTILINE)
    commands = re.findall(r"`(rnnscope [^`…]+)`", prose)
    assert len(commands) == 3
    for line in commands:
        if line != "rnnscope check --device cuda":
            assert command(line)
    assert set(rs.load("gru.h5")) == {"gru"} or len(rs.load("gru.h5")) == 1


# the judge of these tests ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("a 0.123\n", "a 0.124\n", True),  # the last digit is the machine's
        ("a 0.123\n", "a 0.125\n", False),
        ("a 12\n", "a 13\n", False),  # whole numbers are exact
        ("left 6.0e-08\n", "left 8.3e-08\n", True),
        ("left 2e-01\n", "left 6e-01\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nb\nc\n", False),
        ("...\nb\n...\n", "a\nb\nc\n", True),
        ("...\nc\n...\nb\n...\n", "a\nb\nc\n", False),  # in their order
        ("a\n", "a\nb\n", False),
        ("True\n", "False\n", False),
        ("gate f\n", "gate i\n", False),
        ("", "a\n", False),
    ],
)
def test_texts_are_told_apart(shown: str, printed: str, equal: bool) -> None:
    assert agrees(shown, printed) is equal


def test_a_wrong_text_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RNNSCOPE_REGENERATE", raising=False)
    page = tmp_path / "page.md"
    page.write_text("### Sum?\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n", "utf-8")
    wrong = Page(page)
    with pytest.raises(AssertionError, match="run with RNNSCOPE_REGENERATE=1"):
        wrong.assert_prints_what_it_shows(wrong.section("Sum?"))


def test_a_text_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNSCOPE_REGENERATE", "1")
    page = tmp_path / "page.md"
    code = "print('first', *range(3), 'last', sep='\\n')"
    page.write_text(f"### Q?\n\n```python\n{code}\n```\n\n```text\n...\n2\nla\n```\n", "utf-8")
    old = Page(page)
    old.assert_prints_what_it_shows(old.section("Q?"))
    assert page.read_text("utf-8").endswith("```text\n...\n0\n1\n2\nlast\n```\n")
    assert Page(page).sections[0].blocks[1] == Block("text", "...\n0\n1\n2\nlast\n", 7)
