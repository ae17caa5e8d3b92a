"""Loading: tensors in memory from a pulled model. The only place that may import torch."""
