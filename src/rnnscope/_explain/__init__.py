"""From one number to the arithmetic that gives it; and what the shapes of a call are.

Enters: a record and the address of a number in it.
Leaves: a ``Document``, written as text, LaTeX, Markdown or data.
"""
