"""Candidate against reference: whether they compute the same, and if not where and why."""

from rnnscope.compare.cause import Cause
from rnnscope.compare.comparing import assert_agrees, compare
from rnnscope.compare.verdict import Explanation, Place, Verdict

__all__ = ["Cause", "Explanation", "Place", "Verdict", "assert_agrees", "compare"]
