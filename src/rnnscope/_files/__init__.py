"""Recurrent layers in files of every common kind: found, loaded, saved."""

from rnnscope._files.loading import Layers, load
from rnnscope._files.saving import save

__all__ = ["Layers", "load", "save"]
