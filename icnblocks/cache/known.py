"""A policy and the models that it was told of: of so many blocks at most.

This module must not know any policy.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icnblocks.cache.policy import Policy
    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest

_LEAST: Final = 8
"""As so many blocks each model counts at least: a policy keeps more of it than its blocks."""


class Known:
    """A policy, and the manifests that it knows with their numbers of blocks; the latest use last.

    Args:
        policy: told of models here only.
        footprint: the bytes that a block of a length takes.
        limit: blocks of all of them together.
    """

    __slots__ = ("_blocks", "_footprint", "_limit", "_models", "policy")

    def __init__(self, policy: Policy, footprint: Callable[[int], int], limit: int) -> None:
        self.policy = policy
        self._footprint = footprint
        self._limit = limit
        self._models: OrderedDict[Digest, int] = OrderedDict()
        self._blocks = 0

    def __contains__(self, manifest: Digest) -> bool:
        return manifest in self._models

    def learn(
        self, digest: Digest, manifest: Manifest, lengths: Mapping[Digest, int] | None = None
    ) -> None:
        """One more, as `learn_blocks`; `lengths` are its own, for whoever has counted them."""
        if digest not in self._models:
            base = manifest.base.manifest if manifest.base else None
            self.learn_blocks(digest, lengths or manifest.lengths(), base)

    def learn_blocks(
        self, manifest: Digest, lengths: Mapping[Digest, int], base: Digest | None
    ) -> None:
        """One more; those used longest ago are forgotten until the limit is kept."""
        if manifest in self._models:
            return
        if len(lengths) > self._limit:  # all others would be forgotten for it, then itself
            self._models[manifest] = 0
            return
        # Of each length once: most blocks have the same.
        sizes = {length: self._footprint(length) for length in set(lengths.values())}
        blocks = {digest: sizes[length] for digest, length in lengths.items()}
        self.policy.learn(manifest, blocks, base)
        self._models[manifest] = counted = max(len(blocks), _LEAST)
        self._blocks += counted
        while self._blocks > self._limit:
            self.forget(next(iter(self._models)))

    def used(self, manifest: Digest) -> bool:
        """It was asked for; False if it is not known."""
        if manifest not in self._models:
            return False
        self._models.move_to_end(manifest)
        return True

    def forget(self, manifest: Digest) -> None:
        """It is known no longer. Unknown: ignored."""
        count = self._models.pop(manifest, None)
        if count is not None:
            self._blocks -= count
            self.policy.forget(manifest)
