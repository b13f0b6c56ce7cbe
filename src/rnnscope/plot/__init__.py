"""Pictures of a trace: each function draws on ``ax`` and returns it; ``data`` holds what is drawn.

matplotlib is needed to draw (``pip install 'rnnscope[plot]'``), not for the data.
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
