"""`sieve`: a hand goes through the blocks from old to new and takes what was not used since.

Source: Zhang et al., "SIEVE is simpler than LRU: an efficient turn-key eviction algorithm for web
caches" (NSDI 2024).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar

from icnblocks.cache.policies.blockwise import Blockwise
from icnblocks.cache.policy import register

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from icnblocks.naming import Digest


@register
class Sieve(Blockwise):
    """SIEVE: one queue in order of arrival, a mark on each block that was used, and a hand.

    A marked block that the hand comes to loses its mark and stays where it is. The queue is cut
    at the hand: `_passed` is what lies behind it, `_ahead` what it has yet to come to, with new
    blocks at its end; when nothing is ahead, the hand starts again at the oldest. Operations are
    O(1), amortised.
    """

    name: ClassVar[str] = "sieve"

    def __init__(self, capacity: int | None = None) -> None:  # noqa: ARG002
        self._ahead: OrderedDict[Digest, bool] = OrderedDict()
        self._passed: OrderedDict[Digest, bool] = OrderedDict()
        self._pinned: set[Digest] = set()
        self._drawn: set[Digest] = set()
        # How the hand moved since the last removal, to be undone if none follows: a block it
        # passed and its mark, or None where it started again.
        self._moves: list[tuple[Digest, bool] | None] = []

    def inserted(self, digest: Digest, size: int, now: float) -> None:  # noqa: ARG002
        """Goes to the new end of the queue, unmarked."""
        if digest in self._ahead or digest in self._passed:
            self.hit(digest, now)
        elif digest not in self._pinned:
            self._append(digest, mark=False)

    def hit(self, digest: Digest, now: float) -> None:
        """Is marked."""
        self.hits((digest,), now)

    def hits(self, digests: Iterable[Digest], now: float) -> None:  # noqa: ARG002
        """Are marked."""
        self._settle()
        ahead, passed = self._ahead, self._passed
        for digest in digests:
            if digest in ahead:
                ahead[digest] = True
            elif digest in passed:
                passed[digest] = True

    def removed(self, digest: Digest) -> None:
        """Leaves the queue; if it was a victim, the hand stays where it is now."""
        if digest in self._drawn:
            self._drawn.remove(digest)
            self._moves.clear()
        else:
            self._settle()
        self._take_out(digest)
        self._pinned.discard(digest)

    def pinned(self, digest: Digest) -> None:
        """Leaves the queue, not the store."""
        self._settle()
        if self._take_out(digest):
            self._pinned.add(digest)

    def unpinned(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Comes back as if it were new, marked."""
        if digest in self._pinned:
            self._pinned.remove(digest)
            self._append(digest, mark=True)

    def victims(self, now: float) -> Iterator[Digest]:  # noqa: ARG002
        """What the hand comes to that is not marked."""
        self._settle()
        drawn = self._drawn
        while True:
            digest = next(iter(self._ahead), None)
            if digest is None:
                if len(drawn) == len(self._passed):
                    break
                self._ahead, self._passed = self._passed, self._ahead
                self._moves.append(None)
                continue
            if digest not in drawn and not self._ahead[digest]:
                drawn.add(digest)
                yield digest
                if digest not in self._ahead:
                    continue
            self._moves.append((digest, self._ahead.pop(digest)))
            self._passed[digest] = False
        self._settle()

    def _append(self, digest: Digest, *, mark: bool) -> None:
        """At the new end; a hand that was beyond it starts again before that, at the oldest."""
        self._settle()
        if not self._ahead:
            self._ahead, self._passed = self._passed, self._ahead
        self._ahead[digest] = mark

    def _take_out(self, digest: Digest) -> bool:
        """Out of the queue; was it there?"""
        found = self._ahead.pop(digest, None)
        if found is None:
            found = self._passed.pop(digest, None)
        return found is not None

    def _settle(self) -> None:
        """The last look at victims is over: what was not removed was not passed."""
        if not self._drawn:
            return
        self._drawn.clear()
        while self._moves:
            move = self._moves.pop()
            if move is None:
                self._ahead, self._passed = self._passed, self._ahead
            else:
                digest, mark = move
                del self._passed[digest]
                self._ahead[digest] = mark
                self._ahead.move_to_end(digest, last=False)
