"""Which models must stay, and which blocks are theirs. It must not know which blocks are here."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from icnblocks.naming import Digest


class Pins:
    """Pinned manifests, each as often as it was pinned, and their blocks."""

    __slots__ = ("_blocks", "_models")

    def __init__(self) -> None:
        self._models: dict[Digest, tuple[int, tuple[Digest, ...]]] = {}
        self._blocks: Counter[Digest] = Counter()

    def __len__(self) -> int:
        """How many blocks are pinned."""
        return len(self._blocks)

    def __contains__(self, digest: Digest) -> bool:
        """Is it a pinned block?"""
        return digest in self._blocks

    def __iter__(self) -> Iterator[Digest]:
        """Every pinned block once."""
        return iter(self._blocks)

    def models(self) -> dict[Digest, int]:
        """The pinned manifests, and how often each is pinned."""
        return {manifest: count for manifest, (count, _) in self._models.items()}

    def add(self, manifest: Digest, digests: Iterable[Digest]) -> list[Digest]:
        """Count a pin; returns the blocks that nothing else had pinned."""
        if manifest in self._models:
            count, kept = self._models[manifest]
            self._models[manifest] = (count + 1, kept)
            return []
        kept = tuple(dict.fromkeys(digests))
        self._models[manifest] = (1, kept)
        fresh = [digest for digest in kept if digest not in self._blocks]
        self._blocks.update(kept)
        return fresh

    def remove(self, manifest: Digest) -> Iterator[Digest]:
        """Undo one `add` of this manifest, if there is one; gives the blocks that it frees."""
        count, digests = self._models.get(manifest, (0, ()))
        if count > 1:
            self._models[manifest] = (count - 1, digests)
        elif count:
            del self._models[manifest]
            for digest in digests:
                self._blocks[digest] -= 1
                if not self._blocks[digest]:
                    del self._blocks[digest]
                    yield digest
