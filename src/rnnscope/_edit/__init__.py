"""Runs again in which numbers inside the layer are changed."""
