"""Which models a policy has been told of: so many blocks at most. It must not know the policy."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.naming import Digest


class Known:
    """Manifests that are known, each with its number of blocks; of the latest use last.

    Args:
        limit: blocks of all of them together.
    """

    __slots__ = ("_blocks", "_limit", "_models")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._models: OrderedDict[Digest, int] = OrderedDict()
        self._blocks = 0

    def __contains__(self, manifest: Digest) -> bool:
        return manifest in self._models

    def add(self, manifest: Digest, blocks: int) -> None:
        """One more, with so many blocks, of which the policy was told."""
        self._models[manifest] = blocks
        self._blocks += blocks

    def used(self, manifest: Digest) -> bool:
        """It was asked for; False if it is not known."""
        if manifest not in self._models:
            return False
        self._models.move_to_end(manifest)
        return True

    def remove(self, manifest: Digest) -> bool:
        """It is known no longer; False if it was not."""
        count = self._models.pop(manifest, None)
        self._blocks -= count or 0
        return count is not None

    def too_many(self) -> Iterator[Digest]:
        """Those used longest ago, to be removed one after the other until the limit is kept."""
        while self._blocks > self._limit:
            yield next(iter(self._models))
