"""Weights that torch computes from other arrays when the model runs: pruned, normed and so on.

Source: torch/nn/utils/{prune,weight_norm,spectral_norm,parametrize}.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rnnscope._files.stored_layer import layer_name
from rnnscope.errors import FileError

__all__ = ["refuse_reparametrization"]

_WEIGHT = r"(?P<weight>(?:weight|bias)_(?:ih|hh|hr)(?:_l\d{1,3}(?:_reverse)?)?)"
# the array that tells, in words what it is, and the function of torch.nn.utils that undoes it
_FORMS = (
    (rf"(?P<before>.*){_WEIGHT}_mask", "pruned", "prune.remove"),
    (rf"(?P<before>.*){_WEIGHT}_g", "under weight norm", "remove_weight_norm"),
    (rf"(?P<before>.*){_WEIGHT}_u", "under spectral norm", "remove_spectral_norm"),
    (
        rf"(?P<before>.*)parametrizations\.{_WEIGHT}\.original\d?",
        "parametrized",
        "parametrize.remove_parametrizations",
    ),
)


def refuse_reparametrization(path: Path, names: Iterable[str]) -> None:
    """Raise ``FileError`` where the file holds what a weight is computed from."""
    for name in names:
        for form, description, undo in _FORMS:
            match = re.fullmatch(form, name, re.DOTALL)
            if match is None:
                continue
            place = ", ".join(filter(None, [str(path), layer_name(match["before"])]))
            raise FileError(
                f"{place}: {match['weight']} is {description}: the file holds {name} and more, "
                f"of which torch computes it. Make it plain before its "
                f"state dict is saved: torch.nn.utils.{undo}(layer, {match['weight']!r})"
            )
