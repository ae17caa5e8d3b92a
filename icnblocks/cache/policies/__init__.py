"""The built-in eviction policies, one file each; importing this registers them."""

from icnblocks.cache.policies.lru import Lru

__all__ = ["Lru"]
