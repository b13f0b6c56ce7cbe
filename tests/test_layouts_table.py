"""The table in the documentation is what the records say."""

from __future__ import annotations

from pathlib import Path

from rnnscope._layouts import LAYOUTS
from rnnscope._layouts.table import document, table

PAGE = Path(__file__).parent.parent / "docs" / "layouts.md"


def test_the_page_is_current() -> None:
    """To renew: python -m rnnscope._layouts.table > docs/layouts.md."""
    assert PAGE.read_text(encoding="utf-8") == document()


def test_each_layout_and_cell_has_a_row() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table().splitlines()]
    assert {len(row) for row in rows} == {7}
    found = {(row[0].strip("*"), row[1]) for row in rows[2:]}
    assert found == {(layout.name, kind) for layout in LAYOUTS.values() for kind in layout.cells}


def test_the_rows_say_what_people_get_wrong() -> None:
    rows = {tuple(c.strip() for c in line.split("|")[1:3]): line for line in table().splitlines()}
    assert "`i g f o`" in rows["**tensorflow1**", "lstm"]
    assert "adds 1 to f at run time" in rows["**tensorflow1**", "lstm"]
    assert "z takes the new state" in rows["**haiku**", "gru_reset_before"]
    assert "both in (2, kH)" in rows["**keras**", "gru"]
    assert "one, and b_hn apart" in rows["**equinox**", "gru"]
    assert "(directions, kH, I)" in rows["**onnx**", "lstm"]
    assert "relu unless told otherwise" in rows["**mxnet**", "rnn"]
    assert "relu alone" in rows["**haiku**", "rnn"]
