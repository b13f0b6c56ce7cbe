"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "README.md"
README = FILE.read_text(encoding="utf-8")


def test_the_code_runs_and_prints_what_is_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To renew the verdict: RNNSCOPE_REGENERATE=1, then look at what it wrote."""
    monkeypatch.chdir(tmp_path)  # it writes a page
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    printed = capsys.readouterr().out
    if os.environ.get("RNNSCOPE_REGENERATE") == "1":
        found = re.search(r"^differs by.*?^Probe[^\n]*", printed, re.DOTALL | re.MULTILINE)
        assert found is not None
        verdict = found.group(0)
        renewed = re.sub(r"(?ms)^differs by.*?(?=\n```$)", lambda _: verdict, README)
        FILE.write_text(renewed, encoding="utf-8")
        return
    shown = re.findall(r"^```\n((?:h_3|differs by).*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(shown) == 2
    for block in shown:
        assert _without_rounding(block) in _without_rounding(printed)


def _without_rounding(text: str) -> str:
    """What is left over after all is the machine's: 8.3e-08 on one, 6.0e-08 on another."""
    return re.sub(r"\d\.\de-\d\d", "#e-##", text)


@pytest.mark.parametrize(
    "path", [FILE, FILE.parent / "docs" / "page.md", FILE.parent / "docs" / "plots.md"]
)
def test_every_file_that_is_named_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = [path.parent / name for name in re.findall(r"\]\(([\w./-]+\.\w+)\)", text)]
    named += [FILE.parent / name for name in re.findall(r"`(tests/[\w./]+)`", text)]
    assert named
    assert [name for name in named if not name.exists()] == []
