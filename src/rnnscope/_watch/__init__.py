"""``watch``: every call of every recurrent layer inside a model.

Enters: a model.
Leaves: its calls as traces, by the module's name; what was not recorded, with the reason.
"""
