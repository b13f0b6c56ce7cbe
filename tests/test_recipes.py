"""The recipes: each quotes an error that comes, and its way out prints the proof that it shows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from pages import Page, Section

FOLDER = Path(__file__).parents[1] / "docs" / "recipes"
PAGES = {path.stem: Page(path) for path in sorted(FOLDER.glob("*.md")) if path.stem != "index"}
OPTIONAL = ("captum",)
"""Packages that a section may need and the tests do not: without them it is not run."""


def lacks_a_package(section: Section) -> bool:
    code = "".join(block.text for block in section.code)
    return any(
        re.search(rf"^(?:from|import) {name}\b", code, re.MULTILINE)
        and importlib.util.find_spec(name) is None
        for name in OPTIONAL
    )


def takes_long(name: str, section: Section) -> bool:
    """A second search of a kind: the first one stays among the quick tests."""
    searches = any("rs.compare(" in block.text for block in section.code)
    return searches and (name, section.title) != ("int8_port", "What rs.compare says")


SECTIONS = [
    pytest.param(
        name,
        section.title,
        id=f"{name}-{section.title}",
        marks=[pytest.mark.slow] * takes_long(name, section),
    )
    for name, page in PAGES.items()
    for section in page.sections
    if not lacks_a_package(section)
]


@pytest.mark.parametrize(("name", "title"), SECTIONS)
def test_a_section_prints_what_it_shows(
    name: str, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGES[name]
    page.assert_prints_what_it_shows(page.section(title))


def test_the_index_names_every_recipe() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\w+)\.md\)", index)) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_an_error_of_the_index_is_quoted_by_its_page(name: str) -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    (row,) = [line for line in index.splitlines() if f"]({name}.md)" in line]
    quoted = re.findall(r"`([^`]+)`", row.split("|")[1])
    assert quoted
    assert all(error in PAGES[name].text for error in quoted)
