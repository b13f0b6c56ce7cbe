"""A store on disk: where it is, what it holds, how rows get in and out.

Enters: rows of batches, as arrays.
Leaves: shards in the form of Zarr 3, each written whole and renamed; a journal of single batches.
"""
