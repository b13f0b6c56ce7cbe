"""The map of the house is the house: drawing and rooms are what their sources say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import architecture  # noqa: E402


def test_the_drawing_is_of_the_import_contract() -> None:
    """To renew: python docs/architecture.py."""
    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.picture()


def test_the_rooms_are_their_docstrings() -> None:
    """To renew: python docs/architecture.py."""
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert text == architecture.page(text)


def test_every_room_says_what_enters_and_what_leaves() -> None:
    for room in (ROOT / "src" / "rnnscope").iterdir():
        if (room / "__init__.py").exists():
            words = architecture.docstring(room.name)
            assert re.search(r"^Enters: ", words, re.MULTILINE), room.name
            assert re.search(r"^Leaves: ", words, re.MULTILINE), room.name


NAMED = re.findall(
    r"`((?:src|tests|docs|tools|benchmarks)/[\w./]+|_?\w+/[\w/]+\.\w+)(?:::(\w+))?`",
    architecture.PAGE.read_text(encoding="utf-8"),
)


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_what_the_page_names_is_there(path: str, name: str) -> None:
    """Files, and functions and classes written as `file.py::name`."""
    places = [ROOT / path, ROOT / "src" / "rnnscope" / path]
    (place,) = [place for place in places if place.exists()]
    if name:
        assert re.search(rf"^\s*(def|class) {name}\b|^{name}\b", place.read_text("utf-8"), re.M)
