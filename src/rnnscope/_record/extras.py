"""Packages that only some verbs need: imported where they are used, missing ones told with the
extra that brings them."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from rnnscope.errors import MissingExtraError

__all__ = ["package_of_extra"]


def package_of_extra(module: str, extra: str) -> Any:
    """An optional package; raises ``MissingExtraError`` with the line that installs it."""
    if module in sys.modules and sys.modules[module] is not None:
        return sys.modules[module]
    try:
        with warnings.catch_warnings():  # some set filters of their own, which are the caller's
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {module}, which is not installed: pip install 'rnnscope[{extra}]'"
        ) from error
