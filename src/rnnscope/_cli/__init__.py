"""The command ``rnnscope``.

Enters: arguments of a command line.
Leaves: what the public functions say, as text or JSON, and an exit code.
"""
