"""Recurrent layers in files of every common kind: found, loaded, saved.

Enters: a path.
Leaves: modules by name, or a file written whole; nothing in a file is ever run.
"""

from rnnscope._files.layers import Layers
from rnnscope._files.load import load
from rnnscope._files.save import save

__all__ = ["Layers", "load", "save"]
