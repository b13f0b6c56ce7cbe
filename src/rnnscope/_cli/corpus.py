"""What `rnnscope record-info` prints: a store, and on demand the statistics of its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rnnscope._corpus.reading.corpus import Corpus
from rnnscope._corpus.reading.statistics import statistics
from rnnscope._escaping import printable

__all__ = ["RecordInfo"]

_COLUMNS = ("mean", "deviation", "low", "high", "correlation")


class RecordInfo:
    """A store as text, Markdown or data; ``summed`` reads all numbers once."""

    def __init__(self, path: Path | str, summed: bool, partial: bool) -> None:
        self.corpus = Corpus(str(path))
        self.layers: dict[str, dict[str, dict[str, float]]] = {}
        if summed:
            opened = self.corpus.open(partial=partial)
            self.layers = {name: _statistics(dataset) for name, dataset in opened.items()}

    def data(self) -> dict[str, Any]:
        """As data."""
        return self.corpus.data() | ({"statistics": self.layers} if self.layers else {})

    def markdown(self) -> str:
        """As Markdown."""
        return "\n\n".join([self.corpus.markdown(), *map(_table, self.layers.values())])

    def __str__(self) -> str:
        lines = [str(self.corpus)]
        for name, quantities in self.layers.items():
            lines.append(printable(f"{name or '(model)'}, over its units:"))
            lines.append(" " * 12 + "".join(f"{column:>13}" for column in _COLUMNS))
            for quantity, values in quantities.items():
                numbers = (
                    f"{values[column]:>13.4g}" if column in values else " " * 13
                    for column in _COLUMNS
                )
                lines.append(f"  {quantity:<10}{''.join(numbers).rstrip()}")
        if self.layers:
            lines.append(
                "low, high: share in the lowest and highest tenth of the function's range; "
                "correlation: mean size between two units"
            )
        return "\n".join(lines)


def _statistics(dataset: Any) -> dict[str, dict[str, float]]:
    """A few numbers for each quantity, over all layers, directions and units."""
    result = statistics(dataset, correlations=True)
    quantities = {}
    for name in dataset.data_vars:
        values = {
            "mean": float(result[f"{name}_mean"].mean()),
            "deviation": float((result[f"{name}_variance"] ** 0.5).mean()),
        }
        for side in ("low", "high"):
            if f"{name}_{side}" in result:
                values[side] = float(result[f"{name}_{side}"].mean())
        matrix = abs(result[f"{name}_correlation"].values)
        units = matrix.shape[-1]
        if units > 1:
            pairs = matrix[..., ~np.eye(units, dtype=bool)]
            if (pairs == pairs).any():
                values["correlation"] = float(pairs[pairs == pairs].mean())
        quantities[str(name)] = values
    return quantities


def _table(quantities: dict[str, dict[str, float]]) -> str:
    rows = [f"| | {' | '.join(_COLUMNS)} |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for name, values in quantities.items():
        cells = [f"{values[column]:.4g}" if column in values else "" for column in _COLUMNS]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)
