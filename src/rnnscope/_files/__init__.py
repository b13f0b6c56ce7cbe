"""Recurrent layers in files of every common kind: found, loaded, saved.

Enters: a path.
Leaves: modules by name, or a file written whole; nothing in a file is ever run.
"""

from rnnscope._files.loading import Layers, load
from rnnscope._files.saving import save

__all__ = ["Layers", "load", "save"]
