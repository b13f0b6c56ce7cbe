"""Models of ONNX: recurrent nodes read, chains of them written.

Enters: a path, or layers.
Leaves: nodes with their constants, layers of them; the bytes of a model.
"""

from rnnscope._files.onnx.file import read_onnx
from rnnscope._files.onnx.layers import layers_of_nodes
from rnnscope._files.onnx.writer import model_of

__all__ = ["layers_of_nodes", "model_of", "read_onnx"]
