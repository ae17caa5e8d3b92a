"""Devices serve devices: what a pull got and gets, served to neighbours while it runs and after.

Off unless asked for. This package must not decide what to pull, and must serve nothing but the
blocks and manifests of models that were offered.
"""

from icnblocks.share.options import ShareOptions
from icnblocks.share.sharer import Shared, Sharer

__all__ = ["ShareOptions", "Shared", "Sharer"]
