"""``check``: this machine's own kernels of recurrent layers against the equations.

Enters: a device and a type of number.
Leaves: a ``MachineReport``: one line per kernel, and what differs where.
"""

from rnnscope._check.check import check
from rnnscope._check.report import MachineReport

__all__ = ["MachineReport", "check"]
