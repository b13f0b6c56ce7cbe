"""How far a recording is: a bar in a terminal, or a function of the caller's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rnnscope._corpus.disk.description import BatchFacts

__all__ = ["Progress", "Report", "reporting"]


@dataclass(frozen=True)
class Progress:
    """How far a recording is. ``total`` is the number of batches, None where that shows at the
    end only; ``recorded`` counts the batches that were there before; ``bytes`` is that of the
    numbers before they are compressed; ``seconds`` since the call began."""

    batches: int = 0
    total: int | None = None
    recorded: int = 0
    sequences: int = 0
    steps: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def after(self, facts: BatchFacts, nbytes: int) -> Progress:
        """One batch further."""
        sequences = max((layer.sequences for layer in facts.layers.values()), default=0)
        steps = max((layer.rows for layer in facts.layers.values()), default=0)
        return replace(
            self,
            batches=self.batches + 1,
            sequences=self.sequences + sequences,
            steps=self.steps + steps,
            bytes=self.bytes + nbytes,
        )


Report = Callable[[Progress], Any]


@contextmanager
def reporting(progress: bool | Report) -> Iterator[Report]:
    """A function that is text of each batch."""
    start = time.monotonic()
    if callable(progress):
        yield lambda state: progress(replace(state, seconds=time.monotonic() - start))
    elif progress and sys.stderr is not None and sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield lambda state: None


@contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("record"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("record", total=None, text="")

        def report(state: Progress) -> None:
            rate = state.steps / max(time.monotonic() - start, 1e-9)
            text = (
                f"{state.sequences:,} sequences, {state.steps:,} steps, {rate:,.0f}/s, "
                f"{state.bytes / 1e6:,.0f} MB"
            )
            bar.update(task, completed=state.recorded + state.batches, total=state.total, text=text)

        yield report
