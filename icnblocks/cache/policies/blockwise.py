"""What policies have in common that look at blocks one by one and know nothing of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icnblocks.cache.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icnblocks.naming import Digest


class Blockwise(Policy):
    """A policy that is told about models and does not listen."""

    def learn(self, manifest: Digest, blocks: Mapping[Digest, int], base: Digest | None) -> None:
        """Not used."""

    def forget(self, manifest: Digest) -> None:
        """Not used."""

    def requested(self, manifest: Digest, now: float) -> None:
        """Not used."""
