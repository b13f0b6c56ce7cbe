"""What a recurrent module is, how it is called, and the one loop over time.

Enters: a module of ``torch.nn`` (or a ``Recurrent``) and the arguments of a call.
Leaves: its ``Structure``, ``Weights`` and ``Call`` in one form; states computed step by step.
"""
