"""The built-in eviction policies, one file each; importing this registers them."""

from icnblocks.cache.policies.gdsf import Gdsf
from icnblocks.cache.policies.lfu import Lfu
from icnblocks.cache.policies.lru import Lru
from icnblocks.cache.policies.s3fifo import S3Fifo
from icnblocks.cache.policies.score import Score
from icnblocks.cache.policies.sharing import Sharing
from icnblocks.cache.policies.sieve import Sieve
from icnblocks.cache.policies.wtinylfu import WTinyLfu

__all__ = ["Gdsf", "Lfu", "Lru", "S3Fifo", "Score", "Sharing", "Sieve", "WTinyLfu"]
