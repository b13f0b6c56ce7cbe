"""One HTML file through which one can walk, and in which every number can be changed.

Enters: a trace, labels, gradients.
Leaves: a self-contained page; its equations come from the cell's declaration.
"""

from rnnscope._page.document import View, view

__all__ = ["View", "view"]
