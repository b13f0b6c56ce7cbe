"""How frameworks store recurrent layers, as data, and the conversion derived from it."""

from rnnscope._layouts.convert import Converted, candidates, from_torch, layout_named, to_torch
from rnnscope._layouts.layout import Array, Layout, Stored
from rnnscope._layouts.records import LAYOUTS

__all__ = [
    "LAYOUTS",
    "Array",
    "Converted",
    "Layout",
    "Stored",
    "candidates",
    "from_torch",
    "layout_named",
    "to_torch",
]
