"""Loading: tensors in memory from a pulled model. The only place that may import torch."""

from icnblocks.loader.mapped import TensorInfo
from icnblocks.loader.model import Model, load, open_model
from icnblocks.loader.streaming import Stream, stream

__all__ = ["Model", "Stream", "TensorInfo", "load", "open_model", "stream"]
