"""State dicts of PyTorch: .pt and .pth, and parameters under PyTorch's names.

Enters: a path, or arrays under names such as ``weight_ih_l0``.
Leaves: tensors by name; a layer whose parameters are complete and fit together.
"""

from rnnscope._files.pytorch.file import read_torch
from rnnscope._files.pytorch.layers import assemble
from rnnscope._files.pytorch.raw import with_raw_weights
from rnnscope._files.pytorch.reparametrization import refuse_reparametrization

__all__ = ["assemble", "read_torch", "refuse_reparametrization", "with_raw_weights"]
