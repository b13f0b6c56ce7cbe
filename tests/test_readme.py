"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_code_runs_and_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    printed = capsys.readouterr().out
    shown = re.findall(r"^```\n(h_3.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert shown
    assert all(block in printed for block in shown)


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"\]\(([\w/]+\.\w+)\)", README) + re.findall(r"`(tests/[\w./]+)`", README)
    missing = [name for name in named if not (Path(__file__).parents[1] / name).exists()]
    assert named
    assert not missing
