"""``trace``: one call of a layer, with every number in it and what can be asked of them.

Enters: a layer and the arguments of a call.
Leaves: a ``Trace``: a record with verbs, a proof, a file form.
"""
