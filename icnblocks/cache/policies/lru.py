"""`lru`: the block that was asked for longest ago leaves first. Knows nothing of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from icnblocks.cache.policies.slots import Chain, Chains, Slots
from icnblocks.cache.policy import register

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icnblocks.naming import Digest


@register
class Lru:
    """Least recently used: one list, oldest first. All operations are O(1)."""

    name: ClassVar[str] = "lru"

    def __init__(self) -> None:
        self._slots = Slots()
        self._chains = Chains()
        self._order = Chain()
        self._pinned: set[int] = set()

    def inserted(self, digest: Digest, size: int, now: float) -> None:  # noqa: ARG002
        """Goes to the end of the list."""
        if digest in self._slots:
            self.hit(digest, now)
        else:
            self._chains.append(self._order, self._slots.add(digest))

    def hit(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Goes to the end of the list again."""
        slot = self._slots.find(digest)
        if slot is None or slot in self._pinned:
            return
        self._chains.remove(self._order, slot)
        self._chains.append(self._order, slot)

    def removed(self, digest: Digest) -> None:
        """Leaves the list."""
        slot = self._slots.find(digest)
        if slot is None:
            return
        if slot in self._pinned:
            self._pinned.discard(slot)
        else:
            self._chains.remove(self._order, slot)
        self._slots.drop(slot)

    def pinned(self, digest: Digest) -> None:
        """Leaves the list, not the store."""
        slot = self._slots.find(digest)
        if slot is not None and slot not in self._pinned:
            self._pinned.add(slot)
            self._chains.remove(self._order, slot)

    def unpinned(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Comes back at the end of the list."""
        slot = self._slots.find(digest)
        if slot is not None and slot in self._pinned:
            self._pinned.discard(slot)
            self._chains.append(self._order, slot)

    def learn(self, manifest: Digest, blocks: Mapping[Digest, int], base: Digest | None) -> None:
        """Not used."""

    def forget(self, manifest: Digest) -> None:
        """Not used."""

    def requested(self, manifest: Digest, now: float) -> None:
        """Not used."""

    def victims(self, now: float) -> Iterator[Digest]:  # noqa: ARG002
        """From the oldest to the newest."""
        for slot in self._chains.walk(self._order):
            yield self._slots.digest(slot)
