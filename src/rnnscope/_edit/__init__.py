"""Runs again in which numbers inside the layer are changed.

Enters: a trace, edits or other weights.
Leaves: a trace in which every later step and layer follows.
"""
