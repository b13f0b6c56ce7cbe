"""How frameworks store a recurrent layer, as data, and the conversion derived from it.

Enters: arrays in the layout of one framework.
Leaves: the same weights in the layout of another.
"""

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
