"""Zarr's own functions are coroutines: they are run in a loop that ends with the call.

Zarr's plain functions would start a thread and an executor that stay for the rest of the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["completed"]

_Result = TypeVar("_Result")


def completed(work: Coroutine[Any, Any, _Result]) -> _Result:
    """What a coroutine returns or raises; it runs in a thread of its own, since the caller's may
    have a loop already, as a notebook's has."""
    outcomes: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcomes.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="rnnscope-zarr")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcomes[0]
