"""Models and weights of Keras 1 to 3: .h5, .hdf5 and .keras.

Enters: a path.
Leaves: arrays under one set of names; the layers that they and the configuration describe.
"""

from rnnscope._files.keras.file import read_hdf5_file, read_keras
from rnnscope._files.keras.layers import layers_of_keras

__all__ = ["layers_of_keras", "read_hdf5_file", "read_keras"]
