"""A layer with mistakes in it, run on many inputs at a time."""
