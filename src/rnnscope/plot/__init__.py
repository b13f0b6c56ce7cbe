"""Pictures of a trace: each function draws on ``ax`` and returns it; ``data`` holds what is drawn.

Enters: a trace, gradients or a comparison of traces.
Leaves: axes of matplotlib (``pip install 'rnnscope[plot]'``); the data need no matplotlib.
"""

from rnnscope.plot import data
from rnnscope.plot.drawing import (
    eigenvalues,
    flow,
    gradient_norm,
    memory,
    quantity,
    saturation,
    units,
    unrolled,
)

__all__ = [
    "data",
    "eigenvalues",
    "flow",
    "gradient_norm",
    "memory",
    "quantity",
    "saturation",
    "units",
    "unrolled",
]
