"""``record``: a data set through a model, every step of every layer on disk.

Enters: a model, batches, a path.
Leaves: a store of proven rows that is resumed, opened lazily, searched and summed up.
"""
