"""Weights that a module keeps beside copies in which some numbers were dropped.

WeightDrop, of AWD-LSTM and of fastai, trains ``weight_hh_l0_raw`` and writes a copy with dropout
into ``weight_hh_l0``, or into that of the module inside, before each call; the copy of the last
call of the training lies in the state dict, too.

Source: github.com/salesforce/awd-lstm-lm/blob/master/weight_drop.py,
github.com/fastai/fastai/blob/master/fastai/text/models/awdlstm.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from rnnscope._files.content import FileContent

__all__ = ["with_raw_weights"]

_RAW = re.compile(
    r"(?P<before>.*?)(?P<weight>(?:weight|bias)_(?:ih|hh|hr)(?:_l\d{1,3}(?:_reverse)?)?)_raw",
    re.DOTALL,
)


def with_raw_weights(content: FileContent) -> tuple[FileContent, Mapping[str, str]]:
    """The file with each raw weight in the place of its copy; for each such name, what to say."""
    sources: dict[str, str] = {}
    modules = {name.rpartition("weight_")[0] for name in content.arrays}
    for name in content.arrays:
        match = _RAW.fullmatch(name)
        if match is None:
            continue
        before, weight = match["before"], match["weight"]
        inner = f"{before}module."
        sources[(inner if inner in modules else before) + weight] = name
    if not sources:
        return content, {}
    raw_names = set(sources.values())
    arrays = {
        name: content.arrays[sources.get(name, name)]
        for name in content.arrays
        if name not in raw_names
    }
    arrays |= {name: content.arrays[raw] for name, raw in sources.items()}
    notes = {
        name: f"{name} is read from {raw}"
        + (", of which the file has a copy with dropout" if name in content.arrays else "")
        for name, raw in sources.items()
    }
    return replace(content, arrays=arrays), notes
