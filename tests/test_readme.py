"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "README.md"
README = FILE.read_text(encoding="utf-8")


def printed_by(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the Python of a page prints, run from the top."""
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    return capsys.readouterr().out


def test_the_code_runs_and_prints_what_is_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = printed_by(README, capsys)
    shown = re.findall(
        r"^```\n((?:h_3|differs by).*?)^(?:\.\.\.\n)?```", README, re.DOTALL | re.MULTILINE
    )
    assert len(shown) == 2
    for block in shown:
        assert _without_rounding(block) in _without_rounding(printed)


@pytest.mark.parametrize("name", ["comparing", "record", "verbs", "watch"])
def test_the_code_of_a_page_runs(
    name: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    printed_by((FILE.parent / "docs" / f"{name}.md").read_text(encoding="utf-8"), capsys)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


def _without_rounding(text: str) -> str:
    """What is left over after all is the machine's: 8.3e-08 on one, 6.0e-08 on another."""
    return re.sub(r"\d\.\de-\d\d", "#e-##", text)


WRITTEN = (
    "page",
    "plots",
    "comparing",
    "verbs",
    "watch",
    "costs",
    "verification",
    "architecture",
    "record",
)


@pytest.mark.parametrize("path", [FILE, *(FILE.parent / "docs" / f"{name}.md" for name in WRITTEN)])
def test_every_file_that_is_named_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = [path.parent / name for name in re.findall(r"\]\(([\w./-]+\.\w+)\)", text)]
    named += [FILE.parent / name for name in re.findall(r"\b(tests/[\w/]+\.py)", text)]
    named += [FILE.parent / name for name in re.findall(r"\b(benchmarks/[\w/]+\.py)", text)]
    assert named
    assert [name for name in named if not name.exists()] == []
