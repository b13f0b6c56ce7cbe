"""Compiled kernels: one pass over memory in place of many operations, from the declared equations.

Enters: a cell's declaration, and the memory of a record.
Leaves: machine code (`pip install 'rnnscope[fast]'`) that fills it, or the reason why torch does.
"""
