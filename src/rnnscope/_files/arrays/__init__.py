"""Formats that hold named arrays and nothing else: .npz, .safetensors, HDF5.

Enters: a path, or the bytes of an HDF5 file.
Leaves: arrays by name, read when they are asked for.
"""

from rnnscope._files.arrays.hdf5 import Hdf5Content, read_hdf5
from rnnscope._files.arrays.npz import read_npz
from rnnscope._files.arrays.safetensors import read_safetensors

__all__ = ["Hdf5Content", "read_hdf5", "read_npz", "read_safetensors"]
