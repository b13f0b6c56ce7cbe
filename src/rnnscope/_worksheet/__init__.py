"""A printable sheet on which a class computes a small layer step by step, and its key.

Enters: a trace of a layer whose weights are rounded, and a number of digits.
Leaves: one HTML page; on paper, or as a PDF that Chromium makes.
"""
