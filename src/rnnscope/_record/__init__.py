"""What a call computed, as labelled data: quantities, names, dims, padding.

Enters: tensors (layer, direction, batch, time, unit) and the lengths of the sequences.
Leaves: a ``Record``: selected, compared, exported.
"""
