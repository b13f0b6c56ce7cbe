"""A candidate's gradients against the reference's: whether they are the same, and if not, why.

Enters: gradients by autograd, by a backward function or recorded; the reference; the call.
Leaves: a ``GradientVerdict``: agreement, the first difference in backward order, its causes.
"""
