"""Gradients of every quantity, derived from the declared equations; Jacobians and memory."""
