"""Candidate against reference: whether they compute the same, and if not where and why.

Enters: a module, a function or recorded numbers, and the layer that they should equal.
Leaves: a ``Verdict``: agreement, the first difference, the causes that explain it.
"""

from rnnscope._compare.compare import assert_agrees, compare
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.verdict import Explanation, FirstDifference, Verdict

__all__ = ["Cause", "Explanation", "FirstDifference", "Verdict", "assert_agrees", "compare"]
