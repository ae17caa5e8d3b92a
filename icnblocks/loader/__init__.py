"""Loading: tensors in memory from a pulled model. The only place that may import torch."""

from icnblocks.loader.mapped import TensorInfo
from icnblocks.loader.model import Model, load, open_model

__all__ = ["Model", "TensorInfo", "load", "open_model"]
