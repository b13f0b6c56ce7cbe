"""Gradients of every number, derived from the declared equations; Jacobians, memory.

Enters: a trace and a loss, or two addresses.
Leaves: gradients in the trace's names and dims, equal to autograd's.
"""
