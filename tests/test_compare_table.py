"""The page of mistakes is what the catalogue says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rnnscope._compare.mistakes import CATALOGUE, SECTIONS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docs"))
from compare_page import EXACTLY, PAGE, page, table


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(title).split("\n")][
        2:
    ]


def test_the_page_is_current() -> None:
    """To renew: python docs/compare_page.py."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_entry_has_a_row() -> None:
    found = {
        row[0].strip("`").split("`")[0].split()[0] for title in SECTIONS for row in rows(title)
    }
    assert found == set(CATALOGUE)
    assert set(EXACTLY) <= set(CATALOGUE)


def test_the_page_says_which_exchanged_axes_agree() -> None:
    text = " ".join(page().split())
    assert "A function or module whose axes are exchanged does not agree" in text
    assert "Recorded arrays with exchanged axes agree, with a note" in text


@pytest.mark.parametrize("title", SECTIONS)
def test_every_row_says_what_and_where(title: str) -> None:
    for row in rows(title):
        assert len(row) == 5
        assert all(row[:4])


def test_the_rows_say_what_people_get_wrong() -> None:
    found = {row[0].strip("`"): row for title in SECTIONS for row in rows(title)}
    assert found["reset_before"][1] == "GRU"
    assert found["bias_missing of b_hh"][1] == "all"
    assert found["initial_exchanged"][1] == "LSTM without projection"
    assert found["reverse_forward"][2] == "reverse of a layer"
    assert found["coupled f"][1] == "LSTM"
    assert "`h = (1 - z) * n + z * h`" in found["update_exchanged"][4]
