"""Packages as they are installed, taken apart.

A package's layers often need torch alone, and the package itself a dozen others. So the modules
above a layer's are not run: ``module`` imports one file and what that imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def module() -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of an installed package without the packages above it; skips the test where
    the package is not installed."""
    before = dict(sys.modules)
    tops: list[str] = []

    def imported(path: str) -> ModuleType:
        top, *parts = path.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"{top} is not installed")
        tops.append(top)
        place = Path(next(iter(spec.submodule_search_locations)))
        for k in range(len(parts)):
            name = ".".join([top, *parts[:k]])
            if name not in sys.modules:
                package = ModuleType(name)
                package.__path__ = [str(place.joinpath(*parts[:k]))]
                sys.modules[name] = package
        try:
            return importlib.import_module(path)
        except ImportError as error:
            pytest.skip(f"{path} needs more: {error}")

    yield imported
    for name in list(sys.modules):
        if name.partition(".")[0] in tops and name not in before:
            del sys.modules[name]
