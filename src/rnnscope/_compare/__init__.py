"""Candidate against reference: whether they compute the same, and if not where and why."""

from rnnscope._compare.compare import assert_agrees, compare
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.verdict import Explanation, Place, Verdict

__all__ = ["Cause", "Explanation", "Place", "Verdict", "assert_agrees", "compare"]
