"""Packages that only some verbs need: imported where they are used, missing ones told with the
extra that brings them."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from typing import Any

from rnnscope.errors import MissingExtraError

__all__ = ["package_of_extra"]


COMPANIONS = {"xarray": ("scipy.sparse", "scipy.special")}
"""What a package imports by itself, if it is there, when it is first used."""


def package_of_extra(module: str, extra: str) -> Any:
    """An optional package; raises ``MissingExtraError`` with the line that installs it."""
    companions = COMPANIONS.get(module, ())
    if all(sys.modules.get(name) is not None for name in (module, *companions)):
        return sys.modules[module]
    try:
        with warnings.catch_warnings():  # some set filters of their own, which are the caller's
            package = importlib.import_module(module)
            for name in companions:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
            return package
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {module}, which is not installed: pip install 'rnnscope[{extra}]'"
        ) from error
