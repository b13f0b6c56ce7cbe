"""The page: a layer's call as one HTML file through which one can walk."""

from rnnscope._page.document import View, view

__all__ = ["View", "view"]
