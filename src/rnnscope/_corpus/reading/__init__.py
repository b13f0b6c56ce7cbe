"""A store opened: lazily, as datasets; searched and summed up block by block.

Enters: a path.
Leaves: datasets of xarray, the steps where a unit is largest, statistics, a summary.
"""
