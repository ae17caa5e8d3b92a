"""The built-in eviction policies, one file each; importing this registers them."""

from icnblocks.cache.policies.gdsf import Gdsf
from icnblocks.cache.policies.lfu import Lfu
from icnblocks.cache.policies.lru import Lru
from icnblocks.cache.policies.sharing import Sharing

__all__ = ["Gdsf", "Lfu", "Lru", "Sharing"]
