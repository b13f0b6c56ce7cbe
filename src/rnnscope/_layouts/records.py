"""Every layout that rnnscope knows, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rnnscope._layouts.audio import GUITARML, NAM, RTNEURAL
from rnnscope._layouts.exchange import BURN, COREML, MXNET, MXNET_CELL, ONNX
from rnnscope._layouts.jax import EQUINOX, FLAX, FLAX_NNX, FLAX_NNX_OPTIMIZED, HAIKU
from rnnscope._layouts.layout import Layout
from rnnscope._layouts.tensorflow import (
    KERAS,
    KERAS1,
    KERAS_CUDNN,
    TENSORFLOW1,
    TENSORFLOW1_LSTM,
)
from rnnscope._layouts.torch import PYTORCH, PYTORCH_CELL, RNNSCOPE

__all__ = ["LAYOUTS", "PYTORCH", "RNNSCOPE"]

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            PYTORCH,
            PYTORCH_CELL,
            RNNSCOPE,
            KERAS,
            KERAS1,
            KERAS_CUDNN,
            TENSORFLOW1,
            TENSORFLOW1_LSTM,
            ONNX,
            FLAX,
            FLAX_NNX,
            FLAX_NNX_OPTIMIZED,
            EQUINOX,
            HAIKU,
            MXNET,
            MXNET_CELL,
            COREML,
            BURN,
            NAM,
            RTNEURAL,
            GUITARML,
        )
    }
)
