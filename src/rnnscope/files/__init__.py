"""Recurrent layers in files of every common kind: found, loaded, saved."""

from rnnscope.files.loading import Layers, load
from rnnscope.files.saving import save

__all__ = ["Layers", "load", "save"]
