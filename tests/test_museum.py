"""Public bugs of ports, restated: each is named by its cause, and the page shows what is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from museum.exhibits import Exhibit, exhibits, verdict

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import museum_page  # noqa: E402

EXHIBITS = exhibits()


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_a_public_bug_is_named(exhibit: Exhibit) -> None:
    found = verdict(exhibit.name)
    text = " ".join(str(found).split())
    assert found.agrees == exhibit.agrees, text
    if exhibit.named:
        assert tuple(sorted(cause.name for cause in found.causes)) == exhibit.named, text
    for words in exhibit.says:
        assert words in text, text


def test_the_page_is_current() -> None:
    """To renew: python docs/museum_page.py."""
    assert museum_page.PAGE.read_text(encoding="utf-8") == museum_page.page()
