"""Runs again in which numbers inside the layer are changed.

Enters: a trace, edits or other weights.
Leaves: a trace in which every later step and layer follows.
"""

from rnnscope._edit.difference import difference
from rnnscope._edit.edits import Edit
from rnnscope._edit.rerun import rerun

__all__ = ["Edit", "difference", "rerun"]
