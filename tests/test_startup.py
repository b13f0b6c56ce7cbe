"""Start-up: what importing the package and asking the command for help loads, and what not."""

from __future__ import annotations

import ast
import copy
import importlib
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import rnnscope as rs
from rnnscope._cli.choices import ENDINGS, LAYOUT_NAMES
from rnnscope._cli.commands import app
from rnnscope._files.containers import READERS
from rnnscope._layouts import LAYOUTS

SOURCE = Path(rs.__file__).parent
OPTIONAL = {
    "matplotlib",
    "pandas",
    "xarray",
    "h5py",
    "onnx",
    "numba",
    "llvmlite",
    "zarr",
    "numcodecs",
    "google_crc32c",
    "dask",
    "distributed",
}
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def fresh(code: str) -> Any:
    """What code prints as JSON in a process of its own, which has imported nothing yet."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent), "OMP_NUM_THREADS": "1"},
    )
    return json.loads(process.stdout.splitlines()[-1])


# the package -----------------------------------------------------------------------------------


def test_importing_the_package_imports_nothing_else() -> None:
    loaded = fresh("import json, sys, rnnscope; print(json.dumps(list(sys.modules)))")
    assert [name for name in loaded if name.startswith("rnnscope")] == ["rnnscope"]
    packages = {name.partition(".")[0] for name in loaded}
    assert not packages & {*OPTIONAL, "torch", "numpy", "typer", "rich", "importlib.metadata"}


FIRST_USES = """
import json, sys, threading, torch
before = set(sys.modules)
import rnnscope
results, names = {}, [*rnnscope.__all__, "cells", "errors", "__version__"]
start = threading.Barrier(len(names))

def use(name):
    start.wait()
    results[name] = repr(getattr(rnnscope, name))

threads = [threading.Thread(target=use, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
packages = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([results, sorted(packages)]))
"""


def test_each_name_is_the_same_when_all_are_first_used_at_once() -> None:
    """The judge is this process, in which names came one after another. No name needs an extra."""
    results, packages = fresh(FIRST_USES)
    here = {name: getattr(rs, name) for name in results}
    addresses = {name for name, value in here.items() if " at 0x" in repr(value)}
    assert {name: results[name] for name in results if name not in addresses} == {
        name: repr(value) for name, value in here.items() if name not in addresses
    }
    assert all(results[name].startswith("<function") for name in addresses)
    assert not set(packages) & {*OPTIONAL, "typer"}


def test_the_lists_of_public_names_are_the_same() -> None:
    """``__all__``, the table by which names are imported, and what a type checker reads."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test)[0] == "T"
    ]
    homes = {
        alias.name: node.module
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == rs._HOMES
    assert sorted(homes) == sorted([*rs.__all__, "cells", "errors"])


def test_every_public_name_is_the_thing_in_its_home() -> None:
    names: dict[str, Any] = {}
    exec("from rnnscope import *", names)
    for name in rs.__all__:
        home = rs._HOMES[name]
        expected = (
            importlib.import_module("rnnscope.plot")
            if name == "plot"
            else getattr(importlib.import_module(home), name)
        )
        assert names[name] is getattr(rs, name) is expected
    assert set(rs.__all__) | {"cells", "errors", "__version__"} <= set(dir(rs))


def test_a_misspelt_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'rnnscope' has no attribute 'tracer'"):
        rs.tracer  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'tracer' from 'rnnscope'"):
        from rnnscope import tracer  # noqa: F401


@pytest.mark.parametrize("name", [name for name in rs.__all__ if name != "plot"])
def test_copies_of_a_public_name_are_the_thing_itself(name: str) -> None:
    value = getattr(rs, name)
    if name == "Array":  # an alias of types, not a class
        return
    assert pickle.loads(pickle.dumps(value)) is copy.deepcopy(value) is value


def extras() -> dict[str, set[str]]:
    """The packages that each extra brings to a user: not those of developers, nor all together."""
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        # a distribution's name, as that of its module
        extra: {re.split(r"[<>=!~ ]", text)[0].replace("-", "_") for text in requirements}
        for extra, requirements in project["project"]["optional-dependencies"].items()
        if extra not in ("all", "bench", "dev", "docs")
    }


def test_extras_are_what_the_source_imports_and_names() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    imported = re.findall(r"^\s+(?:import|from) (\w+)", text, re.MULTILINE)
    imported += re.findall(r"(?:_extra|import_module)\(\"(\w+)\"", text)
    assert set.union(*extras().values()) <= set(imported)
    named = set(re.findall(r"rnnscope\[(\w+)\]", text))
    named |= set(re.findall(r"_extra\(\"\w+\", \"(\w+)\"", text))
    assert named == set(extras())


# the command -----------------------------------------------------------------------------------

INVOKED = """
import json, sys
from rnnscope._cli.commands import app
codes = []
for words in {words!r}:
    try:
        app(words)
    except SystemExit as end:
        codes.append(end.code)
print(json.dumps([codes, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def test_help_and_refusals_of_options_need_no_torch() -> None:
    asked = [[], ["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    refused = [["explain", "3", "--hiden", "2"], ["shapes", "--hidden", "0"], ["none"]]
    codes, packages = fresh(INVOKED.format(words=asked + refused))
    assert codes == [0] * len(asked) + [2] * len(refused)
    assert not set(packages) & {*OPTIONAL, "torch", "numpy", "rich"}


def test_an_explanation_needs_no_extra() -> None:
    codes, packages = fresh(INVOKED.format(words=[["explain", "3", "4"]]))
    assert codes == [0]
    assert "torch" in packages
    assert not set(packages) & OPTIONAL


def test_choices_are_those_of_the_rooms_that_know_them() -> None:
    assert tuple(READERS) == ENDINGS
    assert tuple(LAYOUTS) == LAYOUT_NAMES
