"""Computing what Dask holds: by the caller's scheduler, or by threads that end with the call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rnnscope._record.extras import package_of_extra

__all__ = ["computed"]


def computed(collections: Sequence[Any]) -> tuple[Any, ...]:
    """The values of some collections of Dask, computed together."""
    dask = package_of_extra("dask", "record")
    if package_of_extra("dask.base", "record").get_scheduler() is not None:
        values: tuple[Any, ...] = dask.compute(*collections)
        return values
    # Dask's own pool of threads would stay for the rest of the process
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        values = dask.compute(*collections, scheduler="threads", pool=pool)
    return values
