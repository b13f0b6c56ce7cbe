"""One HTML file through which one can walk, and in which every number can be changed.

Enters: a trace, labels, gradients; the vocabulary, embedding and readout around the layer.
Leaves: a self-contained page; its equations come from the cell's declaration.
"""

from rnnscope._page.document import Appearance, View, view
from rnnscope._page.model import TokenModel

__all__ = ["Appearance", "TokenModel", "View", "view"]
